//! What an operator should know about a plan, in sentences.

use std::cmp::Reverse;

use super::infeasible::ids;
use super::model::{BYTES, Item, Model, OPS};
use super::output::Role;
use super::search::Outcome;
use super::state::outside;

/// Deviations that are told one by one; the rest is counted.
const TOLD: usize = 4;

/// The notes of an assignment.
pub(crate) fn notes(model: &Model, outcome: &Outcome) -> Vec<String> {
    let mut notes = Vec::new();
    if outcome.limited {
        notes.push("the limits on moves or bytes cut the plan short: planned as near as they allow".to_owned());
        let left = |item: &usize| !outcome.state.legal(model, *item, outcome.state.at[*item]);
        let mut left: Vec<u32> = (0..model.items.len()).filter(left).map(|item| model.shard(item).id).collect();
        left.dedup();
        if !left.is_empty() {
            notes.push(format!("{} still have to move off their hosts", ids(&left)));
        }
    }
    deviations(model, outcome, &mut notes);
    notes
}

fn deviations(model: &Model, outcome: &Outcome, notes: &mut Vec<String>) {
    let mut found: Vec<(f64, usize, usize)> = Vec::new();
    for (host, band) in outcome.wished.iter().enumerate() {
        for resource in [BYTES, OPS] {
            let outside = outside(band, resource, outcome.state.load[host]);
            if outside > 0 && !model.hosts[host].drained {
                found.push((outside as f64 / model.hosts[host].target[resource].max(1.0), host, resource));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    for (_, host, resource) in found.iter().take(TOLD) {
        notes.push(deviation(model, outcome, *host, *resource));
    }
    let held = |item: &Item| item.role == Role::Replica && !item.movable;
    if !found.is_empty() && !outcome.limited && model.items.iter().any(held) {
        notes.push("replicas stay where they are; with --move-replicas a plan can come nearer".to_owned());
    }
    if found.len() > TOLD {
        notes.push(format!("{} more deviations are smaller than these", found.len() - TOLD));
    }
}

fn deviation(model: &Model, outcome: &Outcome, host: usize, resource: usize) -> String {
    let (load, target) = (outcome.state.load[host][resource] as f64, model.hosts[host].target[resource]);
    let percent = (load / target - 1.0) * 100.0;
    let noun = if resource == BYTES { "bytes" } else { "operations" };
    let side = if percent > 0.0 { "over" } else { "under" };
    let name = model.host_name(host);
    let head = format!("planned as near as possible: {name} ends {:.1} % {side} its share of {noun}", percent.abs());
    let largest =
        outcome.state.on[host].iter().max_by_key(|item| (model.items[**item].weight[resource], Reverse(**item)));
    let lump = largest.map(|item| (*item, model.items[*item].weight[resource] as f64 / target));
    match lump {
        // Only what would take the host under its share explains why it is over.
        Some((item, part)) if percent > 0.0 && part > model.tolerance && part * 100.0 >= percent => {
            format!("{head}; shard {} alone is {:.1} % of it", model.shard(item).id, part * 100.0)
        }
        _ => head,
    }
}
