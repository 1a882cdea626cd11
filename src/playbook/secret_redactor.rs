//! Finds the values of secrets in texts, and cuts them out. This is the second line of defence: what depends on a
//! secret is hidden by its origin (`decoys`); texts that hosts send may still quote one that an earlier run wrote
//! there.

use serde_json::Value as Json;

use crate::plan::{Digest, ResourceChange};
use crate::protocol::Event;

/// Shorter secrets and lines of secrets would be found anywhere.
const MIN_VALUE_CHARS: usize = 4;
const MIN_LINE_CHARS: usize = 8;

/// The secrets' values, the lines of those that have several, and their SHA-256 digests; the longest first.
#[derive(Clone, Default)]
pub struct SecretRedactor(Vec<String>);

impl SecretRedactor {
    /// Collects the strings of a (nested) table that have at least four characters.
    pub fn from_secrets(secrets: &Json) -> Self {
        let mut words = Vec::new();
        collect_words(secrets, &mut words);
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        Self(words)
    }

    /// Returns whether a text contains a secret.
    pub(super) fn is_secret_in(&self, text: &str) -> bool {
        self.0.iter().any(|word| text.contains(word.as_str()))
    }

    /// Returns whether any string in a value contains a secret.
    pub(super) fn is_secret_in_json(&self, value: &Json) -> bool {
        match value {
            Json::String(text) => self.is_secret_in(text),
            Json::Array(items) => items.iter().any(|item| self.is_secret_in_json(item)),
            Json::Object(table) => table.values().any(|item| self.is_secret_in_json(item)),
            _ => false,
        }
    }

    /// Returns the text with every secret replaced by `***`.
    pub fn redact_text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, word| text.replace(word.as_str(), "***"))
    }

    /// Cuts secrets out of the values of a row: the one that goes may be a secret that the playbook no longer has
    /// there.
    pub fn redact_row(&self, row: &mut ResourceChange) {
        let changed = row.changes.iter_mut().flat_map(|change| [&mut change.from, &mut change.to, &mut change.diff]);
        for text in changed.chain([&mut row.reason]).filter_map(Option::as_mut) {
            if self.is_secret_in(text) {
                *text = self.redact_text(text);
            }
        }
    }

    /// Cuts secrets out of the texts of an event: a program may print what it was given.
    pub fn redact_event(&self, mut event: Event) -> Event {
        match &mut event {
            Event::StepFailed { error: text, .. } | Event::Note { text } | Event::Output { text, .. } => {
                *text = self.redact_text(text);
            }
            Event::StepStarted { .. } | Event::StepDone { .. } | Event::Progress { .. } => {}
        }
        event
    }
}

fn collect_words(value: &Json, words: &mut Vec<String>) {
    match value {
        Json::String(text) if text.chars().count() >= MIN_VALUE_CHARS => {
            words.push(Digest::of_bytes(text.as_bytes()).as_str().to_owned());
            words.push(text.clone());
            // Diffs and logs show a text line by line.
            let lines = text.lines().map(str::trim).filter(|line| *line != text.as_str());
            words.extend(lines.filter(|line| line.chars().count() >= MIN_LINE_CHARS).map(str::to_owned));
        }
        Json::Object(table) => table.values().for_each(|value| collect_words(value, words)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::{Action, AttributeChange, StepRef};

    #[test]
    fn values_and_lines_of_secrets_are_cut_out() {
        let secrets = json!({"short": "hunter2", "db": {"long": "hunter2-long"}, "pem": "-----BEGIN\nMIIEvQIBAD\n", "pin": "123"});
        let redactor = SecretRedactor::from_secrets(&secrets);
        assert_eq!(redactor.redact_text("hunter2-long, hunter2, 123\n-MIIEvQIBAD\n"), "***, ***, 123\n-***\n");
        assert!(!redactor.is_secret_in("hunter"));
    }

    #[test]
    fn diffs_show_no_secret_that_an_earlier_run_wrote() {
        let change =
            AttributeChange::new("content", "a", "b").with_diff("-password = hunter2\n+password_file = x\n".to_owned());
        let mut row = ResourceChange {
            step: StepRef { play: 0, step: 0 },
            name: None,
            resource: "file /x".to_owned(),
            action: Action::Change,
            changes: vec![change],
            reason: None,
            fingerprint: Digest::of_bytes(b""),
        };
        SecretRedactor::from_secrets(&json!({"password": "hunter2"})).redact_row(&mut row);
        assert_eq!(row.changes[0].diff.as_deref(), Some("-password = ***\n+password_file = x\n"));
    }
}
