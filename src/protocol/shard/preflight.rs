//! The issues that a preflight finds.

use std::fmt;

use dunlin_shards::InstanceAddress;
use serde::{Deserialize, Serialize};

use super::moves::MoveSpec;
use crate::plan::named_enum;

/// Checks a move before it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreflightRequest {
    /// The move.
    pub spec: MoveSpec,
    /// Replicas that the source has by the map, without the target.
    pub source_replicas: Vec<InstanceAddress>,
    /// Changes in the source's own files that its process has not read, such as `ACL user s017` or `databases`: the
    /// source's host names them, and differences that they explain are no issues.
    #[serde(default)]
    pub pending_changes: Vec<String>,
}

impl PreflightRequest {
    /// Returns the check of a primary's relocation.
    pub fn for_relocation(spec: MoveSpec) -> Self {
        let source_replicas = spec.record.operation.other_replicas().to_vec();
        Self { spec, source_replicas, pending_changes: Vec::new() }
    }
}

/// Result of a preflight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreflightResult {
    /// Everything that prevents the move.
    pub issues: Vec<PreflightIssue>,
    /// Memory and disk space that the move needs; `None` if the source or the desired target cannot be read.
    #[serde(default)]
    pub needs: Option<MoveNeeds>,
}

/// Memory and disk space that a move needs on the target's host, and what is free there. All in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveNeeds {
    /// Data of the copy: the memory, and at least the disk space, that it uses from then on.
    pub data_bytes: u64,
    /// Memory while the move runs, with buffers and a rewrite of the append-only file.
    pub memory_bytes: u64,
    /// Available memory of the host.
    pub available_memory_bytes: u64,
    /// Disk space while the move runs, with a rewrite of the append-only file.
    pub disk_bytes: u64,
    /// Free disk space of the file system with the data directory.
    pub free_disk_bytes: u64,
    /// Device number of that file system: data directories with the same number share the disk space.
    pub file_system: u64,
}

/// Describes one issue that prevents a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreflightIssue {
    /// The rule that is violated.
    pub rule: PreflightRule,
    /// Finding and required value.
    pub reason: String,
}

impl fmt::Display for PreflightIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.reason)
    }
}

named_enum! {
    /// The rules that a preflight checks.
    pub enum PreflightRule {
        /// The target's host or its `maxmemory` is too small for the data.
        Memory = "memory",
        /// The target would evict keys.
        Eviction = "eviction",
        /// The target's server program cannot take over from the source's: older, or of another product.
        Version = "version",
        /// The target's instance cannot be created, or its address is in use.
        Target = "target",
        /// A login is rejected.
        Password = "password",
        /// The users differ in a way that breaks clients, or have too few rights.
        Acl = "acl",
        /// A setting differs in a way that breaks clients.
        Setting = "setting",
        /// The target would not load a module of the source.
        Module = "module",
        /// The move re-encodes the data.
        Encoding = "encoding",
        /// The disk of the target's host is too small for the data.
        Disk = "disk",
        /// The source's replica output buffer would overflow.
        Buffer = "buffer",
        /// The kernel may refuse the fork that saves the data.
        Overcommit = "overcommit",
        /// The source does not answer, or is not a primary with an append-only file.
        Source = "source",
        /// A replica of the source is not attached.
        Replica = "replica",
        /// The source has a replica that the map does not name.
        OrphanReplica = "orphan_replica",
    }
}
