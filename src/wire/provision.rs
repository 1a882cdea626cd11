//! Provisioning: the catalogue a host is given, and what it answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::{Row, StepRef};

/// Everything that one host is to be: the plays that apply to it, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalogue {
    /// The plays.
    pub plays: Vec<Play>,
}

/// One play as one host sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Play {
    /// Its name.
    pub name: String,
    /// Its steps, in order; conditions and loops are already resolved.
    pub steps: Vec<Step>,
    /// Its handlers, in the order in which they run.
    pub handlers: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its name, where the playbook gives one. A handler's name is what `notify` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The type of resource.
    pub kind: String,
    /// The desired state, contents resolved.
    pub desired: Value,
    /// Names of the play's handlers to run if this step changes something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<String>,
}

/// The plan of one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// One row a step, then the handlers that would run.
    pub rows: Vec<Row>,
}

/// Apply one play of the catalogue that was planned last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Apply {
    /// The play, counted from 0.
    pub play: usize,
    /// The run, for the journal.
    pub run: String,
}

/// How a play ended on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// How many rows were acted on.
    pub done: usize,
    /// The first failure; what stands behind it was not tried.
    pub failed: Option<Failed>,
    /// Rows that still differ after everything was applied: a second run would show them.
    pub unsettled: Vec<String>,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Which.
    pub at: StepRef,
    /// Type and key.
    pub resource: String,
    /// What the system said.
    pub error: String,
}
