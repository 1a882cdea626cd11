//! The ACL file: users and their rules, read as Redis reads them and compared as sets; one user turned on or off.
//!
//! dunlin turns a user on and off in the file itself instead of with `ACL SAVE`: Redis 7.0 writes categories out as
//! long lists whose form depends on its version.

mod edit;
mod line;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use edit::switch_user;
use rules::User;

/// The user that Redis has without any ACL file.
pub const DEFAULT_USER: &str = "default";
/// Line of a `default` user that cannot log in and has the rights that a restart needs.
pub const DEFAULT_USER_LINE: &str = "user default off resetpass ~* &* +@all";

/// Returns the name of a changed user, as plans and the mark of a pending restart have it.
pub fn user_change(user: &str) -> String {
    format!("ACL user {user}")
}

/// A mistake in an ACL file, or an edit that has no effect. No message holds a rule's text: it may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// A line that Redis would not load.
    #[error("line {line}: {message}")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// The mistake, and what is right.
        message: String,
    },
    /// The user has no line.
    #[error("no line defines the user {0}")]
    NoUser(String),
    /// The edited line does not have the requested state.
    #[error("the user {0} could not be switched: its line has rules that overrule `on` and `off`")]
    NotSwitched(String),
}

/// The users of an ACL file, each with its rules in one form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclFile {
    users: BTreeMap<String, User>,
}

impl AclFile {
    /// Reads an ACL file, or the lines of `ACL LIST`.
    ///
    /// # Errors
    /// Returns the first line that Redis would not load; Redis does not start with such a file.
    pub fn parse(text: &str) -> Result<Self, AclError> {
        let mut users = BTreeMap::new();
        for line in line::user_lines(text) {
            let line = line?;
            let user = User::from_rules(line.rules()).map_err(|message| line.error(message))?;
            if users.insert(line.name.to_owned(), user).is_some() {
                return Err(line.error(format!("the user {} is defined twice", line.name)));
            }
        }
        Ok(Self { users })
    }

    /// The users whose rules differ from the desired ones, each with what differs.
    pub fn diff_users(&self, desired: &Self) -> Vec<(String, &'static str)> {
        let names: BTreeSet<&String> = self.users.keys().chain(desired.users.keys()).collect();
        let what = |name: &String| match (self.users.get(name), desired.users.get(name)) {
            (None, _) => Some("is missing"),
            (_, None) => Some("is not wanted"),
            (Some(now), Some(want)) => now.difference(want),
        };
        names.into_iter().filter_map(|name| what(name).map(|what| (name.clone(), what))).collect()
    }

    /// Returns the passwords that users lack compared with the desired ones, as rules (`#sha256`). Only users that are
    /// on in both, and need a password in both, are compared: a password more keeps none of their clients out.
    pub fn missing_passwords(&self, desired: &Self) -> Vec<(String, Vec<String>)> {
        let missing = |(name, user): (&String, &User)| {
            let rules = user.missing_passwords(desired.users.get(name)?);
            (!rules.is_empty()).then(|| (name.clone(), rules))
        };
        self.users.iter().filter_map(missing).collect()
    }

    /// Returns whether the user is on; `None` where there is no such user.
    pub fn is_user_enabled(&self, user: &str) -> Option<bool> {
        self.users.get(user).map(|user| user.on)
    }

    /// Returns the names of the users that are on.
    pub fn users_on(&self) -> impl Iterator<Item = &str> {
        self.users.iter().filter(|(_, user)| user.on).map(|(name, _)| name.as_str())
    }

    /// Returns the rights that the `default` user lacks to replay an append-only file; none where it has them all.
    ///
    /// Redis replays MULTI/EXEC, and scripts and functions with more than one write, as this user, and drops what it
    /// may not do. Where no line defines it, Redis gives it all rights.
    pub fn missing_replay_rights(&self) -> Vec<&'static str> {
        self.users.get(DEFAULT_USER).map_or_else(Vec::new, User::missing_rights)
    }
}

/// Refuses an ACL file with which a restart loses transactions. See [`AclFile::missing_replay_rights`].
///
/// # Errors
/// Returns an error if the `default` user lacks rights, with its line and the line to write, or if a line is not valid.
pub fn require_replay_rights(text: &str) -> Result<(), AclError> {
    let missing = AclFile::parse(text)?.missing_replay_rights();
    let line = line::find_user(text, DEFAULT_USER)?;
    match line {
        Some(line) if !missing.is_empty() => Err(line.error(explain_missing(&missing))),
        _ => Ok(()),
    }
}

/// Says which rights the `default` user lacks, what follows from that, and the line to write.
pub fn explain_missing(missing: &[&str]) -> String {
    format!(
        "the user default lacks {}: Redis replays the transactions and scripts of the append-only file as this user, and \
         a restart would lose them; write `{DEFAULT_USER_LINE}` (nobody can log in as it)",
        missing.join(" ")
    )
}

/// Returns the rules of a user's line in the order of the file; `None` where no line defines it.
///
/// # Errors
/// Returns an error if a line is not valid.
pub fn rules_of(text: &str, user: &str) -> Result<Option<Vec<String>>, AclError> {
    Ok(line::find_user(text, user)?.map(|line| line.rules().map(str::to_owned).collect()))
}
