//! Options that no placement can satisfy: the rule, the shards, a hint.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use dunlin_shards::ShardId;
use serde::{Deserialize, Serialize};

use super::assignment::Assignment;
use super::model::Model;
use super::options::PlanOptions;
use super::resource::HostResource::{self, Bytes, Ops, Shards};
use crate::inventory::ByteSize;
use crate::plan::{format_count, named_enum};
use crate::rebalance::observation::Observation;

const SHARD_COUNT_HINT: &str = "raise --max-shards-per-host, add a host, or allow more hosts as targets";

/// Reason why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Infeasible {
    /// The rule that cannot be kept.
    pub rule: Rule,
    /// The reason, in one sentence.
    pub message: String,
    /// The shards that violate it, ascending.
    pub shards: Vec<ShardId>,
    /// The hosts concerned.
    pub hosts: Vec<String>,
    /// A change that would help.
    pub hint: String,
}

named_enum! {
    /// The rules of a plan.
    pub enum Rule {
        /// Utilization: every host stays within its maximum.
        Capacity = "capacity",
        /// Every host stays within the maximum number of shards.
        ShardsPerHost = "shards_per_host",
        /// Copies of a shard are on different hosts, in different zones.
        Zones = "zones",
        /// A drained host ends empty.
        Drain = "drain",
        /// A pinned shard stays.
        Pinned = "pinned",
        /// The options are invalid: a host that does not exist, a tolerance below 0.
        Options = "options",
    }
}

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no plan satisfies the rule `{}`: {}", self.rule, self.message)
    }
}

impl std::error::Error for Infeasible {}

fn options_error(message: String, hosts: Vec<String>, hint: &str) -> Infeasible {
    Infeasible { rule: Rule::Options, message, shards: Vec::new(), hosts, hint: hint.to_owned() }
}

/// Checks that the options are valid for this fleet.
pub(crate) fn check_options(observation: &Observation, options: &PlanOptions) -> Result<(), Infeasible> {
    if let Err(error) = observation.validate() {
        return Err(options_error(error.to_string(), Vec::new(), "observe again"));
    }
    let known: BTreeSet<&str> = observation.hosts.iter().map(|host| host.name.as_str()).collect();
    let named = options.drain.iter().chain(options.targets.iter().flatten());
    let unknown: Vec<String> = named.filter(|name| !known.contains(name.as_str())).cloned().collect();
    if !unknown.is_empty() {
        let message = format!("{} is not a host of the observation", unknown.join(", "));
        return Err(options_error(message, unknown, "name hosts as `dunlin shards status` shows them"));
    }
    if !(options.tolerance.is_finite() && (0.0..=1.0).contains(&options.tolerance)) {
        return Err(options_error(
            format!("a tolerance of {} is not between 0 and 1", options.tolerance),
            Vec::new(),
            "use a tolerance such as 5%",
        ));
    }
    if options.max_shards_per_host == Some(0) {
        let message = "a maximum of 0 shards per host leaves no host for any shard".to_owned();
        return Err(options_error(message, Vec::new(), "use a maximum of at least 1"));
    }
    if !(options.max_utilization > 0.0 && options.max_utilization <= 1.0) {
        return Err(options_error(
            format!("a maximum utilization of {}% is not above 0% and at most 100%", options.max_utilization * 100.0),
            Vec::new(),
            "use a maximum utilization such as 90%",
        ));
    }
    Ok(())
}

/// Checks the rules as far as counting shows that no placement can keep them; the search finds the rest.
pub(crate) fn check_rules(model: &Model) -> Result<(), Infeasible> {
    check_pinned(model)?;
    check_drain_targets(model)?;
    check_zones(model)?;
    check_memory(model)?;
    model.max_shards_per_host.map_or(Ok(()), |limit| check_shard_count(model, limit))
}

fn check_pinned(model: &Model) -> Result<(), Infeasible> {
    let stuck = find_stuck(model, |item| {
        let it = &model.items[item];
        model.hosts[it.home].drained && model.shard_of(item).pinned
    });
    let Some((shards, hosts)) = stuck else { return Ok(()) };
    Err(Infeasible {
        rule: Rule::Pinned,
        message: format!(
            "{} to be drained, but {} {} pinned there",
            hosts_with_verb(&hosts),
            shard_list(&shards),
            if shards.len() == 1 { "is" } else { "are" }
        ),
        shards,
        hosts,
        hint: "unpin the shards or keep the host".to_owned(),
    })
}

fn check_drain_targets(model: &Model) -> Result<(), Infeasible> {
    let stuck = find_stuck(model, |item| {
        model.hosts[model.items[item].home].drained && !(0..model.hosts.len()).any(|host| model.is_allowed(item, host))
    });
    let Some((shards, hosts)) = stuck else { return Ok(()) };
    Err(Infeasible {
        rule: Rule::Drain,
        message: format!(
            "{} to be drained, but no other host may receive {}",
            hosts_with_verb(&hosts),
            shard_list(&shards)
        ),
        shards,
        hosts,
        hint: "allow more hosts as targets or add one".to_owned(),
    })
}

/// Checks that there are as many zones, or hosts where zones are unknown, as a shard has copies.
fn check_zones(model: &Model) -> Result<(), Infeasible> {
    let stuck = find_stuck(model, |item| {
        let it = &model.items[item];
        !it.siblings.is_empty() && it.siblings.iter().all(|sibling| item < *sibling) && !can_place_shard(model, item)
    });
    let Some((shards, hosts)) = stuck else { return Ok(()) };
    Err(Infeasible {
        rule: Rule::Zones,
        message: format!(
            "the copies of {} cannot be in different zones on the hosts available to them",
            shard_list(&shards)
        ),
        shards,
        hosts,
        hint: "add a host in another zone, or allow copies to share one".to_owned(),
    })
}

/// Returns whether the copies of the shard of `first` can be placed at all, memory aside.
fn can_place_shard(model: &Model, first: usize) -> bool {
    fn place_copies(model: &Model, copies: &[usize], taken: &mut Vec<usize>) -> bool {
        let Some((item, rest)) = copies.split_first() else { return true };
        for host in 0..model.hosts.len() {
            if model.is_allowed(*item, host) && !taken.iter().any(|other| model.clashes(host, *other)) {
                taken.push(host);
                if place_copies(model, rest, taken) {
                    return true;
                }
                taken.pop();
            }
        }
        false
    }
    let homes: Vec<usize> = std::iter::once(first).chain(model.items[first].siblings.iter().copied()).collect();
    let settled = homes.iter().all(|item| model.is_allowed(*item, model.items[*item].home))
        && homes
            .iter()
            .enumerate()
            .all(|(n, a)| homes[..n].iter().all(|b| !model.clashes(model.items[*a].home, model.items[*b].home)));
    settled || place_copies(model, &homes, &mut Vec::new())
}

fn check_memory(model: &Model) -> Result<(), Infeasible> {
    let available: i64 = model.hosts.iter().filter(|host| !host.drained).map(|host| host.limits[Bytes]).sum();
    let need = model.total[Bytes];
    if need > available {
        let shards = shards_to_remove(model, need - available);
        return Err(Infeasible {
            rule: Rule::Capacity,
            message: format!(
                "the shards need {}, but the remaining hosts offer {} within the maximum utilization; without {} they would fit",
                format_bytes(need),
                format_bytes(available),
                shard_list(&shards)
            ),
            shards,
            hosts: remaining_hosts(model),
            hint: format!("add at least {} of usable memory", format_bytes(need - available)),
        });
    }
    let stuck = find_stuck(model, |item| {
        let it = &model.items[item];
        !(0..model.hosts.len())
            .any(|host| model.is_allowed(item, host) && model.hosts[host].limits[Bytes] >= it.weight[Bytes])
    });
    let Some((shards, hosts)) = stuck else { return Ok(()) };
    Err(Infeasible {
        rule: Rule::Capacity,
        message: format!("no host available to {} is large enough", shard_list(&shards)),
        shards,
        hosts,
        hint: "add a larger host or split the shard".to_owned(),
    })
}

/// Checks that the hosts may have as many copies as there are, and that no host keeps too many that cannot move.
fn check_shard_count(model: &Model, limit: usize) -> Result<(), Infeasible> {
    let (mut copies, mut fixed) = (vec![0; model.hosts.len()], vec![0; model.hosts.len()]);
    for item in &model.items {
        copies[item.home] += 1;
        fixed[item.home] += usize::from(!item.movable);
    }
    let places = |host: usize| if model.hosts[host].can_receive { limit } else { limit.min(copies[host]) };
    let available: usize = (0..model.hosts.len()).filter(|host| !model.hosts[*host].drained).map(places).sum();
    let over = |counts: &[usize]| find_stuck(model, |item| counts[model.items[item].home] > limit);
    let (found, message) = if model.items.len() > available {
        let message = format!(
            "there are {} primaries and replicas, but the hosts available to them may have {available}, {limit} per host",
            model.items.len()
        );
        (over(&copies), message)
    } else if let Some((shards, hosts)) = over(&fixed) {
        let verb = if hosts.len() == 1 { "has" } else { "have" };
        let noun = format_count(limit, "shard");
        let message = format!("{} {verb} more than {noun} that cannot move", hosts.join(", "));
        (Some((shards, hosts)), message)
    } else {
        return Ok(());
    };
    let (shards, hosts) = found.unwrap_or_default();
    Err(Infeasible { rule: Rule::ShardsPerHost, message, shards, hosts, hint: SHARD_COUNT_HINT.to_owned() })
}

/// Returns the largest shards that together need at least the missing bytes.
fn shards_to_remove(model: &Model, missing: i64) -> Vec<ShardId> {
    let mut shards: Vec<(i64, ShardId)> = Vec::new();
    for shard in &model.observation.shards {
        shards.push((shard.bytes as i64 * (1 + shard.replicas.len() as i64), shard.id));
    }
    shards.sort_by_key(|(bytes, id)| (Reverse(*bytes), *id));
    let mut left = missing;
    let mut ids: Vec<ShardId> = Vec::new();
    for (bytes, id) in shards {
        if left <= 0 {
            break;
        }
        left -= bytes;
        ids.push(id);
    }
    ids.sort_unstable();
    ids
}

/// Formats bytes for messages.
fn format_bytes(bytes: i64) -> String {
    ByteSize(bytes.unsigned_abs()).to_human()
}

/// Returns the shards and homes of the items that `stuck` selects; `None` if there are none.
pub(crate) fn find_stuck(model: &Model, stuck: impl Fn(usize) -> bool) -> Option<(Vec<ShardId>, Vec<String>)> {
    let picked: Vec<usize> = (0..model.items.len()).filter(|item| stuck(*item)).collect();
    if picked.is_empty() {
        return None;
    }
    let mut shards: Vec<ShardId> = picked.iter().map(|item| model.shard_of(*item).id).collect();
    shards.sort_unstable();
    shards.dedup();
    let hosts: BTreeSet<usize> = picked.iter().map(|item| model.items[*item].home).collect();
    Some((shards, hosts.into_iter().map(|host| model.host_name(host).to_owned()).collect()))
}

pub(crate) fn remaining_hosts(model: &Model) -> Vec<String> {
    let kept = (0..model.hosts.len()).filter(|host| !model.hosts[*host].drained);
    kept.map(|host| model.host_name(host).to_owned()).collect()
}

/// Formats a list of shards: `shard 3`, `shards 3, 4`, `shards 1, 2, 3 and 17 more`.
pub(crate) fn shard_list(shards: &[ShardId]) -> String {
    const SHOWN: usize = 8;
    let list: Vec<String> = shards.iter().take(SHOWN).map(ShardId::to_string).collect();
    let noun = if shards.len() == 1 { "shard" } else { "shards" };
    match shards.len().saturating_sub(SHOWN) {
        0 => format!("{noun} {}", list.join(", ")),
        more => format!("{noun} {} and {more} more", list.join(", ")),
    }
}

fn hosts_with_verb(hosts: &[String]) -> String {
    format!("{} {}", hosts.join(", "), if hosts.len() == 1 { "is" } else { "are" })
}

/// Builds the error for the hosts that exceed their limits in the best placement that was found.
pub(crate) fn over_limits(model: &Model, state: &Assignment) -> Infeasible {
    let exceeds = |host: usize, resource: HostResource| state.load[host][resource] > model.hosts[host].limits[resource];
    let resource =
        HostResource::ALL.into_iter().find(|resource| (0..model.hosts.len()).any(|host| exceeds(host, *resource)));
    let resource = resource.unwrap_or(Bytes);
    let hosts: Vec<usize> = (0..model.hosts.len()).filter(|host| exceeds(*host, resource)).collect();
    let mut shards: Vec<ShardId> =
        hosts.iter().flat_map(|host| &state.items_on[*host]).map(|item| model.shard_of(*item).id).collect();
    shards.sort_unstable();
    shards.dedup();
    let excess: i64 = hosts.iter().map(|host| state.load[*host][resource] - model.hosts[*host].limits[resource]).sum();
    let names: Vec<String> = hosts.iter().map(|host| model.host_name(*host).to_owned()).collect();
    let (rule, limit, amount, hint) = match resource {
        Bytes | Ops => (
            Rule::Capacity,
            "maximum utilization",
            format_bytes(excess),
            "add a host or memory, allow more hosts as targets, or raise the maximum utilization",
        ),
        Shards => (
            Rule::ShardsPerHost,
            "maximum number of shards per host",
            format_count(excess as usize, "shard"),
            SHARD_COUNT_HINT,
        ),
    };
    Infeasible {
        rule,
        message: format!(
            "the shards do not fit on the hosts available to them within the {limit}; {} would exceed it by {amount}, with {}",
            names.join(", "),
            shard_list(&shards)
        ),
        shards,
        hosts: names,
        hint: hint.to_owned(),
    }
}
