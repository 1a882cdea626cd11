//! `[[file]]` of a recipe.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;

use super::reader::RecipeReader;
use crate::deploy::batches::plain_mode;
use crate::protocol::deploy::{FileOwner, ReleasePath};
use crate::resources::mode::FileMode;

/// `[[file]]`: a file of the artifact, or a folder whose files all go in.
#[derive(Clone, Debug, PartialEq)]
pub struct FileEntry {
    /// The file, relative to the folder that is packaged.
    pub source: PathBuf,
    /// Its path in the release; for a folder that of the folder.
    pub dest: ReleasePath,
    /// Permission bits; without them 0755 where the source is executable, else 0644.
    pub mode: Option<u32>,
    /// Owner of the files and empty folders, if it is not the agent's account.
    pub owner: Option<FileOwner>,
    /// Byte offset of the entry in the recipe.
    pub span: Range<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTable {
    source: PathBuf,
    dest: ReleasePath,
    #[serde(default, deserialize_with = "plain_mode")]
    mode: Option<FileMode>,
    owner: Option<String>,
    group: Option<String>,
}

impl RecipeReader<'_> {
    pub(super) fn read_files(&mut self, tables: Vec<(Range<usize>, FileTable)>) -> Vec<FileEntry> {
        let mut seen = BTreeSet::new();
        for (span, table) in &tables {
            if table.source.is_absolute() {
                self.add_error(span, "source must be relative to the folder that is packaged", None);
            }
            if !seen.insert(&table.dest) {
                self.add_error(span, format!("two files have the destination {}", table.dest), None);
            }
            for (key, name) in [("owner", &table.owner), ("group", &table.group)] {
                name.iter().for_each(|name| self.check_account_name(span, key, name));
            }
        }
        let entry = |(span, table): (Range<usize>, FileTable)| FileEntry {
            source: table.source,
            dest: table.dest,
            mode: table.mode.map(|mode| mode.0),
            owner: read_owner(table.owner, table.group),
            span,
        };
        tables.into_iter().map(entry).collect()
    }
}

/// Returns the owner that two keys name; a group without a user is that of a file of root.
fn read_owner(owner: Option<String>, group: Option<String>) -> Option<FileOwner> {
    let user = owner.clone().or_else(|| group.is_some().then(|| "root".to_owned()))?;
    Some(FileOwner { group: group.or(owner)?, user })
}
