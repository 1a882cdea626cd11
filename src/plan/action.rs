//! The actions of a plan on a resource.

use super::named_enum;

named_enum! {
    /// The action of a plan on a resource.
    pub enum Action {
        /// Creates the resource, which does not exist.
        Add = "add",
        /// Changes the resource in place.
        Change = "change",
        /// Removes the resource.
        Remove = "remove",
        /// Runs a command: a command whose condition holds, a handler, or a restart.
        Run = "run",
        /// Leaves the resource as it is; it needs a restart, which another command does. The row has the reason.
        RestartRequired = "restart-required",
        /// Leaves the resource as it is.
        None = "none",
        /// Cannot be determined before apply; the row has the reason.
        Unknown = "unknown",
    }
}

impl Action {
    /// Returns whether apply changes something, or may change something.
    pub fn is_pending(self) -> bool {
        !matches!(self, Self::None | Self::RestartRequired)
    }

    /// Returns whether a plan shows the row: it has a change, or needs another command.
    pub fn is_shown(self) -> bool {
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
            Self::Run | Self::RestartRequired => '!',
            Self::None => ' ',
            Self::Unknown => '?',
        }
    }
}
