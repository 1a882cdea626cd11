//! The variables that an expression reads, as dotted paths: tera takes an unknown field in a comparison for "not
//! equal", so a typing error would silently disable a step. Each path is looked up before the expression is evaluated.

use std::ops::Range;

/// A path (`facts.os.family`) and its place in the expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathReference {
    /// Its names, at least one.
    pub names: Vec<String>,
    /// Byte offsets of each name into the expression.
    pub spans: Vec<Range<usize>>,
}

const KEYWORDS: [&str; 11] = ["and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "None"];

/// Finds the paths of an expression. The list is empty if the expression handles missing values itself (`is defined`,
/// `default`, `?`).
pub(super) fn find_paths(expression: &str) -> Vec<PathReference> {
    let bytes = expression.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    // What stood before: a filter's or a test's name is no variable.
    let mut names_next = false;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'' | b'`') => {
                at = closing_quote(bytes, at + 1, quote);
                names_next = false;
            }
            b'|' => (at, names_next) = (at + 1, true),
            b'?' => return Vec::new(),
            byte if byte.is_ascii_alphabetic() || byte == b'_' => {
                let (path, end) = parse_path(expression, at);
                let first = path.names[0].as_str();
                if ["defined", "undefined", "default"].contains(&first) {
                    return Vec::new();
                }
                if first == "is" {
                    names_next = true;
                } else if first != "not" || !names_next {
                    if !names_next && !KEYWORDS.contains(&first) && !is_call_or_argument(&expression[end..]) {
                        found.push(path);
                    }
                    names_next = false;
                }
                at = end;
            }
            byte if byte.is_ascii_digit() => {
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
                    at += 1;
                }
            }
            // A field behind an index or a call cannot be looked up without evaluating.
            b'.' => at = name_end(bytes, at + 1),
            _ => at += 1,
        }
    }
    found
}

/// Returns whether a name is that of a function or of an argument, by the text after it.
fn is_call_or_argument(rest: &str) -> bool {
    let rest = rest.trim_start();
    rest.starts_with('(') || (rest.starts_with('=') && !rest.starts_with("=="))
}

fn closing_quote(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn parse_path(expression: &str, start: usize) -> (PathReference, usize) {
    let bytes = expression.as_bytes();
    let mut path = PathReference { names: Vec::new(), spans: Vec::new() };
    let (mut at, mut from) = (start, start);
    loop {
        at = name_end(bytes, at);
        path.names.push(expression[from..at].to_owned());
        path.spans.push(from..at);
        let next_is_name = bytes.get(at + 1).is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
        if bytes.get(at) != Some(&b'.') || !next_is_name {
            return (path, at);
        }
        from = at + 1;
        at = from;
    }
}

fn name_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::find_paths;

    #[test]
    fn paths_are_found_and_keywords_are_not() {
        for (expression, wanted) in [
            ("facts.os.family == 'debian'", "facts.os.family"),
            ("a and not b.c or d in e", "a b.c d e"),
            ("x | upper == \"A.b\"", "x"),
            ("x is starting_with(pat=y)", "x y"),
            ("n is not odd and m", "n m"),
            ("range(end=count)", "count"),
            ("list[0].name == other", "list other"),
            ("1e3 > limit", "limit"),
            ("true", ""),
            ("tls is defined and tls", ""),
            ("tls | default(value=false)", ""),
            ("a?.b", ""),
        ] {
            let found: Vec<String> = find_paths(expression).iter().map(|path| path.names.join(".")).collect();
            assert_eq!(found.join(" "), wanted, "{expression}");
        }
    }
}
