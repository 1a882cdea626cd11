//! `repl-timeout` during a copy. Redis compresses a string before it sends any of it to a replica, so that a long
//! string looks like a dead link: both ends get a longer timeout in memory until the copy is complete.

use anyhow::{Context, Result};

use super::move_journal::MoveJournal;
use super::redis_client::RedisClient;
use crate::protocol::shard::{MovePhase, MoveSpec, PhaseState};

/// Bytes of a string that a busy host compresses per second, at least.
const COMPRESSED_BYTES_PER_S: u64 = 16 << 20;
/// The setting.
const SETTING: &str = "repl-timeout";
/// Field of the journal that holds the source's value before the copy, in seconds.
const FIELD: &str = "repl_timeout_s";

/// The timeouts of a copy, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplTimeout {
    /// The source's value before the copy.
    pub at_source: u64,
    /// The value during the copy, at both ends.
    during_copy: u64,
}

impl ReplTimeout {
    /// Computes the timeout of a copy. The source's value is that before the copy was first started.
    ///
    /// # Errors
    /// Returns an error if the source does not answer.
    pub fn for_copy(journal: &MoveJournal, source: &mut RedisClient) -> Result<Self> {
        let at_source = match recorded_timeout(journal) {
            Some(seconds) => seconds,
            None => fetch_number(source, SETTING)?,
        };
        let data_bytes = source.fetch_info("memory")?.number_field("used_memory");
        let longest_string = data_bytes.min(fetch_number(source, "proto-max-bulk-len")?);
        Ok(Self { at_source, during_copy: needed_timeout_s(at_source, longest_string) })
    }

    /// Returns the field for the journal, with which an interrupted copy restores the source's value.
    pub fn journal_field(self) -> (&'static str, u64) {
        (FIELD, self.at_source)
    }

    /// Returns the move with a time limit for its copy that is not shorter than the timeout.
    pub fn extend_stall_timeout(self, spec: &MoveSpec) -> MoveSpec {
        let mut extended = spec.clone();
        if self.during_copy > self.at_source {
            extended.limits.copy_stall_timeout_s = spec.limits.copy_stall_timeout_s.max(self.during_copy);
        }
        extended
    }

    /// Sets the timeout of the copy at one end, in memory.
    ///
    /// # Errors
    /// Returns an error if the instance rejects the command.
    pub fn raise(self, instance: &mut RedisClient) -> Result<()> {
        if fetch_number(instance, SETTING)? < self.during_copy {
            set_timeout(instance, self.during_copy)?;
        }
        Ok(())
    }

    /// Restores the timeout at both ends. The target has the value of its file.
    ///
    /// # Errors
    /// Returns an error if an instance does not answer.
    pub fn restore(self, source: &mut RedisClient, target: Option<(&mut RedisClient, u64)>) -> Result<()> {
        let at_target = target.map(|(target, configured)| set_timeout(target, configured));
        set_timeout(source, self.at_source)?;
        at_target.unwrap_or(Ok(()))
    }
}

/// Restores the source's timeout if a copy was interrupted.
///
/// # Errors
/// Returns an error if the source does not answer.
pub fn restore_at_source(journal: &MoveJournal, spec: &MoveSpec) -> Result<()> {
    let Some(seconds) = recorded_timeout(journal) else { return Ok(()) };
    set_timeout(&mut RedisClient::open(&spec.record.from, &spec.header.credentials)?, seconds)
}

fn recorded_timeout(journal: &MoveJournal) -> Option<u64> {
    journal.last_entry(MovePhase::StartReplica, PhaseState::Intent)?.detail[FIELD].as_u64()
}

fn needed_timeout_s(configured: u64, longest_string: u64) -> u64 {
    configured.saturating_add(longest_string / COMPRESSED_BYTES_PER_S)
}

fn fetch_number(instance: &mut RedisClient, name: &str) -> Result<u64> {
    let value = instance.fetch_setting(name)?;
    value.parse().with_context(|| format!("{name} of {} is {value:?}", instance.address))
}

fn set_timeout(instance: &mut RedisClient, seconds: u64) -> Result<()> {
    if fetch_number(instance, SETTING)? != seconds {
        instance.run_command(&["CONFIG", "SET", SETTING, &seconds.to_string()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_grows_with_the_longest_string() {
        assert_eq!(needed_timeout_s(30, 8 << 20), 30);
        assert_eq!(needed_timeout_s(30, 512 << 20), 62);
        assert_eq!(needed_timeout_s(30, 2 << 30), 158);
    }
}
