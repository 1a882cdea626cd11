//! The types of resource: one file per type. They use local system calls only.
//!
//! Each type has the same parts in the same order: the desired state (the struct, as in TOML), the observed state
//! (`read`, the only function that reads it), the difference (`diff`, a pure function), the state that later steps may
//! rely on (`predict_state`), and the change itself (`apply`). A dry run does not call `apply`.

mod apply_context;
mod apt;
pub mod atomic_file;
mod content_check;
pub mod de_string;
mod dyn_resource;
mod host_view;
pub mod mode;
mod registry;
#[cfg(test)]
mod tests;
pub mod text_diff;

pub mod command;
pub mod directory;
pub mod file;
pub mod group;
pub mod line;
pub mod link;
pub mod package;
pub mod postgres;
pub mod rabbitmq;
pub mod redis_shard;
pub mod service;
pub mod shard_map;
pub mod template;
pub mod unit;
pub mod user;

use anyhow::Result;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::plan::{Action, AttributeChange, Digest};

pub use apply_context::{ApplyContext, BlobSource};
pub use dyn_resource::DynResource;
pub use host_view::{
    GroupState, HostView, PathMeta, PathState, Prefetch, ProvidedBy, UnitState, UserState, template_of,
};
pub use registry::{RESOURCE_KINDS, ResourceKind, find_kind};

/// Content that a step puts on the host: addressed by its digest, sent only where the host lacks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub len: u64,
}

/// Names the key that holds a content in the playbook, and its source on the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentSource {
    /// The key holds the path of a file whose bytes are sent as they are.
    File,
    /// The key holds the path of a template that is rendered on the controller.
    Template,
    /// The key holds the text itself.
    Inline,
    /// The published shard map; the author writes no key for it.
    Published,
}

/// A key of the step in TOML that becomes a [`Content`] in the desired state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentKey {
    /// The key as the author writes it: `src`, `content`.
    pub playbook_key: &'static str,
    /// The field of the desired state that receives the [`Content`].
    pub field: &'static str,
    /// Source of the content.
    pub source: ContentSource,
}

/// A content that its resource cannot use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidContent {
    /// The key of the step in TOML that gives the content.
    pub key: &'static str,
    /// Description of the error with its place in the content and the correction; contains no secrets.
    pub message: String,
}

/// Result of reading the state of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome<T> {
    /// The state now, or as the earlier steps will have made it.
    Known(T),
    /// Only apply can tell, for the reason given: "the unit comes with package redis-server".
    UnknownUntilApply(String),
}

/// Difference between the desired and the observed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    /// Action of apply.
    pub action: Action,
    /// Attribute by attribute.
    pub changes: Vec<AttributeChange>,
    /// Reason, if the changes do not show it.
    pub reason: Option<String>,
}

impl Diff {
    /// Creates the difference of a resource that is as desired.
    pub fn none() -> Self {
        Self { action: Action::None, changes: Vec::new(), reason: None }
    }

    /// Creates the difference of a resource that will be created with these attributes.
    pub fn add(changes: Vec<AttributeChange>) -> Self {
        Self { action: Action::Add, changes, reason: None }
    }

    /// Creates the difference of a resource that will be removed.
    pub fn remove(changes: Vec<AttributeChange>) -> Self {
        Self { action: Action::Remove, changes, reason: None }
    }

    /// Creates the difference of a resource that will be changed; without changes there is nothing to do.
    pub fn change(changes: Vec<AttributeChange>) -> Self {
        let action = if changes.is_empty() { Action::None } else { Action::Change };
        Self { action, changes, reason: None }
    }

    /// Creates the difference of a resource that needs a restart, which another command does.
    pub fn restart_required(reason: String) -> Self {
        Self { action: Action::RestartRequired, changes: Vec::new(), reason: Some(reason) }
    }

    /// Creates the difference of a command that will run, for this reason.
    pub fn run(reason: impl Into<String>) -> Self {
        Self { action: Action::Run, changes: Vec::new(), reason: Some(reason.into()) }
    }
}

/// A resource type. The implementing struct is the desired state, exactly as in TOML.
pub trait Resource: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The step's key in a playbook.
    const KIND: &'static str;

    /// The keys that hold content.
    const CONTENTS: &'static [ContentKey] = &[];

    /// The fields that may depend on a secret. The type hides them where its field `sensitive` is set, or always; for
    /// others the agent hides the attribute of the same name. A secret in any other field is an error.
    const SECRET_FIELDS: &'static [&'static str] = &[];

    /// Observed state; absence is one of its variants.
    type Observed: Serialize + DeserializeOwned;

    /// Returns the key that distinguishes this resource from others of its type: a path or a name.
    fn key(&self) -> String;

    /// Returns the objects that the resource manages alone (`path /etc/motd`, `user redis`). `check` reports two steps
    /// with the same object.
    fn exclusive_claims(&self) -> Vec<String>;

    /// Returns the objects that the resource manages in part (`path /etc/hosts`). Other resources of its type may share
    /// them, but no step may manage one alone.
    fn shared_claims(&self) -> Vec<String> {
        Vec::new()
    }

    /// Refuses impossible combinations; the playbook loader adds file and position.
    ///
    /// # Errors
    /// Returns a description of the problem and the correction, in one sentence.
    fn validate(&self) -> Result<(), String>;

    /// Refuses contents that cannot work; the playbook loader adds file and position. `contents` has all of them.
    ///
    /// # Errors
    /// Returns the first mistake and the key of its content.
    fn validate_contents(&self, _contents: &dyn BlobSource) -> Result<(), InvalidContent> {
        Ok(())
    }

    /// Collects the lookups of `read`, so that the host is queried once for all steps.
    fn collect_prefetch(&self, _wants: &mut Prefetch) {}

    /// Returns the systemd unit that applying this starts if it is added: a handler need not restart it in the same
    /// play.
    fn started_unit(&self) -> Option<String> {
        None
    }

    /// Returns the systemd unit that applying this both enables and starts.
    fn enabled_unit(&self) -> Option<String> {
        None
    }

    /// Returns the systemd unit that this restarts, if it is a handler.
    fn restarted_unit(&self) -> Option<String> {
        None
    }

    /// Returns whether handlers must not restart the unit of this step.
    fn refuses_restart(&self, _observed: &Self::Observed) -> bool {
        false
    }

    /// Returns whether these changes of the step run the handlers that it notifies.
    fn needs_handlers(&self, _changes: &[AttributeChange]) -> bool {
        true
    }

    /// Reads the state, including the predicted effects of earlier steps.
    ///
    /// # Errors
    /// Returns the error of the system, with the path or name.
    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<Self::Observed>>;

    /// Returns the contents that are needed to show or apply the difference.
    fn required_blobs(&self, _observed: &Self::Observed) -> Vec<Digest> {
        Vec::new()
    }

    /// Compares; pure but for looking up contents.
    ///
    /// # Errors
    /// Returns an error if a content is missing.
    fn diff(&self, observed: &Self::Observed, blobs: &dyn BlobSource) -> Result<Diff>;

    /// Records the predicted state after this step. Called for steps that have (or may have)
    /// a change, after their diff; for other steps the current state is the predicted one.
    fn predict_state(&self, view: &mut HostView);

    /// Brings the observed state to the desired one.
    ///
    /// # Errors
    /// Returns the error of the system, with the path or name.
    fn apply(&self, observed: &Self::Observed, context: &mut ApplyContext) -> Result<()>;
}
