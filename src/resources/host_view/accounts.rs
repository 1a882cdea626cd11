//! User accounts and groups, as `/etc/passwd` and `/etc/group` have them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

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
