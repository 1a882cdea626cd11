//! Escapes text for a terminal: text from hosts and files must not move the cursor, hide lines or reverse text.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Escapes control characters and bidirectional marks: `\u{1b}`, `\r`. Newlines and tabs stay; colors do not, because a
/// color of a host can hide the text that follows.
pub fn escape_text(text: &str) -> Cow<'_, str> {
    escape_where(text, is_unsafe)
}

/// Works like [`escape_text`], and escapes the ends of lines too: a value within a line cannot begin another one.
pub fn escape_line(text: &str) -> Cow<'_, str> {
    escape_where(text, |character| character == '\n' || is_unsafe(character))
}

fn escape_where(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_escaped(character) { push_escape(&mut escaped, character) } else { escaped.push(character) }
    }
    Cow::Owned(escaped)
}

fn push_escape(text: &mut String, character: char) {
    match character {
        '\r' => text.push_str("\\r"),
        '\n' => text.push_str("\\n"),
        // Writing to a String never fails.
        _ => drop(write!(text, "\\u{{{:x}}}", u32::from(character))),
    }
}

/// Works like [`escape_text`] on text of ours, whose colors (a foreground color, bold, faint, reset) stay. What hosts
/// sent must be escaped before it becomes a part of such a text.
pub fn escape_painted_text(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(at) = rest.find(is_unsafe) {
        escaped.push_str(&rest[..at]);
        rest = &rest[at..];
        let color = color_sequence_length(rest);
        if color > 0 {
            escaped.push_str(&rest[..color]);
            rest = &rest[color..];
            continue;
        }
        let mut characters = rest.chars();
        if let Some(character) = characters.next() {
            push_escape(&mut escaped, character);
        }
        rest = characters.as_str();
    }
    escaped.push_str(rest);
    Cow::Owned(escaped)
}

/// Escapes the same characters in a line of JSON, as `\\u001b`. The value remains the same.
pub fn escape_json_line(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if is_unsafe(character) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Returns whether a character controls the terminal or the direction of text.
fn is_unsafe(character: char) -> bool {
    let is_bidirectional = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    // Line and paragraph separators break lines in some terminals.
    let is_separator = matches!(character, '\u{2028}' | '\u{2029}');
    (character.is_control() && !matches!(character, '\n' | '\t')) || is_bidirectional || is_separator
}

/// Returns the length of the color sequence at the beginning (`ESC [ … m`); 0 if it is none, or one that could hide
/// text.
fn color_sequence_length(text: &str) -> usize {
    let Some(body) = text.strip_prefix("\u{1b}[") else { return 0 };
    let Some(end) = body.find(|c: char| !(c.is_ascii_digit() || c == ';')) else { return 0 };
    if !body[end..].starts_with('m') || end > 16 {
        return 0;
    }
    let parameters: Vec<&str> = body[..end].split(';').collect();
    let is_harmless = match parameters[..] {
        // One of the 256 colors, except black.
        ["38", "5", color] => color.parse::<u8>().is_ok_and(|color| !matches!(color, 0 | 16 | 232..=235)),
        _ => parameters.iter().all(|parameter| {
            let number = if parameter.is_empty() { Ok(0) } else { parameter.parse::<u8>() };
            matches!(number, Ok(0..=2 | 4 | 22 | 31..=37 | 39 | 91..=97))
        }),
    };
    if is_harmless { "\u{1b}[".len() + end + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::{escape_json_line, escape_line, escape_painted_text, escape_text};

    #[test]
    fn json_keeps_its_values() {
        let json = "{\"a\":\"x\u{202e}y\u{7f}\"}";
        let escaped = escape_json_line(json);
        assert_eq!(escaped, "{\"a\":\"x\\u202ey\\u007f\"}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&escaped), value(json));
    }

    #[test]
    fn text_that_acts_on_a_terminal_is_shown_as_text() {
        for (text, shown) in [
            ("plain\n\ttext, ünïcode ✓", "plain\n\ttext, ünïcode ✓"),
            ("\u{1b}[2K\u{1b}[1A", "\\u{1b}[2K\\u{1b}[1A"),
            ("a\rb", "a\\rb"),
            ("\u{1b}]0;owned\u{7}", "\\u{1b}]0;owned\\u{7}"),
            ("\u{9b}2K", "\\u{9b}2K"),
            ("x\u{202e}y\u{2066}z", "x\\u{202e}y\\u{2066}z"),
            ("\u{8}\u{7f}\u{0}", "\\u{8}\\u{7f}\\u{0}"),
            // Colors of ours stay; concealed, black and background ones do not.
            ("\u{1b}[1m\u{1b}[32mok\u{1b}[0m", "\u{1b}[1m\u{1b}[32mok\u{1b}[0m"),
            ("\u{1b}[38;5;12mblue\u{1b}[39m", "\u{1b}[38;5;12mblue\u{1b}[39m"),
            ("\u{1b}[8mhidden", "\\u{1b}[8mhidden"),
            ("\u{1b}[30;40mhidden", "\\u{1b}[30;40mhidden"),
            ("\u{1b}[38;5;0mhidden", "\\u{1b}[38;5;0mhidden"),
            ("\u{1b}[38;2;0;0;0mhidden", "\\u{1b}[38;2;0;0;0mhidden"),
            ("\u{1b}[3", "\\u{1b}[3"),
            ("\u{1b}", "\\u{1b}"),
        ] {
            assert_eq!(escape_painted_text(text), shown, "{text:?}");
        }
    }

    #[test]
    fn text_of_hosts_has_no_colors_and_begins_no_line() {
        let text = "a\u{1b}[97mhidden\nPlan: nothing to do\u{61c}\u{2028}";
        let shown = "a\\u{1b}[97mhidden\nPlan: nothing to do\\u{61c}\\u{2028}";
        assert_eq!(escape_text(text), shown);
        assert_eq!(escape_line(text), shown.replace('\n', "\\n"));
    }
}
