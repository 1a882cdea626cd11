//! Formats the plan of a rebalance: moves by wave, hosts before and after, and totals.

use std::fmt::Write as _;

use dunlin_shards::ShardId;

use super::Style;
use crate::inventory::ByteSize;
use crate::plan::Action;
use crate::rebalance::plan::{Balance, Load, Move, RebalancePlan, Role};

/// Width of a host's bar, in columns. Two bars and the figures fit into 80 columns.
const BAR_WIDTH: usize = 8;
/// Maximum width of wrapped text, in columns.
const LINE_WIDTH: usize = 78;

/// Formats a plan: moves by wave, hosts before and after, notes, and totals.
pub fn format_rebalance(plan: &RebalancePlan, style: Style) -> String {
    let mut text = String::new();
    if plan.moves.is_empty() {
        let _ = writeln!(text, "{}: {}", plan.cluster, plan.summary_line());
    } else {
        let (before, after) = (plan.epoch, plan.epoch + plan.moves.len() as u64);
        let head = format!("{}: epoch {before} → {after}, one per move", plan.cluster);
        let _ = writeln!(text, "{}", style.bold(&head));
    }
    let columns = ColumnWidths::measure_moves(plan);
    for wave in 0..plan.waves.len() {
        write_wave(&mut text, plan, wave, &columns, style);
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

/// The widths of the columns of moves.
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

fn write_wave(text: &mut String, plan: &RebalancePlan, wave: usize, columns: &ColumnWidths, style: Style) {
    let moves: Vec<&Move> = plan.moves.iter().filter(|m| m.wave == wave).collect();
    let bytes = ByteSize(moves.iter().map(|m| m.bytes).sum()).to_human();
    let noun = if moves.len() == 1 { "move" } else { "concurrent moves" };
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

/// Returns the port of a shard, which is the same on all hosts.
fn shard_port(plan: &RebalancePlan, shard: ShardId) -> String {
    match plan.port_base.and_then(|base| u32::from(base).checked_add(shard.0.into())) {
        Some(port) => port.to_string(),
        None => format!("<port_base + {shard}>"),
    }
}

/// Writes the commands that replace a replica, in order.
fn write_replica_commands(text: &mut String, plan: &RebalancePlan, step: &Move, style: Style) {
    let (from, to, port) = (&step.from, &step.to, shard_port(plan, step.shard));
    for (host, action) in [
        (to, format!("start the instance with `replicaof <primary> {port}` in its configuration; compare both")),
        (to, "enable the user of the application; publish the map".to_owned()),
        (from, "when the consumers have the map, stop the instance and archive its files".to_owned()),
    ] {
        let _ = writeln!(text, "      {}", style.dim(&format!("{host}:{port}  {action}")));
    }
}

/// Writes the commands of a cutover, in order.
fn write_cutover_commands(text: &mut String, plan: &RebalancePlan, step: &Move, style: Style) {
    let (from, to, port) = (&step.from, &step.to, shard_port(plan, step.shard));
    for (host, commands) in [
        (to, format!("start the instance with `replicaof {from} {port}` in its configuration, application user off")),
        (
            to,
            "compare dump.rdb with the append-only file; keys written meanwhile: DUMP, PEXPIRETIME on both".to_owned(),
        ),
        (from, "min-replicas-to-write in its configuration, then CONFIG SET min-replicas-to-write".to_owned()),
        (to, "prepare: primary in its configuration, users of the application and of replicas off".to_owned()),
        (from, "CLIENT PAUSE <ms> WRITE; ROLE".to_owned()),
        (from, format!("MULTI; ROLE; REPLICAOF {to} {port}; CLIENT UNPAUSE; EXEC")),
        (to, "REPLICAOF NO ONE and users on, in one transaction; then the same in its configuration".to_owned()),
        (from, "CONFIG REWRITE; remains a replica until it is retired".to_owned()),
    ] {
        let _ = writeln!(text, "      {}", style.dim(&format!("{host}:{port}  {commands}")));
    }
}

/// Writes the hosts before and after, with a column for each balanced resource.
fn write_hosts(text: &mut String, plan: &RebalancePlan, style: Style) {
    let width = plan.hosts.iter().map(|host| host.name.chars().count()).max().unwrap_or(0).max(4);
    let columns = LoadColumns::measure_loads(plan);
    let side = columns.side_width();
    let head = format!("  {:<width$}  {:<side$}    {:<side$}  peak", "host", "before", "after");
    let _ = writeln!(text, "{}", style.dim(head.trim_end()));
    for host in &plan.hosts {
        let (now, then) = (columns.format_load(&host.before), columns.format_load(&host.after));
        let (peak, capacity) = (ByteSize(host.peak_bytes).to_human(), ByteSize(host.capacity_bytes).to_human());
        let _ = writeln!(text, "  {:<width$}  {now}  → {then}  {peak} of {capacity}", host.name);
    }
}

/// The columns of a host's load. One balanced resource has a bar, whose full length is the most loaded host.
struct LoadColumns {
    balance: Balance,
    bytes: usize,
    ops: usize,
    shards: usize,
    max: Load,
}

impl LoadColumns {
    fn measure_loads(plan: &RebalancePlan) -> Self {
        let loads = || plan.hosts.iter().flat_map(|host| [&host.before, &host.after]);
        let widest = |width: fn(&Load) -> usize| loads().map(width).max().unwrap_or(0);
        Self {
            balance: plan.balance,
            bytes: widest(|load| ByteSize(load.bytes).to_human().len()),
            ops: widest(|load| format_ops(load.ops_per_s).len()),
            shards: widest(|load| load.shards.to_string().len()),
            max: Load {
                bytes: loads().map(|load| load.bytes).max().unwrap_or(0),
                ops_per_s: loads().map(|load| load.ops_per_s).fold(0.0, f64::max),
                shards: 0,
            },
        }
    }

    fn format_load(&self, load: &Load) -> String {
        let Self { bytes, ops, shards, .. } = *self;
        let (size, rate) = (ByteSize(load.bytes).to_human(), format_ops(load.ops_per_s));
        let loads = match self.balance {
            Balance::Bytes => format!("{} {size:>bytes$}", format_bar(load.bytes as f64, self.max.bytes as f64)),
            Balance::Ops => format!("{} {rate:>ops$}", format_bar(load.ops_per_s, self.max.ops_per_s)),
            Balance::Both => format!("{size:>bytes$}  {rate:>ops$}"),
        };
        format!("{loads} in {:>shards$}", load.shards)
    }

    fn side_width(&self) -> usize {
        let loads = match self.balance {
            Balance::Bytes => BAR_WIDTH + 1 + self.bytes,
            Balance::Ops => BAR_WIDTH + 1 + self.ops,
            Balance::Both => self.bytes + 2 + self.ops,
        };
        loads + " in ".len() + self.shards
    }
}

/// Formats a rate: `950 ops/s`, `12.4k ops/s`.
fn format_ops(ops_per_s: f64) -> String {
    match ops_per_s {
        rate if rate < 9_999.5 => format!("{rate:.0} ops/s"),
        rate if rate < 999_950.0 => format!("{:.1}k ops/s", rate / 1e3),
        rate => format!("{:.2}M ops/s", rate / 1e6),
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
        write_wrapped(text, "      ", &format!("estimated write pause per shard at cutover: {gap:.0} ms"));
    }
}

/// Writes text after a prefix, wrapped between words.
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

/// Formats a duration: `38 s`, `12 min`, `2.5 h`.
fn format_seconds(seconds: f64) -> String {
    match seconds {
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 99.5 * 60.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Formats a load as a bar. The figure next to it has the same meaning.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bar's length")]
fn format_bar(load: f64, max: f64) -> String {
    let part = if max > 0.0 { load / max } else { 0.0 };
    let filled = (part * BAR_WIDTH as f64).round() as usize;
    format!("{}{}", "█".repeat(filled), "░".repeat(BAR_WIDTH - filled.min(BAR_WIDTH)))
}
