//! Client access to the target: until its promotion, only dunlin's own user may log in.
//!
//! The application's users are off, so that a target that restarts as a primary accepts no writes before the move is
//! decided. The replication user is off too: the demoted source would otherwise replace its data with those of a
//! target that may lack some.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use redis::Cmd;
use serde_json::{Value, json};

use super::move_journal::MoveJournal;
use super::redis_client::{RedisClient, redis_command};
use crate::protocol::shard::{MovePhase, MoveSpec, PhaseState};
use crate::resources::redis_shard::RedisShard;
use crate::resources::redis_shard::acl::AclFile;

/// Holds the ACL users that are off while the target is on standby.
pub struct ClientAccess {
    users: Vec<String>,
    admin_user: String,
}

impl ClientAccess {
    /// Collects all users that are on in the target's ACL file or were turned off at its start, except dunlin's own.
    ///
    /// # Errors
    /// Returns an error if the source does not answer, or the target's ACL file cannot be read.
    pub fn from_source(
        spec: &MoveSpec,
        diary: &MoveJournal,
        instance: &RedisShard,
        source: &mut RedisClient,
    ) -> Result<Self> {
        let acl = instance.current_acl()?;
        let noted = [MovePhase::StartReplica, MovePhase::PrepareStandby]
            .into_iter()
            .filter_map(|step| noted_users(diary, step))
            .flatten();
        let replica = source.fetch_setting("masteruser")?;
        let users: BTreeSet<String> = noted
            .chain([spec.record.app_user.clone(), replica])
            .filter(|user| acl.is_user_enabled(user).is_some())
            .chain(acl.users_on().map(str::to_owned))
            .filter(|user| *user != spec.header.credentials.user)
            .collect();
        Ok(Self { users: users.into_iter().collect(), admin_user: spec.header.credentials.user.clone() })
    }

    /// Reads the users that this move turned off from its journal.
    pub fn from_journal(spec: &MoveSpec, journal: &MoveJournal) -> Self {
        let admin_user = spec.header.credentials.user.clone();
        Self { users: closed_users(journal, &spec.record.app_user), admin_user }
    }

    /// Writes the target's files so that a restart makes it a closed primary; in memory it still follows the source.
    /// This does the disk syncs of the promotion in advance.
    ///
    /// # Errors
    /// Returns an error if a file cannot be written or the target rejects a command.
    pub fn prepare_standby(
        &self,
        journal: &mut MoveJournal,
        instance: &RedisShard,
        target: &mut RedisClient,
    ) -> Result<()> {
        journal.log_intent(MovePhase::PrepareStandby, json!({ "users": self.users }))?;
        instance.set_users_enabled(&self.users, false)?;
        target.run_all(&self.user_state_cmds("off"))?;
        self.close_runtime_users(target)?;
        instance.remove_replicaof()?;
        journal.log_done(MovePhase::PrepareStandby, Value::Null)
    }

    /// Turns off the users that the target has in memory only. They stay off: no file says that they are wanted.
    fn close_runtime_users(&self, target: &mut RedisClient) -> Result<()> {
        let lines: Vec<String> = target.query(&redis_command(&["ACL", "LIST"]))?;
        let acl = AclFile::parse(&lines.join("\n")).with_context(|| format!("the users of {}", target.address))?;
        let others = acl.users_on().filter(|user| *user != self.admin_user);
        let cmds: Vec<Cmd> = others.map(|user| redis_command(&["ACL", "SETUSER", user, "off"])).collect();
        target.run_all(&cmds).map(drop)
    }

    /// Promotes the target and enables its users in one transaction, which ends the write pause. Sets
    /// `min-replicas-to-write` to 0 in memory, as the replicas attach only afterwards; the file keeps the required
    /// number, and `finish_cutover` restores it in memory.
    ///
    /// # Errors
    /// Returns an error if the target rejects the transaction; none of its commands has run then.
    pub fn promote_target(&self, target: &mut RedisClient) -> Result<()> {
        let begin = [
            redis_command(&["CONFIG", "SET", "min-replicas-to-write", "0"]),
            redis_command(&["REPLICAOF", "NO", "ONE"]),
        ];
        let all: Vec<Cmd> = begin.into_iter().chain(self.user_state_cmds("on")).collect();
        target.run_transaction(&all).map(drop)
    }

    /// Enables the users in the target's ACL file, so that it stays open after a restart.
    ///
    /// # Errors
    /// Returns an error if the ACL file or the journal cannot be written.
    pub fn persist_access(&self, journal: &mut MoveJournal, instance: &RedisShard) -> Result<()> {
        instance.set_users_enabled(&self.users, true)?;
        journal.log_done(MovePhase::OpenTarget, Value::Null)
    }

    /// Returns the users to enable.
    pub fn users(&self) -> &[String] {
        &self.users
    }

    fn user_state_cmds(&self, state: &str) -> Vec<Cmd> {
        self.users.iter().map(|user| redis_command(&["ACL", "SETUSER", user, state])).collect()
    }
}

/// Returns the users that the last standby of this move turned off, from its journal.
pub fn closed_users(diary: &MoveJournal, app_user: &str) -> Vec<String> {
    noted_users(diary, MovePhase::PrepareStandby).unwrap_or_else(|| vec![app_user.to_owned()])
}

fn noted_users(diary: &MoveJournal, step: MovePhase) -> Option<Vec<String>> {
    let users = diary.last_entry(step, PhaseState::Intent)?.detail["users"].clone();
    serde_json::from_value(users).ok()
}
