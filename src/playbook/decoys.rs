//! Finds out which values depend on secrets: everything is rendered a second time with decoys in place of the secrets,
//! and what comes out different is secret. This holds through filters, variables, loops and included templates.

use serde_json::{Map, Value as Json};
use tera::{Context, Value};

use crate::inventory::Diagnostic;

/// A context, and the same context with decoys; without one where the inventory has no secrets.
#[derive(Clone)]
pub(super) struct TaintedContext {
    pub real: Context,
    pub decoy: Option<Context>,
}

impl TaintedContext {
    /// Adds a variable, which may have another value with decoys.
    pub(super) fn insert(&mut self, name: &str, real: &Json, decoy: Option<&Json>) {
        self.real.insert_value(name.to_owned(), Value::from_serializable(real));
        if let Some(context) = &mut self.decoy {
            context.insert_value(name.to_owned(), Value::from_serializable(decoy.unwrap_or(real)));
        }
    }

    /// Evaluates with the real values. An error that is another one with decoys, or none, shows a secret: its message
    /// is replaced.
    ///
    /// # Errors
    /// Returns the error of `evaluate`.
    pub(super) fn evaluate<T>(
        &self,
        evaluate: impl Fn(&Context) -> Result<T, Vec<Diagnostic>>,
    ) -> Result<T, Vec<Diagnostic>> {
        evaluate(&self.real).map_err(|found| match &self.decoy {
            None => found,
            Some(decoy) => hide_differing(found, &evaluate(decoy).err().unwrap_or_default()),
        })
    }
}

/// Replaces the messages that are not found with decoys too.
fn hide_differing(found: Vec<Diagnostic>, with_decoys: &[Diagnostic]) -> Vec<Diagnostic> {
    let hide = |one: Diagnostic| if with_decoys.contains(&one) { one } else { hide_message(&one) };
    found.into_iter().map(hide).collect()
}

/// Replaces the message of an error, which may show a secret.
pub(super) fn hide_message(diagnostic: &Diagnostic) -> Diagnostic {
    Diagnostic::error_at(&diagnostic.origin, "the value cannot be used here; it depends on a secret and is not shown")
        .with_help("compare the entry in `secrets.toml` with what this key takes")
}

/// Returns a table of secrets of the same shape in which every string has another value of the same length.
pub(super) fn make_decoys(secrets: &Json) -> Json {
    match secrets {
        Json::String(text) => text.chars().map(decoy_char).collect::<String>().into(),
        Json::Object(table) => table.iter().map(|(name, value)| (name.clone(), make_decoys(value))).collect(),
        other => other.clone(),
    }
}

/// Returns another character of the same kind. White space stays, so that lines stay lines.
fn decoy_char(char: char) -> char {
    let rotate = |first: u8, count: u8| {
        let position = u8::try_from(char).unwrap_or(first) - first;
        char::from(first + (position + 1) % count)
    };
    match char {
        'a'..='z' => rotate(b'a', 26),
        'A'..='Z' => rotate(b'A', 26),
        '0'..='9' => rotate(b'0', 10),
        char if char.is_whitespace() => char,
        '#' => '%',
        _ => '#',
    }
}

/// Returns the keys of a table whose values differ from those with decoys; all of them where there is no table with
/// decoys, because a decoy could not be used.
pub(super) fn differing_keys(real: &Map<String, Json>, decoy: Option<&Map<String, Json>>) -> Vec<String> {
    let differs = |key: &&String| decoy.is_none_or(|decoy| decoy.get(*key) != real.get(*key));
    real.keys().filter(differs).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn decoys_differ_in_every_character_and_keep_the_shape() {
        let secrets = json!({ "redis": { "admin": "Zz9#-é\n a" }, "pin": "000" });
        let decoys = make_decoys(&secrets);
        assert_eq!(decoys, json!({ "redis": { "admin": "Aa0%##\n b" }, "pin": "111" }));
    }
}
