//! Values that several types share: permission bits, presence, ownership.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::PathMeta;
use crate::plan::AttributeChange;

/// Permission bits, written as an octal string (`"0644"`); a bare number is refused, since `644` would mean 0o1204.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl FileMode {
    /// Returns 0644.
    pub fn default_file() -> Self {
        Self(0o644)
    }

    /// Returns 0755.
    pub fn default_directory() -> Self {
        Self(0o755)
    }

    /// Formats four octal digits.
    pub fn format_octal(bits: u32) -> String {
        format!("{bits:04o}")
    }
}

impl Serialize for FileMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Self::format_octal(self.0))
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer).map_err(|_| de::Error::custom(Self::EXPECTED))?;
        let is_number = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let octal = is_number.then(|| u32::from_str_radix(&text, 8).ok()).flatten();
        octal.map(Self).ok_or_else(|| de::Error::custom(format!("{}, not \"{text}\"", Self::EXPECTED)))
    }
}

impl FileMode {
    const EXPECTED: &'static str = "a mode is an octal string such as \"0644\"";
}

/// Desired presence of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// The resource must exist.
    #[default]
    Present,
    /// The resource must not exist.
    Absent,
}

/// Returns the owner if a step names none.
pub fn default_owner() -> String {
    "root".to_owned()
}

/// Returns the requested permissions and ownership; the group is the owner's name if none is given.
pub fn path_meta(mode: FileMode, owner: &str, group: Option<&str>) -> PathMeta {
    PathMeta { mode: mode.0, owner: owner.to_owned(), group: group.unwrap_or(owner).to_owned() }
}

/// Refuses what is no account's name: numbers (a name is what an observation gives), and what a program could take
/// for an option or a list.
///
/// # Errors
/// Returns a description of the problem that begins with the key.
pub fn check_account(key: &str, name: &str) -> Result<(), String> {
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let goes_on = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if begins && goes_on && name.len() <= 32 {
        return Ok(());
    }
    Err(format!(
        "{key} must be the name of an account (letters, digits, `_`, `-`, at most 32; no digit first), not \"{name}\""
    ))
}

/// Refuses owners and groups that are no names.
///
/// # Errors
/// Returns an error under the same conditions as [`check_account`].
pub fn check_owner(owner: &str, group: Option<&str>) -> Result<(), String> {
    check_account("owner", owner)?;
    group.map_or(Ok(()), |group| check_account("group", group))
}

/// Returns the changes from one set of permissions and ownership to another.
pub fn diff_meta(from: &PathMeta, to: &PathMeta) -> Vec<AttributeChange> {
    let mut changes = Vec::new();
    if from.mode != to.mode {
        changes.push(AttributeChange::new("mode", FileMode::format_octal(from.mode), FileMode::format_octal(to.mode)));
    }
    if from.owner != to.owner {
        changes.push(AttributeChange::new("owner", &from.owner, &to.owner));
    }
    if from.group != to.group {
        changes.push(AttributeChange::new("group", &from.group, &to.group));
    }
    changes
}

/// Returns the attributes of a new path.
pub fn new_path_changes(to: &PathMeta) -> Vec<AttributeChange> {
    vec![
        AttributeChange::from_absent("mode", FileMode::format_octal(to.mode)),
        AttributeChange::from_absent("owner", &to.owner),
        AttributeChange::from_absent("group", &to.group),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_strings() {
        assert_eq!(serde_json::from_str::<FileMode>("\"0640\"").unwrap(), FileMode(0o640));
        assert_eq!(serde_json::from_str::<FileMode>("\"2770\"").unwrap(), FileMode(0o2770));
        let wrong = ["\"0888\"", "640", "\"rw-r--r--\"", "\"00640\"", "\"+640\""];
        let errors = wrong.map(|wrong| (wrong, serde_json::from_str::<FileMode>(wrong).unwrap_err()));
        crate::messages::check("mode-errors", errors);
    }

    #[test]
    fn account_names_are_checked() {
        for right in ["redis", "_apt", "www-data", "first.last"] {
            assert_eq!(check_account("owner", right), Ok(()), "{right}");
        }
        for wrong in ["", "1000", "-r", "a b", "a:b", "a,b", "\u{e4}"] {
            assert!(check_account("owner", wrong).unwrap_err().starts_with("owner must"), "{wrong}");
        }
    }
}
