//! `secrets.toml` beside `hosts.toml`: strings by (nested) name, which never appear in messages, excerpts or debug
//! output.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Diagnostics};
use super::fields;
use super::read::read_secret_source;
use super::source::{Origin, SourceFile};

/// A secret string. `Debug` and `Display` show `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a string.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the string itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Secrets by dotted name (`redis.password`). `Debug` shows names only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    values: BTreeMap<String, Secret>,
}

impl Secrets {
    /// Returns a secret by its dotted name.
    pub fn find_secret(&self, name: &str) -> Option<&Secret> {
        self.values.get(name)
    }

    /// Returns the dotted names in alphabetical order.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Returns whether there are no secrets.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Returns the secrets as a nested JSON object in clear text: for the context of templates, never for output.
    pub fn expose_json(&self) -> serde_json::Value {
        let mut root = serde_json::Map::new();
        for (name, secret) in &self.values {
            let mut table = &mut root;
            let mut parts = name.split('.').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_none() {
                    table.insert(part.to_owned(), secret.expose().into());
                    break;
                }
                let slot = table.entry(part).or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()));
                match slot {
                    serde_json::Value::Object(inner) => table = inner,
                    _ => break,
                }
            }
        }
        root.into()
    }

    /// Replaces the value of every secret in a text by `***`, longest values first.
    pub fn redact_text(&self, text: &str) -> String {
        let mut values: Vec<&str> =
            self.values.values().map(Secret::expose).filter(|value| !value.is_empty()).collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.iter().fold(text.to_owned(), |text, value| text.replace(value, "***"))
    }
}

/// Reads `secrets.toml` of a folder; absent is empty. A file that others may read is an error.
pub(super) fn read_secrets(dir: &Path, found: &mut Diagnostics) -> Secrets {
    let path = dir.join("secrets.toml");
    let file = match read_secret_source(&path) {
        Ok(Some(file)) => file,
        Ok(None) => return Secrets::default(),
        Err(error) => {
            found.push(error);
            return Secrets::default();
        }
    };
    if let Ok(meta) = std::fs::metadata(&path)
        && meta.permissions().mode() & 0o077 != 0
    {
        let message = format!("mode {:04o} lets other users read the secrets", meta.permissions().mode() & 0o7777);
        let help = format!("chmod 600 {}", path.display());
        found.push(Diagnostic::error_in_file(&file, message).with_help(help));
    }
    let mut secrets = Secrets::default();
    collect_strings(&file, fields::parse_table(&file, found).get_ref(), "", &mut secrets.values, found);
    secrets
}

fn collect_strings(
    file: &SourceFile,
    table: &DeTable<'_>,
    prefix: &str,
    into: &mut BTreeMap<String, Secret>,
    found: &mut Diagnostics,
) {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        if !super::vars::is_var_name(key.get_ref()) {
            let message = "a secret's name is made of letters, digits and `_`, and does not begin with a digit";
            found.push(Diagnostic::error_at(&Origin::at_span(file, key.span()), message));
        }
        match value.get_ref() {
            DeValue::String(text) => {
                into.insert(name, Secret::new(text.to_string()));
            }
            DeValue::Table(inner) => collect_strings(file, inner, &format!("{name}."), &mut *into, &mut *found),
            _ => found.push(fields::wrong_type_error(file, &name, value, "a string or a table of strings")),
        }
    }
}
