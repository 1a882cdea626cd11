//! The notes of a plan: what an operator should know about it.

use std::cmp::Reverse;

use dunlin_shards::ShardId;

use super::infeasible::shard_list;
use super::model::{Item, Model};
use super::rebalance_plan::Role;
use super::relax_tolerance::{ALLOWANCE, least_deviation, worst_deviation};
use super::resource::HostResource::{self, Bytes, Shards};
use super::solver::Solution;
use crate::plan::format_count;

/// Deviations that are described individually; the rest is counted.
const MAX_DESCRIBED: usize = 4;

/// Begins the note of a plan that does not meet the tolerance; [`crate::rebalance::check`] looks for it.
pub(crate) const OUTSIDE_TOLERANCE: &str = "outside the tolerance: ";

/// Builds the notes about an assignment.
pub(crate) fn build_notes(model: &Model, solution: &Solution) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(solution.notes.iter().cloned());
    if model.is_empty && model.balanced[Bytes] && solution.selection.is_none() {
        notes.push("no shard contains data: balanced by number of copies".to_owned());
    }
    if solution.limited {
        notes.push("the limits on moves or bytes end the plan before the goal is reached".to_owned());
        let is_left = |item: &usize| !solution.state.is_legal(model, *item, solution.state.host_of[*item]);
        let mut left: Vec<ShardId> =
            (0..model.items.len()).filter(is_left).map(|item| model.shard_of(item).id).collect();
        left.dedup();
        if !left.is_empty() {
            notes.push(format!("{} still have to leave their hosts", shard_list(&left)));
        }
    }
    add_deviations(model, solution, &mut notes);
    notes
}

fn add_deviations(model: &Model, solution: &Solution, notes: &mut Vec<String>) {
    let mut found: Vec<(f64, usize, HostResource)> = Vec::new();
    for (host, range) in solution.requested.iter().enumerate() {
        for resource in HostResource::ALL {
            let violation = range.violation(resource, solution.state.load[host]);
            if violation > 0 && !model.hosts[host].drained {
                found.push((violation as f64 / model.hosts[host].target[resource].max(1.0), host, resource));
            }
        }
    }
    if found.is_empty() {
        return;
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    if !solution.limited {
        notes.push(describe_closeness(model, solution));
    }
    for (_, host, resource) in found.iter().take(MAX_DESCRIBED) {
        notes.push(describe_deviation(model, solution, *host, *resource));
    }
    if found.len() > MAX_DESCRIBED {
        let count = found.len() - MAX_DESCRIBED;
        let verb = if count == 1 { "is" } else { "are" };
        notes.push(format!("{} {verb} not listed", format_count(count, "smaller deviation")));
    }
    let is_fixed = |item: &Item| item.role == Role::Replica && !item.movable;
    if !solution.limited && model.items.iter().any(is_fixed) {
        notes.push("replicas do not move for balance; --move-replicas may allow a closer plan".to_owned());
    }
}

/// Says whether the plan is the closest to the tolerance, or only the closest that was found.
fn describe_closeness(model: &Model, solution: &Solution) -> String {
    let tolerance = model.tolerance * 100.0;
    let least = least_deviation(model, &solution.requested);
    let is_closest = worst_deviation(model, &solution.requested, &solution.state) <= least + ALLOWANCE;
    match (least > 0.0, is_closest) {
        (true, true) => format!("no placement is within the tolerance of {tolerance} %; this plan is the closest"),
        (true, false) => {
            format!("no placement is within the tolerance of {tolerance} %; this plan is the closest found")
        }
        (false, _) => {
            format!("no placement within the tolerance of {tolerance} % was found; this plan is the closest found")
        }
    }
}

fn describe_deviation(model: &Model, solution: &Solution, host: usize, resource: HostResource) -> String {
    if resource == Shards {
        let count = format_count(solution.state.load[host][Shards] as usize, "shard");
        return format!("{} ends with {count}, above --max-shards-per-host", model.host_name(host));
    }
    let (load, target) = (solution.state.load[host][resource] as f64, model.hosts[host].target[resource]);
    let percent = (load / target - 1.0) * 100.0;
    let (noun, name) = (model.resource_noun(resource), model.host_name(host));
    let side = if percent > 0.0 { "above" } else { "below" };
    let head = format!("{OUTSIDE_TOLERANCE}{name} ends {:.1} % {side} its share of {noun}", percent.abs());
    let weight = |item: usize| model.items[item].weight[resource];
    let largest = solution.state.items_on[host].iter().max_by_key(|item| (weight(**item), Reverse(**item)));
    match largest.map(|item| (*item, weight(*item) as f64 / target)) {
        // Only a shard without which the host would be below its share explains why it is above.
        Some((item, part)) if percent > 0.0 && part > model.tolerance && part * 100.0 >= percent => {
            format!("{head}; shard {} alone is {:.1} % of that share", model.shard_of(item).id, part * 100.0)
        }
        _ => head,
    }
}
