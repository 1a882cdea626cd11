//! A row of a plan: the change of a resource on a host, and its reason.

use serde::{Deserialize, Serialize};

use super::{Action, Digest};

/// The position of a step in the catalog: play and step, both counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepRef {
    /// The play.
    pub play: usize,
    /// The step within the play. Handlers are counted after the steps.
    pub step: usize,
}

/// The change of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeChange {
    /// The attribute: `mode`, `owner`, `content`, `enabled` …
    pub attribute: String,
    /// The observed value; `None` if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The value after apply; `None` if the attribute is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// A unified diff of contents, without file headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

impl AttributeChange {
    /// Creates the change of a value to another one.
    pub fn new(attribute: &str, from: impl ToString, to: impl ToString) -> Self {
        Self { attribute: attribute.to_owned(), from: Some(from.to_string()), to: Some(to.to_string()), diff: None }
    }

    /// Creates the change of an attribute without a value before.
    pub fn from_absent(attribute: &str, to: impl ToString) -> Self {
        Self { attribute: attribute.to_owned(), from: None, to: Some(to.to_string()), diff: None }
    }

    /// Creates the change of an attribute without a value afterwards.
    pub fn to_absent(attribute: &str, from: impl ToString) -> Self {
        Self { attribute: attribute.to_owned(), from: Some(from.to_string()), to: None, diff: None }
    }

    /// Adds a diff of contents.
    pub fn with_diff(mut self, diff: String) -> Self {
        self.diff = Some(diff);
        self
    }
}

/// The change of a resource in the plan of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceChange {
    /// The step of the resource.
    pub step: StepRef,
    /// The name of the step, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Type and key: `file /etc/motd`.
    pub resource: String,
    /// The action.
    pub action: Action,
    /// The changes of attributes; empty for `none`, and for `unknown` if they are unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<AttributeChange>,
    /// The reason; always set for `run` and `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Digest of the observed state when the row was planned.
    pub fingerprint: Digest,
}

/// A row of a plan that was shown, as the host compares it with its own before it acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRow {
    /// Type and key.
    pub resource: String,
    /// The action.
    pub action: Action,
    /// Digest of the observed state when the row was planned.
    pub fingerprint: Digest,
}

impl From<&ResourceChange> for PlannedRow {
    fn from(row: &ResourceChange) -> Self {
        Self { resource: row.resource.clone(), action: row.action, fingerprint: row.fingerprint.clone() }
    }
}

impl ResourceChange {
    /// Returns the observed values in one line, for machine-readable output.
    pub fn describe_from(&self) -> Option<String> {
        Self::join_values(&self.changes, |c| c.from.as_deref())
    }

    /// Returns the values after apply in one line.
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
