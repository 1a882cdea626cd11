//! A rebalancing plan as text: the map's diff, the hosts before and after, what is moved and what must at least be.

use std::fmt::Write as _;

use super::Style;
use crate::inventory::Bytes;
use crate::plan::Action;
use crate::rebalance::plan::RebalancePlan;

/// Characters of a host's bar.
const BAR: usize = 24;

/// The plan for a reader.
pub fn rebalance_text(plan: &RebalancePlan, style: Style) -> String {
    let mut text = String::new();
    if plan.moves.is_empty() {
        let _ = writeln!(text, "{}", plan.summary_line());
    } else {
        let _ = writeln!(text, "{}", style.bold(&format!("{} at epoch {}", plan.cluster, plan.epoch)));
    }
    for step in &plan.moves {
        let line = format!("  ~ shard {:<5} {} → {}", step.shard, step.from, step.to);
        let size = Bytes(step.bytes).human();
        let _ =
            writeln!(text, "{}  {size}  wave {}  ({})", style.action(Action::Change, &line), step.wave, step.reason);
    }
    let width = plan.hosts.iter().map(|host| host.name.len()).max().unwrap_or(0);
    for host in &plan.hosts {
        let _ = writeln!(
            text,
            "  {:<width$}  {} {:>10} {:>3} shards  →  {} {:>10} {:>3} shards",
            host.name,
            bar(host.share_before),
            Bytes(host.before.bytes).human(),
            host.before.shards,
            bar(host.share_after),
            Bytes(host.after.bytes).human(),
            host.after.shards,
        );
    }
    for note in &plan.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    if !plan.moves.is_empty() {
        let _ = writeln!(text, "Plan: {}; about {:.0} s", plan.summary_line(), plan.estimated_seconds);
    }
    text
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
