//! `group`: one group and its number. Its members are the business of `user` steps.
//!
//! A second run is a no-op because the number is compared by value, and only where the step gives one.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::mode::{self, Presence};
use super::{Blobs, Diff, GroupState, Read, Resource, Site, World, text};
use crate::plan::Change;
use crate::process::Program;

/// The desired state of a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its number; the system chooses where none is given.
    #[serde(default, deserialize_with = "text::optional")]
    pub gid: Option<u32>,
    /// Choose the number from the system's range.
    #[serde(default, deserialize_with = "text::required")]
    pub system: bool,
    /// `"absent"` removes it.
    #[serde(default)]
    pub state: Presence,
}

/// What was there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Observed {
    /// No group of that name.
    Absent,
    /// A group.
    Present {
        /// Its number.
        gid: Option<u32>,
        /// Users whose primary group it is; only where it is to be removed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        primary_of: Vec<String>,
    },
}

impl Resource for Group {
    const KIND: &'static str = "group";
    type Observed = Observed;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn owns(&self) -> Vec<String> {
        vec![format!("group {}", self.name)]
    }

    fn validate(&self) -> Result<(), String> {
        mode::check_account("name", &self.name)?;
        if self.state == Presence::Absent && self.gid.is_some() {
            return Err("a group with state = \"absent\" takes no gid".to_owned());
        }
        Ok(())
    }

    fn read(&self, world: &mut World) -> Result<Read<Observed>> {
        let state = world.group(&self.name)?;
        if state.is_none()
            // A package that makes a user makes its group too.
            && let Some(arrival) = ["group", "user"].iter().find_map(|what| world.arrival(&format!("{what} {}", self.name)))
        {
            return Ok(Read::Unknown(format!("the group comes with package {}", arrival.package)));
        }
        Ok(Read::Known(match state {
            None => Observed::Absent,
            Some(GroupState { gid }) => {
                let removed = self.state == Presence::Absent;
                let primary_of = if removed { world.group_users(&self.name)?.0 } else { Vec::new() };
                Observed::Present { gid, primary_of }
            }
        }))
    }

    fn diff(&self, observed: &Observed, _blobs: &dyn Blobs) -> Result<Diff> {
        Ok(match (self.state, observed) {
            (Presence::Absent, Observed::Absent) => Diff::none(),
            (Presence::Absent, Observed::Present { gid, primary_of }) => {
                if let Some(user) = primary_of.first() {
                    bail!("it is the primary group of user {user}; give the user another one first, or remove it");
                }
                Diff::remove(gid.iter().map(|gid| Change::gone("gid", gid)).collect())
            }
            (Presence::Present, Observed::Absent) => {
                Diff::add(self.gid.iter().map(|gid| Change::set("gid", gid)).collect())
            }
            (Presence::Present, Observed::Present { gid: now, .. }) => {
                let shown =
                    |gid: Option<u32>| gid.map_or_else(|| "chosen by the system".to_owned(), |gid| gid.to_string());
                let wanted = self.gid.filter(|gid| Some(*gid) != *now);
                Diff::change(wanted.map(|gid| Change::new("gid", shown(*now), gid)).into_iter().collect())
            }
        })
    }

    fn expect(&self, world: &mut World) {
        let state = match self.state {
            Presence::Absent => None,
            Presence::Present => {
                let now = world.group(&self.name).ok().flatten().and_then(|group| group.gid);
                Some(GroupState { gid: self.gid.or(now) })
            }
        };
        world.expect_group(&self.name, state);
    }

    fn apply(&self, observed: &Observed, _site: &mut Site) -> Result<()> {
        let argv = self.argv(observed);
        let (program, args) = argv.split_first().context("nothing to do for the group")?;
        Program::new(program).args(args).run().map(drop)
    }
}

impl Group {
    /// The command that brings the group from what was observed to what is wanted.
    fn argv(&self, observed: &Observed) -> Vec<String> {
        let mut argv: Vec<String> = Vec::new();
        match (self.state, observed) {
            (Presence::Absent, _) => argv.push("groupdel".to_owned()),
            (Presence::Present, Observed::Absent) => {
                argv.push("groupadd".to_owned());
                if self.system {
                    argv.push("--system".to_owned());
                }
            }
            (Presence::Present, Observed::Present { .. }) => argv.push("groupmod".to_owned()),
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
    fn the_command_fits_what_was_there() {
        let group: Group = serde_json::from_str(r#"{"name":"redis","gid":"990","system":true}"#).unwrap();
        assert_eq!(group.argv(&Observed::Absent).join(" "), "groupadd --system --gid 990 -- redis");
        let there = Observed::Present { gid: Some(5), primary_of: Vec::new() };
        assert_eq!(group.argv(&there).join(" "), "groupmod --gid 990 -- redis");
    }
}
