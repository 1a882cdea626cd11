//! A user's rules in one form, as Redis applies them: from left to right, keywords in any case.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::plan::Digest;

const ALL_KEYS: &str = "~*";
const ALL_CHANNELS: &str = "&*";
const ALL_COMMANDS: &str = "+@all";
const NO_PASSWORD: &str = "nopass";

/// A user's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub on: bool,
    skips_sanitizing: bool,
    /// `#sha256`, or `nopass` alone.
    passwords: BTreeSet<String>,
    root: AclSelector,
    selectors: Vec<AclSelector>,
}

/// Permissions on a set of keys: those of the user itself, or those of one of its selectors `( … )`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct AclSelector {
    keys: BTreeSet<String>,
    channels: BTreeSet<String>,
    /// Valkey's `db=`; empty means all.
    databases: BTreeSet<String>,
    /// Commands in the order given: later ones overrule earlier ones.
    commands: Vec<String>,
}

impl User {
    /// Applies rules to a user that has none.
    ///
    /// # Errors
    /// Returns an error if Redis refuses a rule; it names the place of the rule only, since its text may be a password.
    pub fn from_rules<'a>(rules: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut user = Self::default();
        for (index, rule) in rules.enumerate() {
            user.apply(rule).map_err(|message| format!("rule {} {message}", index + 1))?;
        }
        Ok(user)
    }

    fn apply(&mut self, rule: &str) -> Result<(), String> {
        match (rule.to_ascii_lowercase().as_str(), rule.split_at_checked(1)) {
            ("on", _) => self.on = true,
            ("off", _) => self.on = false,
            (NO_PASSWORD, _) => self.passwords = BTreeSet::from([NO_PASSWORD.to_owned()]),
            ("resetpass", _) => self.passwords.clear(),
            ("reset", _) => *self = Self::default(),
            ("clearselectors", _) => self.selectors.clear(),
            ("sanitize-payload", _) => self.skips_sanitizing = false,
            ("skip-sanitize-payload", _) => self.skips_sanitizing = true,
            (_, Some((">", password))) => self.add_password(hash(password)),
            (_, Some(("#", hash))) => self.add_password(format!("#{hash}")),
            (_, Some(("<", password))) => drop(self.passwords.remove(&hash(password))),
            (_, Some(("!", hash))) => drop(self.passwords.remove(&format!("#{hash}"))),
            (_, Some(("(", rest))) => self.selectors.push(AclSelector::read(rest)?),
            _ => self.root.apply(rule)?,
        }
        Ok(())
    }

    fn add_password(&mut self, hash: String) {
        self.passwords.remove(NO_PASSWORD);
        self.passwords.insert(hash);
    }

    /// Says in what this user differs from the desired one.
    pub fn difference(&self, desired: &Self) -> Option<&'static str> {
        let differs = [
            (self.on != desired.on, if desired.on { "is off" } else { "is on" }),
            (self.passwords != desired.passwords, "has another password"),
            (self.root.keys != desired.root.keys, "has other key patterns"),
            (self.root.channels != desired.root.channels, "has other channels"),
            (self.root.databases != desired.root.databases, "has other databases"),
            (self.root.commands != desired.root.commands, "has other commands"),
            (self.selectors != desired.selectors, "has other selectors"),
            (self.skips_sanitizing != desired.skips_sanitizing, "treats payloads of RESTORE differently"),
        ];
        differs.into_iter().find(|(differs, _)| *differs).map(|(_, what)| what)
    }

    /// Returns the passwords of the desired user that this one lacks; none where one of them is off, or needs no
    /// password.
    pub fn missing_passwords(&self, desired: &Self) -> Vec<String> {
        let needs_one = |user: &Self| user.on && !user.passwords.is_empty() && !user.passwords.contains(NO_PASSWORD);
        match needs_one(self) && needs_one(desired) {
            true => desired.passwords.difference(&self.passwords).cloned().collect(),
            false => Vec::new(),
        }
    }

    /// The rights that are missing for doing everything; one selector that has all of them is enough.
    pub fn missing_rights(&self) -> Vec<&'static str> {
        if self.selectors.iter().any(|selector| selector.missing_rights().is_empty()) {
            return Vec::new();
        }
        self.root.missing_rights()
    }
}

impl AclSelector {
    /// Reads the text after a selector's `(`.
    fn read(rest: &str) -> Result<Self, String> {
        let inner = rest.strip_suffix(')').ok_or("is a selector that is not closed by `)`")?;
        let mut selector = Self::default();
        inner
            .split(' ')
            .map(super::line::rule)
            .filter(|rule| !rule.is_empty())
            .try_for_each(|rule| selector.apply(rule))?;
        Ok(selector)
    }

    fn apply(&mut self, rule: &str) -> Result<(), String> {
        let lower = rule.to_ascii_lowercase();
        match lower.as_str() {
            "allkeys" => add_pattern(&mut self.keys, ALL_KEYS.to_owned(), ALL_KEYS)?,
            "resetkeys" => self.keys.clear(),
            "allchannels" => add_pattern(&mut self.channels, ALL_CHANNELS.to_owned(), ALL_CHANNELS)?,
            "resetchannels" => self.channels.clear(),
            "alldbs" | "resetdbs" => self.databases.clear(),
            "allcommands" | ALL_COMMANDS => self.commands = vec![ALL_COMMANDS.to_owned()],
            // A selector begins with no command at all, so this gives the form of one without rules.
            "nocommands" | "-@all" => self.commands.clear(),
            _ if rule.starts_with('~') => add_pattern(&mut self.keys, rule.to_owned(), ALL_KEYS)?,
            _ if rule.starts_with('%') => add_pattern(&mut self.keys, key_pattern(rule)?, ALL_KEYS)?,
            _ if rule.starts_with('&') => add_pattern(&mut self.channels, rule.to_owned(), ALL_CHANNELS)?,
            _ if lower.starts_with("db=") => drop(self.databases.insert(lower)),
            _ if rule.len() > 1 && rule.starts_with(['+', '-']) => self.commands.push(lower),
            _ => return Err("is not an ACL rule".to_owned()),
        }
        Ok(())
    }

    fn missing_rights(&self) -> Vec<&'static str> {
        let has_commands = self.commands.first().is_some_and(|first| first == ALL_COMMANDS)
            && self.commands.iter().all(|command| command.starts_with('+'));
        let rights = [
            (self.keys.contains(ALL_KEYS), ALL_KEYS),
            (self.channels.contains(ALL_CHANNELS), ALL_CHANNELS),
            (has_commands, ALL_COMMANDS),
            (self.databases.is_empty(), "alldbs"),
        ];
        rights.into_iter().filter(|(has, _)| !has).map(|(_, right)| right).collect()
    }
}

/// Adds a pattern; the one for all replaces the others, and none may follow it.
fn add_pattern(patterns: &mut BTreeSet<String>, pattern: String, all: &str) -> Result<(), String> {
    if pattern == all {
        patterns.clear();
    } else if patterns.contains(all) {
        return Err(format!("follows `{all}`, where it has no effect"));
    }
    patterns.insert(pattern);
    Ok(())
}

/// `%R~x`, `%W~x`; one that may read and write is `~x`.
fn key_pattern(rule: &str) -> Result<String, String> {
    let (rights, pattern) = rule[1..].split_once('~').ok_or("is not a key pattern")?;
    match rights.to_ascii_uppercase().as_str() {
        "R" => Ok(format!("%R~{pattern}")),
        "W" => Ok(format!("%W~{pattern}")),
        "RW" | "WR" => Ok(format!("~{pattern}")),
        _ => Err("is not a key pattern".to_owned()),
    }
}

fn hash(password: &str) -> String {
    format!("#{}", Digest::of_bytes(password.as_bytes()).as_str())
}
