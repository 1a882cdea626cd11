//! The lines of an ACL file, split as Redis splits them (`ACLLoadFromFile`): a line is trimmed, words are separated by
//! single spaces, a selector's words belong together, and there are no comments.

use super::AclError;

/// Characters that Redis trims from a line.
pub const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// A line that defines a user.
#[derive(Clone, Debug)]
pub struct UserLine<'t> {
    /// The line's number, from 1.
    pub number: usize,
    pub name: &'t str,
    /// The text between the name and the end, cut at its separators; a selector is one piece. Joined by a space they
    /// give the text again.
    pub pieces: Vec<&'t str>,
}

impl<'t> UserLine<'t> {
    /// Reads one line; `None` for a blank one.
    pub fn read(number: usize, text: &'t str) -> Result<Option<Self>, AclError> {
        let trimmed = text.trim_matches(BLANKS);
        let error = |message: &str| Err(AclError::Line { line: number, message: message.to_owned() });
        if trimmed.is_empty() {
            return Ok(None);
        }
        let Some(rest) = trimmed.strip_prefix("user ") else {
            return error("a line must start with `user` and a name; Redis allows no comments here");
        };
        let (name, rest) = rest.split_once(' ').map_or((rest, None), |(name, rest)| (name, Some(rest)));
        if name.is_empty() {
            return error("there must be one space between `user` and the name");
        }
        if name.contains(|c: char| c.is_ascii_whitespace() || c == '\0') {
            return error("the name has characters that Redis refuses: separate words by spaces, not by tabs");
        }
        match rest.map_or(Some(Vec::new()), split_rules) {
            Some(pieces) => Ok(Some(Self { number, name, pieces })),
            None => error("a selector `(` is not closed by `)`"),
        }
    }

    /// Returns the rules.
    pub fn rules(&self) -> impl Iterator<Item = &'t str> {
        self.pieces.iter().map(|piece| rule(piece)).filter(|rule| !rule.is_empty())
    }

    /// Creates an error in this line.
    pub fn error(&self, message: String) -> AclError {
        AclError::Line { line: self.number, message }
    }
}

/// Trims a rule as Redis does.
pub fn rule(piece: &str) -> &str {
    piece.trim_matches(['\t', '\r', '\n'])
}

/// Returns the lines of a file that define users.
pub fn user_lines(text: &str) -> impl Iterator<Item = Result<UserLine<'_>, AclError>> {
    text.split('\n').enumerate().filter_map(|(index, line)| UserLine::read(index + 1, line).transpose())
}

/// Returns the line that defines a user.
///
/// # Errors
/// Returns an error if an earlier line is not valid.
pub fn find_user<'t>(text: &'t str, name: &str) -> Result<Option<UserLine<'t>>, AclError> {
    user_lines(text).find(|line| line.as_ref().map_or(true, |line| line.name == name)).transpose()
}

/// Cuts at single spaces outside of selectors; `None` where a selector is not closed.
fn split_rules(text: &str) -> Option<Vec<&str>> {
    let (mut pieces, mut selector) = (Vec::new(), None);
    let mut start = 0;
    for piece in text.split(' ') {
        let end = start + piece.len();
        let from = selector.unwrap_or(start);
        let opens = selector.is_some() || piece.starts_with('(');
        if opens && !piece.ends_with(')') {
            selector = Some(from);
        } else {
            pieces.push(&text[from..end]);
            selector = None;
        }
        start = end + 1;
    }
    selector.is_none().then_some(pieces)
}
