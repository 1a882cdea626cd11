//! Provisioning: the catalog a host is given, and what it answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::{DigestKey, ResourceChange, StepRef};

/// Everything that one host is to be: the plays that apply to it, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// The plays.
    pub plays: Vec<CatalogPlay>,
    /// The key under which digests of secrets and fingerprints are shown; absent where there are no secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_key: Option<DigestKey>,
}

/// Describes a play as compiled for one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatalogPlay {
    /// Its name.
    pub name: String,
    /// Its steps, in order; conditions and loops are already resolved.
    pub steps: Vec<CatalogStep>,
    /// Its handlers, in the order in which they run.
    pub handlers: Vec<CatalogStep>,
}

/// Describes a step of a play.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatalogStep {
    /// Its name, where the playbook gives one. A handler's name is what `notify` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The type of resource.
    pub kind: String,
    /// The desired state, contents resolved.
    pub desired: Value,
    /// The fields of the desired state that depend on a secret and must not be shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_fields: Vec<String>,
    /// Names of the play's handlers to run if this step changes something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<String>,
}

/// The plan of one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatalogPlan {
    /// Rows of the plan, one per step, then the handlers that would run.
    pub changes: Vec<ResourceChange>,
}

/// Apply one play of the catalog that was planned last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApplyPlay {
    /// The play, counted from 0.
    pub play_index: usize,
    /// The run, for the journal.
    pub run: String,
}

/// Result of a play on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlayResult {
    /// Number of rows that were applied.
    pub applied_changes: usize,
    /// The first failure; later steps were not tried.
    pub failure: Option<FailedStep>,
    /// Rows that still differ after everything was applied: a second run would show them.
    pub still_differing: Vec<String>,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStep {
    /// Position of the step.
    pub step: StepRef,
    /// Type and key.
    pub resource: String,
    /// Text of the error.
    pub error: String,
}
