//! Who may enter the target: until it is promoted, no user but dunlin's own.
//!
//! No user of the application, so that a target that starts anew as a master takes no writes before its move is decided. A
//! replica, since the fenced source is one: were it let in before the promotion, it would replace its data by those
//! of a target that lacks some.

use std::collections::BTreeSet;

use anyhow::Result;
use redis::Cmd;
use serde_json::{Value, json};

use super::move_journal::{MoveJournal, MovePhase, PhaseState};
use super::redis_client::{RedisClient, redis_command};
use crate::protocol::shard::MoveSpec;
use crate::resources::redis_shard::RedisShard;

/// The ACL users that are off while the target stands by.
pub struct ClientAccess {
    users: Vec<String>,
}

impl ClientAccess {
    /// Every user that the target's ACL file lets in, or that its birth closed, but for dunlin's own.
    ///
    /// # Errors
    /// The source does not answer, or the target's ACL file cannot be read.
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
            .chain([spec.app_user.clone(), replica])
            .filter(|user| acl.is_user_enabled(user).is_some())
            .chain(acl.users_on().map(str::to_owned))
            .filter(|user| *user != spec.header.credentials.user)
            .collect();
        Ok(Self { users: users.into_iter().collect() })
    }

    /// The door that this move closed, by its journal.
    pub fn from_journal(spec: &MoveSpec, journal: &MoveJournal) -> Self {
        Self { users: closed_users(journal, &spec.app_user) }
    }

    /// All of the target's opening that waits for a disk, but for its last word: should it start anew from now on, it is
    /// a master that is closed. In memory it follows the source as before.
    ///
    /// # Errors
    /// What the system or the target said.
    pub fn prepare_standby(
        &self,
        journal: &mut MoveJournal,
        instance: &RedisShard,
        target: &mut RedisClient,
    ) -> Result<()> {
        journal.log_intent(MovePhase::PrepareStandby, json!({ "users": self.users }))?;
        instance.set_users_enabled(&self.users, false)?;
        target.run_all(&self.user_state_cmds("off"))?;
        instance.remove_replicaof()?;
        journal.log_done(MovePhase::PrepareStandby, Value::Null)
    }

    /// P10 and the opening in one moment: here the gap ends. The replicas come over only now, so it does not wait for
    /// them; its file says what it needs, should it start anew, and `finish` has it so in memory too.
    ///
    /// # Errors
    /// What the target said; nothing or all of it is done.
    pub fn promote_target(&self, target: &mut RedisClient) -> Result<()> {
        let begin = [
            redis_command(&["CONFIG", "SET", "min-replicas-to-write", "0"]),
            redis_command(&["REPLICAOF", "NO", "ONE"]),
        ];
        let all: Vec<Cmd> = begin.into_iter().chain(self.user_state_cmds("on")).collect();
        target.run_transaction(&all).map(drop)
    }

    /// P11: it stays open when it starts anew.
    ///
    /// # Errors
    /// What the system said.
    pub fn persist_access(&self, journal: &mut MoveJournal, instance: &RedisShard) -> Result<()> {
        instance.set_users_enabled(&self.users, true)?;
        journal.log_done(MovePhase::OpenTarget, Value::Null)
    }

    /// Who has to be let in.
    pub fn users(&self) -> &[String] {
        &self.users
    }

    fn user_state_cmds(&self, state: &str) -> Vec<Cmd> {
        self.users.iter().map(|user| redis_command(&["ACL", "SETUSER", user, state])).collect()
    }
}

/// The users that the last stand-by of this move closed, by its journal.
pub fn closed_users(diary: &MoveJournal, app_user: &str) -> Vec<String> {
    noted_users(diary, MovePhase::PrepareStandby).unwrap_or_else(|| vec![app_user.to_owned()])
}

fn noted_users(diary: &MoveJournal, step: MovePhase) -> Option<Vec<String>> {
    let users = diary.last_entry(step, PhaseState::Intent)?.detail["users"].clone();
    serde_json::from_value(users).ok()
}
