//! Wishes that no placement can keep: which rule, which shards, what to do.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::model::{BYTES, Model};
use super::state::State;
use super::wishes::Wishes;
use crate::inventory::Bytes;
use crate::rebalance::observation::Observation;

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Infeasible {
    /// The rule that cannot be kept.
    pub rule: Rule,
    /// What stands against it, in one sentence.
    pub message: String,
    /// The shards in its way, ascending.
    pub shards: Vec<u32>,
    /// The hosts concerned.
    pub hosts: Vec<String>,
    /// What would help.
    pub hint: String,
}

/// The rules of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// No host holds more than its headroom.
    Capacity,
    /// Copies of a shard stand on different hosts, in different zones.
    Zones,
    /// A drained host ends empty.
    Drain,
    /// A pinned shard stays.
    Pinned,
    /// The wishes themselves: a host that does not exist, a tolerance below 0.
    Wishes,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Capacity => "capacity",
            Self::Zones => "zones",
            Self::Drain => "drain",
            Self::Pinned => "pinned",
            Self::Wishes => "wishes",
        })
    }
}

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no plan keeps the rule `{}`: {}", self.rule, self.message)
    }
}

impl std::error::Error for Infeasible {}

fn wish(message: String, hosts: Vec<String>, hint: &str) -> Infeasible {
    Infeasible { rule: Rule::Wishes, message, shards: Vec::new(), hosts, hint: hint.to_owned() }
}

/// Refuses wishes that mean nothing for this fleet.
pub(crate) fn check_wishes(observation: &Observation, wishes: &Wishes) -> Result<(), Infeasible> {
    if let Err(error) = observation.validate() {
        return Err(wish(error.to_string(), Vec::new(), "observe again"));
    }
    let known: BTreeSet<&str> = observation.hosts.iter().map(|host| host.name.as_str()).collect();
    let named = wishes.drain.iter().chain(wishes.to.iter().flatten());
    let unknown: Vec<String> = named.filter(|name| !known.contains(name.as_str())).cloned().collect();
    if !unknown.is_empty() {
        let message = format!("{} is not a host of the observation", unknown.join(", "));
        return Err(wish(message, unknown, "name hosts as `dunlin shards status` shows them"));
    }
    if !(wishes.tolerance.is_finite() && (0.0..=1.0).contains(&wishes.tolerance)) {
        return Err(wish(
            format!("a tolerance of {} is not between 0 and 1", wishes.tolerance),
            Vec::new(),
            "use a tolerance such as 5%",
        ));
    }
    if !(wishes.headroom > 0.0 && wishes.headroom <= 1.0) {
        return Err(wish(
            format!("a headroom of {} is not in (0, 1]", wishes.headroom),
            Vec::new(),
            "use a headroom such as 0.9",
        ));
    }
    Ok(())
}

/// Finds the rules that no placement can keep, as far as counting shows it; the search finds the rest.
pub(crate) fn check_rules(model: &Model) -> Result<(), Infeasible> {
    pinned_on_drained(model)?;
    nowhere_to_go(model)?;
    enough_zones(model)?;
    enough_memory(model)
}

fn pinned_on_drained(model: &Model) -> Result<(), Infeasible> {
    let stuck = stuck_items(model, |item| {
        let it = &model.items[item];
        model.hosts[it.home].drained && model.shard(item).pinned
    });
    let Some((shards, hosts)) = stuck else { return Ok(()) };
    Err(Infeasible {
        rule: Rule::Pinned,
        message: format!(
            "{} to be drained, but {} {} pinned there",
            is_are(&hosts),
            ids(&shards),
            if shards.len() == 1 { "is" } else { "are" }
        ),
        shards,
        hosts,
        hint: "unpin the shards or keep the host".to_owned(),
    })
}

fn nowhere_to_go(model: &Model) -> Result<(), Infeasible> {
    let stuck = stuck_items(model, |item| {
        model.hosts[model.items[item].home].drained && !(0..model.hosts.len()).any(|host| model.allowed(item, host))
    });
    let Some((shards, hosts)) = stuck else { return Ok(()) };
    Err(Infeasible {
        rule: Rule::Drain,
        message: format!("{} to be drained, and no other host may receive {}", is_are(&hosts), ids(&shards)),
        shards,
        hosts,
        hint: "allow more hosts as targets or add one".to_owned(),
    })
}

/// Copies need as many zones, or hosts where zones are unknown, as a shard has copies.
fn enough_zones(model: &Model) -> Result<(), Infeasible> {
    let stuck = stuck_items(model, |item| {
        let it = &model.items[item];
        !it.mates.is_empty() && it.mates.iter().all(|mate| item < *mate) && !shard_fits(model, item)
    });
    let Some((shards, hosts)) = stuck else { return Ok(()) };
    Err(Infeasible {
        rule: Rule::Zones,
        message: format!("the copies of {} cannot stand apart on the hosts that may hold them", ids(&shards)),
        shards,
        hosts,
        hint: "add a host in another zone, or allow copies to share one".to_owned(),
    })
}

/// Whether the copies of the shard of `first` can be placed at all, memory aside.
fn shard_fits(model: &Model, first: usize) -> bool {
    fn place(model: &Model, copies: &[usize], taken: &mut Vec<usize>) -> bool {
        let Some((item, rest)) = copies.split_first() else { return true };
        for host in 0..model.hosts.len() {
            if model.allowed(*item, host) && !taken.iter().any(|other| model.clash(host, *other)) {
                taken.push(host);
                if place(model, rest, taken) {
                    return true;
                }
                taken.pop();
            }
        }
        false
    }
    let homes: Vec<usize> = std::iter::once(first).chain(model.items[first].mates.iter().copied()).collect();
    let settled = homes.iter().all(|item| model.allowed(*item, model.items[*item].home))
        && homes
            .iter()
            .enumerate()
            .all(|(n, a)| homes[..n].iter().all(|b| !model.clash(model.items[*a].home, model.items[*b].home)));
    settled || place(model, &homes, &mut Vec::new())
}

fn enough_memory(model: &Model) -> Result<(), Infeasible> {
    let room: i64 = model.hosts.iter().filter(|host| !host.drained).map(|host| host.cap).sum();
    let need = model.total[BYTES];
    if need > room {
        let shards = too_many(model, need - room);
        return Err(Infeasible {
            rule: Rule::Capacity,
            message: format!(
                "the shards need {}, and the hosts that stay offer {} within their headroom; without {} it would be enough",
                size(need),
                size(room),
                ids(&shards)
            ),
            shards,
            hosts: kept_hosts(model),
            hint: format!("add a host or memory: at least {} within the headroom", size(need - room)),
        });
    }
    let stuck = stuck_items(model, |item| {
        let it = &model.items[item];
        !(0..model.hosts.len()).any(|host| model.allowed(item, host) && model.hosts[host].cap >= it.weight[BYTES])
    });
    let Some((shards, hosts)) = stuck else { return Ok(()) };
    Err(Infeasible {
        rule: Rule::Capacity,
        message: format!("no host that may hold {} is large enough", ids(&shards)),
        shards,
        hosts,
        hint: "add a larger host or split the shard".to_owned(),
    })
}

/// The fewest shards, largest first, that need so many bytes.
fn too_many(model: &Model, missing: i64) -> Vec<u32> {
    let mut shards: Vec<(i64, u32)> = Vec::new();
    for shard in &model.observation.shards {
        shards.push((shard.bytes as i64 * (1 + shard.replicas.len() as i64), shard.id));
    }
    shards.sort_by_key(|(bytes, id)| (Reverse(*bytes), *id));
    let mut left = missing;
    let mut ids: Vec<u32> = Vec::new();
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

/// Bytes for a reader.
fn size(bytes: i64) -> String {
    Bytes(bytes.unsigned_abs()).human()
}

/// The shards and homes of the items that `stuck` picks; `None` if there are none.
pub(crate) fn stuck_items(model: &Model, stuck: impl Fn(usize) -> bool) -> Option<(Vec<u32>, Vec<String>)> {
    let picked: Vec<usize> = (0..model.items.len()).filter(|item| stuck(*item)).collect();
    if picked.is_empty() {
        return None;
    }
    let mut shards: Vec<u32> = picked.iter().map(|item| model.shard(*item).id).collect();
    shards.sort_unstable();
    shards.dedup();
    let hosts: BTreeSet<usize> = picked.iter().map(|item| model.items[*item].home).collect();
    Some((shards, hosts.into_iter().map(|host| model.host_name(host).to_owned()).collect()))
}

pub(crate) fn kept_hosts(model: &Model) -> Vec<String> {
    let kept = (0..model.hosts.len()).filter(|host| !model.hosts[*host].drained);
    kept.map(|host| model.host_name(host).to_owned()).collect()
}

/// `shard 3`, `shards 3, 4`, `shards 1, 2, 3 and 17 more`.
pub(crate) fn ids(shards: &[u32]) -> String {
    const SHOWN: usize = 8;
    let list: Vec<String> = shards.iter().take(SHOWN).map(u32::to_string).collect();
    let noun = if shards.len() == 1 { "shard" } else { "shards" };
    match shards.len().saturating_sub(SHOWN) {
        0 => format!("{noun} {}", list.join(", ")),
        more => format!("{noun} {} and {more} more", list.join(", ")),
    }
}

fn is_are(hosts: &[String]) -> String {
    format!("{} {}", hosts.join(", "), if hosts.len() == 1 { "is" } else { "are" })
}

/// The hosts that stay over their headroom in the best placement that was found.
pub(crate) fn over_cap(model: &Model, state: &State) -> Infeasible {
    let full = |host: &usize| state.load[*host][BYTES] > model.hosts[*host].cap;
    let hosts: Vec<usize> = (0..model.hosts.len()).filter(full).collect();
    let mut shards: Vec<u32> =
        hosts.iter().flat_map(|host| &state.on[*host]).map(|item| model.shard(*item).id).collect();
    shards.sort_unstable();
    shards.dedup();
    let over: i64 = hosts.iter().map(|host| state.load[*host][BYTES] - model.hosts[*host].cap).sum();
    let hosts: Vec<String> = hosts.iter().map(|host| model.host_name(*host).to_owned()).collect();
    Infeasible {
        rule: Rule::Capacity,
        message: format!(
            "the shards do not fit within the headroom of the hosts that may hold them; {} would be {} over, with {}",
            hosts.join(", "),
            size(over),
            ids(&shards)
        ),
        shards,
        hosts,
        hint: "add a host or memory, allow more hosts as targets, or raise the headroom".to_owned(),
    }
}
