//! The plan of one host, and what its rows add up to.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::{Action, Digest, ResourceChange, digest_json};

/// How many rows of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCounts {
    /// Resources to make.
    pub add: usize,
    /// Resources to change; commands and restarts to run count here too.
    pub change: usize,
    /// Resources to remove.
    pub remove: usize,
    /// Rows that only apply can decide.
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
                Action::None => {}
            }
        }
        counts
    }

    /// Is there nothing to do?
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

/// What apply does on one host, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// The host's name in the inventory.
    pub host: String,
    /// One row for each resource, those with nothing to do included.
    pub rows: Vec<ResourceChange>,
}

impl HostPlan {
    /// The rows that apply acts on.
    pub fn pending_rows(&self) -> impl Iterator<Item = &ResourceChange> {
        self.rows.iter().filter(|row| row.action.is_pending())
    }

    /// What the rows add up to.
    pub fn count_changes(&self) -> ChangeCounts {
        ChangeCounts::count_rows(&self.rows)
    }

    /// One digest for all that was observed and is going to be done.
    pub fn compute_fingerprint(&self) -> Digest {
        digest_json(&self.rows)
    }
}
