//! Shows a change of content as a unified diff, or as digest and length if the text is sensitive.

use similar::TextDiff;

use crate::plan::{AttributeChange, Digest};

/// Longest text, in bytes, that is shown as a diff; longer ones are shown by digest and length.
pub const MAX_DIFF_BYTES: u64 = 256 * 1024;

/// The change from one content to another, shown as a diff of its lines.
///
/// `sensitive` contents, binary contents and very long ones are shown as digest and length only.
pub fn content_change(from: Option<&[u8]>, to: &[u8], sensitive: bool) -> AttributeChange {
    let mut change = match from {
        Some(from) => AttributeChange::new("content", describe_bytes(from), describe_bytes(to)),
        None => AttributeChange::from_absent("content", describe_bytes(to)),
    };
    if !sensitive && let (Some(old), Some(new)) = (as_diffable_text(from.unwrap_or_default()), as_diffable_text(to)) {
        let diff = TextDiff::from_lines(old, new).unified_diff().context_radius(3).to_string();
        change.diff = Some(diff);
    }
    change
}

/// Digest and length: `9f86d081884c, 4 bytes`.
pub fn describe_bytes(bytes: &[u8]) -> String {
    format!("{}, {} bytes", Digest::of_bytes(bytes).short_hex(), bytes.len())
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

    #[test]
    fn secrets_show_only_digest_and_length() {
        let change = content_change(Some(b"old secret\n"), b"new secret\n", true);
        assert!(change.diff.is_none());
        assert!(!format!("{change:?}").contains("secret"));
        assert!(change.to.unwrap().ends_with("11 bytes"));
    }

    #[test]
    fn text_is_shown_line_by_line() {
        let diff = content_change(Some(b"a\nb\n"), b"a\nc\n", false).diff.unwrap();
        assert_eq!(diff, "@@ -1,2 +1,2 @@\n a\n-b\n+c\n");
    }

    #[test]
    fn binary_contents_have_no_diff() {
        assert!(content_change(None, b"\x00\x01", false).diff.is_none());
    }
}
