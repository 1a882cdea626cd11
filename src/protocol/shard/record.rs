//! The record of a move: what a journal has of it, and what `ListMoves` reports.

use dunlin_shards::InstanceAddress;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::throttle::ThrottleLimits;

/// The operation on a shard's instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OperationFields", into = "OperationFields")]
pub enum Operation {
    /// Moves the primary to another host.
    Relocate {
        /// The source's other replicas; they follow the new primary.
        other_replicas: Vec<InstanceAddress>,
    },
    /// Creates a replica; the source is the primary.
    CreateReplica {
        /// The replica that it replaces.
        replaces: Option<InstanceAddress>,
    },
    /// Promotes a replica; the source is lost.
    Failover {
        /// The other reachable replicas; they follow the new primary.
        other_replicas: Vec<InstanceAddress>,
    },
}

/// Fields of an operation in a journal. Their form stays, since journals outlive a version of dunlin.
#[derive(Serialize, Deserialize)]
struct OperationFields {
    /// For a new replica, the replica that it replaces.
    other_replicas: Vec<InstanceAddress>,
    #[serde(default)]
    is_failover: bool,
    #[serde(default)]
    is_replica: bool,
}

impl From<OperationFields> for Operation {
    fn from(fields: OperationFields) -> Self {
        let OperationFields { other_replicas, is_failover, is_replica } = fields;
        if is_failover {
            Self::Failover { other_replicas }
        } else if is_replica {
            Self::CreateReplica { replaces: other_replicas.into_iter().next() }
        } else {
            Self::Relocate { other_replicas }
        }
    }
}

impl From<Operation> for OperationFields {
    fn from(operation: Operation) -> Self {
        let (is_failover, is_replica) = (operation.is_failover(), operation.creates_replica());
        let other_replicas = match operation {
            Operation::CreateReplica { replaces } => replaces.into_iter().collect(),
            Operation::Relocate { other_replicas } | Operation::Failover { other_replicas } => other_replicas,
        };
        Self { other_replicas, is_failover, is_replica }
    }
}

impl Operation {
    /// Returns true for a new replica.
    pub fn creates_replica(&self) -> bool {
        matches!(self, Self::CreateReplica { .. })
    }

    /// Returns the replica that a new one replaces.
    pub fn replaced_replica(&self) -> Option<&InstanceAddress> {
        match self {
            Self::CreateReplica { replaces } => replaces.as_ref(),
            _ => None,
        }
    }

    /// Returns true for a failover.
    pub fn is_failover(&self) -> bool {
        matches!(self, Self::Failover { .. })
    }

    /// Returns the replicas that follow the new primary.
    pub fn other_replicas(&self) -> &[InstanceAddress] {
        match self {
            Self::Relocate { other_replicas } | Self::Failover { other_replicas } => other_replicas,
            Self::CreateReplica { .. } => &[],
        }
    }

    /// Returns the name of the operation in messages.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Relocate { .. } => "move",
            Self::CreateReplica { .. } => "replica build",
            Self::Failover { .. } => "failover",
        }
    }

    /// Returns true if both are of the same kind.
    pub fn is_same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// Describes a move without secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// The operation.
    #[serde(flatten)]
    pub operation: Operation,
    /// Address of the source.
    pub from: InstanceAddress,
    /// Address of the target.
    pub to: InstanceAddress,
    /// Map epoch that the move belongs to.
    pub epoch: u64,
    /// ACL user of the application.
    pub app_user: String,
    /// The target instance: the desired state of its `redis_shard`, contents by digest.
    pub instance: Value,
    /// The `min-replicas-to-write` before the move changed it: the source's, or the target's for a failover. Set by the
    /// host that begins the move.
    #[serde(default)]
    pub min_replicas: Option<String>,
    /// Operator who started the move (`user@machine`).
    #[serde(default)]
    pub operator: String,
    /// Limits that protect the source's clients; a resumed move keeps them.
    #[serde(default)]
    pub throttle: ThrottleLimits,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The lines that journals on hosts have.
    #[test]
    fn the_form_of_each_operation_in_a_journal_stays() {
        let record = |other_replicas: &[&str], is_failover, is_replica| {
            json!({
                "from": "a:1", "to": "b:1", "other_replicas": other_replicas, "epoch": 3, "app_user": "app",
                "instance": null, "min_replicas": null, "operator": "me", "is_failover": is_failover,
                "throttle": ThrottleLimits::default(), "is_replica": is_replica,
            })
        };
        let address = |host| InstanceAddress::new(host, 1);
        let others = || vec![address("c"), address("d")];
        for (value, operation) in [
            (record(&["c:1", "d:1"], false, false), Operation::Relocate { other_replicas: others() }),
            (record(&["c:1", "d:1"], true, false), Operation::Failover { other_replicas: others() }),
            (record(&["c:1"], false, true), Operation::CreateReplica { replaces: Some(address("c")) }),
            (record(&[], false, true), Operation::CreateReplica { replaces: None }),
        ] {
            let read: MoveRecord = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(read.operation, operation);
            assert_eq!(json!(read), value);
        }
    }
}
