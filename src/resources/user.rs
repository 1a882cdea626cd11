//! `user`: one account: number, groups, home, shell, comment.
//!
//! Does not change: passwords, what is in the home folder (a changed `home` moves nothing, a removed user's home
//! stays), and each attribute that the step does not give. A second run is a no-op because what is given is compared by
//! value; `groups` are added to those the user is in, unless `exclusive_groups = true`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::mode::{self, FileMode, Presence};
use super::{
    ApplyContext, BlobSource, Diff, GroupState, HostView, PathState, ReadOutcome, Resource, UserState, de_string,
};
use crate::plan::AttributeChange;
use crate::process::Program;

/// Permissions of a home folder that is made; given to useradd, so that the plan knows them.
const NEW_HOME_MODE: u32 = 0o750;

/// Desired state of an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserResource {
    /// Its name.
    pub name: String,
    /// Its number; the system chooses where none is given.
    #[serde(default, deserialize_with = "de_string::optional")]
    pub uid: Option<u32>,
    /// The primary group; a new user gets one of its own name where none is given.
    pub group: Option<String>,
    /// Supplementary groups.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Take it out of all other groups.
    #[serde(default, deserialize_with = "de_string::required")]
    pub exclusive_groups: bool,
    /// Its home; a new user gets `/home/NAME`, a new system user `/nonexistent`.
    pub home: Option<String>,
    /// Its login shell; a new user gets `/bin/bash`, a new system user `/usr/sbin/nologin`.
    pub shell: Option<String>,
    /// The comment field: a full name, a purpose.
    pub comment: Option<String>,
    /// Choose the number from the system's range.
    #[serde(default, deserialize_with = "de_string::required")]
    pub system: bool,
    /// Make the home folder of a new user; not given: `true`, for a system user `false`.
    #[serde(default, deserialize_with = "de_string::optional")]
    pub create_home: Option<bool>,
    /// `"absent"` removes the account.
    #[serde(default)]
    pub state: Presence,
}

/// Observed state of the account.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum ObservedUser {
    /// The account does not exist.
    Absent {
        /// A group of the same name exists; the new user is added to it.
        has_own_group: bool,
    },
    /// An account.
    Present(UserState),
}

impl Resource for UserResource {
    const KIND: &'static str = "user";
    type Observed = ObservedUser;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![format!("user {}", self.name)]
    }

    fn validate(&self) -> Result<(), String> {
        mode::check_account("name", &self.name)?;
        self.group.iter().try_for_each(|group| mode::check_account("group", group))?;
        self.groups.iter().try_for_each(|group| mode::check_account("groups", group))?;
        for (key, value) in [("home", &self.home), ("shell", &self.shell), ("comment", &self.comment)] {
            let Some(value) = value else { continue };
            if value.contains([':', '\n']) {
                return Err(format!("{key} must have no `:` and no line end: they separate the fields of /etc/passwd"));
            }
            if key != "comment" && !value.starts_with('/') {
                return Err(format!("{key} must be an absolute path, not \"{value}\""));
            }
        }
        Ok(())
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedUser>> {
        let state = view.user_state(&self.name)?;
        if state.is_none()
            && let Some(arrival) = view.provided_by(&format!("user {}", self.name))
        {
            return Ok(ReadOutcome::UnknownUntilApply(format!("the user comes with package {}", arrival.package)));
        }
        if self.state == Presence::Present && view.unknown_until_apply().is_none() {
            for group in self.group.iter().chain(&self.groups) {
                let own = state.is_none() && self.group.is_none() && *group == self.name;
                if !own && view.group_state(group)?.is_none() {
                    bail!("there is no group {group}; a `group` step before this one can create it");
                }
            }
        }
        Ok(ReadOutcome::Known(match state {
            Some(state) => ObservedUser::Present(state),
            None => ObservedUser::Absent { has_own_group: view.group_state(&self.name)?.is_some() },
        }))
    }

    fn diff(&self, observed: &ObservedUser, _blobs: &dyn BlobSource) -> Result<Diff> {
        Ok(match (self.state, observed) {
            (Presence::Absent, ObservedUser::Absent { .. }) => Diff::none(),
            (Presence::Absent, ObservedUser::Present(now)) => {
                Diff::remove(now.uid.iter().map(|uid| AttributeChange::to_absent("uid", uid)).collect())
            }
            (Presence::Present, ObservedUser::Absent { .. }) => Diff::add(self.creation_changes()),
            (Presence::Present, ObservedUser::Present(now)) => Diff::change(self.account_changes(now)),
        })
    }

    fn predict_state(&self, view: &mut HostView) {
        // What cannot be read here could not be read for the diff either, which then ended the plan.
        let Ok(now) = view.user_state(&self.name) else { return };
        match (self.state, now) {
            (Presence::Absent, now) => {
                view.predict_user(&self.name, None);
                self.predict_group_removal(now, view);
            }
            (Presence::Present, Some(now)) => view.predict_user(&self.name, Some(self.account_after(now))),
            (Presence::Present, None) => {
                if self.group.is_none() && matches!(view.group_state(&self.name), Ok(None)) {
                    view.predict_group(&self.name, Some(GroupState { gid: None }));
                }
                self.predict_home(view);
                view.predict_user(&self.name, Some(self.new_account()));
            }
        }
    }

    fn apply(&self, observed: &ObservedUser, _context: &mut ApplyContext) -> Result<()> {
        let argv = self.build_argv(observed);
        let (program, args) = argv.split_first().context("nothing to do for the user")?;
        Program::short(program).args(args).run().map(drop)
    }
}

impl UserResource {
    fn primary_group(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.name)
    }

    fn new_home(&self) -> String {
        let default = || if self.system { "/nonexistent".to_owned() } else { format!("/home/{}", self.name) };
        self.home.clone().unwrap_or_else(default)
    }

    fn new_shell(&self) -> &str {
        self.shell.as_deref().unwrap_or(if self.system { "/usr/sbin/nologin" } else { "/bin/bash" })
    }

    fn should_create_home(&self) -> bool {
        self.create_home.unwrap_or(!self.system)
    }

    /// Returns the account that useradd creates.
    fn new_account(&self) -> UserState {
        UserState {
            uid: self.uid,
            group: self.primary_group().to_owned(),
            comment: self.comment.clone().unwrap_or_default(),
            home: self.new_home(),
            shell: self.new_shell().to_owned(),
            groups: self.groups.iter().filter(|group| *group != self.primary_group()).cloned().collect(),
        }
    }

    /// Returns the account that usermod leaves.
    fn account_after(&self, now: UserState) -> UserState {
        UserState {
            uid: self.uid.or(now.uid),
            groups: self.groups_after(&now),
            group: self.group.clone().unwrap_or(now.group),
            comment: self.comment.clone().unwrap_or(now.comment),
            home: self.home.clone().unwrap_or(now.home),
            shell: self.shell.clone().unwrap_or(now.shell),
        }
    }

    /// Returns its supplementary groups. A user may be listed in its primary group too, or not: that is the same to the
    /// system, and is left as it is.
    fn groups_after(&self, now: &UserState) -> BTreeSet<String> {
        let primary = self.group.as_ref().unwrap_or(&now.group);
        let wanted = self.groups.iter().filter(|group| *group != primary);
        if self.exclusive_groups {
            let listed = now.groups.iter().filter(|group| *group == primary);
            return wanted.chain(listed).cloned().collect();
        }
        now.groups.iter().chain(wanted).cloned().collect()
    }

    fn creation_changes(&self) -> Vec<AttributeChange> {
        let fresh = self.new_account();
        let mut changes: Vec<AttributeChange> =
            fresh.uid.iter().map(|uid| AttributeChange::from_absent("uid", uid)).collect();
        changes.push(AttributeChange::from_absent("group", &fresh.group));
        if !fresh.groups.is_empty() {
            changes.push(AttributeChange::from_absent("groups", join_groups(&fresh.groups)));
        }
        let home = if self.should_create_home() { format!("{} (made)", fresh.home) } else { fresh.home };
        changes
            .extend([AttributeChange::from_absent("home", home), AttributeChange::from_absent("shell", &fresh.shell)]);
        if !fresh.comment.is_empty() {
            changes.push(AttributeChange::from_absent("comment", &fresh.comment));
        }
        changes
    }

    fn account_changes(&self, now: &UserState) -> Vec<AttributeChange> {
        let after = self.account_after(now.clone());
        let mut changes = Vec::new();
        if after.uid != now.uid {
            let shown = |uid: Option<u32>| uid.map_or_else(|| "chosen by the system".to_owned(), |uid| uid.to_string());
            changes.push(AttributeChange::new("uid", shown(now.uid), shown(after.uid)));
        }
        if after.group != now.group {
            changes.push(AttributeChange::new("group", &now.group, &after.group));
        }
        if after.groups != now.groups {
            changes.push(AttributeChange::new("groups", join_groups(&now.groups), join_groups(&after.groups)));
        }
        for (what, from, to) in [
            ("home", &now.home, &after.home),
            ("shell", &now.shell, &after.shell),
            ("comment", &now.comment, &after.comment),
        ] {
            if from != to {
                changes.push(AttributeChange::new(what, from, to));
            }
        }
        changes
    }

    fn predict_home(&self, view: &mut HostView) {
        let home = self.new_home();
        let home = Path::new(&home);
        if self.should_create_home() && matches!(view.path_state(home), Ok(PathState::Absent)) {
            let meta = mode::path_meta(FileMode(NEW_HOME_MODE), &self.name, Some(self.primary_group()));
            view.predict_path(home, PathState::Directory { meta });
        }
    }

    /// Records that userdel removes the user's own group too, unless others are in it.
    fn predict_group_removal(&self, now: Option<UserState>, view: &mut HostView) {
        let Ok((primary, members)) = view.group_users(&self.name) else { return };
        if now.is_some_and(|now| now.group == self.name) && primary.is_empty() && members.is_empty() {
            view.predict_group(&self.name, None);
        }
    }

    /// Builds the command that brings the observed state to the desired one.
    fn build_argv(&self, observed: &ObservedUser) -> Vec<String> {
        let mut argv = match (self.state, observed) {
            (Presence::Absent, _) => vec!["userdel".to_owned()],
            (Presence::Present, ObservedUser::Absent { has_own_group: own_group }) => self.useradd_argv(*own_group),
            (Presence::Present, ObservedUser::Present(now)) => self.usermod_argv(now),
        };
        argv.extend(["--".to_owned(), self.name.clone()]);
        argv
    }

    fn useradd_argv(&self, own_group: bool) -> Vec<String> {
        let fresh = self.new_account();
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
            argv.extend(["--groups".to_owned(), join_groups(&fresh.groups)]);
        }
        argv.extend(["--home-dir".to_owned(), fresh.home, "--shell".to_owned(), fresh.shell]);
        if !fresh.comment.is_empty() {
            argv.extend(["--comment".to_owned(), fresh.comment]);
        }
        if self.should_create_home() {
            argv.extend(["--create-home".to_owned(), "--key".to_owned(), format!("HOME_MODE={NEW_HOME_MODE:04o}")]);
        } else {
            argv.push("--no-create-home".to_owned());
        }
        argv
    }

    fn usermod_argv(&self, now: &UserState) -> Vec<String> {
        let after = self.account_after(now.clone());
        let mut argv = vec!["usermod".to_owned()];
        if let (true, Some(uid)) = (after.uid != now.uid, after.uid) {
            argv.extend(["--uid".to_owned(), uid.to_string()]);
        }
        if after.groups != now.groups {
            argv.extend(["--groups".to_owned(), join_groups(&after.groups)]);
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

fn join_groups(groups: &BTreeSet<String>) -> String {
    groups.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_user(json: &str) -> UserResource {
        serde_json::from_str(json).unwrap()
    }

    fn existing_account() -> UserState {
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
    fn new_users_need_one_call() {
        let argv = parse_user(r#"{"name":"app","system":true,"groups":["adm"]}"#)
            .build_argv(&ObservedUser::Absent { has_own_group: false });
        let wanted = "useradd --system --user-group --groups adm --home-dir /nonexistent --shell /usr/sbin/nologin \
                      --no-create-home -- app";
        assert_eq!(argv.join(" "), wanted);
        let argv = parse_user(r#"{"name":"app"}"#).build_argv(&ObservedUser::Absent { has_own_group: true });
        let wanted =
            "useradd --gid app --home-dir /home/app --shell /bin/bash --create-home --key HOME_MODE=0750 -- app";
        assert_eq!(argv.join(" "), wanted);
    }

    #[test]
    fn only_what_differs_is_changed() {
        let argv =
            parse_user(r#"{"name":"app","uid":"990","home":"/srv/app","shell":"/bin/bash","groups":["adm","ssl"]}"#)
                .build_argv(&ObservedUser::Present(existing_account()));
        assert_eq!(argv.join(" "), "usermod --groups adm,ssl --shell /bin/bash -- app");
        let argv = parse_user(r#"{"name":"app","exclusive_groups":true}"#)
            .build_argv(&ObservedUser::Present(existing_account()));
        assert_eq!(argv, ["usermod", "--groups", "", "--", "app"]);
    }

    #[test]
    fn own_groups_are_created_and_removed_with_the_user() {
        let mut view = HostView::current();
        let app = parse_user(r#"{"name":"dunlin-none","state":"present"}"#);
        app.predict_state(&mut view);
        assert!(view.group_state("dunlin-none").unwrap().is_some());
        assert!(matches!(view.path_state(Path::new("/home/dunlin-none")).unwrap(), PathState::Directory { .. }));
        parse_user(r#"{"name":"dunlin-none","state":"absent"}"#).predict_state(&mut view);
        assert!(view.user_state("dunlin-none").unwrap().is_none());
        assert!(view.group_state("dunlin-none").unwrap().is_none());
    }
}
