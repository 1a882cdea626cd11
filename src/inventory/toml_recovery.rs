//! Brackets that are never closed. A TOML parser takes the rest of the file for their content and reports every line of
//! it; here the one mistake is found, and the rest of the file stays readable.

use std::ops::Range;

/// A bracket without its partner, and the statement that it spoils: up to where the next one evidently begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnclosedBracket {
    /// Offset of the bracket.
    pub bracket: usize,
    /// The bytes to leave out.
    pub statement: Range<usize>,
}

/// Finds the brackets that are still open where a table header or a new `key =` begins a line, or the file ends.
pub(super) fn find_unclosed(text: &str) -> Vec<UnclosedBracket> {
    let mut found = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let (mut at, mut statement) = (0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let line_begins = at == 0 || bytes[at - 1] == b'\n';
        if line_begins {
            let line = text[at..].lines().next().unwrap_or_default();
            let in_header = open.first() == Some(&statement);
            let in_array = !in_header && open.last().is_some_and(|bracket| bytes[*bracket] == b'[');
            if let Some(bracket) = open.first().copied()
                && (is_header(line) || (in_array && is_key_value(line)))
            {
                found.push(UnclosedBracket { bracket, statement: statement..at });
                open.clear();
            }
            if open.is_empty() {
                statement = at;
                if is_header(line) {
                    at += line.len().max(1);
                    continue;
                }
            }
        }
        match bytes[at] {
            b'#' => at += text[at..].find('\n').unwrap_or(text.len() - at),
            b'"' | b'\'' => at += string_length(&text[at..]),
            b'[' | b'{' => {
                open.push(at);
                at += 1;
            }
            b']' | b'}' => {
                open.pop();
                at += 1;
            }
            _ => at += 1,
        }
    }
    if let Some(bracket) = open.first() {
        found.push(UnclosedBracket { bracket: *bracket, statement: statement..text.len() });
    }
    found
}

/// Blanks out these statements; every other byte keeps its place.
pub(super) fn blank_statements(text: &str, unclosed: &[UnclosedBracket]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for one in unclosed {
        bytes[one.statement.clone()].iter_mut().filter(|b| **b != b'\n' && **b != b'\r').for_each(|b| *b = b' ');
    }
    // Whole characters were replaced, since statements begin and end with lines.
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns whether a line is `[name]` or `[[name]]`; an element of an array is not a bare word, so it cannot be
/// mistaken for one.
fn is_header(line: &str) -> bool {
    let inner = line.split('#').next().unwrap_or_default().trim_end();
    let Some(inner) = inner.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else { return false };
    let inner = inner.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(inner).trim();
    inner.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !inner.contains([',', '{', '=', '['])
        && !matches!(inner, "true" | "false" | "inf" | "nan")
}

/// Returns whether a line is `key = …`.
fn is_key_value(line: &str) -> bool {
    let Some((key, _)) = line.split_once('=') else { return false };
    let key = key.trim_end();
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// Returns the length of the string that starts here; an unclosed one ends with its line.
fn string_length(text: &str) -> usize {
    let quote = &text[..1];
    let triple = quote.repeat(3);
    if let Some(rest) = text.strip_prefix(triple.as_str()) {
        return rest.find(&triple).map_or(text.len(), |end| end + 6);
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return at,
            _ if escaped => escaped = false,
            '\\' if quote == "\"" => escaped = true,
            c if quote.starts_with(c) => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::{blank_statements, find_unclosed};

    #[test]
    fn only_the_unclosed_statement_is_blanked() {
        for (text, rest) in [
            ("a = [1,\n[t]\nb = 2\n", "       \n[t]\nb = 2\n"),
            ("a = [1\nb = 2\nc = { x = 1\n[t]\n", "      \nb = 2\n           \n[t]\n"),
            ("a = [\"[\", '{', # [\n]\n[t]\n", "a = [\"[\", '{', # [\n]\n[t]\n"),
            ("a = [\n  [1],\n[2]\n]\n", "a = [\n  [1],\n[2]\n]\n"),
            ("a = \"\"\"\n[t]\n[ \"\"\"\nb = [", "a = \"\"\"\n[t]\n[ \"\"\"\n     "),
            ("[t]\na = \"[\nb = 1\n", "[t]\na = \"[\nb = 1\n"),
            ("a = \"é\" # ü\nb = [\"é\"", "a = \"é\" # ü\n         "),
            // The keys of a table without a name would end up in the table before.
            ("[a]\nx = 1\n[b\nx = [2]\n[c]\n", "[a]\nx = 1\n  \n       \n[c]\n"),
        ] {
            assert_eq!(blank_statements(text, &find_unclosed(text)), rest, "{text:?}");
        }
    }

    #[test]
    fn unclosed_brackets_are_located() {
        let found = find_unclosed("x = 1\na = [1,\n[t]\n");
        assert_eq!((found[0].bracket, found[0].statement.clone()), (10, 6..14));
    }
}
