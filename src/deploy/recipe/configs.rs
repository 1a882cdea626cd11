//! `[[config]]` of a recipe.

use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;

use super::PartSelector;
use super::reader::RecipeReader;
use crate::deploy::batches::plain_mode;
use crate::resources::mode::FileMode;

/// `[[config]]`: a configuration file outside of the release, rendered for each host.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigEntry {
    /// The template, relative to the templates folder.
    pub src: PathBuf,
    /// Path on the host.
    pub dest: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// The owning user.
    pub owner: String,
    /// The owning group.
    pub group: String,
    /// Shows only digest and length, never the text, if set.
    pub sensitive: bool,
    /// Hosts that have the file, if not all.
    pub hosts: Option<PartSelector>,
    /// Byte offset of the entry in the recipe.
    pub span: Range<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigTable {
    src: PathBuf,
    dest: PathBuf,
    #[serde(default, deserialize_with = "plain_mode")]
    mode: Option<FileMode>,
    owner: Option<String>,
    group: Option<String>,
    #[serde(default)]
    sensitive: bool,
    hosts: Option<String>,
}

impl RecipeReader<'_> {
    pub(super) fn read_configs(&mut self, tables: Vec<(Range<usize>, ConfigTable)>) -> Vec<ConfigEntry> {
        let mut entries: Vec<ConfigEntry> = Vec::new();
        for (span, table) in tables {
            self.check_absolute_path(&span, "dest", &table.dest);
            self.check_template_path(&span, &table.src);
            if entries.iter().any(|other| other.dest == table.dest) {
                self.add_error(&span, format!("two files have the destination {}", table.dest.display()), None);
            }
            let owner = table.owner.unwrap_or_else(|| "root".to_owned());
            // A group that is named is to read the file.
            let sensitive_mode = if table.group.is_some() { 0o640 } else { 0o600 };
            let group = table.group.unwrap_or_else(|| owner.clone());
            self.check_account_name(&span, "owner", &owner);
            self.check_account_name(&span, "group", &group);
            let (src, dest, sensitive) = (table.src, table.dest, table.sensitive);
            let mode = table.mode.map_or(if sensitive { sensitive_mode } else { 0o644 }, |mode| mode.0);
            let hosts = PartSelector::from_table(table.hosts, &span);
            entries.push(ConfigEntry { src, dest, mode, owner, group, sensitive, hosts, span });
        }
        entries
    }
}
