//! An object-safe interface of resources, so that a catalog can hold every type in one list.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{ApplyContext, BlobSource, Diff, HostView, InvalidContent, Prefetch, ReadOutcome, Resource};
use crate::plan::{AttributeChange, Digest};

/// A step's resource of any type. Observations are JSON values, because fingerprints are computed from them.
pub trait DynResource: Send + Sync {
    /// Returns type and key: `file /etc/motd`.
    fn resource_name(&self) -> String;
    /// See [`Resource::exclusive_claims`].
    fn exclusive_claims(&self) -> Vec<String>;
    /// See [`Resource::shared_claims`].
    fn shared_claims(&self) -> Vec<String>;
    /// See [`Resource::validate`].
    ///
    /// # Errors
    /// Returns the error of the method of the trait.
    fn validate(&self) -> Result<(), String>;
    /// See [`Resource::validate_contents`].
    ///
    /// # Errors
    /// Returns the error of the method of the trait.
    fn validate_contents(&self, contents: &dyn BlobSource) -> Result<(), InvalidContent>;
    /// See [`Resource::collect_prefetch`].
    fn collect_prefetch(&self, wants: &mut Prefetch);
    /// See [`Resource::started_unit`].
    fn started_unit(&self) -> Option<String>;
    /// See [`Resource::enabled_unit`].
    fn enabled_unit(&self) -> Option<String>;
    /// See [`Resource::restarted_unit`].
    fn restarted_unit(&self) -> Option<String>;
    /// See [`Resource::read`].
    ///
    /// # Errors
    /// Returns the error of the method of the trait.
    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<Value>>;
    /// See [`Resource::required_blobs`].
    ///
    /// # Errors
    /// Returns an error if the observation is of another type.
    fn required_blobs(&self, observed: &Value) -> Result<Vec<Digest>>;
    /// See [`Resource::diff`].
    ///
    /// # Errors
    /// Returns the error of the method of the trait.
    fn diff(&self, observed: &Value, blobs: &dyn BlobSource) -> Result<Diff>;
    /// See [`Resource::refuses_restart`].
    ///
    /// # Errors
    /// Returns an error if the observation is of another type.
    fn refuses_restart(&self, observed: &Value) -> Result<bool>;
    /// See [`Resource::needs_handlers`].
    fn needs_handlers(&self, changes: &[AttributeChange]) -> bool;
    /// See [`Resource::predict_state`].
    fn predict_state(&self, view: &mut HostView);
    /// See [`Resource::apply`].
    ///
    /// # Errors
    /// Returns the error of the method of the trait.
    fn apply(&self, observed: &Value, context: &mut ApplyContext) -> Result<()>;
}

impl<R: Resource> DynResource for R {
    fn resource_name(&self) -> String {
        format!("{} {}", R::KIND, self.key())
    }

    fn exclusive_claims(&self) -> Vec<String> {
        Resource::exclusive_claims(self)
    }

    fn shared_claims(&self) -> Vec<String> {
        Resource::shared_claims(self)
    }

    fn validate(&self) -> Result<(), String> {
        Resource::validate(self)
    }

    fn validate_contents(&self, contents: &dyn BlobSource) -> Result<(), InvalidContent> {
        Resource::validate_contents(self, contents)
    }

    fn collect_prefetch(&self, wants: &mut Prefetch) {
        Resource::collect_prefetch(self, wants);
    }

    fn started_unit(&self) -> Option<String> {
        Resource::started_unit(self)
    }

    fn enabled_unit(&self) -> Option<String> {
        Resource::enabled_unit(self)
    }

    fn restarted_unit(&self) -> Option<String> {
        Resource::restarted_unit(self)
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<Value>> {
        Ok(match Resource::read(self, view).with_context(|| self.resource_name())? {
            ReadOutcome::Known(observed) => ReadOutcome::Known(serde_json::to_value(observed)?),
            ReadOutcome::UnknownUntilApply(reason) => ReadOutcome::UnknownUntilApply(reason),
        })
    }

    fn required_blobs(&self, observed: &Value) -> Result<Vec<Digest>> {
        Ok(Resource::required_blobs(self, &parse_observed::<R>(observed)?))
    }

    fn diff(&self, observed: &Value, blobs: &dyn BlobSource) -> Result<Diff> {
        Resource::diff(self, &parse_observed::<R>(observed)?, blobs).with_context(|| self.resource_name())
    }

    fn refuses_restart(&self, observed: &Value) -> Result<bool> {
        Ok(Resource::refuses_restart(self, &parse_observed::<R>(observed)?))
    }

    fn needs_handlers(&self, changes: &[AttributeChange]) -> bool {
        Resource::needs_handlers(self, changes)
    }

    fn predict_state(&self, view: &mut HostView) {
        Resource::predict_state(self, view);
    }

    fn apply(&self, observed: &Value, context: &mut ApplyContext) -> Result<()> {
        Resource::apply(self, &parse_observed::<R>(observed)?, context).with_context(|| self.resource_name())
    }
}

fn parse_observed<R: Resource>(observed: &Value) -> Result<R::Observed> {
    serde_json::from_value(observed.clone()).with_context(|| format!("an observation that is not of type {}", R::KIND))
}
