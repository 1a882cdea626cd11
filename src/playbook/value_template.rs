//! TOML values of a playbook as [`ValueTemplate`]s, and back to JSON for one host.

use std::ops::Range;

use serde_json::Value as Json;
use tera::Context;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::model::{LocatedValue, TableEntry, ValueTemplate};
use super::template_string::{StringUsage, TemplateStrings};
use crate::inventory::{Diagnostic, Diagnostics, SourceFile};

/// Reads a value; what cannot be held (dates, infinite numbers) is reported and left out.
pub(super) fn read_value(
    file: &SourceFile,
    value: &Spanned<DeValue<'_>>,
    strings: &mut TemplateStrings,
    found: &mut Diagnostics,
) -> Option<LocatedValue> {
    let span = value.span();
    let node = match value.get_ref() {
        DeValue::String(text) => ValueTemplate::Text(strings.add_string(text, span.clone(), StringUsage::Value)),
        DeValue::Boolean(flag) => ValueTemplate::Literal((*flag).into()),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => ValueTemplate::Literal(number.into()),
            Err(_) => return report_unsupported(file, &span, "a whole number beyond 64 bits", found),
        },
        DeValue::Float(digits) => match digits.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => ValueTemplate::Literal(number.into()),
            _ => return report_unsupported(file, &span, "a number must be finite", found),
        },
        DeValue::Datetime(_) => {
            return report_unsupported(file, &span, "a date or time is not supported; write a string", found);
        }
        DeValue::Array(items) => {
            let items = items.iter().filter_map(|item| read_value(file, item, &mut *strings, &mut *found));
            ValueTemplate::List(items.collect())
        }
        DeValue::Table(table) => ValueTemplate::Table(read_table(file, table, strings, found)),
    };
    Some(LocatedValue { value: node, span })
}

/// Reads a table, in the order of the file.
pub(super) fn read_table(
    file: &SourceFile,
    table: &DeTable<'_>,
    strings: &mut TemplateStrings,
    found: &mut Diagnostics,
) -> Vec<TableEntry> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let read = entries.into_iter().filter_map(|(key, value)| {
        let item = read_value(file, value, &mut *strings, &mut *found)?;
        Some(TableEntry { key: key.get_ref().to_string(), key_span: key.span(), value: item })
    });
    read.collect()
}

fn report_unsupported<T>(file: &SourceFile, span: &Range<usize>, message: &str, found: &mut Diagnostics) -> Option<T> {
    found.push(Diagnostic::error_at_span(file, span.clone(), message));
    None
}

/// Evaluates a value for one host.
pub(super) fn evaluate_value(
    item: &LocatedValue,
    strings: &TemplateStrings,
    context: &Context,
) -> Result<Json, Vec<Diagnostic>> {
    match &item.value {
        ValueTemplate::Text(text) => strings.evaluate_value(text, context),
        ValueTemplate::Literal(value) => Ok(value.clone()),
        ValueTemplate::List(items) => items.iter().map(|item| evaluate_value(item, strings, context)).collect(),
        ValueTemplate::Table(entries) => evaluate_table(entries, strings, context).map(Json::Object),
    }
}

/// Evaluates a table for one host; reports the mistakes of all its values together.
pub(super) fn evaluate_table(
    entries: &[TableEntry],
    strings: &TemplateStrings,
    context: &Context,
) -> Result<serde_json::Map<String, Json>, Vec<Diagnostic>> {
    let mut table = serde_json::Map::new();
    let mut wrong: Option<Vec<Diagnostic>> = None;
    for entry in entries {
        match evaluate_value(&entry.value, strings, context) {
            Ok(value) => drop(table.insert(entry.key.clone(), value)),
            // An error without a diagnostic is one that was reported before.
            Err(found) => wrong.get_or_insert_default().extend(found),
        }
    }
    wrong.map_or(Ok(table), Err)
}

/// Returns the JSON of a value without placeholders; of strings that have some, the text as written.
pub(super) fn to_source_json(item: &LocatedValue) -> Json {
    match &item.value {
        ValueTemplate::Text(text) => text.source_text.as_str().into(),
        ValueTemplate::Literal(value) => value.clone(),
        ValueTemplate::List(items) => items.iter().map(to_source_json).collect(),
        ValueTemplate::Table(entries) => {
            entries.iter().map(|entry| (entry.key.clone(), to_source_json(&entry.value))).collect()
        }
    }
}
