//! What if: growth, lost hosts and new hosts, applied to an observation before it is planned from.

use std::fmt;
use std::str::FromStr;

use crate::inventory::Bytes;
use crate::rebalance::observation::{HostLoad, Observation};

/// One supposition.
#[derive(Debug, Clone, PartialEq)]
pub enum Supposition {
    /// `growth=2x` or `growth=50%`: all bytes and operations times this factor.
    Growth(f64),
    /// `lose=redis-07`: the host is gone, with all that is on it.
    Lose(String),
    /// `add=redis-09:32GiB` or `add=redis-09:32GiB:zone`: an empty host of weight 1.
    Add {
        /// Its name.
        name: String,
        /// Memory for shards.
        capacity_bytes: u64,
        /// Where it would stand.
        zone: Option<String>,
    },
}

/// A list of suppositions, in the order in which they come true.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WhatIf(pub Vec<Supposition>);

/// Why a supposition means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulateError(pub String);

impl fmt::Display for SimulateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SimulateError {}

/// The fleet as it would be.
#[derive(Debug, Clone, PartialEq)]
pub struct Supposed {
    /// What to plan from.
    pub observation: Observation,
    /// What came about on the way: replicas that became primaries, shards that were lost with all copies.
    pub notes: Vec<String>,
    /// Shards without any copy left, ascending; they are not in the observation any more.
    pub lost: Vec<u32>,
}

impl FromStr for WhatIf {
    type Err = SimulateError;

    /// Reads `growth=2x,lose=redis-07,add=redis-09:32GiB:b`.
    fn from_str(text: &str) -> Result<Self, SimulateError> {
        text.split(',').map(|part| supposition(part.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn supposition(part: &str) -> Result<Supposition, SimulateError> {
    let unknown = || SimulateError(format!("`{part}` is none of growth=2x, lose=HOST, add=HOST:32GiB[:ZONE]"));
    let (key, value) = part.split_once('=').ok_or_else(unknown)?;
    match key {
        "growth" => growth(value).map(Supposition::Growth).ok_or_else(|| {
            SimulateError(format!(
                "`{value}` is not a growth: write a factor such as 2x, or 50% for half as much again"
            ))
        }),
        "lose" if !value.is_empty() => Ok(Supposition::Lose(value.to_owned())),
        "add" => {
            let mut words = value.splitn(3, ':');
            let name = words.next().filter(|name| !name.is_empty()).ok_or_else(unknown)?;
            let size = words.next().ok_or_else(unknown)?;
            let Bytes(capacity_bytes) = size
                .parse()
                .map_err(|error| SimulateError(format!("the memory of {name}: {error}; write a size such as 32GiB")))?;
            if capacity_bytes == 0 {
                return Err(SimulateError(format!("the memory of {name}: a host needs some, such as 32GiB")));
            }
            Ok(Supposition::Add { name: name.to_owned(), capacity_bytes, zone: words.next().map(str::to_owned) })
        }
        _ => Err(unknown()),
    }
}

fn growth(text: &str) -> Option<f64> {
    let factor = match (text.strip_suffix('x'), text.strip_suffix('%')) {
        (Some(times), _) => times.parse::<f64>().ok()?,
        (_, Some(percent)) => 1.0 + percent.parse::<f64>().ok()? / 100.0,
        _ => text.parse::<f64>().ok()?,
    };
    (factor.is_finite() && factor > 0.0 && factor <= 1e6).then_some(factor)
}

impl WhatIf {
    /// The fleet as it would be if all suppositions came true.
    pub fn apply(&self, observation: &Observation) -> Result<Supposed, SimulateError> {
        let mut supposed = Supposed { observation: observation.clone(), notes: Vec::new(), lost: Vec::new() };
        for supposition in &self.0 {
            match supposition {
                Supposition::Growth(factor) => supposed.grow(*factor),
                Supposition::Lose(name) => supposed.lose(name)?,
                Supposition::Add { name, capacity_bytes, zone } => supposed.add(name, *capacity_bytes, zone.clone())?,
            }
        }
        supposed.lost.sort_unstable();
        Ok(supposed)
    }
}

impl Supposed {
    fn grow(&mut self, factor: f64) {
        for shard in &mut self.observation.shards {
            shard.bytes = (shard.bytes as f64 * factor) as u64;
            shard.ops_per_s *= factor;
        }
    }

    fn add(&mut self, name: &str, capacity_bytes: u64, zone: Option<String>) -> Result<(), SimulateError> {
        if self.observation.host(name).is_some() {
            return Err(SimulateError(format!("{name} is there already")));
        }
        let name = name.to_owned();
        let host = HostLoad { name, zone, capacity_bytes, weight: 1.0, drain: false, details: Default::default() };
        self.observation.hosts.push(host);
        Ok(())
    }

    fn lose(&mut self, name: &str) -> Result<(), SimulateError> {
        if self.observation.host(name).is_none() {
            return Err(SimulateError(format!("{name} is not a host of the observation")));
        }
        self.observation.hosts.retain(|host| host.name != name);
        if self.observation.hosts.is_empty() {
            return Err(SimulateError(format!("without {name} no host is left; name new ones before, with add=")));
        }
        let (mut lost, mut promoted) = (Vec::new(), Vec::new());
        self.observation.shards.retain_mut(|shard| {
            shard.replicas.retain(|replica| replica != name);
            if shard.host != name {
                return true;
            }
            if shard.replicas.is_empty() {
                lost.push(shard.id);
                return false;
            }
            shard.host = shard.replicas.remove(0);
            promoted.push(shard.id);
            true
        });
        if !promoted.is_empty() {
            let ids = super::infeasible::ids(&promoted);
            self.notes.push(format!(
                "without {name}, the replicas of {ids} become primaries; what was not replicated yet is lost"
            ));
        }
        if !lost.is_empty() {
            let ids = super::infeasible::ids(&lost);
            self.notes.push(format!("without {name}, {ids} are lost: they have no replica elsewhere"));
        }
        self.lost.extend(lost);
        Ok(())
    }
}
