//! `unit`: a systemd unit file, or a drop-in of one, in `/etc/systemd/system`.
//!
//! Does not change: whether the unit is enabled or runs (see `service`), units of packages. systemd is
//! reloaded once, before the next `service` step or at the end. A second run is a no-op because the
//! file is compared as `file` does.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::file::{self, FileResource};
use super::mode::{self, FileMode, Presence};
use super::{
    ApplyContext, BlobSource, Content, ContentKey, ContentSource, Diff, HostView, PathState, ReadOutcome, Resource,
    UnitState, de_string, template_of,
};
use crate::host_fs;
use crate::plan::Digest;

/// Folder of the administrator's units.
const UNIT_DIR: &str = "/etc/systemd/system";

/// Other folders that systemd reads units from; see systemd.unit(5).
const OTHER_UNIT_DIRS: [&str; 4] =
    ["/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// Suffixes of unit names.
const UNIT_SUFFIXES: [&str; 9] =
    ["service", "socket", "timer", "path", "mount", "automount", "target", "slice", "swap"];

/// Desired state of a unit file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitResource {
    /// `app.service`, `app@.service`, or the drop-in `app.service.d/10-limits.conf`.
    pub name: String,
    /// Its text: `src = "a template"` or `content = "text"`.
    pub content: Option<Content>,
    /// `"absent"` removes it.
    #[serde(default)]
    pub state: Presence,
    /// `true`: diffs show a digest and a length instead of the text, and the file is for root alone.
    #[serde(default, deserialize_with = "de_string::required")]
    pub sensitive: bool,
}

impl Resource for UnitResource {
    const KIND: &'static str = "unit";
    const SECRET_FIELDS: &'static [&'static str] = &["content"];
    const CONTENTS: &'static [ContentKey] = &[
        ContentKey { playbook_key: "src", field: "content", source: ContentSource::Template },
        ContentKey { playbook_key: "content", field: "content", source: ContentSource::Inline },
    ];
    type Observed = file::ObservedFile;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        Resource::exclusive_claims(&self.to_file())
    }

    fn validate(&self) -> Result<(), String> {
        let (unit, drop_in) = self.split_name();
        check_unit_name(unit)?;
        if let Some(drop_in) = drop_in
            && (!drop_in.ends_with(".conf") || drop_in.contains('/') || drop_in.starts_with('.'))
        {
            return Err(format!("a drop-in's file ends with .conf, as in \"{unit}.d/10-limits.conf\""));
        }
        match (self.state, &self.content) {
            (Presence::Present, None) => Err("a unit needs `src` or `content` (or state = \"absent\")".to_owned()),
            (Presence::Absent, Some(_)) => Err("a unit with state = \"absent\" takes no content".to_owned()),
            _ => Ok(()),
        }
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<file::ObservedFile>> {
        self.to_file().read_state(view)
    }

    fn required_blobs(&self, observed: &file::ObservedFile) -> Vec<Digest> {
        Resource::required_blobs(&self.to_file(), observed)
    }

    fn diff(&self, observed: &file::ObservedFile, blobs: &dyn BlobSource) -> Result<Diff> {
        Resource::diff(&self.to_file(), observed, blobs)
    }

    fn predict_state(&self, view: &mut HostView) {
        let (unit, drop_in) = self.split_name();
        let file = self.to_file();
        if drop_in.is_none() {
            let elsewhere = OTHER_UNIT_DIRS.iter().any(|folder| Path::new(folder).join(unit).exists());
            let now = view.path_state(&file.dest).unwrap_or(PathState::Absent);
            match (self.state, now) {
                // An existing unit keeps its known state.
                (Presence::Present, PathState::File { .. }) => {}
                (Presence::Present, PathState::Absent) if elsewhere => {}
                (Presence::Present, _) => view.predict_unit(unit, UnitState::new_disabled()),
                (Presence::Absent, _) if elsewhere => {}
                (Presence::Absent, _) => view.predict_unit(unit, UnitState::absent()),
            }
        } else if let Some(folder) = file.dest.parent()
            && self.state == Presence::Present
        {
            let meta = mode::path_meta(FileMode::default_directory(), "root", None);
            if matches!(view.path_state(folder), Ok(PathState::Absent)) {
                view.predict_path(folder, PathState::Directory { meta });
            }
        }
        Resource::predict_state(&file, view);
    }

    fn apply(&self, observed: &file::ObservedFile, context: &mut ApplyContext) -> Result<()> {
        let file = self.to_file();
        if self.split_name().1.is_some()
            && let Some(folder) = file.dest.parent()
        {
            host_fs::ensure_folder(folder, FileMode::default_directory().0)?;
        }
        Resource::apply(&file, observed, context)?;
        context.require_reload();
        Ok(())
    }
}

impl UnitResource {
    /// Returns the unit's name and, for a drop-in, the name of its file.
    fn split_name(&self) -> (&str, Option<&str>) {
        match self.name.split_once(".d/") {
            Some((unit, drop_in)) => (unit, Some(drop_in)),
            None => (&self.name, None),
        }
    }

    /// Returns it as a file.
    fn to_file(&self) -> FileResource {
        FileResource {
            dest: PathBuf::from(UNIT_DIR).join(&self.name),
            content: self.content.clone(),
            mode: if self.sensitive { FileMode(0o600) } else { FileMode::default_file() },
            owner: mode::default_owner(),
            group: None,
            sensitive: self.sensitive,
            validate: Vec::new(),
            state: self.state,
        }
    }
}

/// Refuses what is not a valid unit name: no known suffix, characters that systemd.unit(5) does not allow.
///
/// # Errors
/// Returns a description of the problem, in one sentence.
pub fn check_unit_name(name: &str) -> Result<(), String> {
    let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix);
    if !suffix.is_some_and(|suffix| UNIT_SUFFIXES.contains(&suffix)) {
        return Err(format!("a unit's name ends with its kind, as in \"{name}.service\""));
    }
    let allowed = name.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c));
    if !allowed || name.starts_with(['-', '.']) || name.len() > 255 {
        return Err(format!("\"{name}\" is not a valid unit name: letters, digits and : - _ . \\ @ are allowed"));
    }
    Ok(())
}

/// Returns whether a name is a template without an instance, such as `app@.service`.
pub fn is_template(name: &str) -> bool {
    name.contains("@.") && template_of(name).is_none()
}
