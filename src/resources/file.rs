//! `file`: one regular file, its content, permissions and owner. Also what `template` becomes once it is rendered.
//!
//! Does not change: the folder it is in (declare a `directory`), extended attributes, times. A second run is a no-op
//! because the content is compared by digest and the rest by value.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::mode::{self, FileMode, Presence};
use super::text_diff::{Disclosure, MAX_DIFF_BYTES, content_change};
use super::{
    ApplyContext, BlobSource, Content, ContentKey, ContentSource, Diff, HostView, PathMeta, PathState, ReadOutcome,
    Resource, atomic_file, content_check, de_string,
};
use crate::host_fs;
use crate::plan::{AttributeChange, Digest};

/// Desired state of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileResource {
    /// Absolute path on the host.
    pub dest: PathBuf,
    /// Its content: `src = "a file beside the playbooks"` or `content = "text"`.
    pub content: Option<Content>,
    /// Permissions, as in `"0644"`.
    #[serde(default = "FileMode::default_file")]
    pub mode: FileMode,
    /// The owning user.
    #[serde(default = "mode::default_owner")]
    pub owner: String,
    /// The owning group; the owner's name if absent.
    pub group: Option<String>,
    /// `true`: diffs show a length, and a digest under the inventory's key, instead of the text.
    #[serde(default, deserialize_with = "de_string::required")]
    pub sensitive: bool,
    /// Program and arguments that check new content before it replaces the file; `%s` is the path of a copy. The file
    /// stays as it is if the program ends with another status than 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validate: Vec<String>,
    /// `"absent"` removes the file.
    #[serde(default)]
    pub state: Presence,
}

const NOT_A_FILE: &str = "a folder or a device is at this path; remove it first";

/// Observed state of the path. If the change is shown as a diff, the bytes of the file are read again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObservedFile {
    state: PathState,
    /// The text now; only where it differs from what is wanted and may be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl Resource for FileResource {
    const KIND: &'static str = "file";
    const SECRET_FIELDS: &'static [&'static str] = &["content"];
    const CONTENTS: &'static [ContentKey] = &[
        ContentKey { playbook_key: "src", field: "content", source: ContentSource::File },
        ContentKey { playbook_key: "content", field: "content", source: ContentSource::Inline },
    ];
    type Observed = ObservedFile;

    fn key(&self) -> String {
        self.dest.display().to_string()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![format!("path {}", self.dest.display())]
    }

    fn validate(&self) -> Result<(), String> {
        atomic_file::check_path("dest", &self.dest)?;
        mode::check_owner(&self.owner, self.group.as_deref())?;
        content_check::check_argv(&self.validate)?;
        match (self.state, &self.content) {
            (Presence::Present, None) => Err("a file needs `src` or `content` (or state = \"absent\")".to_owned()),
            (Presence::Absent, Some(_)) => Err("a file with state = \"absent\" takes no content".to_owned()),
            _ => Ok(()),
        }
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedFile>> {
        if self.content.is_some() {
            view.require_folder(&self.dest)?;
        }
        self.read_state(view)
    }

    fn required_blobs(&self, observed: &ObservedFile) -> Vec<Digest> {
        match (&observed.state, &self.content) {
            (PathState::File { digest, .. }, Some(content)) if *digest == content.digest => Vec::new(),
            (_, Some(content)) => vec![content.digest.clone()],
            (_, None) => Vec::new(),
        }
    }

    fn diff(&self, observed: &ObservedFile, blobs: &dyn BlobSource) -> Result<Diff> {
        let Some(content) = &self.content else {
            return Ok(match &observed.state {
                PathState::Absent => Diff::none(),
                PathState::File { digest, .. } => {
                    let shown = self.disclosure(blobs).describe_digest(digest);
                    Diff::remove(vec![AttributeChange::to_absent("content", shown)])
                }
                PathState::Link { target } => {
                    Diff::remove(vec![AttributeChange::to_absent("target", target.display())])
                }
                PathState::Directory { .. } | PathState::Other => anyhow::bail!("{NOT_A_FILE}"),
            });
        };
        let meta = self.target_meta();
        Ok(match &observed.state {
            PathState::Absent => {
                let mut changes =
                    vec![content_change(None, &blobs.read_blob(&content.digest)?, self.disclosure(blobs))];
                changes.extend(mode::new_path_changes(&meta));
                Diff::add(changes)
            }
            PathState::File { digest, meta: now } => {
                let mut changes = Vec::new();
                if *digest != content.digest {
                    changes.push(self.content_edit(
                        digest,
                        observed.text.as_deref(),
                        &blobs.read_blob(&content.digest)?,
                        self.disclosure(blobs),
                    ));
                }
                changes.extend(mode::diff_meta(now, &meta));
                Diff::change(changes)
            }
            PathState::Link { target } => {
                let mut changes = vec![AttributeChange::new("type", format!("link to {}", target.display()), "file")];
                changes.push(content_change(None, &blobs.read_blob(&content.digest)?, self.disclosure(blobs)));
                changes.extend(mode::new_path_changes(&meta));
                Diff::change(changes)
            }
            PathState::Directory { .. } | PathState::Other => anyhow::bail!("{NOT_A_FILE}"),
        })
    }

    fn predict_state(&self, view: &mut HostView) {
        let state = match &self.content {
            None => PathState::Absent,
            Some(content) => PathState::File { digest: content.digest.clone(), meta: self.target_meta() },
        };
        view.predict_path(&self.dest, state);
    }

    fn apply(&self, observed: &ObservedFile, context: &mut ApplyContext) -> Result<()> {
        let Some(content) = &self.content else {
            return Ok(host_fs::remove_file(&self.dest)?);
        };
        let meta = self.target_meta();
        match &observed.state {
            PathState::File { digest, .. } if *digest == content.digest => {
                atomic_file::set_ownership(&self.dest, &meta)
            }
            _ => {
                let bytes = context.read_content(&content.digest)?;
                content_check::run(&self.validate, &self.dest, &bytes, self.sensitive)?;
                atomic_file::write_file(&self.dest, &bytes, &meta)
            }
        }
    }
}

impl FileResource {
    fn target_meta(&self) -> PathMeta {
        mode::path_meta(self.mode, &self.owner, self.group.as_deref())
    }

    /// Reads the state of the path, whether or not its folder exists.
    ///
    /// # Errors
    /// Returns the error of the system, or an error if the owner is unknown.
    pub(super) fn read_state(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedFile>> {
        let what = format!("path {}", self.dest.display());
        let state = view.path_state_of_length(&self.dest, self.content.as_ref().map(|content| content.len))?;
        if state == PathState::Absent
            && let Some(arrival) = view.provided_by(&what)
        {
            return Ok(ReadOutcome::UnknownUntilApply(format!("the file comes with package {}", arrival.package)));
        }
        if self.content.is_some() {
            view.require_accounts(&self.target_meta())?;
        }
        let text = match (&state, &self.content) {
            (PathState::File { digest, .. }, Some(content)) if *digest != content.digest && !self.sensitive => {
                view.read_text_up_to(&self.dest, MAX_DIFF_BYTES)?
            }
            _ => None,
        };
        Ok(ReadOutcome::Known(ObservedFile { state, text }))
    }

    fn disclosure<'b>(&self, blobs: &'b dyn BlobSource) -> Disclosure<'b> {
        Disclosure { is_sensitive: self.sensitive, key: blobs.digest_key() }
    }

    fn content_edit(
        &self,
        from: &Digest,
        text: Option<&str>,
        to: &[u8],
        disclosure: Disclosure<'_>,
    ) -> AttributeChange {
        match text {
            Some(text) => content_change(Some(text.as_bytes()), to, disclosure),
            None => {
                let (from, to) = (disclosure.describe_digest(from), disclosure.describe_bytes(to));
                AttributeChange::new("content", from, to)
            }
        }
    }
}
