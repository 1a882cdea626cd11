//! Names that become parts of paths on a host. They are checked where they are read, from a file or from the wire, so
//! that no value of these types can leave the folder it is joined to.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The folder inside a release that dunlin keeps its own records in; no shipped file may stand there.
pub const RECORDS_DIR: &str = ".dunlin";
/// Suffix of the name of an incomplete release.
pub const INCOMPLETE_SUFFIX: &str = ".partial";

/// A release's version: `[A-Za-z0-9][A-Za-z0-9._+-]*`, at most 128 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseVersion(String);

/// A service's name: `[a-z0-9][a-z0-9_-]*`, at most 64 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

/// A file's path inside a release: relative, in normal form, parts separated by `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleasePath(String);

impl ReleaseVersion {
    /// Version under which a host keeps the service that it had before dunlin deployed it.
    pub const ADOPTED: &'static str = "before-dunlin";

    /// Returns the version [`Self::ADOPTED`].
    pub fn adopted() -> Self {
        Self(Self::ADOPTED.to_owned())
    }

    /// Returns whether this is the version [`Self::ADOPTED`].
    pub fn is_adopted(&self) -> bool {
        self.0 == Self::ADOPTED
    }

    /// Checks a version.
    ///
    /// # Errors
    /// Returns the reason if the name is not valid.
    pub fn new(text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let fits = text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c));
        if !starts || !fits {
            return Err(format!(
                "{text:?} is not a version: letters, digits and `.`, `_`, `+`, `-`, the first a letter or a digit"
            ));
        }
        if text.ends_with(INCOMPLETE_SUFFIX) {
            return Err(format!(
                "{text:?} is not a version: `{INCOMPLETE_SUFFIX}` marks releases that are not complete"
            ));
        }
        Ok(Self(text))
    }
}

impl ServiceName {
    /// Checks a service's name.
    ///
    /// # Errors
    /// Returns the reason if the name is not valid.
    pub fn new(text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let rest = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c));
        if !starts || !rest || text.len() > 64 {
            return Err(format!("{text:?} is not a service name; use lower-case letters, digits, `_` and `-`"));
        }
        Ok(Self(text))
    }
}

impl ReleasePath {
    /// Checks a path inside a release.
    ///
    /// # Errors
    /// Returns the reason if the name is not valid.
    pub fn new(text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        let why = if text.is_empty() {
            "it is empty"
        } else if text.starts_with('/') {
            "it is absolute; a path inside the release is wanted"
        } else if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            "it has an empty part, `.` or `..` in it"
        } else if text.chars().any(char::is_control) {
            "it has a control character in it"
        } else if text.len() > 1024 || text.split('/').any(|part| part.len() > 255) {
            "it is too long"
        } else if text.split('/').next() == Some(RECORDS_DIR) {
            "dunlin keeps its own records there"
        } else {
            return Ok(Self(text));
        };
        Err(format!("{text:?} is not allowed in a release: {why}"))
    }
}

/// Implements the conversions that the three types share.
macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

text!(ReleaseVersion);
text!(ServiceName);
text!(ReleasePath);

/// Returns true for an absolute path in normal form, below `/`.
pub fn is_normalized_absolute(path: &Path) -> bool {
    let Some(rest) = path.to_str().and_then(|text| text.strip_prefix('/')) else { return false };
    !rest.chars().any(char::is_control) && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_are_in_normal_form() {
        for good in ["/srv/x", "/a", "/etc/systemd/..x"] {
            assert!(is_normalized_absolute(Path::new(good)), "{good}");
        }
        for bad in ["", "/", "a", "/a/", "/a/../b", "/a//b", "/./a", "/a\n"] {
            assert!(!is_normalized_absolute(Path::new(bad)), "{bad:?}");
        }
    }

    #[test]
    fn versions_are_folder_names() {
        for good in ["1.2.3", "v1-3-gabc", "2024_01+x", "0"] {
            assert_eq!(ReleaseVersion::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "../x", "a/b", "-1", ".hidden", "a b", "1.partial", "ü", "a\n", &"9".repeat(129)] {
            assert!(ReleaseVersion::new(bad).is_err(), "{bad:?}");
            assert!(serde_json::from_value::<ReleaseVersion>(bad.into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn release_paths_cannot_leave_the_release() {
        for good in ["bin/x", "a", "a/b..c/d", "..a", "x/.dunlin"] {
            assert_eq!(ReleasePath::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "a\0", "a\nb", ".dunlin", ".dunlin/x"] {
            assert!(ReleasePath::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn services_are_simple_names() {
        assert!(ServiceName::new("timeline-api").is_ok());
        for bad in ["", "-x", "A", "a/b", "a.b"] {
            assert!(ServiceName::new(bad).is_err(), "{bad:?}");
        }
    }
}
