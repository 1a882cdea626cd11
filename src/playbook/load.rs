//! Reading a playbook: every mistake with its place, all at once.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::batch::{Batch, BatchSize};
use super::model::{Play, Playbook, Step};
use super::nodes;
use super::references::{check_references, check_tables};
use super::strings::{Strings, Text, Use};
use crate::inventory::fields::{self, Fields, wrong_type};
use crate::inventory::{Diagnostic, Diagnostics, Located, Origin, Selector, SourceFile, is_var_name, read_source};
use crate::resources::{self, KINDS, Kind};

/// The keys of a step besides the one that names its resource type.
const STEP_KEYS: [&str; 5] = ["name", "for_each", "when", "notify", "tags"];

/// A step's resource type, the place of its key, and the value behind the key.
type Chosen<'t, 'i> = (&'static Kind, std::ops::Range<usize>, &'t Spanned<DeValue<'i>>);

impl Playbook {
    /// Reads a playbook. `None` where nothing can be made of it; with errors in `found`, what is returned serves to find
    /// further ones and must not be applied.
    pub fn load(path: &Path, found: &mut Diagnostics) -> Option<Self> {
        match read_source(path) {
            Ok(Some(file)) => return Some(Self::from_text(&file, found)),
            Ok(None) => found.push(Diagnostic::path(path, "cannot be read: there is no such file")),
            Err(error) => found.push(error),
        }
        None
    }

    /// Reads the text of a playbook.
    pub fn from_text(file: &SourceFile, found: &mut Diagnostics) -> Self {
        let mut strings = Strings::new(file);
        let root = fields::parse(file, found);
        let mut reader = Reader { file, strings: &mut strings, found };
        let mut root = Fields::new(file, root.get_ref(), 0..0);
        let mut plays: Vec<Play> = Vec::new();
        for (table, span) in reader.tables(&mut root, "play") {
            let play = reader.play(Fields::new(file, table, span));
            if let Some(play) = play {
                if let Some(earlier) = plays.iter().find(|earlier| earlier.name.value == play.name.value) {
                    let message = format!("there is a play `{}` already", play.name.value);
                    let help = format!("the first one stands at {}", earlier.name.origin);
                    reader.found.push(Diagnostic::on(&play.name.origin, message).help(help));
                }
                plays.push(play);
            }
        }
        root.finish("a playbook", found);
        if plays.is_empty() && !found.has_errors() {
            found.push(Diagnostic::file(file, "there is no `[[play]]` in this playbook"));
        }
        strings.finish(found);
        plays.iter_mut().for_each(|play| {
            check_tables(file, play, found);
            check_references(play, found);
        });
        Self { file: file.clone(), plays, strings }
    }
}

struct Reader<'r> {
    file: &'r SourceFile,
    strings: &'r mut Strings,
    found: &'r mut Diagnostics,
}

impl<'r> Reader<'r> {
    /// An array of tables.
    fn tables<'t, 'i>(
        &mut self,
        fields: &mut Fields<'t, 'i>,
        key: &'static str,
    ) -> Vec<(&'t DeTable<'i>, std::ops::Range<usize>)> {
        let Some(value) = fields.raw(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let prefix = if key == "play" { "" } else { "play." };
            let wrong = wrong_type(self.file, key, value, "a list of tables").help(format!("write [[{prefix}{key}]]"));
            self.found.push(wrong);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::Table(table) => tables.push((table, item.span())),
                _ => self.found.push(wrong_type(self.file, key, item, "a table")),
            }
        }
        tables
    }

    fn play(&mut self, mut fields: Fields<'_, '_>) -> Option<Play> {
        let name = fields.string("name", self.found);
        let hosts = match fields.raw("hosts") {
            Some(_) => fields.parsed("hosts", self.found, str::parse::<Selector>),
            None => {
                let message = "a play needs `hosts`";
                self.found
                    .push(Diagnostic::on(&fields.origin(), message).help("`hosts = \"all\"` stands for every host"));
                None
            }
        };
        if name.is_none() && fields.raw("name").is_none() {
            self.found.push(Diagnostic::on(&fields.origin(), "a play needs a `name`"));
        }
        let batch = fields.raw("batch").and_then(|value| self.batch(value));
        let vars = self.vars(&mut fields);
        let when = self.text(&mut fields, "when", Use::Condition);
        let tags = self.words(&mut fields, "tags");
        let steps = self.steps(&mut fields, "step");
        let handlers = self.steps(&mut fields, "handler");
        let written = fields.raw("handler").and_then(|list| list.get_ref().as_array()).map_or(0, |list| list.len());
        let knows_handlers = written == handlers.len();
        fields.finish("a play", self.found);
        Some(Play { name: name?, hosts: hosts?, batch, vars, when, tags, steps, handlers, knows_handlers })
    }

    fn batch(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Batch> {
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
                        self.found.push(wrong_type(self.file, "batch", item, wanted));
                        return None;
                    }
                };
                let parsed = text.parse();
                parsed.map_err(|why: String| self.found.push(Diagnostic::at(self.file, item.span(), why))).ok()
            })
            .collect();
        sizes.map(Batch)
    }

    fn vars(&mut self, fields: &mut Fields<'_, '_>) -> Vec<super::model::Entry> {
        let Some(value) = fields.raw("vars") else { return Vec::new() };
        let DeValue::Table(table) = value.get_ref() else {
            self.found.push(wrong_type(self.file, "vars", value, "a table"));
            return Vec::new();
        };
        let vars = nodes::read_table(self.file, table, (&mut *self.strings, &mut *self.found));
        for var in &vars {
            let at = Origin::at(self.file, var.key_span.clone());
            if !is_var_name(&var.key) {
                let message = format!("`{}` cannot be a variable's name", var.key.escape_debug());
                self.found
                    .push(Diagnostic::on(&at, message).help("letters, digits and `_`, not beginning with a digit"));
            } else if let Some(wrong) = super::context::reserved(&var.key, &at) {
                self.found.push(wrong);
            }
        }
        vars
    }

    fn steps(&mut self, fields: &mut Fields<'_, '_>, key: &'static str) -> Vec<Step> {
        let tables = self.tables(fields, key);
        tables.into_iter().filter_map(|(table, span)| self.step(Fields::new(self.file, table, span), key)).collect()
    }

    fn step(&mut self, mut fields: Fields<'_, '_>, what: &'static str) -> Option<Step> {
        let name = self.text(&mut fields, "name", Use::Value);
        if what == "handler" && name.is_none() {
            self.found.push(Diagnostic::on(&fields.origin(), "a handler needs a `name`, which `notify` names"));
        }
        let for_each = self.for_each(&mut fields);
        let when = self.text(&mut fields, "when", Use::Condition);
        let notify = self.texts(&mut fields, "notify");
        if let Some(first) = notify.first().filter(|_| what == "handler") {
            self.found.push(Diagnostic::on(&first.origin, "a handler cannot notify another one"));
        }
        let tags = self.words(&mut fields, "tags");
        let (kind, key_span, value) = self.resource(&fields, what)?;
        let DeValue::Table(table) = value.get_ref() else {
            self.found.push(wrong_type(self.file, kind.name, value, "a table"));
            return None;
        };
        let table = nodes::read_table(self.file, table, (&mut *self.strings, &mut *self.found));
        let origin = Origin::at(self.file, key_span);
        Some(Step { name, for_each, when, notify, tags, kind, table, origin, sound: true })
    }

    /// The one key that names a resource type.
    fn resource<'t, 'i>(&mut self, fields: &Fields<'t, 'i>, what: &str) -> Option<Chosen<'t, 'i>> {
        let mut chosen: Option<Chosen<'t, 'i>> = None;
        let mut unknown = false;
        for (key, value) in fields.entries() {
            let name = key.get_ref().as_ref();
            if STEP_KEYS.contains(&name) {
                continue;
            }
            let Some(kind) = resources::kind(name) else {
                unknown = true;
                let known = KINDS.iter().map(|kind| kind.name).chain(STEP_KEYS);
                let message = format!("`{name}` is neither a type of resource nor a key of a {what}");
                self.found.push(Diagnostic::at(self.file, key.span(), message).suggest_or_list(name, known));
                continue;
            };
            match &chosen {
                None => chosen = Some((kind, key.span(), value)),
                Some((first, ..)) => {
                    let message = format!("a {what} has one resource; this one has `{}` already", first.name);
                    let help = format!("write a [[play.{what}]] of its own for `{name}`");
                    self.found.push(Diagnostic::at(self.file, key.span(), message).help(help));
                }
            }
        }
        if chosen.is_none() && !unknown {
            let message = format!("this {what} names no resource");
            let help = "one of its keys is a type of resource, as in `file = { dest = \"/etc/motd\", … }`";
            self.found.push(Diagnostic::on(&fields.origin(), message).help(help));
        }
        chosen
    }

    fn for_each(&mut self, fields: &mut Fields<'_, '_>) -> Option<super::model::Item> {
        let value = fields.raw("for_each")?;
        match value.get_ref() {
            DeValue::String(text) => {
                let text = self.strings.add(text, value.span(), Use::List);
                Some(super::model::Item { node: super::model::Node::Text(text), span: value.span() })
            }
            DeValue::Array(_) => nodes::read(self.file, value, (&mut *self.strings, &mut *self.found)),
            _ => {
                self.found.push(wrong_type(self.file, "for_each", value, "a list, or the name of one"));
                None
            }
        }
    }

    fn text(&mut self, fields: &mut Fields<'_, '_>, key: &'static str, usage: Use) -> Option<Text> {
        let text = fields.string(key, self.found)?;
        Some(self.strings.add(&text.value, span_of(&text), usage))
    }

    /// A string or a list of strings.
    fn texts(&mut self, fields: &mut Fields<'_, '_>, key: &'static str) -> Vec<Text> {
        let located = match fields.raw(key).map(Spanned::get_ref) {
            Some(DeValue::String(_)) => fields.string(key, self.found).into_iter().collect(),
            _ => fields.strings(key, self.found),
        };
        located.iter().map(|text| self.strings.add(&text.value, span_of(text), Use::Value)).collect()
    }

    fn words(&mut self, fields: &mut Fields<'_, '_>, key: &'static str) -> Vec<String> {
        fields.strings(key, self.found).into_iter().map(|word| word.value).collect()
    }
}

fn span_of(text: &Located<String>) -> std::ops::Range<usize> {
    text.origin.span.clone().unwrap_or(0..0)
}
