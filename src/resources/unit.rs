//! `unit`: a systemd unit file, or a drop-in of one, in `/etc/systemd/system`.
//!
//! Leaves alone: whether the unit is enabled or runs (a `service` step says that), units of packages. systemd is told
//! once to read its files again, before the next service is touched or at the end. A second run is a no-op because the
//! file is compared as `file` does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::file::{self, File};
use super::mode::{self, Mode, Presence};
use super::{Blobs, Content, ContentKey, Diff, PathState, Read, Resource, Site, Source, UnitState, World, template_of};
use crate::plan::Digest;

/// Where an administrator's units are.
const FOLDER: &str = "/etc/systemd/system";

/// Where units come from besides; see systemd.unit(5).
const OTHER_FOLDERS: [&str; 4] =
    ["/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// What a unit's name ends with.
const SUFFIXES: [&str; 9] = ["service", "socket", "timer", "path", "mount", "automount", "target", "slice", "swap"];

/// The desired state of a unit file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    /// `app.service`, `app@.service`, or the drop-in `app.service.d/10-limits.conf`.
    pub name: String,
    /// Its text: `src = "a template"` or `content = "text"`.
    pub content: Option<Content>,
    /// `"absent"` removes it.
    #[serde(default)]
    pub state: Presence,
}

impl Resource for Unit {
    const KIND: &'static str = "unit";
    const CONTENTS: &'static [ContentKey] = &[
        ContentKey { toml: "src", field: "content", source: Source::Template },
        ContentKey { toml: "content", field: "content", source: Source::Inline },
    ];
    type Observed = file::Observed;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn owns(&self) -> Vec<String> {
        Resource::owns(&self.file())
    }

    fn validate(&self) -> Result<(), String> {
        let (unit, drop_in) = self.parts();
        check_name(unit)?;
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

    fn read(&self, world: &mut World) -> Result<Read<file::Observed>> {
        self.file().observe(world)
    }

    fn needs(&self, observed: &file::Observed) -> Vec<Digest> {
        Resource::needs(&self.file(), observed)
    }

    fn diff(&self, observed: &file::Observed, blobs: &dyn Blobs) -> Result<Diff> {
        Resource::diff(&self.file(), observed, blobs)
    }

    fn expect(&self, world: &mut World) {
        let (unit, drop_in) = self.parts();
        let file = self.file();
        if drop_in.is_none() {
            let elsewhere = OTHER_FOLDERS.iter().any(|folder| Path::new(folder).join(unit).exists());
            let now = world.path(&file.dest).unwrap_or(PathState::Absent);
            match (self.state, now) {
                // A unit that is there keeps what is known of it.
                (Presence::Present, PathState::File { .. }) => {}
                (Presence::Present, PathState::Absent) if elsewhere => {}
                (Presence::Present, _) => world.expect_unit(unit, UnitState::fresh()),
                (Presence::Absent, _) if elsewhere => {}
                (Presence::Absent, _) => world.expect_unit(unit, UnitState::absent()),
            }
        } else if let Some(folder) = file.dest.parent()
            && self.state == Presence::Present
        {
            let meta = mode::meta(Mode::directory(), "root", None);
            if matches!(world.path(folder), Ok(PathState::Absent)) {
                world.expect_path(folder, PathState::Directory { meta });
            }
        }
        Resource::expect(&file, world);
    }

    fn apply(&self, observed: &file::Observed, site: &mut Site) -> Result<()> {
        let file = self.file();
        if self.parts().1.is_some()
            && let Some(folder) = file.dest.parent()
        {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        Resource::apply(&file, observed, site)?;
        site.owe_reload();
        Ok(())
    }
}

impl Unit {
    /// The unit's name and, for a drop-in, the name of its file.
    fn parts(&self) -> (&str, Option<&str>) {
        match self.name.split_once(".d/") {
            Some((unit, drop_in)) => (unit, Some(drop_in)),
            None => (&self.name, None),
        }
    }

    /// The file that it is.
    fn file(&self) -> File {
        File {
            dest: PathBuf::from(FOLDER).join(&self.name),
            content: self.content.clone(),
            mode: Mode::file(),
            owner: mode::root(),
            group: None,
            sensitive: false,
            state: self.state,
        }
    }
}

/// Refuses what is no name of a unit: no known suffix, characters that systemd.unit(5) does not allow.
///
/// # Errors
/// What is wrong, in one sentence.
pub fn check_name(name: &str) -> Result<(), String> {
    let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix);
    if !suffix.is_some_and(|suffix| SUFFIXES.contains(&suffix)) {
        return Err(format!("a unit's name ends with its kind, as in \"{name}.service\""));
    }
    let allowed = name.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c));
    if !allowed || name.starts_with(['-', '.']) || name.len() > 255 {
        return Err(format!("\"{name}\" is no name of a unit: letters, digits and : - _ . \\ @ are allowed"));
    }
    Ok(())
}

/// Is it a template that has no instance of its own, `app@.service`?
pub fn is_template(name: &str) -> bool {
    name.contains("@.") && template_of(name).is_none()
}
