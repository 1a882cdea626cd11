//! Reading a playbook: every mistake with its place, all at once.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::batch::{BatchSchedule, BatchSize};
use super::model::{Playbook, PlaybookPlay, PlaybookStep};
use super::references::{check_handler_references, check_tables};
use super::template_string::{StringUsage, TemplateString, TemplateStrings};
use super::value_template;
use crate::inventory::fields::{self, TableReader, wrong_type_error};
use crate::inventory::{Diagnostic, Diagnostics, Located, Origin, Selector, SourceFile, is_var_name, read_source};
use crate::resources::{self, RESOURCE_KINDS, ResourceKind};

/// The keys of a step besides the one that names its resource type.
const STEP_KEYS: [&str; 5] = ["name", "for_each", "when", "notify", "tags"];

/// A step's resource type, the place of its key, and the value behind the key.
type StepResource<'t, 'i> = (&'static ResourceKind, std::ops::Range<usize>, &'t Spanned<DeValue<'i>>);

impl Playbook {
    /// Reads a playbook. `None` where nothing can be made of it; with errors in `found`, what is returned serves to
    /// find further ones and must not be applied.
    pub fn load_file(path: &Path, found: &mut Diagnostics) -> Option<Self> {
        match read_source(path) {
            Ok(Some(file)) => return Some(Self::parse_text(&file, found)),
            Ok(None) => found.push(Diagnostic::error_at_path(path, "the file does not exist")),
            Err(error) => found.push(error),
        }
        None
    }

    /// Reads the text of a playbook.
    pub fn parse_text(file: &SourceFile, found: &mut Diagnostics) -> Self {
        let mut strings = TemplateStrings::new(file);
        let root = fields::parse_table(file, found);
        let mut reader = PlaybookReader { file, strings: &mut strings, found };
        let mut root = TableReader::new(file, root.get_ref(), 0..0);
        let mut plays: Vec<PlaybookPlay> = Vec::new();
        for (table, span) in reader.read_tables(&mut root, "play") {
            let play = reader.read_play(TableReader::new(file, table, span));
            if let Some(play) = play {
                if let Some(earlier) = plays.iter().find(|earlier| earlier.name.value == play.name.value) {
                    let message = format!("a play `{}` exists already", play.name.value);
                    let help = format!("the first one is at {}", earlier.name.origin);
                    reader.found.push(Diagnostic::error_at(&play.name.origin, message).with_help(help));
                }
                plays.push(play);
            }
        }
        root.report_unknown_keys("a playbook", found);
        if plays.is_empty() && !found.has_errors() {
            found.push(Diagnostic::error_in_file(file, "there is no `[[play]]` in this playbook"));
        }
        strings.parse_all(found);
        plays.iter_mut().for_each(|play| {
            check_tables(file, play, found);
            check_handler_references(play, found);
        });
        Self { file: file.clone(), plays, strings }
    }
}

struct PlaybookReader<'r> {
    file: &'r SourceFile,
    strings: &'r mut TemplateStrings,
    found: &'r mut Diagnostics,
}

impl<'r> PlaybookReader<'r> {
    /// Reads an array of tables.
    fn read_tables<'t, 'i>(
        &mut self,
        fields: &mut TableReader<'t, 'i>,
        key: &'static str,
    ) -> Vec<(&'t DeTable<'i>, std::ops::Range<usize>)> {
        let Some(value) = fields.take_raw(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let prefix = if key == "play" { "" } else { "play." };
            let wrong = wrong_type_error(self.file, key, value, "a list of tables")
                .with_help(format!("write [[{prefix}{key}]]"));
            self.found.push(wrong);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::Table(table) => tables.push((table, item.span())),
                _ => self.found.push(wrong_type_error(self.file, key, item, "a table")),
            }
        }
        tables
    }

    fn read_play(&mut self, mut fields: TableReader<'_, '_>) -> Option<PlaybookPlay> {
        let name = fields.take_string("name", self.found);
        let hosts = match fields.take_raw("hosts") {
            Some(_) => fields.take_parsed("hosts", self.found, str::parse::<Selector>),
            None => {
                let message = "a play needs `hosts`";
                self.found.push(
                    Diagnostic::error_at(&fields.table_origin(), message)
                        .with_help("`hosts = \"all\"` selects every host"),
                );
                None
            }
        };
        if name.is_none() && fields.take_raw("name").is_none() {
            self.found.push(Diagnostic::error_at(&fields.table_origin(), "a play needs a `name`"));
        }
        let batch = fields.take_raw("batch").and_then(|value| self.read_batch(value));
        let vars = self.read_vars(&mut fields);
        let when = self.read_template(&mut fields, "when", StringUsage::Condition);
        let tags = self.read_words(&mut fields, "tags");
        let steps = self.read_steps(&mut fields, "step");
        let handlers = self.read_steps(&mut fields, "handler");
        let written =
            fields.take_raw("handler").and_then(|list| list.get_ref().as_array()).map_or(0, |list| list.len());
        let knows_handlers = written == handlers.len();
        fields.report_unknown_keys("a play", self.found);
        Some(PlaybookPlay {
            name: name?,
            hosts: hosts?,
            batch,
            vars,
            when,
            tags,
            steps,
            handlers,
            has_all_handlers: knows_handlers,
        })
    }

    fn read_batch(&mut self, value: &Spanned<DeValue<'_>>) -> Option<BatchSchedule> {
        let items = match value.get_ref() {
            DeValue::Array(items) if !items.is_empty() => items.iter().collect(),
            _ => vec![value],
        };
        let sizes: Option<Vec<BatchSize>> = items
            .into_iter()
            .map(|item| {
                let text = match item.get_ref() {
                    DeValue::String(text) => text.to_string(),
                    DeValue::Integer(digits) => digits.as_str().to_owned(),
                    _ => {
                        let wanted = "a count (\"2\"), a share (\"25%\") or a list of them";
                        self.found.push(wrong_type_error(self.file, "batch", item, wanted));
                        return None;
                    }
                };
                let parsed = text.parse();
                parsed
                    .map_err(|why: String| self.found.push(Diagnostic::error_at_span(self.file, item.span(), why)))
                    .ok()
            })
            .collect();
        sizes.map(BatchSchedule)
    }

    fn read_vars(&mut self, fields: &mut TableReader<'_, '_>) -> Vec<super::model::TableEntry> {
        let Some(value) = fields.take_raw("vars") else { return Vec::new() };
        let DeValue::Table(table) = value.get_ref() else {
            self.found.push(wrong_type_error(self.file, "vars", value, "a table"));
            return Vec::new();
        };
        let vars = value_template::read_table(self.file, table, &mut *self.strings, &mut *self.found);
        for var in &vars {
            let at = Origin::at_span(self.file, var.key_span.clone());
            if !is_var_name(&var.key) {
                let message = format!("`{}` is not a valid variable name", var.key.escape_debug());
                self.found.push(
                    Diagnostic::error_at(&at, message).with_help("letters, digits and `_`, not beginning with a digit"),
                );
            } else if let Some(wrong) = super::context::reserved_name_error(&var.key, &at) {
                self.found.push(wrong);
            }
        }
        vars
    }

    fn read_steps(&mut self, fields: &mut TableReader<'_, '_>, key: &'static str) -> Vec<PlaybookStep> {
        let tables = self.read_tables(fields, key);
        tables
            .into_iter()
            .filter_map(|(table, span)| self.read_step(TableReader::new(self.file, table, span), key))
            .collect()
    }

    fn read_step(&mut self, mut fields: TableReader<'_, '_>, what: &'static str) -> Option<PlaybookStep> {
        let name = self.read_template(&mut fields, "name", StringUsage::Value);
        if what == "handler" && name.is_none() {
            self.found
                .push(Diagnostic::error_at(&fields.table_origin(), "a handler needs a `name`, which `notify` names"));
        }
        let for_each = self.read_for_each(&mut fields);
        let when = self.read_template(&mut fields, "when", StringUsage::Condition);
        let notify = self.read_templates(&mut fields, "notify");
        if let Some(first) = notify.first().filter(|_| what == "handler") {
            self.found.push(Diagnostic::error_at(&first.origin, "a handler cannot notify another one"));
        }
        let tags = self.read_words(&mut fields, "tags");
        let (kind, key_span, value) = self.find_resource(&fields, what)?;
        let DeValue::Table(table) = value.get_ref() else {
            self.found.push(wrong_type_error(self.file, kind.name, value, "a table"));
            return None;
        };
        let table = value_template::read_table(self.file, table, &mut *self.strings, &mut *self.found);
        let origin = Origin::at_span(self.file, key_span);
        Some(PlaybookStep { name, for_each, when, notify, tags, kind, table, origin, is_valid: true })
    }

    /// Finds the one key that names a resource type.
    fn find_resource<'t, 'i>(&mut self, fields: &TableReader<'t, 'i>, what: &str) -> Option<StepResource<'t, 'i>> {
        let mut chosen: Option<StepResource<'t, 'i>> = None;
        let mut unknown = false;
        for (key, value) in fields.sorted_entries() {
            let name = key.get_ref().as_ref();
            if STEP_KEYS.contains(&name) {
                continue;
            }
            let Some(kind) = resources::find_kind(name) else {
                unknown = true;
                let known = RESOURCE_KINDS.iter().map(|kind| kind.name).chain(STEP_KEYS);
                let message = format!("`{name}` is neither a type of resource nor a key of a {what}");
                self.found.push(Diagnostic::error_at_span(self.file, key.span(), message).suggest_or_list(name, known));
                continue;
            };
            match &chosen {
                None => chosen = Some((kind, key.span(), value)),
                Some((first, ..)) => {
                    let message = format!("a {what} has one resource; this one has `{}` already", first.name);
                    let help = format!("write a [[play.{what}]] of its own for `{name}`");
                    self.found.push(Diagnostic::error_at_span(self.file, key.span(), message).with_help(help));
                }
            }
        }
        if chosen.is_none() && !unknown {
            let message = format!("this {what} names no resource");
            let help = "one of its keys is a type of resource, as in `file = { dest = \"/etc/motd\", … }`";
            self.found.push(Diagnostic::error_at(&fields.table_origin(), message).with_help(help));
        }
        chosen
    }

    fn read_for_each(&mut self, fields: &mut TableReader<'_, '_>) -> Option<super::model::LocatedValue> {
        let value = fields.take_raw("for_each")?;
        match value.get_ref() {
            DeValue::String(text) => {
                let text = self.strings.add_string(text, value.span(), StringUsage::List);
                Some(super::model::LocatedValue { value: super::model::ValueTemplate::Text(text), span: value.span() })
            }
            DeValue::Array(_) => value_template::read_value(self.file, value, &mut *self.strings, &mut *self.found),
            _ => {
                self.found.push(wrong_type_error(self.file, "for_each", value, "a list, or the name of one"));
                None
            }
        }
    }

    fn read_template(
        &mut self,
        fields: &mut TableReader<'_, '_>,
        key: &'static str,
        usage: StringUsage,
    ) -> Option<TemplateString> {
        let text = fields.take_string(key, self.found)?;
        Some(self.strings.add_string(&text.value, located_span(&text), usage))
    }

    /// Reads a string or a list of strings.
    fn read_templates(&mut self, fields: &mut TableReader<'_, '_>, key: &'static str) -> Vec<TemplateString> {
        let located = match fields.take_raw(key).map(Spanned::get_ref) {
            Some(DeValue::String(_)) => fields.take_string(key, self.found).into_iter().collect(),
            _ => fields.take_strings(key, self.found),
        };
        located
            .iter()
            .map(|text| self.strings.add_string(&text.value, located_span(text), StringUsage::Value))
            .collect()
    }

    fn read_words(&mut self, fields: &mut TableReader<'_, '_>, key: &'static str) -> Vec<String> {
        fields.take_strings(key, self.found).into_iter().map(|word| word.value).collect()
    }
}

fn located_span(text: &Located<String>) -> std::ops::Range<usize> {
    text.origin.span.clone().unwrap_or(0..0)
}
