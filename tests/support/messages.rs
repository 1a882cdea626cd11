//! Snapshots of messages: each test that is about a wording has a file in `tests/messages` with the whole of it.
//!
//! A run of the tests fails where a message is another. To accept what there is now, and to look at the difference:
//! `INSTA_UPDATE=always cargo test`, then `git diff`.

use std::fmt::{Display, Write as _};
use std::sync::LazyLock;

use regex::Regex;

/// Compares messages, each with the case that it is about, with the snapshot of that name.
///
/// Ports, temporary folders, times and offsets are replaced, since they differ from run to run.
#[track_caller]
pub fn check<C: Display, M: Display>(name: &str, messages: impl IntoIterator<Item = (C, M)>) {
    let mut text = String::new();
    for (case, message) in messages {
        let message = stable(&message.to_string());
        let _ = writeln!(text, "{case}:\n  {}", message.trim_end().replace('\n', "\n  "));
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/messages"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn stable(text: &str) -> String {
    static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let patterns = [
            (r"(?:/[\w.-]+)*/\.tmp\w+", "[FOLDER]"),
            (r"(?:/[\w.-]+)+/dunlin-check-\w+", "[TEMP]/dunlin-check-[N]"),
            (r"\b127\.0\.0\.(\d+):\d{4,5}\b", "127.0.0.$1:[PORT]"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "[TIME]"),
            (r"\b[0-9a-f]{40,64}\b", "[HASH]"),
            (r"\b[0-9.]+ ms\b", "[N] ms"),
            (r"\b\d+ bytes free\b", "[N] bytes free"),
            (r"\bneeds \d{5,} bytes\b", "needs [N] bytes"),
            (r"\bholds \d{5,}\b", "holds [N]"),
            (r"\bthat user [\w-]+ can\b", "that user [USER] can"),
            (r"\bfor \d+ s\b", "for [N] s"),
            (r"\bat offset \d+", "at offset [N]"),
        ];
        patterns.into_iter().map(|(pattern, name)| (Regex::new(pattern).unwrap(), name)).collect()
    });
    PATTERNS.iter().fold(text.to_owned(), |text, (pattern, name)| pattern.replace_all(&text, *name).into_owned())
}
