//! `directory`: one folder, its permissions and owner.
//!
//! Leaves alone: what is in it. Its own folder must be there, unless `parents = true`: then the missing ones are made
//! for root with mode 0755. A second run is a no-op because mode and owner are compared by value.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::mode::{self, Mode, Presence};
use super::{Blobs, Diff, Meta, PathState, Read, Resource, Site, World, place, text};
use crate::plan::Change;

/// The desired state of a folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Where it is: an absolute path.
    pub path: PathBuf,
    /// Permissions, as in `"0755"`.
    #[serde(default = "Mode::directory")]
    pub mode: Mode,
    /// The owning user.
    #[serde(default = "mode::root")]
    pub owner: String,
    /// The owning group; the owner's name where it is not given.
    pub group: Option<String>,
    /// `"absent"` removes it.
    #[serde(default)]
    pub state: Presence,
    /// Make the missing folders above it too, for root with mode 0755.
    #[serde(default, deserialize_with = "text::required")]
    pub parents: bool,
    /// With `state = "absent"`: remove what is in it too.
    #[serde(default, deserialize_with = "text::required")]
    pub recurse: bool,
}

/// What was there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Observed {
    state: PathState,
    /// The missing folders above it, topmost first; only where `parents` is set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    missing: Vec<PathBuf>,
    /// How many entries are below it; only where it is to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entries: Option<usize>,
}

impl Resource for Directory {
    const KIND: &'static str = "directory";
    type Observed = Observed;

    fn key(&self) -> String {
        self.path.display().to_string()
    }

    fn owns(&self) -> Vec<String> {
        vec![format!("path {}", self.path.display())]
    }

    fn validate(&self) -> Result<(), String> {
        place::check("path", &self.path)?;
        mode::check_owner(&self.owner, self.group.as_deref())?;
        match self.state {
            Presence::Present if self.recurse => {
                Err("`recurse` is for state = \"absent\": it removes what is in the folder".to_owned())
            }
            Presence::Absent if self.parents => {
                Err("`parents` makes folders; with state = \"absent\" there is nothing to make".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn read(&self, world: &mut World) -> Result<Read<Observed>> {
        let state = world.path(&self.path)?;
        let mut observed = Observed { state, missing: Vec::new(), entries: None };
        if self.state == Presence::Absent {
            if let PathState::Directory { .. } = observed.state {
                observed.entries = Some(world.entries(&self.path)?);
            }
            return Ok(Read::Known(observed));
        }
        if observed.state == PathState::Absent
            && let Some(arrival) = world.arrival(&format!("path {}", self.path.display()))
        {
            return Ok(Read::Unknown(format!("the folder comes with package {}", arrival.package)));
        }
        world.needs_accounts(&self.meta())?;
        if self.parents {
            observed.missing = world.missing_folders(&self.path)?;
            for folder in &observed.missing {
                if world.path(folder)? != PathState::Absent {
                    bail!("{} stands in the way: it is no folder", folder.display());
                }
            }
        } else {
            world.needs_folder(&self.path)?;
        }
        Ok(Read::Known(observed))
    }

    fn diff(&self, observed: &Observed, _blobs: &dyn Blobs) -> Result<Diff> {
        match (self.state, &observed.state) {
            (Presence::Absent, PathState::Absent) => Ok(Diff::none()),
            (Presence::Absent, PathState::Directory { .. }) => self.removal(observed.entries.unwrap_or(0)),
            (Presence::Present, PathState::Absent) => {
                let mut changes = mode::meta_set(&self.meta());
                changes.extend(observed.missing.iter().map(|folder| Change::set("parent", folder.display())));
                Ok(Diff::add(changes))
            }
            (Presence::Present, PathState::Directory { meta }) => {
                Ok(Diff::change(mode::meta_changes(meta, &self.meta())))
            }
            (_, PathState::Link { target }) => bail!("a link to {} stands there and is left alone", target.display()),
            (_, PathState::File { .. } | PathState::Other) => {
                bail!("a file stands there and is left alone; remove it first")
            }
        }
    }

    fn expect(&self, world: &mut World) {
        if self.state == Presence::Absent {
            return world.expect_path(&self.path, PathState::Absent);
        }
        if self.parents {
            for folder in world.missing_folders(&self.path).unwrap_or_default() {
                world.expect_path(&folder, PathState::Directory { meta: parent_meta() });
            }
        }
        world.expect_path(&self.path, PathState::Directory { meta: self.meta() });
    }

    fn apply(&self, observed: &Observed, _site: &mut Site) -> Result<()> {
        if self.state == Presence::Absent {
            let removed = if self.recurse { fs::remove_dir_all(&self.path) } else { fs::remove_dir(&self.path) };
            return removed.context("removing it");
        }
        for folder in &observed.missing {
            make(folder, &parent_meta())?;
        }
        match observed.state {
            PathState::Absent => make(&self.path, &self.meta()),
            _ => place::own(&self.path, &self.meta()),
        }
    }
}

impl Directory {
    fn meta(&self) -> Meta {
        mode::meta(self.mode, &self.owner, self.group.as_deref())
    }

    fn removal(&self, entries: usize) -> Result<Diff> {
        if entries == 0 {
            return Ok(Diff::remove(Vec::new()));
        }
        if !self.recurse {
            bail!("it is not empty ({entries} entries); `recurse = true` removes what is in it too");
        }
        Ok(Diff::remove(vec![Change::gone("entries", entries)]))
    }
}

fn parent_meta() -> Meta {
    mode::meta(Mode::directory(), "root", None)
}

/// Makes one folder, closed to others until it belongs to its owner.
fn make(path: &Path, meta: &Meta) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error).with_context(|| format!("making {}", path.display())),
    }
    place::own(path, meta)
}
