//! Who may enter the target: until it is promoted, neither the application nor a replica.
//!
//! The application, so that a target that starts anew as a master takes no writes before its move is decided. A
//! replica, since the fenced source is one: were it let in before the promotion, it would replace its data by those
//! of a target that lacks some.

use anyhow::Result;
use redis::Cmd;
use serde_json::{Value, json};

use super::diary::{Diary, Mark, Step};
use super::link::{Link, words};
use crate::resources::redis_shard::RedisShard;
use crate::wire::shard::MoveSpec;

/// The ACL users that are off while the target stands by.
pub struct Door {
    users: Vec<String>,
}

impl Door {
    /// The application's user, and the one as which the source will replicate where it has a name of its own.
    ///
    /// # Errors
    /// The source does not answer.
    pub fn of(spec: &MoveSpec, source: &mut Link) -> Result<Self> {
        let replica = Some(source.setting("masteruser")?).filter(|user| !user.is_empty());
        Ok(Self { users: std::iter::once(spec.app_user.clone()).chain(replica).collect() })
    }

    /// The door that this move closed, by its journal.
    pub fn noted(spec: &MoveSpec, diary: &Diary) -> Self {
        let users = diary.last(Step::StandBy, Mark::Intent).map(|record| record.detail["users"].clone());
        let users = users.and_then(|users| serde_json::from_value(users).ok());
        Self { users: users.unwrap_or_else(|| vec![spec.app_user.clone()]) }
    }

    /// All of the target's opening that waits for a disk, but for its last word: should it start anew from now on, it is
    /// a master that is closed. In memory it follows the source as before.
    ///
    /// # Errors
    /// What the system or the target said.
    pub fn stand_by(&self, diary: &mut Diary, instance: &RedisShard, target: &mut Link) -> Result<()> {
        diary.intent(Step::StandBy, json!({ "users": self.users }))?;
        instance.switch_users(&self.users, false)?;
        target.all(&self.switched("off"))?;
        instance.unfollow()?;
        diary.done(Step::StandBy, Value::Null)
    }

    /// P10 and the opening in one moment: here the gap ends. The replicas come over only now, so it does not wait for
    /// them; its file says what it needs, should it start anew, and `finish` has it so in memory too.
    ///
    /// # Errors
    /// What the target said; nothing or all of it is done.
    pub fn promote(&self, target: &mut Link) -> Result<()> {
        let begin = [words(&["CONFIG", "SET", "min-replicas-to-write", "0"]), words(&["REPLICAOF", "NO", "ONE"])];
        let all: Vec<Cmd> = begin.into_iter().chain(self.switched("on")).collect();
        target.transaction(&all).map(drop)
    }

    /// P11: it stays open when it starts anew.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(&self, diary: &mut Diary, instance: &RedisShard) -> Result<()> {
        instance.switch_users(&self.users, true)?;
        diary.done(Step::Open, Value::Null)
    }

    /// Who has to be let in.
    pub fn users(&self) -> &[String] {
        &self.users
    }

    fn switched(&self, state: &str) -> Vec<Cmd> {
        self.users.iter().map(|user| words(&["ACL", "SETUSER", user, state])).collect()
    }
}
