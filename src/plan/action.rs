//! What happens to one resource: a small, closed vocabulary.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What apply does to one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It does not exist and is made.
    Add,
    /// It exists and is changed in place.
    Change,
    /// It exists and is removed.
    Remove,
    /// A command is run (a guarded command that is due, a handler, a restart).
    Run,
    /// It is as desired.
    None,
    /// Only apply can tell; the row says why.
    Unknown,
}

impl Action {
    /// Does apply do (or may it do) something?
    pub fn is_pending(self) -> bool {
        self != Self::None
    }

    /// Is something lost that dunlin does not hold a copy of?
    pub fn is_destructive(self) -> bool {
        self == Self::Remove
    }

    /// The one-character sign in front of a row; never the only carrier of the meaning.
    pub fn symbol_char(self) -> char {
        match self {
            Self::Add => '+',
            Self::Change => '~',
            Self::Remove => '-',
            Self::Run => '!',
            Self::None => ' ',
            Self::Unknown => '?',
        }
    }

    /// The action's name as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Change => "change",
            Self::Remove => "remove",
            Self::Run => "run",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
