//! `user`: one account: number, groups, home, shell, comment.
//!
//! Leaves alone: passwords, what is in the home folder (a changed `home` moves nothing, a removed user's home stays),
//! and each attribute that the step does not give. A second run is a no-op because what is given is compared by value;
//! `groups` are added to those the user is in, unless `exact_groups = true`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::mode::{self, Mode, Presence};
use super::{Blobs, Diff, GroupState, PathState, Read, Resource, Site, UserState, World, text};
use crate::plan::Change;
use crate::process::Program;

/// Permissions of a home folder that is made; given to useradd, so that the plan knows them.
const HOME_MODE: u32 = 0o750;

/// The desired state of an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number; the system chooses where none is given.
    #[serde(default, deserialize_with = "text::optional")]
    pub uid: Option<u32>,
    /// The primary group; a new user gets one of its own name where none is given.
    pub group: Option<String>,
    /// Groups that it is in besides.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Take it out of all other groups.
    #[serde(default, deserialize_with = "text::required")]
    pub exact_groups: bool,
    /// Its home; a new user gets `/home/NAME`, a new system user `/nonexistent`.
    pub home: Option<String>,
    /// Its login shell; a new user gets `/bin/bash`, a new system user `/usr/sbin/nologin`.
    pub shell: Option<String>,
    /// The comment field: a full name, a purpose.
    pub comment: Option<String>,
    /// Choose the number from the system's range.
    #[serde(default, deserialize_with = "text::required")]
    pub system: bool,
    /// Make the home folder of a new user; not given: `true`, for a system user `false`.
    #[serde(default, deserialize_with = "text::optional")]
    pub create_home: Option<bool>,
    /// `"absent"` removes the account.
    #[serde(default)]
    pub state: Presence,
}

/// What was there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Observed {
    /// No account of that name.
    Absent {
        /// Is there a group of that name already? The new user is put into it then.
        own_group: bool,
    },
    /// An account.
    Present(UserState),
}

impl Resource for User {
    const KIND: &'static str = "user";
    type Observed = Observed;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn owns(&self) -> Vec<String> {
        vec![format!("user {}", self.name)]
    }

    fn validate(&self) -> Result<(), String> {
        mode::check_account("name", &self.name)?;
        self.group.iter().try_for_each(|group| mode::check_account("group", group))?;
        self.groups.iter().try_for_each(|group| mode::check_account("groups", group))?;
        for (key, value) in [("home", &self.home), ("shell", &self.shell), ("comment", &self.comment)] {
            let Some(value) = value else { continue };
            if value.contains([':', '\n']) {
                return Err(format!("{key} must have no `:` and no line end: they separate what /etc/passwd holds"));
            }
            if key != "comment" && !value.starts_with('/') {
                return Err(format!("{key} must be an absolute path, not \"{value}\""));
            }
        }
        Ok(())
    }

    fn read(&self, world: &mut World) -> Result<Read<Observed>> {
        let state = world.user(&self.name)?;
        if state.is_none()
            && let Some(arrival) = world.arrival(&format!("user {}", self.name))
        {
            return Ok(Read::Unknown(format!("the user comes with package {}", arrival.package)));
        }
        if self.state == Presence::Present && world.surprise().is_none() {
            for group in self.group.iter().chain(&self.groups) {
                let own = state.is_none() && self.group.is_none() && *group == self.name;
                if !own && world.group(group)?.is_none() {
                    bail!("there is no group {group}; a `group` step before this one can make it");
                }
            }
        }
        Ok(Read::Known(match state {
            Some(state) => Observed::Present(state),
            None => Observed::Absent { own_group: world.group(&self.name)?.is_some() },
        }))
    }

    fn diff(&self, observed: &Observed, _blobs: &dyn Blobs) -> Result<Diff> {
        Ok(match (self.state, observed) {
            (Presence::Absent, Observed::Absent { .. }) => Diff::none(),
            (Presence::Absent, Observed::Present(now)) => {
                Diff::remove(now.uid.iter().map(|uid| Change::gone("uid", uid)).collect())
            }
            (Presence::Present, Observed::Absent { .. }) => Diff::add(self.set()),
            (Presence::Present, Observed::Present(now)) => Diff::change(self.changes(now)),
        })
    }

    fn expect(&self, world: &mut World) {
        // What cannot be read here could not be read for the diff either, which then ended the plan.
        let Ok(now) = world.user(&self.name) else { return };
        match (self.state, now) {
            (Presence::Absent, now) => {
                world.expect_user(&self.name, None);
                self.expect_group_gone(now, world);
            }
            (Presence::Present, Some(now)) => world.expect_user(&self.name, Some(self.after(now))),
            (Presence::Present, None) => {
                if self.group.is_none() && matches!(world.group(&self.name), Ok(None)) {
                    world.expect_group(&self.name, Some(GroupState { gid: None }));
                }
                self.expect_home(world);
                world.expect_user(&self.name, Some(self.fresh()));
            }
        }
    }

    fn apply(&self, observed: &Observed, _site: &mut Site) -> Result<()> {
        let argv = self.argv(observed);
        let (program, args) = argv.split_first().context("nothing to do for the user")?;
        Program::new(program).args(args).run().map(drop)
    }
}

impl User {
    fn primary(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.name)
    }

    fn new_home(&self) -> String {
        let default = || if self.system { "/nonexistent".to_owned() } else { format!("/home/{}", self.name) };
        self.home.clone().unwrap_or_else(default)
    }

    fn new_shell(&self) -> &str {
        self.shell.as_deref().unwrap_or(if self.system { "/usr/sbin/nologin" } else { "/bin/bash" })
    }

    fn makes_home(&self) -> bool {
        self.create_home.unwrap_or(!self.system)
    }

    /// The account that useradd makes.
    fn fresh(&self) -> UserState {
        UserState {
            uid: self.uid,
            group: self.primary().to_owned(),
            comment: self.comment.clone().unwrap_or_default(),
            home: self.new_home(),
            shell: self.new_shell().to_owned(),
            groups: self.groups.iter().filter(|group| *group != self.primary()).cloned().collect(),
        }
    }

    /// The account that usermod leaves.
    fn after(&self, now: UserState) -> UserState {
        UserState {
            uid: self.uid.or(now.uid),
            groups: self.groups_after(&now),
            group: self.group.clone().unwrap_or(now.group),
            comment: self.comment.clone().unwrap_or(now.comment),
            home: self.home.clone().unwrap_or(now.home),
            shell: self.shell.clone().unwrap_or(now.shell),
        }
    }

    /// The groups it is in besides its primary one. A user may be listed in its primary group too, or not: that is
    /// the same to the system, and is left as it is.
    fn groups_after(&self, now: &UserState) -> BTreeSet<String> {
        let primary = self.group.as_ref().unwrap_or(&now.group);
        let wanted = self.groups.iter().filter(|group| *group != primary);
        if self.exact_groups {
            let listed = now.groups.iter().filter(|group| *group == primary);
            return wanted.chain(listed).cloned().collect();
        }
        now.groups.iter().chain(wanted).cloned().collect()
    }

    fn set(&self) -> Vec<Change> {
        let fresh = self.fresh();
        let mut changes: Vec<Change> = fresh.uid.iter().map(|uid| Change::set("uid", uid)).collect();
        changes.push(Change::set("group", &fresh.group));
        if !fresh.groups.is_empty() {
            changes.push(Change::set("groups", list(&fresh.groups)));
        }
        let home = if self.makes_home() { format!("{} (made)", fresh.home) } else { fresh.home };
        changes.extend([Change::set("home", home), Change::set("shell", &fresh.shell)]);
        if !fresh.comment.is_empty() {
            changes.push(Change::set("comment", &fresh.comment));
        }
        changes
    }

    fn changes(&self, now: &UserState) -> Vec<Change> {
        let after = self.after(now.clone());
        let mut changes = Vec::new();
        if after.uid != now.uid {
            let shown = |uid: Option<u32>| uid.map_or_else(|| "chosen by the system".to_owned(), |uid| uid.to_string());
            changes.push(Change::new("uid", shown(now.uid), shown(after.uid)));
        }
        if after.group != now.group {
            changes.push(Change::new("group", &now.group, &after.group));
        }
        if after.groups != now.groups {
            changes.push(Change::new("groups", list(&now.groups), list(&after.groups)));
        }
        for (what, from, to) in [
            ("home", &now.home, &after.home),
            ("shell", &now.shell, &after.shell),
            ("comment", &now.comment, &after.comment),
        ] {
            if from != to {
                changes.push(Change::new(what, from, to));
            }
        }
        changes
    }

    fn expect_home(&self, world: &mut World) {
        let home = self.new_home();
        let home = Path::new(&home);
        if self.makes_home() && matches!(world.path(home), Ok(PathState::Absent)) {
            let meta = mode::meta(Mode(HOME_MODE), &self.name, Some(self.primary()));
            world.expect_path(home, PathState::Directory { meta });
        }
    }

    /// userdel removes the user's own group with it, unless others are in it.
    fn expect_group_gone(&self, now: Option<UserState>, world: &mut World) {
        let Ok((primary, members)) = world.group_users(&self.name) else { return };
        if now.is_some_and(|now| now.group == self.name) && primary.is_empty() && members.is_empty() {
            world.expect_group(&self.name, None);
        }
    }

    /// The command that brings the account from what was observed to what is wanted.
    fn argv(&self, observed: &Observed) -> Vec<String> {
        let mut argv = match (self.state, observed) {
            (Presence::Absent, _) => vec!["userdel".to_owned()],
            (Presence::Present, Observed::Absent { own_group }) => self.useradd(*own_group),
            (Presence::Present, Observed::Present(now)) => self.usermod(now),
        };
        argv.extend(["--".to_owned(), self.name.clone()]);
        argv
    }

    fn useradd(&self, own_group: bool) -> Vec<String> {
        let fresh = self.fresh();
        let mut argv = vec!["useradd".to_owned()];
        if self.system {
            argv.push("--system".to_owned());
        }
        if let Some(uid) = self.uid {
            argv.extend(["--uid".to_owned(), uid.to_string()]);
        }
        if self.group.is_some() || own_group {
            argv.extend(["--gid".to_owned(), fresh.group]);
        } else {
            argv.push("--user-group".to_owned());
        }
        if !fresh.groups.is_empty() {
            argv.extend(["--groups".to_owned(), list(&fresh.groups)]);
        }
        argv.extend(["--home-dir".to_owned(), fresh.home, "--shell".to_owned(), fresh.shell]);
        if !fresh.comment.is_empty() {
            argv.extend(["--comment".to_owned(), fresh.comment]);
        }
        if self.makes_home() {
            argv.extend(["--create-home".to_owned(), "--key".to_owned(), format!("HOME_MODE={HOME_MODE:04o}")]);
        } else {
            argv.push("--no-create-home".to_owned());
        }
        argv
    }

    fn usermod(&self, now: &UserState) -> Vec<String> {
        let after = self.after(now.clone());
        let mut argv = vec!["usermod".to_owned()];
        if let (true, Some(uid)) = (after.uid != now.uid, after.uid) {
            argv.extend(["--uid".to_owned(), uid.to_string()]);
        }
        if after.groups != now.groups {
            argv.extend(["--groups".to_owned(), list(&after.groups)]);
        }
        for (option, from, to) in [
            ("--gid", &now.group, &after.group),
            ("--home", &now.home, &after.home),
            ("--shell", &now.shell, &after.shell),
            ("--comment", &now.comment, &after.comment),
        ] {
            if from != to {
                argv.extend([option.to_owned(), to.clone()]);
            }
        }
        argv
    }
}

fn list(groups: &BTreeSet<String>) -> String {
    groups.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(json: &str) -> User {
        serde_json::from_str(json).unwrap()
    }

    fn now() -> UserState {
        UserState {
            uid: Some(990),
            group: "app".to_owned(),
            comment: String::new(),
            home: "/srv/app".to_owned(),
            shell: "/bin/sh".to_owned(),
            groups: BTreeSet::from(["adm".to_owned()]),
        }
    }

    #[test]
    fn a_new_user_is_made_in_one_call() {
        let argv =
            user(r#"{"name":"app","system":true,"groups":["adm"]}"#).argv(&Observed::Absent { own_group: false });
        let wanted = "useradd --system --user-group --groups adm --home-dir /nonexistent --shell /usr/sbin/nologin \
                      --no-create-home -- app";
        assert_eq!(argv.join(" "), wanted);
        let argv = user(r#"{"name":"app"}"#).argv(&Observed::Absent { own_group: true });
        let wanted =
            "useradd --gid app --home-dir /home/app --shell /bin/bash --create-home --key HOME_MODE=0750 -- app";
        assert_eq!(argv.join(" "), wanted);
    }

    #[test]
    fn only_what_differs_is_changed() {
        let argv = user(r#"{"name":"app","uid":"990","home":"/srv/app","shell":"/bin/bash","groups":["adm","ssl"]}"#)
            .argv(&Observed::Present(now()));
        assert_eq!(argv.join(" "), "usermod --groups adm,ssl --shell /bin/bash -- app");
        let argv = user(r#"{"name":"app","exact_groups":true}"#).argv(&Observed::Present(now()));
        assert_eq!(argv, ["usermod", "--groups", "", "--", "app"]);
    }

    #[test]
    fn a_group_of_its_own_comes_and_goes_with_it() {
        let mut world = World::now();
        let app = user(r#"{"name":"dunlin-none","state":"present"}"#);
        app.expect(&mut world);
        assert!(world.group("dunlin-none").unwrap().is_some());
        assert!(matches!(world.path(Path::new("/home/dunlin-none")).unwrap(), PathState::Directory { .. }));
        user(r#"{"name":"dunlin-none","state":"absent"}"#).expect(&mut world);
        assert!(world.user("dunlin-none").unwrap().is_none());
        assert!(world.group("dunlin-none").unwrap().is_none());
    }
}
