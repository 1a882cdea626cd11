//! What-if scenarios: growth, lost hosts and new hosts, applied to an observation before planning.

use std::fmt;
use std::str::FromStr;

use dunlin_shards::ShardId;

use crate::inventory::ByteSize;
use crate::rebalance::observation::{HostLoad, Observation};

/// A hypothetical change of the fleet.
#[derive(Debug, Clone, PartialEq)]
pub enum Scenario {
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
        /// Its zone.
        zone: Option<String>,
    },
}

/// A list of scenarios, applied in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WhatIf(pub Vec<Scenario>);

/// A scenario that cannot be read or applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhatIfError(pub String);

impl fmt::Display for WhatIfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WhatIfError {}

/// The fleet after the scenarios.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulated {
    /// The observation to plan from.
    pub observation: Observation,
    /// Consequences: replicas that became primaries, shards that lost all copies.
    pub notes: Vec<String>,
    /// Shards without any copy left, ascending; they are not in the observation any more.
    pub lost: Vec<ShardId>,
}

impl FromStr for WhatIf {
    type Err = WhatIfError;

    /// Reads `growth=2x,lose=redis-07,add=redis-09:32GiB:b`.
    fn from_str(text: &str) -> Result<Self, WhatIfError> {
        text.split(',').map(|part| parse_scenario(part.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn parse_scenario(part: &str) -> Result<Scenario, WhatIfError> {
    let unknown = || WhatIfError(format!("`{part}` is not one of growth=2x, lose=HOST, add=HOST:32GiB[:ZONE]"));
    let (key, value) = part.split_once('=').ok_or_else(unknown)?;
    match key {
        "growth" => parse_growth(value).map(Scenario::Growth).ok_or_else(|| {
            WhatIfError(format!(
                "`{value}` is not a growth factor: use a factor such as 2x or a percentage such as 50%"
            ))
        }),
        "lose" if !value.is_empty() => Ok(Scenario::Lose(value.to_owned())),
        "add" => {
            let mut words = value.splitn(3, ':');
            let name = words.next().filter(|name| !name.is_empty()).ok_or_else(unknown)?;
            let size = words.next().ok_or_else(unknown)?;
            let ByteSize(capacity_bytes) = size
                .parse()
                .map_err(|error| WhatIfError(format!("the memory of {name}: {error}; use a size such as 32GiB")))?;
            if capacity_bytes == 0 {
                return Err(WhatIfError(format!("the memory of {name}: must be above 0, such as 32GiB")));
            }
            Ok(Scenario::Add { name: name.to_owned(), capacity_bytes, zone: words.next().map(str::to_owned) })
        }
        _ => Err(unknown()),
    }
}

fn parse_growth(text: &str) -> Option<f64> {
    let factor = match (text.strip_suffix('x'), text.strip_suffix('%')) {
        (Some(times), _) => times.parse::<f64>().ok()?,
        (_, Some(percent)) => 1.0 + percent.parse::<f64>().ok()? / 100.0,
        _ => text.parse::<f64>().ok()?,
    };
    (factor.is_finite() && factor > 0.0 && factor <= 1e6).then_some(factor)
}

impl WhatIf {
    /// Applies all scenarios.
    ///
    /// # Errors
    /// Returns an error if a scenario does not fit the fleet.
    pub fn apply(&self, observation: &Observation) -> Result<Simulated, WhatIfError> {
        let mut simulated = Simulated { observation: observation.clone(), notes: Vec::new(), lost: Vec::new() };
        for scenario in &self.0 {
            match scenario {
                Scenario::Growth(factor) => simulated.grow(*factor),
                Scenario::Lose(name) => simulated.lose_host(name)?,
                Scenario::Add { name, capacity_bytes, zone } => {
                    simulated.add_host(name, *capacity_bytes, zone.clone())?
                }
            }
        }
        simulated.lost.sort_unstable();
        Ok(simulated)
    }
}

impl Simulated {
    fn grow(&mut self, factor: f64) {
        for shard in &mut self.observation.shards {
            shard.bytes = (shard.bytes as f64 * factor) as u64;
            shard.ops_per_s *= factor;
        }
    }

    fn add_host(&mut self, name: &str, capacity_bytes: u64, zone: Option<String>) -> Result<(), WhatIfError> {
        if self.observation.find_host(name).is_some() {
            return Err(WhatIfError(format!("{name} already exists")));
        }
        let name = name.to_owned();
        let host = HostLoad { name, zone, capacity_bytes, weight: 1.0, drain: false, details: Default::default() };
        self.observation.hosts.push(host);
        Ok(())
    }

    fn lose_host(&mut self, name: &str) -> Result<(), WhatIfError> {
        if self.observation.find_host(name).is_none() {
            return Err(WhatIfError(format!("{name} is not a host of the observation")));
        }
        self.observation.hosts.retain(|host| host.name != name);
        if self.observation.hosts.is_empty() {
            return Err(WhatIfError(format!("without {name} no host remains; add hosts before it with add=")));
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
            let ids = super::infeasible::shard_list(&promoted);
            self.notes.push(format!(
                "without {name}, the replicas of {ids} become primaries; writes not yet replicated are lost"
            ));
        }
        if !lost.is_empty() {
            let ids = super::infeasible::shard_list(&lost);
            self.notes.push(format!("without {name}, {ids} are lost: no other host has a copy"));
        }
        self.lost.extend(lost);
        Ok(())
    }
}
