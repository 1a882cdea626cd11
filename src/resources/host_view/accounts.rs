//! User accounts and groups, as `/etc/passwd` and `/etc/group` have them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::HostView;

/// A user account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserState {
    /// The number; absent for an account that an earlier step will have made without fixing it.
    pub uid: Option<u32>,
    /// The primary group's name.
    pub group: String,
    /// The comment (GECOS) field.
    pub comment: String,
    /// The home folder.
    pub home: String,
    /// The login shell.
    pub shell: String,
    /// Supplementary groups.
    pub groups: BTreeSet<String>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupState {
    /// The number; absent for one that an earlier step will have made without fixing it.
    pub gid: Option<u32>,
}

/// `/etc/passwd` and `/etc/group`, read once.
#[derive(Debug)]
pub(super) struct Accounts {
    pub(super) users: BTreeMap<String, UserState>,
    pub(super) groups: BTreeMap<String, GroupState>,
    pub(super) user_names: BTreeMap<u32, String>,
    pub(super) group_names: BTreeMap<u32, String>,
}

impl Accounts {
    pub(super) fn read() -> Result<Self> {
        let passwd = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        let group = fs::read_to_string("/etc/group").context("reading /etc/group")?;
        Ok(Self::parse(&passwd, &group))
    }

    /// Reads the colon-separated forms of passwd(5) and group(5); lines that do not have it are passed over.
    fn parse(passwd: &str, group: &str) -> Self {
        let (mut groups, mut group_names, mut members) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for line in group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, _, gid, list] = fields[..]
                && let Ok(gid) = gid.parse::<u32>()
            {
                groups.insert(name.to_owned(), GroupState { gid: Some(gid) });
                group_names.entry(gid).or_insert_with(|| name.to_owned());
                members.push((name, list));
            }
        }
        let (mut users, mut user_names) = (BTreeMap::<String, UserState>::new(), BTreeMap::new());
        for line in passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, _, uid, gid, comment, home, shell] = fields[..]
                && let (Ok(uid), Ok(gid)) = (uid.parse::<u32>(), gid.parse::<u32>())
            {
                let group = group_names.get(&gid).cloned().unwrap_or_else(|| gid.to_string());
                user_names.entry(uid).or_insert_with(|| name.to_owned());
                users.insert(
                    name.to_owned(),
                    UserState {
                        uid: Some(uid),
                        group,
                        comment: comment.to_owned(),
                        home: home.to_owned(),
                        shell: shell.to_owned(),
                        groups: BTreeSet::new(),
                    },
                );
            }
        }
        for (group, list) in members {
            for member in list.split(',').filter(|member| !member.is_empty()) {
                if let Some(user) = users.get_mut(member) {
                    user.groups.insert(group.to_owned());
                }
            }
        }
        Self { users, groups, user_names, group_names }
    }
}

impl HostView {
    /// Returns a user account.
    ///
    /// # Errors
    /// Returns an error if `/etc/passwd` or `/etc/group` cannot be read.
    pub fn user_state(&mut self, name: &str) -> Result<Option<UserState>> {
        if let Some(expected) = self.predicted_users.get(name) {
            return Ok(expected.clone());
        }
        Ok(self.load_accounts()?.users.get(name).cloned())
    }

    /// Returns a group.
    ///
    /// # Errors
    /// Returns an error if the accounts of the host cannot be read.
    pub fn group_state(&mut self, name: &str) -> Result<Option<GroupState>> {
        if let Some(expected) = self.predicted_groups.get(name) {
            return Ok(expected.clone());
        }
        Ok(self.load_accounts()?.groups.get(name).cloned())
    }

    /// Returns the users whose primary group this is, and those that have it as a supplementary group.
    ///
    /// # Errors
    /// Returns an error if the accounts of the host cannot be read.
    pub fn group_users(&mut self, group: &str) -> Result<(Vec<String>, Vec<String>)> {
        self.load_accounts()?;
        let real = self.accounts.iter().flat_map(|accounts| &accounts.users);
        let real = real.filter(|(name, _)| !self.predicted_users.contains_key(*name));
        let expected = self.predicted_users.iter().filter_map(|(name, state)| Some((name, state.as_ref()?)));
        let (mut primary, mut members) = (Vec::new(), Vec::new());
        for (name, user) in real.chain(expected) {
            if user.group == group {
                primary.push(name.clone());
            }
            if user.groups.contains(group) {
                members.push(name.clone());
            }
        }
        Ok((primary, members))
    }

    /// Returns whether an earlier step creates or changes the account.
    pub fn is_user_predicted(&self, name: &str) -> bool {
        self.predicted_users.contains_key(name)
    }

    /// Records a predicted account, or its removal (`None`).
    pub fn predict_user(&mut self, name: &str, state: Option<UserState>) {
        self.predicted_users.insert(name.to_owned(), state);
    }

    /// Records a predicted group, or its removal (`None`).
    pub fn predict_group(&mut self, name: &str, state: Option<GroupState>) {
        self.predicted_groups.insert(name.to_owned(), state);
    }

    pub(super) fn load_accounts(&mut self) -> Result<&Accounts> {
        if self.accounts.is_none() {
            self.accounts = Some(Accounts::read()?);
        }
        Ok(self.accounts.as_ref().expect("read just now"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_know_groups_and_members() {
        let accounts = Accounts::parse(
            "root:x:0:0:root:/root:/bin/bash\nredis:x:101:102::/var/lib/redis:/usr/sbin/nologin\nbroken\n",
            "root:x:0:\nredis:x:102:\nssl-cert:x:103:redis,nobody\n",
        );
        let redis = &accounts.users["redis"];
        assert_eq!((redis.uid, redis.group.as_str()), (Some(101), "redis"));
        assert_eq!(redis.groups, BTreeSet::from(["ssl-cert".to_owned()]));
        assert_eq!(accounts.groups["ssl-cert"].gid, Some(103));
        assert_eq!(accounts.user_names[&101], "redis");
    }
}
