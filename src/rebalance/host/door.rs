//! Who may enter the target: until it is promoted, no user but dunlin's own.
//!
//! No user of the application, so that a target that starts anew as a master takes no writes before its move is decided. A
//! replica, since the fenced source is one: were it let in before the promotion, it would replace its data by those
//! of a target that lacks some.

use std::collections::BTreeSet;

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
    /// Every user that the target's ACL file lets in, or that its birth closed, but for dunlin's own.
    ///
    /// # Errors
    /// The source does not answer, or the target's ACL file cannot be read.
    pub fn of(spec: &MoveSpec, diary: &Diary, instance: &RedisShard, source: &mut Link) -> Result<Self> {
        let acl = instance.current_acl()?;
        let noted = [Step::Birth, Step::StandBy].into_iter().filter_map(|step| noted_users(diary, step)).flatten();
        let replica = source.setting("masteruser")?;
        let users: BTreeSet<String> = noted
            .chain([spec.app_user.clone(), replica])
            .filter(|user| acl.is_on(user).is_some())
            .chain(acl.users_on().map(str::to_owned))
            .filter(|user| *user != spec.job.credentials.user)
            .collect();
        Ok(Self { users: users.into_iter().collect() })
    }

    /// The door that this move closed, by its journal.
    pub fn noted(spec: &MoveSpec, diary: &Diary) -> Self {
        Self { users: closed_users(diary, &spec.app_user) }
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

/// The users that the last stand-by of this move closed, by its journal.
pub fn closed_users(diary: &Diary, app_user: &str) -> Vec<String> {
    noted_users(diary, Step::StandBy).unwrap_or_else(|| vec![app_user.to_owned()])
}

fn noted_users(diary: &Diary, step: Step) -> Option<Vec<String>> {
    let users = diary.last(step, Mark::Intent)?.detail["users"].clone();
    serde_json::from_value(users).ok()
}
