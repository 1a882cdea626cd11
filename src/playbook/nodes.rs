//! TOML values of a playbook as [`Node`]s, and back to JSON for one host.

use std::ops::Range;

use serde_json::Value as Json;
use tera::Context;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::model::{Entry, Item, Node};
use super::strings::{Strings, Use};
use crate::inventory::{Diagnostic, Diagnostics, SourceFile};

/// Reads a value; what cannot be held (dates, infinite numbers) is reported and left out.
pub(super) fn read(
    file: &SourceFile,
    value: &Spanned<DeValue<'_>>,
    (strings, found): (&mut Strings, &mut Diagnostics),
) -> Option<Item> {
    let span = value.span();
    let node = match value.get_ref() {
        DeValue::String(text) => Node::Text(strings.add(text, span.clone(), Use::Value)),
        DeValue::Boolean(flag) => Node::Plain((*flag).into()),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => Node::Plain(number.into()),
            Err(_) => return refuse(file, &span, "a whole number beyond 64 bits", found),
        },
        DeValue::Float(digits) => match digits.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => Node::Plain(number.into()),
            _ => return refuse(file, &span, "a number must be finite", found),
        },
        DeValue::Datetime(_) => return refuse(file, &span, "a date or time is no value here; write a string", found),
        DeValue::Array(items) => {
            let items = items.iter().filter_map(|item| read(file, item, (&mut *strings, &mut *found)));
            Node::List(items.collect())
        }
        DeValue::Table(table) => Node::Table(read_table(file, table, (strings, found))),
    };
    Some(Item { node, span })
}

/// Reads a table, in the order of the file.
pub(super) fn read_table(
    file: &SourceFile,
    table: &DeTable<'_>,
    (strings, found): (&mut Strings, &mut Diagnostics),
) -> Vec<Entry> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let read = entries.into_iter().filter_map(|(key, value)| {
        let item = read(file, value, (&mut *strings, &mut *found))?;
        Some(Entry { key: key.get_ref().to_string(), key_span: key.span(), item })
    });
    read.collect()
}

fn refuse<T>(file: &SourceFile, span: &Range<usize>, message: &str, found: &mut Diagnostics) -> Option<T> {
    found.push(Diagnostic::at(file, span.clone(), message));
    None
}

/// The value for one host.
pub(super) fn evaluate(item: &Item, strings: &Strings, context: &Context) -> Result<Json, Vec<Diagnostic>> {
    match &item.node {
        Node::Text(text) => strings.value(text, context),
        Node::Plain(value) => Ok(value.clone()),
        Node::List(items) => items.iter().map(|item| evaluate(item, strings, context)).collect(),
        Node::Table(entries) => evaluate_table(entries, strings, context).map(Json::Object),
    }
}

/// A table for one host; all mistakes of its values together.
pub(super) fn evaluate_table(
    entries: &[Entry],
    strings: &Strings,
    context: &Context,
) -> Result<serde_json::Map<String, Json>, Vec<Diagnostic>> {
    let mut table = serde_json::Map::new();
    let mut wrong: Option<Vec<Diagnostic>> = None;
    for entry in entries {
        match evaluate(&entry.item, strings, context) {
            Ok(value) => drop(table.insert(entry.key.clone(), value)),
            // An error without a diagnostic is one that was reported before.
            Err(found) => wrong.get_or_insert_default().extend(found),
        }
    }
    wrong.map_or(Ok(table), Err)
}

/// The JSON of a value without placeholders; of strings that have some, the text as it was written.
pub(super) fn as_written(item: &Item) -> Json {
    match &item.node {
        Node::Text(text) => text.raw.as_str().into(),
        Node::Plain(value) => value.clone(),
        Node::List(items) => items.iter().map(as_written).collect(),
        Node::Table(entries) => entries.iter().map(|entry| (entry.key.clone(), as_written(&entry.item))).collect(),
    }
}

/// Where the text of a string begins behind its quotes; `None` where escapes make it differ from the file.
pub(super) fn begin_of(file: &SourceFile, span: &Range<usize>, text: &str) -> Option<usize> {
    let written = file.text().get(span.clone())?;
    let quotes = ["\"\"\"\n", "'''\n", "\"\"\"", "'''", "\"", "'"];
    let quote = quotes.iter().find(|quote| written.starts_with(**quote))?;
    written[quote.len()..].starts_with(text).then(|| span.start + quote.len())
}
