//! `line`: one line in a file that other programs or people also edit.
//!
//! Does not change: all other lines, the file's permissions and owner. The last line that `match` finds is
//! replaced. Without one, the line is inserted after the last line that `insert_after` finds, or at the end. `match`
//! must also match the new line, so that a second run finds it and is a no-op.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::mode::{self, FileMode, Presence};
use super::text_diff::{Disclosure, content_change};
use super::{
    ApplyContext, BlobSource, Diff, HostView, PathMeta, PathState, ReadOutcome, Resource, atomic_file, de_string,
};
use crate::plan::Digest;

/// Desired state of a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineResource {
    /// The file: an absolute path.
    pub path: PathBuf,
    /// The line, without its end.
    pub line: Option<String>,
    /// Regular expression of the line to replace; with `state = "absent"`, of the lines to remove.
    #[serde(rename = "match")]
    pub matches: Option<String>,
    /// Regular expression; a new line is inserted after the last line that matches.
    pub insert_after: Option<String>,
    /// `"absent"` removes the lines that `match` finds, or those equal to `line`.
    #[serde(default)]
    pub state: Presence,
    /// Create the file if it does not exist.
    #[serde(default, deserialize_with = "de_string::required")]
    pub create: bool,
    /// Permissions of a new file.
    #[serde(default = "FileMode::default_file")]
    pub mode: FileMode,
    /// Owner of a new file.
    #[serde(default = "mode::default_owner")]
    pub owner: String,
    /// Group of a new file; the owner's name if absent.
    pub group: Option<String>,
    /// `true`: show digest and length instead of the text.
    #[serde(default, deserialize_with = "de_string::required")]
    pub sensitive: bool,
    /// The texts of the playbook by key, filled in where a value depends on a secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub display: BTreeMap<String, String>,
}

/// Observed state of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObservedLine {
    state: PathState,
    /// The file's text; only where the line is not as wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl Resource for LineResource {
    const KIND: &'static str = "line";
    const SECRET_FIELDS: &'static [&'static str] = &["line", "match"];
    type Observed = ObservedLine;

    fn key(&self) -> String {
        let source = self.display.get("match").or_else(|| self.display.get("line"));
        let line = source.or(self.matches.as_ref()).or(self.line.as_ref()).map_or("", String::as_str);
        if self.sensitive && source.is_none() && self.matches.is_none() {
            return format!("{} a hidden line of {} bytes", self.path.display(), line.len());
        }
        format!("{} {line}", self.path.display())
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![format!("line {}", self.key())]
    }

    fn shared_claims(&self) -> Vec<String> {
        vec![format!("path {}", self.path.display())]
    }

    fn validate(&self) -> Result<(), String> {
        atomic_file::check_path("path", &self.path)?;
        mode::check_owner(&self.owner, self.group.as_deref())?;
        let matches = compile_regex("match", self.matches.as_deref())?;
        compile_regex("insert_after", self.insert_after.as_deref())?;
        match (&self.line, self.state) {
            (Some(line), _) if line.contains(['\n', '\r']) => {
                Err("line must be one line; use one step for each".to_owned())
            }
            (None, Presence::Present) => Err("`line` is missing".to_owned()),
            (None, Presence::Absent) if matches.is_none() => {
                Err("name the lines to remove with `match` or `line`".to_owned())
            }
            (Some(line), Presence::Present) => match matches {
                Some(matches) if !matches.is_match(line) => Err(format!(
                    "`match` must also match `line`: {:?} does not match {line:?}, so each run would change the file again",
                    matches.as_str()
                )),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedLine>> {
        let state = view.path_state(&self.path)?;
        match &state {
            PathState::File { .. } => {}
            PathState::Absent => return self.read_absent(view),
            PathState::Link { target } => {
                bail!("the path is a link to {}; name the file itself", target.display())
            }
            PathState::Directory { .. } | PathState::Other => bail!("the path is not a regular file"),
        }
        let Some(bytes) = view.read_content(&self.path)? else {
            return Ok(ReadOutcome::UnknownUntilApply("an earlier step writes the whole file".to_owned()));
        };
        let text = String::from_utf8(bytes).context("the file is not UTF-8 text")?;
        let differs = self.edit_text(&text)?.is_some();
        Ok(ReadOutcome::Known(ObservedLine { state, text: differs.then_some(text) }))
    }

    fn diff(&self, observed: &ObservedLine, blobs: &dyn BlobSource) -> Result<Diff> {
        let disclosure = Disclosure { is_sensitive: self.sensitive, key: blobs.digest_key() };
        let meta = self.new_file_meta();
        Ok(match (&observed.text, &observed.state) {
            (Some(text), _) => match self.edit_text(text)? {
                Some(edited) => {
                    Diff::change(vec![content_change(Some(text.as_bytes()), edited.as_bytes(), disclosure)])
                }
                None => Diff::none(),
            },
            (None, PathState::Absent) if self.state == Presence::Present => {
                let content = self.edit_text("")?.unwrap_or_default();
                let mut changes = vec![content_change(None, content.as_bytes(), disclosure)];
                changes.extend(mode::new_path_changes(&meta));
                Diff::add(changes)
            }
            (None, _) => Diff::none(),
        })
    }

    fn predict_state(&self, view: &mut HostView) {
        // What cannot be read here could not be read for the diff either, and this step is unknown.
        let (Ok(state), Ok(content)) = (view.path_state(&self.path), view.read_content(&self.path)) else { return };
        let (text, meta) = match (state, content.map(String::from_utf8)) {
            (PathState::File { meta, .. }, Some(Ok(text))) => (text, meta),
            (PathState::Absent, _) if self.state == Presence::Present => (String::new(), self.new_file_meta()),
            _ => return,
        };
        if let Ok(Some(edited)) = self.edit_text(&text) {
            view.predict_path(&self.path, PathState::File { digest: Digest::of_bytes(edited.as_bytes()), meta });
            view.predict_content(&self.path, edited.into_bytes());
        }
    }

    fn apply(&self, observed: &ObservedLine, _context: &mut ApplyContext) -> Result<()> {
        let (text, meta) = match (&observed.state, &observed.text) {
            (PathState::File { meta, .. }, Some(text)) => (text.as_str(), meta.clone()),
            _ => ("", self.new_file_meta()),
        };
        match self.edit_text(text)? {
            Some(edited) => atomic_file::write_file(&self.path, edited.as_bytes(), &meta),
            None => Ok(()),
        }
    }
}

impl LineResource {
    fn new_file_meta(&self) -> PathMeta {
        mode::path_meta(self.mode, &self.owner, self.group.as_deref())
    }

    fn read_absent(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedLine>> {
        if let Some(arrival) = view.provided_by(&format!("path {}", self.path.display())) {
            return Ok(ReadOutcome::UnknownUntilApply(format!("the file comes with package {}", arrival.package)));
        }
        let known = Ok(ReadOutcome::Known(ObservedLine { state: PathState::Absent, text: None }));
        if self.state == Presence::Absent {
            return known;
        }
        if self.create {
            view.require_folder(&self.path)?;
            view.require_accounts(&self.new_file_meta())?;
            return known;
        }
        match view.unknown_until_apply() {
            Some(surprise) => Ok(ReadOutcome::UnknownUntilApply(format!("the file may come with {surprise}"))),
            None => bail!("the file does not exist; `create = true` creates it"),
        }
    }

    /// Returns the text with the line as desired; `None` if it already is.
    fn edit_text(&self, text: &str) -> Result<Option<String>> {
        let matches = compile_regex("match", self.matches.as_deref()).map_err(anyhow::Error::msg)?;
        let wanted = self.line.as_deref().unwrap_or_default();
        // A file with the line ends of Windows keeps them.
        let has_crlf = text.lines().next().is_some_and(|first| text[first.len()..].starts_with("\r\n"));
        let written = if has_crlf { format!("{wanted}\r") } else { wanted.to_owned() };
        let is_match = |line: &str| {
            let line = line.strip_suffix('\r').unwrap_or(line);
            matches.as_ref().map_or(line == wanted, |matches| matches.is_match(line))
        };
        let mut lines: Vec<&str> = text.split_terminator('\n').collect();
        let before = lines.len();
        match self.state {
            Presence::Absent => {
                lines.retain(|line| !is_match(line));
                if lines.len() == before {
                    return Ok(None);
                }
            }
            Presence::Present => match lines.iter().rposition(|line| is_match(line)) {
                Some(at) if lines[at] == written => return Ok(None),
                Some(at) => lines[at] = &written,
                None => lines.insert(self.insert_position(&lines)?, &written),
            },
        }
        let mut edited = lines.join("\n");
        if !lines.is_empty() {
            edited.push('\n');
        }
        Ok(Some(edited))
    }

    /// Returns the index at which a new line is inserted.
    fn insert_position(&self, lines: &[&str]) -> Result<usize> {
        let after = compile_regex("insert_after", self.insert_after.as_deref()).map_err(anyhow::Error::msg)?;
        let found = after
            .and_then(|after| lines.iter().rposition(|line| after.is_match(line.strip_suffix('\r').unwrap_or(line))));
        Ok(found.map_or(lines.len(), |at| at + 1))
    }
}

fn compile_regex(key: &str, pattern: Option<&str>) -> Result<Option<Regex>, String> {
    let compiled = pattern.map(Regex::new).transpose();
    compiled.map_err(|error| format!("`{key}` is not a regular expression: {error}"))
}
