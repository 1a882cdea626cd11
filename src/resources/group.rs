//! `group`: one group and its number. Its members belong to `user` steps.
//!
//! A second run is a no-op because the number is compared by value, and only where the step gives one.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::mode::{self, Presence};
use super::{ApplyContext, BlobSource, Diff, GroupState, HostView, ReadOutcome, Resource, de_string};
use crate::plan::AttributeChange;
use crate::process::Program;

/// Desired state of a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupResource {
    /// Its name.
    pub name: String,
    /// Its number; the system chooses where none is given.
    #[serde(default, deserialize_with = "de_string::optional")]
    pub gid: Option<u32>,
    /// Choose the number from the system's range.
    #[serde(default, deserialize_with = "de_string::required")]
    pub system: bool,
    /// `"absent"` removes it.
    #[serde(default)]
    pub state: Presence,
}

/// Observed state of the group.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum ObservedGroup {
    /// The group does not exist.
    Absent,
    /// A group.
    Present {
        /// Its number.
        gid: Option<u32>,
        /// Users with this primary group; only for a removal.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        primary_of: Vec<String>,
    },
}

impl Resource for GroupResource {
    const KIND: &'static str = "group";
    type Observed = ObservedGroup;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![format!("group {}", self.name)]
    }

    fn validate(&self) -> Result<(), String> {
        mode::check_account("name", &self.name)?;
        if self.state == Presence::Absent && self.gid.is_some() {
            return Err("a group with state = \"absent\" takes no gid".to_owned());
        }
        Ok(())
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedGroup>> {
        let state = view.group_state(&self.name)?;
        if state.is_none()
            // A package that makes a user makes its group too.
            && let Some(arrival) = ["group", "user"].iter().find_map(|what| view.provided_by(&format!("{what} {}", self.name)))
        {
            return Ok(ReadOutcome::UnknownUntilApply(format!("the group comes with package {}", arrival.package)));
        }
        Ok(ReadOutcome::Known(match state {
            None => ObservedGroup::Absent,
            Some(GroupState { gid }) => {
                let removed = self.state == Presence::Absent;
                let primary_of = if removed { view.group_users(&self.name)?.0 } else { Vec::new() };
                ObservedGroup::Present { gid, primary_of }
            }
        }))
    }

    fn diff(&self, observed: &ObservedGroup, _blobs: &dyn BlobSource) -> Result<Diff> {
        Ok(match (self.state, observed) {
            (Presence::Absent, ObservedGroup::Absent) => Diff::none(),
            (Presence::Absent, ObservedGroup::Present { gid, primary_of }) => {
                if let Some(user) = primary_of.first() {
                    bail!("it is the primary group of user {user}; give the user another one first, or remove it");
                }
                Diff::remove(gid.iter().map(|gid| AttributeChange::to_absent("gid", gid)).collect())
            }
            (Presence::Present, ObservedGroup::Absent) => {
                Diff::add(self.gid.iter().map(|gid| AttributeChange::from_absent("gid", gid)).collect())
            }
            (Presence::Present, ObservedGroup::Present { gid: now, .. }) => {
                let shown =
                    |gid: Option<u32>| gid.map_or_else(|| "chosen by the system".to_owned(), |gid| gid.to_string());
                let wanted = self.gid.filter(|gid| Some(*gid) != *now);
                Diff::change(wanted.map(|gid| AttributeChange::new("gid", shown(*now), gid)).into_iter().collect())
            }
        })
    }

    fn predict_state(&self, view: &mut HostView) {
        let state = match self.state {
            Presence::Absent => None,
            Presence::Present => {
                let now = view.group_state(&self.name).ok().flatten().and_then(|group| group.gid);
                Some(GroupState { gid: self.gid.or(now) })
            }
        };
        view.predict_group(&self.name, state);
    }

    fn apply(&self, observed: &ObservedGroup, _context: &mut ApplyContext) -> Result<()> {
        let argv = self.build_argv(observed);
        let (program, args) = argv.split_first().context("nothing to do for the group")?;
        Program::short(program).args(args).run().map(drop)
    }
}

impl GroupResource {
    /// Builds the command that brings the observed state to the desired one.
    fn build_argv(&self, observed: &ObservedGroup) -> Vec<String> {
        let mut argv: Vec<String> = Vec::new();
        match (self.state, observed) {
            (Presence::Absent, _) => argv.push("groupdel".to_owned()),
            (Presence::Present, ObservedGroup::Absent) => {
                argv.push("groupadd".to_owned());
                if self.system {
                    argv.push("--system".to_owned());
                }
            }
            (Presence::Present, ObservedGroup::Present { .. }) => argv.push("groupmod".to_owned()),
        }
        if let Some(gid) = self.gid {
            argv.extend(["--gid".to_owned(), gid.to_string()]);
        }
        argv.extend(["--".to_owned(), self.name.clone()]);
        argv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_match_the_observed_state() {
        let group: GroupResource = serde_json::from_str(r#"{"name":"redis","gid":"990","system":true}"#).unwrap();
        assert_eq!(group.build_argv(&ObservedGroup::Absent).join(" "), "groupadd --system --gid 990 -- redis");
        let there = ObservedGroup::Present { gid: Some(5), primary_of: Vec::new() };
        assert_eq!(group.build_argv(&there).join(" "), "groupmod --gid 990 -- redis");
    }
}
