//! The role of an instance: the directives that it starts with, and the check against the map.

use anyhow::{Context, Result, bail};
use dunlin_shards::InstanceAddress;

use super::{ObservedShardFiles, RedisShard};

impl RedisShard {
    /// Returns the lines of the running state: those of the existing file or, for a new file, those from the map.
    pub(super) fn running_lines(&self, observed: &ObservedShardFiles) -> Result<String> {
        match (&observed.conf, self.read_conf()?) {
            (Some(_), Some(conf)) => Ok(conf.runtime_lines()),
            _ if self.replica_of.is_empty() => Ok(self.initial_lines(None)),
            _ => Ok(self.initial_lines(Some(&self.replica_of.parse().context("replica_of")?))),
        }
    }

    /// Returns the lines that a new instance starts with: its primary, or the replicas that it requires as a primary.
    pub(super) fn initial_lines(&self, replica_of: Option<&InstanceAddress>) -> String {
        let follows =
            replica_of.map(|primary| format!("replicaof {} {}\n", primary.host, primary.port)).unwrap_or_default();
        match self.required_replicas() {
            0 => follows,
            needed => format!("{follows}min-replicas-to-write {needed}\n"),
        }
    }

    /// Returns the number of replicas that the instance requires as a primary.
    pub fn required_replicas(&self) -> u32 {
        self.min_replicas.parse().unwrap_or(0)
    }

    /// Checks that the role in the configuration file is the one in the map.
    ///
    /// # Errors
    /// Returns an error if they differ, as they do during a move or a failover.
    pub(super) fn ensure_role_matches(&self, observed: &ObservedShardFiles) -> Result<()> {
        let wanted = (!self.replica_of.is_empty()).then_some(&self.replica_of);
        if observed.conf.is_none() || observed.configured_primary.as_ref() == wanted {
            return Ok(());
        }
        let says = |follows: Option<&String>| follows.map_or("is primary".to_owned(), |of| format!("follows {of}"));
        bail!(
            "shard {} {} here, the map says it {} here: a move or a failover is in progress; see `dunlin shards status`",
            self.id,
            says(observed.configured_primary.as_ref()),
            says(wanted)
        )
    }
}
