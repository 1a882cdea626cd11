//! A step's table against its resource type: finds the key that causes serde's error, all mistakes at once.

use serde_json::{Map, Value as Json};

use super::content_store::DISPLAY_FIELD;
use super::model::TableEntry;
use crate::inventory::{Diagnostic, Origin, SourceFile, nearest_words};
use crate::resources::{DynResource, ResourceKind};

/// A mistake in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SchemaError {
    /// Key that causes the error; `None` for the table as a whole.
    pub key: Option<String>,
    /// Message of serde.
    message: String,
    /// The type has no such field.
    pub is_unknown: bool,
}

/// Makes the resource, or says everything that is wrong with its table.
pub(super) fn parse_resource(
    kind: &ResourceKind,
    table: &Map<String, Json>,
) -> Result<Box<dyn DynResource>, Vec<SchemaError>> {
    let mut message = match (kind.parse)(Json::Object(table.clone())) {
        Ok(step) => return Ok(step),
        Err(error) => error.to_string(),
    };
    let mut table = table.clone();
    let mut faults: Vec<SchemaError> = Vec::new();
    loop {
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        if missing.is_some_and(|field| faults.iter().any(|fault| fault.key.as_deref() == Some(field))) {
            return Err(faults);
        }
        let Some((key, next)) = find_invalid_key(kind, &table, &message) else {
            faults.push(SchemaError { key: None, message, is_unknown: false });
            return Err(faults);
        };
        let unknown = message.starts_with(&format!("unknown field `{key}`"));
        table.remove(&key);
        faults.push(SchemaError { key: Some(key), message, is_unknown: unknown });
        match next {
            Some(next) => message = next,
            None => return Err(faults),
        }
    }
}

/// Finds the key without which serde reports something else, and that message (`None`: no error).
fn find_invalid_key(kind: &ResourceKind, table: &Map<String, Json>, message: &str) -> Option<(String, Option<String>)> {
    table.keys().find_map(|key| {
        let mut without = table.clone();
        without.remove(key);
        match (kind.parse)(Json::Object(without)) {
            Ok(_) => Some((key.clone(), None)),
            Err(error) => {
                let next = error.to_string();
                (next != message).then_some((key.clone(), Some(next)))
            }
        }
    })
}

impl SchemaError {
    /// Creates an error that the resource itself reports.
    pub(super) fn for_table(message: String) -> Self {
        Self { key: None, message, is_unknown: false }
    }

    /// Adds the place: the key, its value, or the step.
    pub(super) fn to_diagnostic(
        &self,
        kind: &ResourceKind,
        entries: &[TableEntry],
        file: &SourceFile,
        step: &Origin,
    ) -> Diagnostic {
        let entry = self.key.as_ref().and_then(|key| find_entry(kind, entries, key));
        let Some(entry) = entry else {
            return match self.message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
                Some(field) => {
                    let message = format!("`{}` needs `{}`", kind.name, playbook_key(kind, field));
                    Diagnostic::error_at(step, message)
                }
                None => Diagnostic::error_at(step, self.message.clone()),
            };
        };
        if self.is_unknown {
            let known = playbook_keys(kind, &self.message);
            return Diagnostic::error_at_span(
                file,
                entry.key_span.clone(),
                format!("unknown key `{}` in `{}`", entry.key, kind.name),
            )
            .suggest_or_list(&entry.key, known.iter().map(String::as_str));
        }
        invalid_value_error(Diagnostic::error_at_span(file, entry.value.span.clone(), ""), &entry.key, &self.message)
    }
}

/// Returns the author's entry for a field of the desired state.
fn find_entry<'e>(kind: &ResourceKind, entries: &'e [TableEntry], field: &str) -> Option<&'e TableEntry> {
    let direct = entries.iter().find(|entry| entry.key == field);
    direct.or_else(|| {
        let content = kind.contents.iter().filter(|content| content.field == field);
        content.filter_map(|content| entries.iter().find(|entry| entry.key == content.playbook_key)).next()
    })
}

/// Returns the key that an author writes for a field of the desired state.
fn playbook_key<'k>(kind: &'k ResourceKind, field: &'k str) -> &'k str {
    kind.contents.iter().find(|content| content.field == field).map_or(field, |content| content.playbook_key)
}

/// Returns the keys that an author may write: the fields that serde lists, contents under their own names.
fn playbook_keys(kind: &ResourceKind, said: &str) -> Vec<String> {
    let listed = said.split_once(", expected").map(|(_, list)| list).unwrap_or_default();
    let fields = listed.split('`').skip(1).step_by(2);
    let mut keys: Vec<String> = fields
        .filter(|field| !kind.contents.iter().any(|content| content.field == *field) && *field != DISPLAY_FIELD)
        .map(str::to_owned)
        .collect();
    let named = kind.contents.iter().filter(|content| !content.playbook_key.is_empty());
    keys.extend(named.map(|content| content.playbook_key.to_owned()));
    keys
}

fn invalid_value_error(mut diagnostic: Diagnostic, key: &str, said: &str) -> Diagnostic {
    if let Some((is, wanted)) = said.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        diagnostic.message = format!("`{key}` must be {}", expected_type_name(wanted));
        return diagnostic.with_label(format!("this is {}", found_type_name(is)));
    }
    if let Some((is, wanted)) = said.strip_prefix("unknown variant `").and_then(|rest| rest.split_once("`, expected "))
    {
        diagnostic.message = format!("`{key}` cannot be \"{is}\"");
        let known: Vec<&str> = wanted.split('`').skip(1).step_by(2).collect();
        return match nearest_words(is, known.iter().copied()).first() {
            Some(near) => diagnostic.with_help(format!("did you mean \"{near}\"?")),
            None => diagnostic.with_help(format!("one of: {}", known.join(", "))),
        };
    }
    diagnostic.message = format!("`{key}`: {said}");
    diagnostic
}

fn expected_type_name(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" => "a whole number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "f64" => "a number",
        other if other == "a map" || other.starts_with("struct ") => "a table",
        "path string" => "a string",
        other => other,
    }
}

fn found_type_name(unexpected: &str) -> &str {
    match unexpected.split(' ').next().unwrap_or_default() {
        "integer" => "a whole number",
        "floating" => "a number",
        "boolean" => "a boolean",
        "string" => "a string",
        "sequence" => "a list",
        "map" => "a table",
        _ => unexpected,
    }
}
