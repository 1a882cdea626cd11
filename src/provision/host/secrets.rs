//! Keeps the values of secret fields out of rows and messages.

use serde_json::Value;

use crate::plan::{AttributeChange, Digest, DigestKey};
use crate::resources::BlobSource;

/// Contents with the key of the catalog.
pub struct KeyedBlobs<'a> {
    /// The contents.
    pub blobs: &'a dyn BlobSource,
    /// The key under which digests are shown.
    pub key: Option<&'a DigestKey>,
}

impl BlobSource for KeyedBlobs<'_> {
    fn fetch_blobs(&self, digests: &[Digest]) -> anyhow::Result<()> {
        self.blobs.fetch_blobs(digests)
    }

    fn digest_key(&self) -> Option<&DigestKey> {
        self.key
    }

    fn read_blob(&self, digest: &Digest) -> anyhow::Result<Vec<u8>> {
        self.blobs.read_blob(digest)
    }
}

/// The secret fields of a step, and their values.
#[derive(Clone, Debug, Default)]
pub struct SecretFields {
    names: Vec<String>,
    values: Vec<String>,
}

impl SecretFields {
    /// Takes the values of these fields out of the desired state.
    pub fn of_step(names: Vec<String>, desired: &Value) -> Self {
        let mut values = Vec::new();
        for name in &names {
            collect_strings(desired.get(name).unwrap_or(&Value::Null), &mut values);
        }
        // The longest first: a value may be a part of another.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Self { names, values }
    }

    /// Replaces the values of attributes that have the name of a secret field by a digest under the key and a length.
    pub fn hide_changes(&self, changes: Vec<AttributeChange>, key: Option<&DigestKey>) -> Vec<AttributeChange> {
        let hide = |value: Option<String>| value.map(|value| hide_value(&value, key));
        let hide_change = |change: AttributeChange| match self.names.contains(&change.attribute) {
            true if change.attribute != "content" => AttributeChange {
                from: hide(change.from),
                to: hide(change.to),
                diff: None,
                attribute: change.attribute,
            },
            _ => change,
        };
        changes.into_iter().map(hide_change).collect()
    }

    /// Replaces the values in the messages of an error by `***`.
    pub fn redact_error(&self, error: anyhow::Error) -> anyhow::Error {
        let message = format!("{error:#}");
        let redacted = self.redact_text(&message);
        if redacted == message { error } else { anyhow::Error::msg(redacted) }
    }

    /// Replaces the values in a text by `***`.
    pub fn redact_text(&self, text: &str) -> String {
        self.values.iter().fold(text.to_owned(), |text, value| text.replace(value.as_str(), "***"))
    }
}

fn hide_value(value: &str, key: Option<&DigestKey>) -> String {
    match key {
        Some(key) => format!("{}, {} bytes", key.authenticate(value.as_bytes()).short_hex(), value.len()),
        None => format!("hidden, {} bytes", value.len()),
    }
}

fn collect_strings(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) if !text.is_empty() => into.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect_strings(item, into)),
        Value::Object(table) => table.values().for_each(|item| collect_strings(item, into)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secret_attributes_and_texts_are_hidden() {
        let fields = SecretFields::of_step(vec!["comment".to_owned()], &json!({ "comment": "s3cr3t", "home": "/h" }));
        let changes =
            vec![AttributeChange::from_absent("comment", "s3cr3t"), AttributeChange::from_absent("home", "/h")];
        let hidden = fields.hide_changes(changes, None);
        assert_eq!(hidden[0].to.as_deref(), Some("hidden, 6 bytes"));
        assert_eq!(hidden[1].to.as_deref(), Some("/h"));
        assert_eq!(fields.redact_text("useradd --comment s3cr3t x"), "useradd --comment *** x");
    }
}
