//! The ACL file: users and their rules, compared as sets, and one user's switch turned in the text.
//!
//! dunlin turns a user on and off in the file itself instead of with `ACL SAVE`: Redis 7.0 writes categories out as
//! long lists whose form depends on its version.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The users of an ACL file, each with its rules in one form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl {
    users: BTreeMap<String, User>,
}

/// A user's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct User {
    on: bool,
    passwords: BTreeSet<String>,
    patterns: BTreeSet<String>,
    /// Commands in the order given: later ones overrule earlier ones.
    commands: Vec<String>,
}

impl Acl {
    /// Reads an ACL file; lines that name no user fall away.
    pub fn parse(text: &str) -> Self {
        let users = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "user").then_some(())?;
            Some((words.next()?.to_owned(), User::of(words)))
        });
        Self { users: users.collect() }
    }

    /// The users whose rules differ from the desired ones, each with what differs.
    pub fn differing(&self, desired: &Self) -> Vec<(String, &'static str)> {
        let names: BTreeSet<&String> = self.users.keys().chain(desired.users.keys()).collect();
        let what = |name: &String| match (self.users.get(name), desired.users.get(name)) {
            (None, _) => Some("is missing"),
            (_, None) => Some("is not wanted"),
            (Some(now), Some(want)) if now.on != want.on => Some(if want.on { "is off" } else { "is on" }),
            (Some(now), Some(want)) if now.passwords != want.passwords => Some("has another password"),
            (Some(now), Some(want)) if now.patterns != want.patterns => Some("has other key patterns"),
            (Some(now), Some(want)) if now.commands != want.commands => Some("has other commands"),
            _ => None,
        };
        names.into_iter().filter_map(|name| what(name).map(|what| (name.clone(), what))).collect()
    }

    /// Is there such a user, and is it on?
    pub fn is_on(&self, user: &str) -> Option<bool> {
        self.users.get(user).map(|user| user.on)
    }
}

impl User {
    fn of<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut user = Self::default();
        for word in words {
            match word {
                "on" => user.on = true,
                "off" => user.on = false,
                "sanitize-payload" | "resetchannels" | "resetkeys" => {}
                "allkeys" => drop(user.patterns.insert("~*".to_owned())),
                "allchannels" => drop(user.patterns.insert("&*".to_owned())),
                "allcommands" => user.commands.push("+@all".to_owned()),
                "nocommands" => user.commands.push("-@all".to_owned()),
                _ if word.starts_with(['#', '>']) || word == "nopass" => drop(user.passwords.insert(word.to_owned())),
                _ if word.starts_with(['~', '&', '%']) => drop(user.patterns.insert(word.to_owned())),
                _ => user.commands.push(word.to_ascii_lowercase()),
            }
        }
        // A user begins with no command at all, so saying so first adds nothing.
        if user.commands.first().is_some_and(|first| first == "-@all") {
            user.commands.remove(0);
        }
        user
    }
}

/// The text of an ACL file with one user turned on or off; every other byte stays.
pub fn switched(text: &str, user: &str, on: bool) -> String {
    let turned = |line: &str| {
        let mut words = line.split(' ');
        if words.next() != Some("user") || words.next() != Some(user) {
            return line.to_owned();
        }
        let state = if on { "on" } else { "off" };
        let rest: Vec<&str> = words.filter(|word| !matches!(*word, "on" | "off")).collect();
        format!("user {user} {state} {}", rest.join(" "))
    };
    text.lines().map(|line| turned(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "user default off resetchannels -@all\nuser s017 on #ab ~* resetchannels -@all +@read +ping\n";

    #[test]
    fn turning_a_user_leaves_the_rest() {
        let off = switched(TEXT, "s017", false);
        assert_eq!(Acl::parse(&off).is_on("s017"), Some(false));
        assert_eq!(switched(&off, "s017", true), TEXT);
        assert_eq!(Acl::parse(&off).differing(&Acl::parse(TEXT)), [("s017".to_owned(), "is off")]);
    }

    #[test]
    fn forms_of_the_same_rules_are_equal() {
        let saved = "user default off sanitize-payload resetchannels -@all\nuser s017 on sanitize-payload #ab allkeys resetchannels +@read +ping\n";
        assert_eq!(Acl::parse(saved).differing(&Acl::parse(TEXT)), []);
    }
}
