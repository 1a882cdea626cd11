//! `line`: one line in a file that somebody else looks after too.
//!
//! Leaves alone: all other lines, the file's permissions and owner. With `match`, the last line that it finds is
//! replaced; else the line is put after the last one that `after` finds, or at the end. `match` must find the line that
//! is wanted too: so a second run finds the line where the first one put it, and is a no-op.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::mode::{self, Mode, Presence};
use super::text_diff::content_change;
use super::{Blobs, Diff, Meta, PathState, Read, Resource, Site, World, place, text};
use crate::plan::Digest;

/// The desired state of a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The file: an absolute path.
    pub path: PathBuf,
    /// The line, without its end.
    pub line: Option<String>,
    /// A regular expression for the line that it replaces; with `state = "absent"`, for the lines to remove.
    #[serde(rename = "match")]
    pub matches: Option<String>,
    /// A regular expression: where no line is replaced, the new one is put after the last that this finds.
    pub after: Option<String>,
    /// `"absent"` removes the lines that `match` finds, or those equal to `line`.
    #[serde(default)]
    pub state: Presence,
    /// Make the file where there is none.
    #[serde(default, deserialize_with = "text::required")]
    pub create: bool,
    /// Permissions of a file that is made.
    #[serde(default = "Mode::file")]
    pub mode: Mode,
    /// Owner of a file that is made.
    #[serde(default = "mode::root")]
    pub owner: String,
    /// Group of a file that is made; the owner's name where it is not given.
    pub group: Option<String>,
    /// `true`: the difference is shown by digest and length only.
    #[serde(default, deserialize_with = "text::required")]
    pub sensitive: bool,
}

/// What was there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Observed {
    state: PathState,
    /// The file's text; only where the line is not as wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl Resource for Line {
    const KIND: &'static str = "line";
    type Observed = Observed;

    fn key(&self) -> String {
        let line = self.matches.as_ref().or(self.line.as_ref()).map_or("", String::as_str);
        let shown = if self.sensitive && self.matches.is_none() {
            format!("line {}", Digest::of(line.as_bytes()).short())
        } else {
            line.to_owned()
        };
        format!("{} {shown}", self.path.display())
    }

    fn owns(&self) -> Vec<String> {
        vec![format!("line {}", self.key())]
    }

    fn shares(&self) -> Vec<String> {
        vec![format!("path {}", self.path.display())]
    }

    fn validate(&self) -> Result<(), String> {
        place::check("path", &self.path)?;
        mode::check_owner(&self.owner, self.group.as_deref())?;
        let matches = regex("match", self.matches.as_deref())?;
        regex("after", self.after.as_deref())?;
        match (&self.line, self.state) {
            (Some(line), _) if line.contains(['\n', '\r']) => {
                Err("line must be one line; use one step for each".to_owned())
            }
            (None, Presence::Present) => Err("`line` is missing: what is to stand in the file".to_owned()),
            (None, Presence::Absent) if matches.is_none() => {
                Err("say which lines are to go: with `match`, or with `line`".to_owned())
            }
            (Some(line), Presence::Present) => match matches {
                Some(matches) if !matches.is_match(line) => Err(format!(
                    "`match` does not find the line that is wanted, so that a second run would not either: widen {:?} \
                     until it finds {line:?} too",
                    matches.as_str()
                )),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn read(&self, world: &mut World) -> Result<Read<Observed>> {
        let state = world.path(&self.path)?;
        match &state {
            PathState::File { .. } => {}
            PathState::Absent => return self.read_absent(world),
            PathState::Link { target } => {
                bail!("a link to {} stands there; name the file itself", target.display())
            }
            PathState::Directory { .. } | PathState::Other => bail!("something that is no file stands there"),
        }
        let Some(bytes) = world.content(&self.path)? else {
            return Ok(Read::Unknown("an earlier step writes the whole file".to_owned()));
        };
        let text = String::from_utf8(bytes).context("the file is not UTF-8 text")?;
        let differs = self.edit(&text)?.is_some();
        Ok(Read::Known(Observed { state, text: differs.then_some(text) }))
    }

    fn diff(&self, observed: &Observed, _blobs: &dyn Blobs) -> Result<Diff> {
        let meta = self.meta();
        Ok(match (&observed.text, &observed.state) {
            (Some(text), _) => match self.edit(text)? {
                Some(edited) => {
                    Diff::change(vec![content_change(Some(text.as_bytes()), edited.as_bytes(), self.sensitive)])
                }
                None => Diff::none(),
            },
            (None, PathState::Absent) if self.state == Presence::Present => {
                let content = self.edit("")?.unwrap_or_default();
                let mut changes = vec![content_change(None, content.as_bytes(), self.sensitive)];
                changes.extend(mode::meta_set(&meta));
                Diff::add(changes)
            }
            (None, _) => Diff::none(),
        })
    }

    fn expect(&self, world: &mut World) {
        // What cannot be read here could not be read for the diff either, and this step is unknown.
        let (Ok(state), Ok(content)) = (world.path(&self.path), world.content(&self.path)) else { return };
        let (text, meta) = match (state, content.map(String::from_utf8)) {
            (PathState::File { meta, .. }, Some(Ok(text))) => (text, meta),
            (PathState::Absent, _) if self.state == Presence::Present => (String::new(), self.meta()),
            _ => return,
        };
        if let Ok(Some(edited)) = self.edit(&text) {
            world.expect_path(&self.path, PathState::File { digest: Digest::of(edited.as_bytes()), meta });
            world.expect_content(&self.path, edited.into_bytes());
        }
    }

    fn apply(&self, observed: &Observed, _site: &mut Site) -> Result<()> {
        let (text, meta) = match (&observed.state, &observed.text) {
            (PathState::File { meta, .. }, Some(text)) => (text.as_str(), meta.clone()),
            _ => ("", self.meta()),
        };
        match self.edit(text)? {
            Some(edited) => place::write(&self.path, edited.as_bytes(), &meta),
            None => Ok(()),
        }
    }
}

impl Line {
    fn meta(&self) -> Meta {
        mode::meta(self.mode, &self.owner, self.group.as_deref())
    }

    fn read_absent(&self, world: &mut World) -> Result<Read<Observed>> {
        if let Some(arrival) = world.arrival(&format!("path {}", self.path.display())) {
            return Ok(Read::Unknown(format!("the file comes with package {}", arrival.package)));
        }
        let known = Ok(Read::Known(Observed { state: PathState::Absent, text: None }));
        if self.state == Presence::Absent {
            return known;
        }
        if self.create {
            world.needs_folder(&self.path)?;
            world.needs_accounts(&self.meta())?;
            return known;
        }
        match world.surprise() {
            Some(surprise) => Ok(Read::Unknown(format!("the file may come with {surprise}"))),
            None => bail!("there is no such file; `create = true` makes it"),
        }
    }

    /// The text with the line as wanted; `None` where it is so already.
    fn edit(&self, text: &str) -> Result<Option<String>> {
        let matches = regex("match", self.matches.as_deref()).map_err(anyhow::Error::msg)?;
        let wanted = self.line.as_deref().unwrap_or_default();
        // A file with the line ends of Windows keeps them.
        let windows = text.lines().next().is_some_and(|first| text[first.len()..].starts_with("\r\n"));
        let written = if windows { format!("{wanted}\r") } else { wanted.to_owned() };
        let found = |line: &str| {
            let line = line.strip_suffix('\r').unwrap_or(line);
            matches.as_ref().map_or(line == wanted, |matches| matches.is_match(line))
        };
        let mut lines: Vec<&str> = text.split_terminator('\n').collect();
        let before = lines.len();
        match self.state {
            Presence::Absent => {
                lines.retain(|line| !found(line));
                if lines.len() == before {
                    return Ok(None);
                }
            }
            Presence::Present => match lines.iter().rposition(|line| found(line)) {
                Some(at) if lines[at] == written => return Ok(None),
                Some(at) => lines[at] = &written,
                None => lines.insert(self.place(&lines)?, &written),
            },
        }
        let mut edited = lines.join("\n");
        if !lines.is_empty() {
            edited.push('\n');
        }
        Ok(Some(edited))
    }

    /// Where a new line goes.
    fn place(&self, lines: &[&str]) -> Result<usize> {
        let after = regex("after", self.after.as_deref()).map_err(anyhow::Error::msg)?;
        let found = after
            .and_then(|after| lines.iter().rposition(|line| after.is_match(line.strip_suffix('\r').unwrap_or(line))));
        Ok(found.map_or(lines.len(), |at| at + 1))
    }
}

fn regex(key: &str, pattern: Option<&str>) -> Result<Option<Regex>, String> {
    let compiled = pattern.map(Regex::new).transpose();
    compiled.map_err(|error| format!("`{key}` is no regular expression: {error}"))
}
