//! The observation file: what the planner plans from.
//!
//! Its JSON is a contract with users: fields are only ever added, and each added one is optional. `details` takes
//! whatever an observer measured beyond what planning needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use dunlin_shards::ShardId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::inventory::ByteSize;

/// The format that this version reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Shards and hosts as they were at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// Always [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The cluster's name, as in its shard map.
    pub cluster: String,
    /// The epoch of the shard map that was in force.
    pub epoch: u64,
    /// Shard n listens on this port + n, on whatever host; absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_base: Option<u16>,
    /// The hosts that may hold shards, in any order.
    pub hosts: Vec<HostLoad>,
    /// Every shard of the map, in any order.
    pub shards: Vec<ShardLoad>,
}

/// A host and its capacity for shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLoad {
    /// Its name in the inventory.
    pub name: String,
    /// Zone of the host; copies of one shard never share a zone. Absent: unknown; then copies are only on different
    /// hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Memory for shards, in bytes.
    pub capacity_bytes: u64,
    /// Its part of the load relative to the other hosts, above 0.
    #[serde(default = "default_weight")]
    pub weight: f64,
    /// True if the host is to be drained.
    #[serde(default)]
    pub drain: bool,
    /// Anything else that was measured; the planner does not look at it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Value>,
}

/// A shard: its hosts and its load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardLoad {
    /// Its number in the shard map.
    pub id: ShardId,
    /// The slots that it owns, as in its shard map: `0-255`; absent: unknown. The planner does not look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<String>,
    /// The host of its primary.
    pub host: String,
    /// The hosts of its replicas.
    #[serde(default)]
    pub replicas: Vec<String>,
    /// Memory of its dataset in bytes; each replica takes as much.
    pub bytes: u64,
    /// Commands a second at the primary.
    #[serde(default)]
    pub ops_per_s: f64,
    /// True if its copies must stay on their hosts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// The most memory the instance has used, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// Anything else that was measured; the planner does not look at it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Value>,
}

fn default_weight() -> f64 {
    1.0
}

/// Reason why an observation cannot be planned from.
#[derive(Debug)]
pub enum ObservationError {
    /// Not JSON, or not of the shape of the contract; says line and column.
    Syntax(serde_json::Error),
    /// Written by another version of the format.
    Version(u32),
    /// Well-formed, but it contradicts itself: every problem, in the order of the file.
    Invalid(Vec<String>),
}

impl fmt::Display for ObservationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(_) => write!(f, "the observation is not of the expected shape"),
            Self::Version(found) => {
                write!(f, "the observation has format_version {found}; this dunlin reads {FORMAT_VERSION}")
            }
            Self::Invalid(problems) => write!(f, "the observation contradicts itself: {}", problems.join("; ")),
        }
    }
}

impl std::error::Error for ObservationError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Syntax(source) => Some(source),
            Self::Version(_) | Self::Invalid(_) => None,
        }
    }
}

impl Observation {
    /// Reads and validates the JSON of an observation file.
    pub fn from_json(text: &str) -> Result<Self, ObservationError> {
        let observation: Self = serde_json::from_str(text).map_err(ObservationError::Syntax)?;
        observation.validate()?;
        Ok(observation)
    }

    /// Returns the JSON of an observation file, indented, with a final newline.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("maps have string keys and numbers are finite");
        text.push('\n');
        text
    }

    /// Checks that names resolve, ids are unique and numbers are usable; reports all that is wrong at once.
    pub fn validate(&self) -> Result<(), ObservationError> {
        if self.format_version != FORMAT_VERSION {
            return Err(ObservationError::Version(self.format_version));
        }
        let mut problems = Vec::new();
        self.check_hosts(&mut problems);
        self.check_shards(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(ObservationError::Invalid(problems)) }
    }

    fn check_hosts(&self, problems: &mut Vec<String>) {
        if self.hosts.is_empty() {
            problems.push("it has no hosts".to_owned());
        }
        let mut seen = BTreeSet::new();
        for host in &self.hosts {
            let name = &host.name;
            if !seen.insert(name) {
                problems.push(format!("host {name} is listed twice"));
            }
            if !(host.weight.is_finite() && host.weight > 0.0) {
                problems.push(format!("host {name} has weight {}; to empty a host set drain", host.weight));
            }
            if host.capacity_bytes == 0 || host.capacity_bytes > MAX_TOTAL_BYTES {
                let capacity = ByteSize(host.capacity_bytes).to_human();
                problems.push(format!("host {name} has a capacity of {capacity}"));
            }
        }
    }

    fn check_shards(&self, problems: &mut Vec<String>) {
        let hosts: BTreeSet<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
        let mut seen = BTreeSet::new();
        let mut total = 0u64;
        for shard in &self.shards {
            let id = shard.id;
            if !seen.insert(id) {
                problems.push(format!("shard {id} is listed twice"));
            }
            let mut copies = BTreeSet::new();
            for name in std::iter::once(&shard.host).chain(&shard.replicas) {
                if !hosts.contains(name.as_str()) {
                    problems.push(format!("shard {id} is on {name}, which is not among the hosts"));
                }
                if !copies.insert(name) {
                    problems.push(format!("shard {id} has two copies on {name}"));
                }
            }
            if !(shard.ops_per_s.is_finite() && (0.0..=MAX_OPS_PER_S).contains(&shard.ops_per_s)) {
                problems.push(format!("shard {id} has {} operations a second", shard.ops_per_s));
            }
            total = total.saturating_add(shard.bytes.saturating_mul(copies.len() as u64));
        }
        if total > MAX_TOTAL_BYTES {
            let (total, most) = (ByteSize(total).to_human(), ByteSize(MAX_TOTAL_BYTES).to_human());
            problems.push(format!("the shards are {total} together; at most {most} can be planned"));
        }
    }

    /// Returns the host with this name.
    pub fn find_host(&self, name: &str) -> Option<&HostLoad> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// Returns the shard with this number.
    pub fn find_shard(&self, id: ShardId) -> Option<&ShardLoad> {
        self.shards.iter().find(|shard| shard.id == id)
    }
}

/// Sums of a fleet stay exact in the planner's signed arithmetic up to here (4 EiB).
const MAX_TOTAL_BYTES: u64 = 1 << 62;
/// Far over what an instance can do; keeps sums in thousandths exact.
const MAX_OPS_PER_S: f64 = 1e9;

#[cfg(test)]
mod tests {
    use super::{Observation, ObservationError};

    const CONTRACT: &str = r#"{"format_version":1,"cluster":"timeline","epoch":7,
 "hosts":[{"name":"redis-01","zone":"a","capacity_bytes":17179869184,"weight":1.0,"drain":false},
          {"name":"redis-02","zone":"b","capacity_bytes":17179869184}],
 "shards":[{"id":0,"host":"redis-01","replicas":["redis-02"],"bytes":1200000000,"ops_per_s":850.0}]}"#;

    #[test]
    fn the_example_of_the_contract_round_trips() {
        let read = Observation::from_json(CONTRACT).unwrap();
        assert_eq!(read.hosts[1].weight, 1.0);
        assert_eq!(Observation::from_json(&read.to_json()).unwrap(), read);
    }

    #[test]
    fn all_contradictions_are_reported_at_once() {
        let text = CONTRACT
            .replace("\"replicas\":[\"redis-02\"]", "\"replicas\":[\"redis-01\",\"redis-09\"]")
            .replace("850.0", "-1")
            .replace("\"weight\":1.0", "\"weight\":0");
        let Err(ObservationError::Invalid(problems)) = Observation::from_json(&text) else { panic!("accepted") };
        assert_eq!(
            problems,
            [
                "host redis-01 has weight 0; to empty a host set drain",
                "shard 0 has two copies on redis-01",
                "shard 0 is on redis-09, which is not among the hosts",
                "shard 0 has -1 operations a second",
            ]
        );
    }

    #[test]
    fn unknown_fields_and_other_versions_are_rejected() {
        let unknown = Observation::from_json(&CONTRACT.replace("\"epoch\"", "\"epoc\"")).unwrap_err();
        assert!(matches!(unknown, ObservationError::Syntax(_)));
        let newer = Observation::from_json(&CONTRACT.replace("\"format_version\":1", "\"format_version\":2"));
        crate::messages::check("observation-version", [("version 2", newer.unwrap_err())]);
    }
}
