//! One user turned on or off in the text of an ACL file.

use super::line::{self, UserLine};
use super::{AclError, AclFile};

/// Returns the text with one user turned on or off; the other lines, and the form of this one, stay as they are.
///
/// # Errors
/// Returns an error if a line is not valid, there is no line for this user, or the edit does not change its state.
pub fn switch_user(text: &str, user: &str, on: bool) -> Result<String, AclError> {
    let before = AclFile::parse(text)?;
    if before.is_user_enabled(user).is_none() {
        return Err(AclError::NoUser(user.to_owned()));
    }
    let mut edited = String::with_capacity(text.len() + 1);
    for (index, raw) in text.split_inclusive('\n').enumerate() {
        match UserLine::read(index + 1, raw)? {
            Some(line) if line.name == user => edited.push_str(&with_state(raw, &line, on)),
            _ => edited.push_str(raw),
        }
    }
    let mut expected = before;
    expected.users.entry(user.to_owned()).and_modify(|user| user.on = on);
    if AclFile::parse(&edited)? != expected {
        return Err(AclError::NotSwitched(user.to_owned()));
    }
    Ok(edited)
}

/// Returns the line with the state right after the name, or after the last `reset`, which would override it.
fn with_state(raw: &str, line: &UserLine<'_>, on: bool) -> String {
    let is = |piece: &&str, word: &str| line::rule(piece).eq_ignore_ascii_case(word);
    let mut pieces: Vec<&str> =
        line.pieces.iter().copied().filter(|piece| !is(piece, "on") && !is(piece, "off")).collect();
    let at = pieces.iter().rposition(|piece| is(piece, "reset")).map_or(0, |reset| reset + 1);
    pieces.insert(at, if on { "on" } else { "off" });
    let content = raw.trim_matches(line::BLANKS);
    let start = raw.len() - raw.trim_start_matches(line::BLANKS).len();
    let (indent, ending) = (&raw[..start], &raw[start + content.len()..]);
    format!("{indent}user {} {}{ending}", line.name, pieces.join(" "))
}
