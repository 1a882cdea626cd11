//! `[[unit]]` of a recipe.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;

use super::PartSelector;
use super::reader::RecipeReader;

/// `[[unit]]`: a unit file, rendered for each host.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitEntry {
    /// The unit's name with suffix.
    pub name: String,
    /// The template, relative to the templates folder.
    pub src: PathBuf,
    /// Starts the unit at boot if set.
    pub enable: bool,
    /// Restarts the unit on a switch if set.
    pub restart: bool,
    /// Reloads the unit where a restart is not needed, if set.
    pub reload: bool,
    /// Hosts that have the unit, if not all.
    pub hosts: Option<PartSelector>,
    /// Byte offset of the entry in the recipe.
    pub span: Range<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnitTable {
    name: String,
    src: PathBuf,
    #[serde(default = "default_true")]
    enable: bool,
    restart: Option<bool>,
    #[serde(default)]
    reload: bool,
    hosts: Option<String>,
}

fn default_true() -> bool {
    true
}

impl RecipeReader<'_> {
    pub(super) fn read_units(&mut self, tables: Vec<(Range<usize>, UnitTable)>) -> Vec<UnitEntry> {
        let mut seen = BTreeSet::new();
        for (span, table) in &tables {
            self.check_unit_name(span, &table.name);
            self.check_template_path(span, &table.src);
            if table.reload && (!table.name.ends_with(".service") || table.restart == Some(false)) {
                self.add_error(span, "`reload` goes with a service that a switch restarts", None);
            }
            if !seen.insert(&table.name) {
                self.add_error(span, format!("two units have the name {}", table.name), None);
            }
        }
        let entry = |(span, table): (Range<usize>, UnitTable)| UnitEntry {
            hosts: PartSelector::from_table(table.hosts, &span),
            reload: table.reload,
            restart: table.restart.unwrap_or_else(|| table.name.ends_with(".service")),
            name: table.name,
            src: table.src,
            enable: table.enable,
            span,
        };
        tables.into_iter().map(entry).collect()
    }
}
