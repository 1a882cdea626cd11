//! A step's table against its resource type: which key is to blame for what serde says, all mistakes at once.

use serde_json::{Map, Value as Json};

use super::model::Entry;
use crate::inventory::{Diagnostic, Origin, SourceFile, nearest};
use crate::resources::{Kind, Step};

/// A mistake in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The key to blame; `None` stands for the table as a whole.
    pub key: Option<String>,
    /// What serde said.
    said: String,
    /// Whether the type has no such field at all.
    pub unknown: bool,
}

/// Makes the resource, or says everything that is wrong with its table.
pub(super) fn parse(kind: &Kind, table: &Map<String, Json>) -> Result<Box<dyn Step>, Vec<Fault>> {
    let mut said = match (kind.parse)(Json::Object(table.clone())) {
        Ok(step) => return Ok(step),
        Err(error) => error.to_string(),
    };
    let mut table = table.clone();
    let mut faults: Vec<Fault> = Vec::new();
    loop {
        let missing = said.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        if missing.is_some_and(|field| faults.iter().any(|fault| fault.key.as_deref() == Some(field))) {
            return Err(faults);
        }
        let Some((key, next)) = guilty(kind, &table, &said) else {
            faults.push(Fault { key: None, said, unknown: false });
            return Err(faults);
        };
        let unknown = said.starts_with(&format!("unknown field `{key}`"));
        table.remove(&key);
        faults.push(Fault { key: Some(key), said, unknown });
        match next {
            Some(next) => said = next,
            None => return Err(faults),
        }
    }
}

/// The key without which serde says something else, and what it says then (`None`: nothing).
fn guilty(kind: &Kind, table: &Map<String, Json>, said: &str) -> Option<(String, Option<String>)> {
    table.keys().find_map(|key| {
        let mut without = table.clone();
        without.remove(key);
        match (kind.parse)(Json::Object(without)) {
            Ok(_) => Some((key.clone(), None)),
            Err(error) => {
                let next = error.to_string();
                (next != said).then_some((key.clone(), Some(next)))
            }
        }
    })
}

impl Fault {
    /// A mistake that the resource itself finds.
    pub(super) fn whole(said: String) -> Self {
        Self { key: None, said, unknown: false }
    }

    /// With its place: the key, its value, or the step.
    pub(super) fn diagnostic(
        &self,
        kind: &Kind,
        entries: &[Entry],
        (file, step): (&SourceFile, &Origin),
    ) -> Diagnostic {
        let entry = self.key.as_ref().and_then(|key| entry_of(kind, entries, key));
        let Some(entry) = entry else {
            return match self.said.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
                Some(field) => {
                    let message = format!("`{}` needs `{}`", kind.name, author_key(kind, field));
                    Diagnostic::on(step, message)
                }
                None => Diagnostic::on(step, self.said.clone()),
            };
        };
        if self.unknown {
            let known = author_keys(kind, &self.said);
            return Diagnostic::at(
                file,
                entry.key_span.clone(),
                format!("unknown key `{}` in `{}`", entry.key, kind.name),
            )
            .suggest_or_list(&entry.key, known.iter().map(String::as_str));
        }
        wrong_value(Diagnostic::at(file, entry.item.span.clone(), ""), &entry.key, &self.said)
    }
}

/// The author's entry behind a field of the desired state.
fn entry_of<'e>(kind: &Kind, entries: &'e [Entry], field: &str) -> Option<&'e Entry> {
    let direct = entries.iter().find(|entry| entry.key == field);
    direct.or_else(|| {
        let content = kind.contents.iter().filter(|content| content.field == field);
        content.filter_map(|content| entries.iter().find(|entry| entry.key == content.toml)).next()
    })
}

/// The key that an author writes for a field of the desired state.
fn author_key<'k>(kind: &'k Kind, field: &'k str) -> &'k str {
    kind.contents.iter().find(|content| content.field == field).map_or(field, |content| content.toml)
}

/// The keys that an author may write: the fields that serde lists, contents under their own names.
fn author_keys(kind: &Kind, said: &str) -> Vec<String> {
    let listed = said.split_once(", expected").map(|(_, list)| list).unwrap_or_default();
    let fields = listed.split('`').skip(1).step_by(2);
    let mut keys: Vec<String> = fields
        .filter(|field| !kind.contents.iter().any(|content| content.field == *field))
        .map(str::to_owned)
        .collect();
    let named = kind.contents.iter().filter(|content| !content.toml.is_empty());
    keys.extend(named.map(|content| content.toml.to_owned()));
    keys
}

fn wrong_value(mut diagnostic: Diagnostic, key: &str, said: &str) -> Diagnostic {
    if let Some((is, wanted)) = said.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        diagnostic.message = format!("`{key}` must be {}", wanted_type(wanted));
        return diagnostic.label(format!("this is {}", type_of(is)));
    }
    if let Some((is, wanted)) = said.strip_prefix("unknown variant `").and_then(|rest| rest.split_once("`, expected "))
    {
        diagnostic.message = format!("`{key}` cannot be \"{is}\"");
        let known: Vec<&str> = wanted.split('`').skip(1).step_by(2).collect();
        return match nearest(is, known.iter().copied()).first() {
            Some(near) => diagnostic.help(format!("did you mean \"{near}\"?")),
            None => diagnostic.help(format!("one of: {}", known.join(", "))),
        };
    }
    diagnostic.message = format!("`{key}`: {said}");
    diagnostic
}

fn wanted_type(expected: &str) -> &str {
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

fn type_of(unexpected: &str) -> &str {
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
