//! `link`: one symbolic link and where it points. Owner and times of a link mean nothing and are left alone.
//!
//! A second run is a no-op because the target is compared as it is written. Only links are replaced: a file or a folder
//! in the way is an error.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::mode::Presence;
use super::{Blobs, Diff, PathState, Read, Resource, Site, World, place};
use crate::plan::Change;

/// The desired state of a link.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Where it stands: an absolute path.
    pub path: PathBuf,
    /// Where it points, absolute or relative to its folder; what is there may be missing.
    pub target: Option<PathBuf>,
    /// `"absent"` removes it.
    #[serde(default)]
    pub state: Presence,
}

impl Resource for Link {
    const KIND: &'static str = "link";
    type Observed = PathState;

    fn key(&self) -> String {
        self.path.display().to_string()
    }

    fn owns(&self) -> Vec<String> {
        vec![format!("path {}", self.path.display())]
    }

    fn validate(&self) -> Result<(), String> {
        place::check("path", &self.path)?;
        match (self.state, &self.target) {
            (Presence::Present, None) => Err("a link needs a `target` (or state = \"absent\")".to_owned()),
            (Presence::Absent, Some(_)) => Err("a link with state = \"absent\" takes no target".to_owned()),
            (_, Some(target)) if target.as_os_str().is_empty() => Err("target must not be empty".to_owned()),
            _ => Ok(()),
        }
    }

    fn read(&self, world: &mut World) -> Result<Read<PathState>> {
        let state = world.path(&self.path)?;
        if self.state == Presence::Present && state == PathState::Absent {
            if let Some(arrival) = world.arrival(&format!("path {}", self.path.display())) {
                return Ok(Read::Unknown(format!("the path comes with package {}", arrival.package)));
            }
            world.needs_folder(&self.path)?;
        }
        Ok(Read::Known(state))
    }

    fn diff(&self, observed: &PathState, _blobs: &dyn Blobs) -> Result<Diff> {
        Ok(match (observed, &self.target) {
            (PathState::Absent, None) => Diff::none(),
            (PathState::Absent, Some(target)) => Diff::add(vec![Change::set("target", target.display())]),
            (PathState::Link { target }, None) => Diff::remove(vec![Change::gone("target", target.display())]),
            // As it is written: `a/` and `a` are one Path, but two texts in a link.
            (PathState::Link { target: now }, Some(target)) if now.as_os_str() == target.as_os_str() => Diff::none(),
            (PathState::Link { target: now }, Some(target)) => {
                Diff::change(vec![Change::new("target", now.display(), target.display())])
            }
            (PathState::Directory { .. }, _) => bail!("a folder stands there and is left alone; remove it first"),
            (PathState::File { .. } | PathState::Other, _) => {
                bail!("a file stands there and is left alone; remove it first")
            }
        })
    }

    fn expect(&self, world: &mut World) {
        let state = match &self.target {
            Some(target) => PathState::Link { target: target.clone() },
            None => PathState::Absent,
        };
        world.expect_path(&self.path, state);
    }

    fn apply(&self, _observed: &PathState, _site: &mut Site) -> Result<()> {
        match &self.target {
            Some(target) => place::link(&self.path, target),
            None => fs::remove_file(&self.path).context("removing it"),
        }
    }
}
