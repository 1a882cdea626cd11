//! The actions of a plan on a resource.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The action of a plan on a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Creates the resource, which does not exist.
    Add,
    /// Changes the resource in place.
    Change,
    /// Removes the resource.
    Remove,
    /// Runs a command: a command whose condition holds, a handler, or a restart.
    Run,
    /// Leaves the resource as it is.
    None,
    /// Cannot be determined before apply; the row has the reason.
    Unknown,
}

impl Action {
    /// Returns whether apply changes something, or may change something.
    pub fn is_pending(self) -> bool {
        self != Self::None
    }

    /// Returns whether data is lost of which dunlin has no copy.
    pub fn is_destructive(self) -> bool {
        self == Self::Remove
    }

    /// Returns the symbol of the action; never the only carrier of the meaning.
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

    /// Returns the name of the action in JSON.
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
