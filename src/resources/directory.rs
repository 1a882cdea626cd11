//! `directory`: one folder, its permissions and owner.
//!
//! Does not change: what is in it. Its own folder must be there, unless `parents = true`: then the missing ones are
//! made for root with mode 0755. A second run is a no-op because mode and owner are compared by value.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::mode::{self, FileMode, Presence};
use super::{
    ApplyContext, BlobSource, Diff, HostView, PathMeta, PathState, ReadOutcome, Resource, atomic_file, de_string,
};
use crate::host_fs::HostFolder;
use crate::plan::{AttributeChange, Digest};

/// Desired state of a folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryResource {
    /// Absolute path on the host.
    pub path: PathBuf,
    /// Permissions, as in `"0755"`.
    #[serde(default = "FileMode::default_directory")]
    pub mode: FileMode,
    /// The owning user.
    #[serde(default = "mode::default_owner")]
    pub owner: String,
    /// The owning group; the owner's name if absent.
    pub group: Option<String>,
    /// `"absent"` removes it.
    #[serde(default)]
    pub state: Presence,
    /// Make the missing folders above it too, for root with mode 0755.
    #[serde(default, deserialize_with = "de_string::required")]
    pub parents: bool,
    /// With `state = "absent"`: remove what is in it too.
    #[serde(default, deserialize_with = "de_string::required")]
    pub recurse: bool,
}

/// Observed state of the path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObservedDirectory {
    state: PathState,
    /// The missing folders above it, topmost first; only where `parents` is set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    missing_parents: Vec<PathBuf>,
    /// Number of entries below the directory; only for a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry_count: Option<usize>,
    /// Digest of those entries: others of the same number were not in the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entries_digest: Option<Digest>,
}

impl Resource for DirectoryResource {
    const KIND: &'static str = "directory";
    type Observed = ObservedDirectory;

    fn key(&self) -> String {
        self.path.display().to_string()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![format!("path {}", self.path.display())]
    }

    fn validate(&self) -> Result<(), String> {
        atomic_file::check_path("path", &self.path)?;
        mode::check_owner(&self.owner, self.group.as_deref())?;
        match self.state {
            Presence::Present if self.recurse => {
                Err("`recurse` is for state = \"absent\": it removes the contents of the folder".to_owned())
            }
            Presence::Absent if self.parents => {
                Err("`parents` creates folders; it is not allowed with state = \"absent\"".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedDirectory>> {
        let state = view.path_state(&self.path)?;
        let mut observed =
            ObservedDirectory { state, missing_parents: Vec::new(), entry_count: None, entries_digest: None };
        if self.state == Presence::Absent {
            if let PathState::Directory { .. } = observed.state {
                observed.entry_count = Some(view.count_entries(&self.path)?);
                observed.entries_digest = Some(view.digest_entries(&self.path)?);
            }
            return Ok(ReadOutcome::Known(observed));
        }
        if observed.state == PathState::Absent
            && let Some(arrival) = view.provided_by(&format!("path {}", self.path.display()))
        {
            return Ok(ReadOutcome::UnknownUntilApply(format!("the folder comes with package {}", arrival.package)));
        }
        view.require_accounts(&self.target_meta())?;
        if self.parents {
            observed.missing_parents = view.missing_folders(&self.path)?;
            for folder in &observed.missing_parents {
                if view.path_state(folder)? != PathState::Absent {
                    bail!("{} is not a folder", folder.display());
                }
            }
        } else {
            view.require_folder(&self.path)?;
        }
        Ok(ReadOutcome::Known(observed))
    }

    fn diff(&self, observed: &ObservedDirectory, _blobs: &dyn BlobSource) -> Result<Diff> {
        match (self.state, &observed.state) {
            (Presence::Absent, PathState::Absent) => Ok(Diff::none()),
            (Presence::Absent, PathState::Directory { .. }) => self.plan_removal(observed),
            (Presence::Present, PathState::Absent) => {
                let mut changes = mode::new_path_changes(&self.target_meta());
                changes.extend(
                    observed
                        .missing_parents
                        .iter()
                        .map(|folder| AttributeChange::from_absent("parent", folder.display())),
                );
                Ok(Diff::add(changes))
            }
            (Presence::Present, PathState::Directory { meta }) => {
                Ok(Diff::change(mode::diff_meta(meta, &self.target_meta())))
            }
            (_, PathState::Link { target }) => {
                bail!("a link to {} is at this path; dunlin does not replace it", target.display())
            }
            (_, PathState::File { .. } | PathState::Other) => {
                bail!("a file is at this path; remove it first")
            }
        }
    }

    fn predict_state(&self, view: &mut HostView) {
        if self.state == Presence::Absent {
            return view.predict_path(&self.path, PathState::Absent);
        }
        if self.parents {
            for folder in view.missing_folders(&self.path).unwrap_or_default() {
                view.predict_path(&folder, PathState::Directory { meta: default_parent_meta() });
            }
        }
        view.predict_path(&self.path, PathState::Directory { meta: self.target_meta() });
    }

    fn apply(&self, observed: &ObservedDirectory, _context: &mut ApplyContext) -> Result<()> {
        if self.state == Presence::Absent {
            let (parent, name) = HostFolder::open_parent(&self.path)?;
            return Ok(if self.recurse { parent.remove_tree(name) } else { parent.remove_folder(name) }?);
        }
        for folder in &observed.missing_parents {
            atomic_file::create_directory(folder, &default_parent_meta())?;
        }
        match observed.state {
            PathState::Absent => atomic_file::create_directory(&self.path, &self.target_meta()),
            _ => atomic_file::set_ownership(&self.path, &self.target_meta()),
        }
    }
}

impl DirectoryResource {
    fn target_meta(&self) -> PathMeta {
        mode::path_meta(self.mode, &self.owner, self.group.as_deref())
    }

    fn plan_removal(&self, observed: &ObservedDirectory) -> Result<Diff> {
        let entries = observed.entry_count.unwrap_or(0);
        if entries == 0 {
            return Ok(Diff::remove(Vec::new()));
        }
        if !self.recurse {
            let noun = if entries == 1 { "entry" } else { "entries" };
            bail!("the folder is not empty ({entries} {noun}); `recurse = true` also removes its contents");
        }
        let listing = observed.entries_digest.as_ref().map(|digest| format!(" (listing {})", digest.short_hex()));
        let shown = format!("{entries}{}", listing.unwrap_or_default());
        Ok(Diff::remove(vec![AttributeChange::to_absent("entries", shown)]))
    }
}

fn default_parent_meta() -> PathMeta {
    mode::path_meta(FileMode::default_directory(), "root", None)
}
