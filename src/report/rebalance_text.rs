//! A rebalancing plan as text: the map's diff, the hosts before and after, what is moved and what must at least be.

use std::fmt::Write as _;

use super::Style;
use crate::inventory::Bytes;
use crate::plan::Action;
use crate::rebalance::plan::{Move, RebalancePlan, Role};

/// Characters of a host's bar.
const BAR: usize = 24;

/// The plan for a reader: what moves in which wave, the hosts before and after, notes, and one line that sums it up.
pub fn rebalance_text(plan: &RebalancePlan, style: Style) -> String {
    let mut text = String::new();
    if plan.moves.is_empty() {
        let _ = writeln!(text, "{}", plan.summary_line());
    } else {
        let _ = writeln!(text, "{}", style.bold(&format!("{} at epoch {}", plan.cluster, plan.epoch)));
    }
    for wave in 0..plan.waves.len() {
        let moves: Vec<&Move> = plan.moves.iter().filter(|m| m.wave == wave).collect();
        let bytes = moves.iter().map(|m| m.bytes).sum();
        let (at, of, count) = (wave + 1, plan.waves.len(), moves.len());
        let noun = if count == 1 { "move" } else { "moves, at the same time" };
        let _ = writeln!(text, "  wave {at} of {of}: {count} {noun}, {}", Bytes(bytes).human());
        moves.into_iter().for_each(|m| one_move(&mut text, m, style));
    }
    hosts(&mut text, plan);
    for note in &plan.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    if !plan.moves.is_empty() {
        let _ = writeln!(
            text,
            "Plan: {}; about {:.0} s; each shard's writes are held for about {:.0} ms at its switch",
            plan.summary_line(),
            plan.estimated_seconds,
            plan.predicted_write_gap_ms,
        );
    }
    text
}

fn one_move(text: &mut String, step: &Move, style: Style) {
    let (shard, from, to) = (step.shard, &step.from, &step.to);
    let role = if step.role == Role::Replica { " (replica)" } else { "" };
    let line = format!("  ~ shard {shard:<5} {from} → {to}{role}");
    let size = Bytes(step.bytes).human();
    let _ = writeln!(text, "{}  {size}  ({})", style.action(Action::Change, &line), step.reason);
    if !style.verbose {
        return;
    }
    if step.role == Role::Replica {
        for (host, what) in [
            (to, "start the instance with `replicaof PRIMARY PORT` in its configuration; compare the two"),
            (to, "the application's user on; the map names it"),
            (from, "stop the instance once the consumers have the map, keep its files"),
        ] {
            let _ = writeln!(text, "      {host}: {what}");
        }
        return;
    }
    // The commands of the switch, in order; PORT is the shard's own, the same on both hosts.
    for (host, commands) in [
        (to, format!("start the instance with `replicaof {from} PORT` in its configuration, application user off")),
        (from, "min-replicas-to-write in its file, then CONFIG SET min-replicas-to-write".to_owned()),
        (to, "stand by: a master by its files, users of application and replicas off".to_owned()),
        (from, "CLIENT PAUSE <ms> WRITE; ROLE".to_owned()),
        (from, format!("MULTI; ROLE; REPLICAOF {to} PORT; CLIENT UNPAUSE; EXEC")),
        (to, "REPLICAOF NO ONE and the users on, in one transaction; then the same in its files".to_owned()),
        (from, "CONFIG REWRITE; stays a replica until it is retired".to_owned()),
    ] {
        let _ = writeln!(text, "      {host}: {commands}");
    }
}

fn hosts(text: &mut String, plan: &RebalancePlan) {
    let width = plan.hosts.iter().map(|host| host.name.len()).max().unwrap_or(0);
    for host in &plan.hosts {
        let _ = writeln!(
            text,
            "  {:<width$}  {} {:>10} {:>3} shards  →  {} {:>10} {:>3} shards  at most {} of {}",
            host.name,
            bar(host.share_before),
            Bytes(host.before.bytes).human(),
            host.before.shards,
            bar(host.share_after),
            Bytes(host.after.bytes).human(),
            host.after.shards,
            Bytes(host.peak_bytes).human(),
            Bytes(host.capacity_bytes).human(),
        );
    }
}

/// A share of 1 as a bar; the shape and the number beside it say the same.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a bar's length"
)]
fn bar(share: f64) -> String {
    let filled = ((share.clamp(0.0, 1.0)) * BAR as f64).round() as usize;
    format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled))
}
