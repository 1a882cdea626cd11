//! `link`: one symbolic link and its target. Owner and times of a link have no effect and are ignored.
//!
//! A second run is a no-op because the target is compared as it is written. Only links are replaced: a file or a folder
//! in the way is an error.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::mode::Presence;
use super::{ApplyContext, BlobSource, Diff, HostView, PathState, ReadOutcome, Resource, atomic_file};
use crate::host_fs;
use crate::plan::AttributeChange;

/// Desired state of a link.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkResource {
    /// Absolute path of the link.
    pub path: PathBuf,
    /// Target of the link, absolute or relative to its folder. The target need not exist.
    pub target: Option<PathBuf>,
    /// `"absent"` removes it.
    #[serde(default)]
    pub state: Presence,
}

impl Resource for LinkResource {
    const KIND: &'static str = "link";
    const SECRET_FIELDS: &'static [&'static str] = &["target"];
    type Observed = PathState;

    fn key(&self) -> String {
        self.path.display().to_string()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![format!("path {}", self.path.display())]
    }

    fn validate(&self) -> Result<(), String> {
        atomic_file::check_path("path", &self.path)?;
        match (self.state, &self.target) {
            (Presence::Present, None) => Err("a link needs a `target` (or state = \"absent\")".to_owned()),
            (Presence::Absent, Some(_)) => Err("a link with state = \"absent\" takes no target".to_owned()),
            (_, Some(target)) if target.as_os_str().is_empty() => Err("target must not be empty".to_owned()),
            _ => Ok(()),
        }
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<PathState>> {
        let state = view.path_state(&self.path)?;
        if self.state == Presence::Present && state == PathState::Absent {
            if let Some(arrival) = view.provided_by(&format!("path {}", self.path.display())) {
                return Ok(ReadOutcome::UnknownUntilApply(format!("the path comes with package {}", arrival.package)));
            }
            view.require_folder(&self.path)?;
        }
        Ok(ReadOutcome::Known(state))
    }

    fn diff(&self, observed: &PathState, _blobs: &dyn BlobSource) -> Result<Diff> {
        Ok(match (observed, &self.target) {
            (PathState::Absent, None) => Diff::none(),
            (PathState::Absent, Some(target)) => {
                Diff::add(vec![AttributeChange::from_absent("target", target.display())])
            }
            (PathState::Link { target }, None) => {
                Diff::remove(vec![AttributeChange::to_absent("target", target.display())])
            }
            // As it is written: `a/` and `a` are one Path, but two texts in a link.
            (PathState::Link { target: now }, Some(target)) if now.as_os_str() == target.as_os_str() => Diff::none(),
            (PathState::Link { target: now }, Some(target)) => {
                Diff::change(vec![AttributeChange::new("target", now.display(), target.display())])
            }
            (PathState::Directory { .. }, _) => bail!("a folder is at this path; remove it first"),
            (PathState::File { .. } | PathState::Other, _) => {
                bail!("a file is at this path; remove it first")
            }
        })
    }

    fn predict_state(&self, view: &mut HostView) {
        let state = match &self.target {
            Some(target) => PathState::Link { target: target.clone() },
            None => PathState::Absent,
        };
        view.predict_path(&self.path, state);
    }

    fn apply(&self, _observed: &PathState, _context: &mut ApplyContext) -> Result<()> {
        match &self.target {
            Some(target) => atomic_file::write_link(&self.path, target),
            None => Ok(host_fs::remove_file(&self.path)?),
        }
    }
}
