//! Plans for shards that the operator selects: only their primaries move, each to the least loaded host that may
//! receive it. The balance of the fleet decides between hosts, and is no goal.

use std::cmp::Reverse;

use dunlin_shards::ShardId;

use super::assignment::Assignment;
use super::infeasible::{Infeasible, Rule, shard_list};
use super::model::Model;
use super::options::{Balance, PlanOptions, ShardSelection};
use super::rebalance_plan::Role;
use super::resource::HostResource::{self, Bytes, Ops, Shards};
use super::solver::Solution;

/// Places the selected shards, the largest first.
///
/// # Errors
/// Returns an error if a selected shard does not exist or is pinned, or no host may receive it.
pub(crate) fn place_selected(model: &Model, options: &PlanOptions) -> Result<Solution, Infeasible> {
    let resource = match (&options.shards, options.balance) {
        (ShardSelection::Hottest(_), _) | (_, Balance::Ops) => Ops,
        _ => Bytes,
    };
    let (mut items, reason) = match &options.shards {
        ShardSelection::Hottest(1) => (hottest_items(model, options, 1), "the hottest shard".to_owned()),
        ShardSelection::Hottest(count) => {
            (hottest_items(model, options, *count), format!("one of the {count} hottest shards"))
        }
        ShardSelection::Named(ids) => (named_items(model, ids)?, "requested".to_owned()),
        ShardSelection::ForBalance => (Vec::new(), String::new()),
    };
    items.sort_by_key(|item| (Reverse(model.items[*item].weight[resource]), *item));
    let mut state = Assignment::new(model);
    let mut notes = Vec::new();
    for item in items {
        let (home, shard) = (model.items[item].home, model.shard_of(item).id);
        if options.targets.as_ref().is_some_and(|to| to.iter().any(|name| name == model.host_name(home))) {
            notes.push(format!("shard {shard} is already on {}", model.host_name(home)));
            continue;
        }
        let Some(host) = least_loaded_host(model, &state, item, resource) else {
            return Err(no_host_error(model, &state, item));
        };
        // Moving the hottest shard to a host that would then have more than its present one does not help.
        let is_worse = fill(model, &state, item, host, resource) >= load_ratio(model, &state, home, resource);
        if matches!(options.shards, ShardSelection::Hottest(_)) && options.targets.is_none() && is_worse {
            notes.push(format!("shard {shard} stays on {}: every other host would get hotter", model.host_name(home)));
            continue;
        }
        state.reassign(model, item, host);
    }
    let ranges = model.hard_limits();
    Ok(Solution {
        bound: state.moved,
        state,
        requested: ranges.clone(),
        ranges,
        limited: false,
        selection: Some(reason),
        notes,
    })
}

/// Returns the primaries of the named shards.
fn named_items(model: &Model, ids: &[ShardId]) -> Result<Vec<usize>, Infeasible> {
    let primaries: Vec<usize> = primary_items(model).collect();
    let mut items = Vec::new();
    let mut unknown = Vec::new();
    for id in ids {
        match primaries.iter().find(|item| model.shard_of(**item).id == *id) {
            Some(item) if items.contains(item) => {}
            Some(item) => items.push(*item),
            None => unknown.push(*id),
        }
    }
    if !unknown.is_empty() {
        let verb = if unknown.len() == 1 { "is" } else { "are" };
        return Err(Infeasible {
            rule: Rule::Options,
            message: format!("{} {verb} not in the shard map", shard_list(&unknown)),
            shards: unknown,
            hosts: Vec::new(),
            hint: "name shards as `dunlin shards status` shows them".to_owned(),
        });
    }
    let pinned: Vec<usize> = items.iter().copied().filter(|item| model.shard_of(*item).pinned).collect();
    if pinned.is_empty() {
        return Ok(items);
    }
    let shards: Vec<ShardId> = pinned.iter().map(|item| model.shard_of(*item).id).collect();
    let mut hosts: Vec<String> =
        pinned.iter().map(|item| model.host_name(model.items[*item].home).to_owned()).collect();
    hosts.dedup();
    let verb = if shards.len() == 1 { "is" } else { "are" };
    Err(Infeasible {
        rule: Rule::Pinned,
        message: format!("{} {verb} pinned", shard_list(&shards)),
        shards,
        hosts,
        hint: "remove `pinned` from the shard map, or select other shards".to_owned(),
    })
}

/// Returns the primaries with the most operations per second that may move and are not on a target already.
fn hottest_items(model: &Model, options: &PlanOptions, count: usize) -> Vec<usize> {
    let is_target =
        |host: usize| options.targets.as_ref().is_some_and(|to| to.iter().any(|name| name == model.host_name(host)));
    let mut items: Vec<usize> = primary_items(model)
        .filter(|item| model.items[*item].movable && model.items[*item].weight[Ops] > 0)
        .filter(|item| !is_target(model.items[*item].home))
        .collect();
    items.sort_by_key(|item| (Reverse(model.items[*item].weight[Ops]), model.shard_of(*item).id));
    items.truncate(count);
    items
}

fn primary_items<'a>(model: &'a Model<'_>) -> impl Iterator<Item = usize> + 'a {
    (0..model.items.len()).filter(|item| model.items[*item].role == Role::Primary)
}

/// Returns the host that may receive the item and would be the least loaded, relative to its share.
fn least_loaded_host(model: &Model, state: &Assignment, item: usize, resource: HostResource) -> Option<usize> {
    let candidates = (0..model.hosts.len()).filter(|host| can_receive(model, state, item, *host));
    let other = if resource == Bytes { Ops } else { Bytes };
    candidates.min_by(|a, b| {
        let by = |resource: HostResource| {
            fill(model, state, item, *a, resource).total_cmp(&fill(model, state, item, *b, resource))
        };
        by(resource).then_with(|| by(other)).then(a.cmp(b))
    })
}

fn can_receive(model: &Model, state: &Assignment, item: usize, host: usize) -> bool {
    host != model.items[item].home && state.is_legal(model, item, host) && fits(model, state, item, host)
}

fn fits(model: &Model, state: &Assignment, item: usize, host: usize) -> bool {
    model.hosts[host].exceeded_limit(state.load[host] + model.items[item].weight).is_none()
}

/// Returns the load of a host with the item on it, as a fraction of the host's share.
fn fill(model: &Model, state: &Assignment, item: usize, host: usize, resource: HostResource) -> f64 {
    let load = (state.load[host] + model.items[item].weight)[resource];
    load as f64 / model.hosts[host].target[resource].max(1.0)
}

fn load_ratio(model: &Model, state: &Assignment, host: usize, resource: HostResource) -> f64 {
    state.load[host][resource] as f64 / model.hosts[host].target[resource].max(1.0)
}

/// Says why no host may receive the item: memory, or the other copies of its shard.
fn no_host_error(model: &Model, state: &Assignment, item: usize) -> Infeasible {
    let shard = model.shard_of(item).id;
    let home = model.items[item].home;
    let allowed: Vec<usize> =
        (0..model.hosts.len()).filter(|host| *host != home && model.is_allowed(item, *host)).collect();
    let names = |hosts: &[usize]| -> Vec<String> { hosts.iter().map(|h| model.host_name(*h).to_owned()).collect() };
    let legal: Vec<usize> = allowed.iter().copied().filter(|host| state.is_legal(model, item, *host)).collect();
    let (rule, hosts, message, hint) = if allowed.is_empty() {
        let message = format!("no other host may receive shard {shard}");
        (Rule::Options, names(&[home]), message, "allow more hosts with --targets, or add a host")
    } else if legal.is_empty() {
        let hosts = names(&allowed);
        let message =
            format!("{} cannot receive shard {shard}: another copy of it is there or in the zone", hosts.join(", "));
        (
            Rule::Zones,
            hosts,
            message,
            "allow more hosts with --targets, or make the replica the primary: dunlin shards failover",
        )
    } else {
        let hosts = names(&legal);
        let exceeded = |host: &usize| model.hosts[*host].exceeded_limit(state.load[*host] + model.items[item].weight);
        if legal.iter().any(|host| exceeded(host) == Some(Shards)) {
            let message = format!("{} cannot receive shard {shard} within --max-shards-per-host", hosts.join(", "));
            (Rule::ShardsPerHost, hosts, message, "allow more hosts with --targets, or raise --max-shards-per-host")
        } else {
            let message = format!("shard {shard} does not fit on {} within the maximum utilization", hosts.join(", "));
            (Rule::Capacity, hosts, message, "allow more hosts with --targets, or raise --max-utilization")
        }
    };
    Infeasible { rule, message, shards: vec![shard], hosts, hint: hint.to_owned() }
}
