//! Shows a change of content as a unified diff, or as digest and length if the text is sensitive.

use similar::TextDiff;

use crate::plan::{AttributeChange, Digest, DigestKey};

/// Longest text, in bytes, that is shown as a diff; longer ones are shown by digest and length.
pub const MAX_DIFF_BYTES: u64 = 256 * 1024;

/// The way in which a content is shown.
#[derive(Clone, Copy, Debug)]
pub struct Disclosure<'a> {
    /// The text must not be shown.
    pub is_sensitive: bool,
    /// The key under which digests are shown; without one a sensitive content has no digest.
    pub key: Option<&'a DigestKey>,
}

impl Disclosure<'_> {
    /// Returns digest and length: `9f86d081884c, 4 bytes`.
    pub fn describe_bytes(&self, bytes: &[u8]) -> String {
        format!("{}, {} bytes", self.describe_digest(&Digest::of_bytes(bytes)), bytes.len())
    }

    /// Returns the first digits of a digest: of its HMAC if there is a key.
    pub fn describe_digest(&self, digest: &Digest) -> String {
        match self.key {
            Some(key) => key.authenticate(digest.as_str().as_bytes()).short_hex().to_owned(),
            None if self.is_sensitive => "hidden".to_owned(),
            None => digest.short_hex().to_owned(),
        }
    }
}

/// Returns the change from one content to another, shown as a diff of its lines.
///
/// Sensitive contents, binary contents and very long ones are shown as digest and length only.
pub fn content_change(from: Option<&[u8]>, to: &[u8], disclosure: Disclosure<'_>) -> AttributeChange {
    let describe = |bytes| disclosure.describe_bytes(bytes);
    let mut change = match from {
        Some(from) => AttributeChange::new("content", describe(from), describe(to)),
        None => AttributeChange::from_absent("content", describe(to)),
    };
    let is_shown = !disclosure.is_sensitive;
    if is_shown && let (Some(old), Some(new)) = (as_diffable_text(from.unwrap_or_default()), as_diffable_text(to)) {
        let diff = TextDiff::from_lines(old, new).unified_diff().context_radius(3).to_string();
        change.diff = Some(diff);
    }
    change
}

fn as_diffable_text(bytes: &[u8]) -> Option<&str> {
    if bytes.len() as u64 > MAX_DIFF_BYTES || bytes.contains(&0) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAR: Disclosure<'_> = Disclosure { is_sensitive: false, key: None };

    #[test]
    fn secrets_show_only_digest_and_length() {
        let key = DigestKey::from_random(b"any");
        let with_key = Disclosure { is_sensitive: true, key: Some(&key) };
        let change = content_change(Some(b"old secret\n"), b"new secret\n", with_key);
        assert!(
            !format!("{change:?}").contains(Digest::of_bytes(b"new secret\n").short_hex()),
            "a guess can be tested"
        );
        let change =
            content_change(Some(b"old secret\n"), b"new secret\n", Disclosure { is_sensitive: true, key: None });
        assert!(change.diff.is_none());
        assert!(!format!("{change:?}").contains("secret"));
        assert!(change.to.unwrap().ends_with("11 bytes"));
    }

    #[test]
    fn text_is_shown_line_by_line() {
        let diff = content_change(Some(b"a\nb\n"), b"a\nc\n", CLEAR).diff.unwrap();
        assert_eq!(diff, "@@ -1,2 +1,2 @@\n a\n-b\n+c\n");
    }

    #[test]
    fn binary_contents_have_no_diff() {
        assert!(content_change(None, b"\x00\x01", CLEAR).diff.is_none());
    }
}
