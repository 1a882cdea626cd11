//! `file`: one regular file, its content, permissions and owner. Also what `template` becomes once it is rendered.
//!
//! Leaves alone: the folder it is in (declare a `directory`), extended attributes, times. A second run is a no-op
//! because the content is compared by digest and the rest by value.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::mode::{self, Mode, Presence};
use super::text_diff::{content_change, describe};
use super::{Blobs, Content, ContentKey, Diff, Meta, PathState, Read, Resource, Site, Source, World, place, text};
use crate::plan::{Change, Digest};

/// The desired state of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where it stands: an absolute path.
    pub dest: PathBuf,
    /// Its content: `src = "a file beside the playbooks"` or `content = "text"`.
    pub content: Option<Content>,
    /// Permissions, as in `"0644"`.
    #[serde(default = "Mode::file")]
    pub mode: Mode,
    /// The owning user.
    #[serde(default = "mode::root")]
    pub owner: String,
    /// The owning group; the owner's name where it is not given.
    pub group: Option<String>,
    /// `true`: diffs show a digest and a length instead of the text.
    #[serde(default, deserialize_with = "text::required")]
    pub sensitive: bool,
    /// `"absent"` removes the file.
    #[serde(default)]
    pub state: Presence,
}

const NO_FILE: &str = "a folder or a device stands there and is left alone; remove it first";

/// What was there: the path's state and, where it is a file that will be shown as a diff, its bytes are read again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Observed {
    state: PathState,
    /// The text now; only where it differs from what is wanted and may be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl Resource for File {
    const KIND: &'static str = "file";
    const CONTENTS: &'static [ContentKey] = &[
        ContentKey { toml: "src", field: "content", source: Source::File },
        ContentKey { toml: "content", field: "content", source: Source::Inline },
    ];
    type Observed = Observed;

    fn key(&self) -> String {
        self.dest.display().to_string()
    }

    fn owns(&self) -> Vec<String> {
        vec![format!("path {}", self.dest.display())]
    }

    fn validate(&self) -> Result<(), String> {
        place::check("dest", &self.dest)?;
        mode::check_owner(&self.owner, self.group.as_deref())?;
        match (self.state, &self.content) {
            (Presence::Present, None) => Err("a file needs `src` or `content` (or state = \"absent\")".to_owned()),
            (Presence::Absent, Some(_)) => Err("a file with state = \"absent\" takes no content".to_owned()),
            _ => Ok(()),
        }
    }

    fn read(&self, world: &mut World) -> Result<Read<Observed>> {
        if self.content.is_some() {
            world.needs_folder(&self.dest)?;
        }
        self.observe(world)
    }

    fn needs(&self, observed: &Observed) -> Vec<Digest> {
        match (&observed.state, &self.content) {
            (PathState::File { digest, .. }, Some(content)) if *digest == content.digest => Vec::new(),
            (_, Some(content)) => vec![content.digest.clone()],
            (_, None) => Vec::new(),
        }
    }

    fn diff(&self, observed: &Observed, blobs: &dyn Blobs) -> Result<Diff> {
        let Some(content) = &self.content else {
            return Ok(match &observed.state {
                PathState::Absent => Diff::none(),
                PathState::File { digest, .. } => Diff::remove(vec![Change::gone("content", digest.short())]),
                PathState::Link { target } => Diff::remove(vec![Change::gone("target", target.display())]),
                PathState::Directory { .. } | PathState::Other => anyhow::bail!("{NO_FILE}"),
            });
        };
        let meta = self.meta();
        Ok(match &observed.state {
            PathState::Absent => {
                let mut changes = vec![content_change(None, &blobs.get(&content.digest)?, self.sensitive)];
                changes.extend(mode::meta_set(&meta));
                Diff::add(changes)
            }
            PathState::File { digest, meta: now } => {
                let mut changes = Vec::new();
                if *digest != content.digest {
                    changes.push(self.edited(digest, observed.text.as_deref(), &blobs.get(&content.digest)?));
                }
                changes.extend(mode::meta_changes(now, &meta));
                Diff::change(changes)
            }
            PathState::Link { target } => {
                let mut changes = vec![Change::new("type", format!("link to {}", target.display()), "file")];
                changes.push(content_change(None, &blobs.get(&content.digest)?, self.sensitive));
                changes.extend(mode::meta_set(&meta));
                Diff::change(changes)
            }
            PathState::Directory { .. } | PathState::Other => anyhow::bail!("{NO_FILE}"),
        })
    }

    fn expect(&self, world: &mut World) {
        let state = match &self.content {
            None => PathState::Absent,
            Some(content) => PathState::File { digest: content.digest.clone(), meta: self.meta() },
        };
        world.expect_path(&self.dest, state);
    }

    fn apply(&self, observed: &Observed, site: &mut Site) -> Result<()> {
        let Some(content) = &self.content else {
            return fs::remove_file(&self.dest).context("removing it");
        };
        let meta = self.meta();
        match &observed.state {
            PathState::File { digest, .. } if *digest == content.digest => place::own(&self.dest, &meta),
            _ => place::write(&self.dest, &site.content(&content.digest)?, &meta),
        }
    }
}

impl File {
    fn meta(&self) -> Meta {
        mode::meta(self.mode, &self.owner, self.group.as_deref())
    }

    /// What stands there, whether or not its folder does.
    ///
    /// # Errors
    /// What the system answered; an owner that is unknown.
    pub(super) fn observe(&self, world: &mut World) -> Result<Read<Observed>> {
        let what = format!("path {}", self.dest.display());
        let state = world.path(&self.dest)?;
        if state == PathState::Absent
            && let Some(arrival) = world.arrival(&what)
        {
            return Ok(Read::Unknown(format!("the file comes with package {}", arrival.package)));
        }
        if self.content.is_some() {
            world.needs_accounts(&self.meta())?;
        }
        let text = match (&state, &self.content) {
            (PathState::File { digest, .. }, Some(content)) if *digest != content.digest && !self.sensitive => {
                world.content(&self.dest)?.and_then(|bytes| String::from_utf8(bytes).ok())
            }
            _ => None,
        };
        Ok(Read::Known(Observed { state, text }))
    }

    fn edited(&self, from: &Digest, text: Option<&str>, to: &[u8]) -> Change {
        match text {
            Some(text) => content_change(Some(text.as_bytes()), to, self.sensitive),
            None => Change::new("content", from.short(), describe(to)),
        }
    }
}
