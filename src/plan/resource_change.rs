//! One row of a plan: one resource on one host, what happens to it, and why.

use serde::{Deserialize, Serialize};

use super::{Action, Digest};

/// Where a row's step stands in the catalogue: play and step, both counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepRef {
    /// The play.
    pub play: usize,
    /// The step within the play; handlers count on behind the steps.
    pub step: usize,
}

/// One attribute that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeChange {
    /// The attribute: `mode`, `owner`, `content`, `enabled` …
    pub attribute: String,
    /// What was observed; absent where there was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What apply makes of it; absent where it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// For contents: a unified diff, without file headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

impl AttributeChange {
    /// An attribute that changes from one value to another.
    pub fn new(attribute: &str, from: impl ToString, to: impl ToString) -> Self {
        Self { attribute: attribute.to_owned(), from: Some(from.to_string()), to: Some(to.to_string()), diff: None }
    }

    /// An attribute that had no value before.
    pub fn from_absent(attribute: &str, to: impl ToString) -> Self {
        Self { attribute: attribute.to_owned(), from: None, to: Some(to.to_string()), diff: None }
    }

    /// An attribute that has no value afterwards.
    pub fn to_absent(attribute: &str, from: impl ToString) -> Self {
        Self { attribute: attribute.to_owned(), from: Some(from.to_string()), to: None, diff: None }
    }

    /// The same change with a diff of the text shown under it.
    pub fn with_diff(mut self, diff: String) -> Self {
        self.diff = Some(diff);
        self
    }
}

/// One resource in the plan of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceChange {
    /// The step that wants it.
    pub step: StepRef,
    /// The step's name, where the playbook gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Type and key: `file /etc/motd`.
    pub resource: String,
    /// What apply does.
    pub action: Action,
    /// Attribute by attribute; empty for `none`, and for `unknown` where nothing can be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<AttributeChange>,
    /// Why: always there for `run` and `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Digest of what was observed when this row was planned.
    pub fingerprint: Digest,
}

impl ResourceChange {
    /// The row's `from` in one line, for machine-readable output: the attributes that have a value before.
    pub fn describe_from(&self) -> Option<String> {
        Self::join_values(&self.changes, |c| c.from.as_deref())
    }

    /// The row's `to` in one line.
    pub fn describe_to(&self) -> Option<String> {
        Self::join_values(&self.changes, |c| c.to.as_deref())
    }

    fn join_values<'a>(
        changes: &'a [AttributeChange],
        pick: impl Fn(&'a AttributeChange) -> Option<&'a str>,
    ) -> Option<String> {
        let parts: Vec<String> =
            changes.iter().filter_map(|c| pick(c).map(|v| format!("{}={v}", c.attribute))).collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    }
}
