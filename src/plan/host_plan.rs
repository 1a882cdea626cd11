//! The plan of a host, and the counts of its rows.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::{Action, Digest, ResourceChange, digest_json};

/// The number of rows by action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCounts {
    /// Resources to create.
    pub add: usize,
    /// Resources to change, and commands and restarts to run.
    pub change: usize,
    /// Resources to remove.
    pub remove: usize,
    /// Rows that cannot be determined before apply.
    pub unknown: usize,
}

impl ChangeCounts {
    /// Counts rows.
    pub fn count_rows<'a>(rows: impl IntoIterator<Item = &'a ResourceChange>) -> Self {
        let mut counts = Self::default();
        for row in rows {
            match row.action {
                Action::Add => counts.add += 1,
                Action::Change | Action::Run => counts.change += 1,
                Action::Remove => counts.remove += 1,
                Action::Unknown => counts.unknown += 1,
                Action::None | Action::RestartRequired => {}
            }
        }
        counts
    }

    /// Returns whether there are no changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl AddAssign for ChangeCounts {
    fn add_assign(&mut self, other: Self) {
        self.add += other.add;
        self.change += other.change;
        self.remove += other.remove;
        self.unknown += other.unknown;
    }
}

/// The changes of a host, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// The host's name in the inventory.
    pub host: String,
    /// The rows, one per resource, unchanged ones included.
    pub rows: Vec<ResourceChange>,
}

impl HostPlan {
    /// Returns the rows with a change.
    pub fn pending_rows(&self) -> impl Iterator<Item = &ResourceChange> {
        self.rows.iter().filter(|row| row.action.is_pending())
    }

    /// Returns whether a pending row changes an attribute of this name.
    pub fn changes_attribute(&self, name: &str) -> bool {
        self.pending_rows().flat_map(|row| &row.changes).any(|change| change.attribute == name)
    }

    /// Counts the rows by action.
    pub fn count_changes(&self) -> ChangeCounts {
        ChangeCounts::count_rows(&self.rows)
    }

    /// Returns the digest of all rows: of the observed state and the planned changes.
    pub fn compute_fingerprint(&self) -> Digest {
        digest_json(&self.rows)
    }
}
