//! A rebalancing plan as text: the map's diff in waves, the hosts before and after, and what it costs.

use std::fmt::Write as _;

use super::Style;
use crate::inventory::ByteSize;
use crate::plan::Action;
use crate::rebalance::plan::{HostPlan, Load, Move, RebalancePlan, Role};

/// Characters of a host's bar: two of them and the figures fit into 80 columns.
const BAR_WIDTH: usize = 8;
/// Columns of sentences.
const LINE_WIDTH: usize = 78;

/// The plan for a reader: what moves in which wave, the hosts before and after, notes, and what it costs.
pub fn format_rebalance(plan: &RebalancePlan, style: Style) -> String {
    let mut text = String::new();
    if plan.moves.is_empty() {
        let _ = writeln!(text, "{}: {}", plan.cluster, plan.summary_line());
    } else {
        let (before, after) = (plan.epoch, plan.epoch + plan.moves.len() as u64);
        let head = format!("{}: epoch {before} → {after}, one more with each move", plan.cluster);
        let _ = writeln!(text, "{}", style.bold(&head));
    }
    let columns = ColumnWidths::measure_moves(plan);
    for wave in 0..plan.waves.len() {
        write_wave(&mut text, plan, wave, (&columns, style));
    }
    write_hosts(&mut text, plan, style);
    for note in &plan.notes {
        write_wrapped(&mut text, "  note: ", note);
    }
    if !plan.moves.is_empty() {
        write_totals(&mut text, plan);
    }
    text
}

/// How wide the columns of the moves are.
struct ColumnWidths {
    shard: usize,
    from: usize,
    to: usize,
    bytes: usize,
    seconds: usize,
}

impl ColumnWidths {
    fn measure_moves(plan: &RebalancePlan) -> Self {
        let widest = |width: &dyn Fn(&Move) -> usize| plan.moves.iter().map(width).max().unwrap_or(0);
        Self {
            shard: widest(&|m| m.shard.to_string().len()),
            from: widest(&|m| m.from.chars().count()),
            to: widest(&|m| m.to.chars().count()),
            bytes: widest(&|m| ByteSize(m.bytes).to_human().len()),
            seconds: widest(&|m| format_seconds(m.estimated_seconds).len()),
        }
    }
}

fn write_wave(text: &mut String, plan: &RebalancePlan, wave: usize, (columns, style): (&ColumnWidths, Style)) {
    let moves: Vec<&Move> = plan.moves.iter().filter(|m| m.wave == wave).collect();
    let bytes = ByteSize(moves.iter().map(|m| m.bytes).sum()).to_human();
    let noun = if moves.len() == 1 { "move" } else { "moves at the same time" };
    let seconds = format_seconds(plan.wave_seconds.get(wave).copied().unwrap_or(0.0));
    let (at, of, count) = (wave + 1, plan.waves.len(), moves.len());
    let _ = writeln!(text, "  wave {at} of {of}: {count} {noun}, {bytes}, about {seconds}");
    for step in moves {
        write_move(text, step, columns, style);
        match step.role {
            _ if !style.verbose => {}
            Role::Primary => write_cutover_commands(text, plan, step, style),
            Role::Replica => write_replica_commands(text, plan, step, style),
        }
    }
}

fn write_move(text: &mut String, step: &Move, columns: &ColumnWidths, style: Style) {
    let ColumnWidths { shard, from, to, bytes, seconds } = *columns;
    let line = format!("  ~ shard {:<shard$}  {:<from$} → {:<to$}", step.shard, step.from, step.to);
    let role = if step.role == Role::Replica { "replica: " } else { "" };
    let (size, time) = (ByteSize(step.bytes).to_human(), format_seconds(step.estimated_seconds));
    let line = style.paint_action(Action::Change, &line);
    let _ = writeln!(text, "{line}  {size:>bytes$}  {time:>seconds$}  {role}{}", step.reason);
}

/// A shard's port, the same on all hosts.
fn shard_port(plan: &RebalancePlan, shard: u32) -> String {
    match plan.port_base.and_then(|base| u32::from(base).checked_add(shard)) {
        Some(port) => port.to_string(),
        None => format!("<port_base + {shard}>"),
    }
}

/// What makes a replica in the place of another one, in order.
fn write_replica_commands(text: &mut String, plan: &RebalancePlan, step: &Move, style: Style) {
    let (from, to, port) = (&step.from, &step.to, shard_port(plan, step.shard));
    for (host, what) in [
        (to, format!("start the instance with `replicaof <primary> {port}` in its configuration; compare the two")),
        (to, "the application's user on; the map names it".to_owned()),
        (from, "stop the instance once the consumers have the map, keep its files".to_owned()),
    ] {
        let _ = writeln!(text, "      {}", style.dim(&format!("{host}:{port}  {what}")));
    }
}

/// The commands of the switch, in order.
fn write_cutover_commands(text: &mut String, plan: &RebalancePlan, step: &Move, style: Style) {
    let (from, to, port) = (&step.from, &step.to, shard_port(plan, step.shard));
    for (host, commands) in [
        (to, format!("start the instance with `replicaof {from} {port}` in its configuration, application user off")),
        (to, "dump.rdb against the append-only file; keys written to meanwhile: DUMP, PEXPIRETIME at both".to_owned()),
        (from, "min-replicas-to-write in its file, then CONFIG SET min-replicas-to-write".to_owned()),
        (to, "stand by: a master by its files, users of application and replicas off".to_owned()),
        (from, "CLIENT PAUSE <ms> WRITE; ROLE".to_owned()),
        (from, format!("MULTI; ROLE; REPLICAOF {to} {port}; CLIENT UNPAUSE; EXEC")),
        (to, "REPLICAOF NO ONE and the users on, in one transaction; then the same in its files".to_owned()),
        (from, "CONFIG REWRITE; stays a replica until it is retired".to_owned()),
    ] {
        let _ = writeln!(text, "      {}", style.dim(&format!("{host}:{port}  {commands}")));
    }
}

/// The hosts before and after. The longest bar is the fullest host, so that bars of one length are an even fleet.
fn write_hosts(text: &mut String, plan: &RebalancePlan, style: Style) {
    let width = plan.hosts.iter().map(|host| host.name.chars().count()).max().unwrap_or(0).max(4);
    let count_width = |host: &HostPlan| host.before.shards.max(host.after.shards).to_string().len();
    let copies = plan.hosts.iter().map(count_width).max().unwrap_or(0);
    let max_bytes = plan.hosts.iter().map(|host| host.before.bytes.max(host.after.bytes)).max().unwrap_or(0);
    let sizes = plan.hosts.iter().flat_map(|host| [host.before.bytes, host.after.bytes]);
    let size = sizes.map(|bytes| ByteSize(bytes).to_human().len()).max().unwrap_or(0);
    let side = |load: &Load| {
        format!(
            "{} {:>size$} in {:>copies$}",
            format_bar(load.bytes, max_bytes),
            ByteSize(load.bytes).to_human(),
            load.shards
        )
    };
    let after = BAR_WIDTH + size + copies + 5;
    let head = format!("  {:<width$}  {:<after$}    {:<after$}  at most", "host", "now", "then");
    let _ = writeln!(text, "{}", style.dim(head.trim_end()));
    for host in &plan.hosts {
        let (now, then) = (side(&host.before), side(&host.after));
        let (peak, capacity) = (ByteSize(host.peak_bytes).to_human(), ByteSize(host.capacity_bytes).to_human());
        let _ = writeln!(text, "  {:<width$}  {now}  → {then}  {peak} of {capacity}", host.name);
    }
}

fn write_totals(text: &mut String, plan: &RebalancePlan) {
    let waves = if plan.waves.len() == 1 { "1 wave".to_owned() } else { format!("{} waves", plan.waves.len()) };
    let (moved, total) = (ByteSize(plan.bytes_moved).to_human(), ByteSize(plan.bytes_total).to_human());
    write_wrapped(text, "Plan: ", &plan.summary_line());
    write_wrapped(
        text,
        "      ",
        &format!("{moved} of {total} in {waves}, about {}", format_seconds(plan.estimated_seconds)),
    );
    if plan.predicted_write_gap_ms > 0.0 {
        let gap = plan.predicted_write_gap_ms;
        write_wrapped(text, "      ", &format!("at its switch, a shard's writes are held for about {gap:.0} ms"));
    }
}

/// A sentence behind a head, broken between words.
fn write_wrapped(text: &mut String, prefix: &str, words: &str) {
    let mut column = prefix.len();
    text.push_str(prefix);
    for (n, word) in words.split(' ').enumerate() {
        let width = word.chars().count();
        if n > 0 && column + 1 + width > LINE_WIDTH {
            let _ = write!(text, "\n{:1$}", "", prefix.len());
            column = prefix.len();
        } else if n > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}

/// A time for people: `38 s`, `12 min`, `2.5 h`.
fn format_seconds(seconds: f64) -> String {
    match seconds {
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 99.5 * 60.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// A load as a bar; the figure beside it says the same.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a bar's length"
)]
fn format_bar(bytes: u64, max_bytes: u64) -> String {
    let filled = (bytes as f64 / max_bytes.max(1) as f64 * BAR_WIDTH as f64).round() as usize;
    format!("{}{}", "█".repeat(filled), "░".repeat(BAR_WIDTH - filled.min(BAR_WIDTH)))
}
