//! A resource behind one object-safe face, so that a catalogue can hold all types in one list.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Blobs, Diff, InvalidContent, Read, Resource, Site, Wants, World};
use crate::plan::Digest;

/// A step's resource of any type. Observations pass as JSON: they are what fingerprints are made of.
pub trait Step: Send + Sync {
    /// Type and key: `file /etc/motd`.
    fn resource(&self) -> String;
    /// See [`Resource::owns`].
    fn owns(&self) -> Vec<String>;
    /// See [`Resource::shares`].
    fn shares(&self) -> Vec<String>;
    /// See [`Resource::validate`].
    ///
    /// # Errors
    /// As there.
    fn validate(&self) -> Result<(), String>;
    /// See [`Resource::validate_contents`].
    ///
    /// # Errors
    /// As there.
    fn validate_contents(&self, contents: &dyn Blobs) -> Result<(), InvalidContent>;
    /// See [`Resource::wants`].
    fn wants(&self, wants: &mut Wants);
    /// See [`Resource::starts`].
    fn starts(&self) -> Option<String>;
    /// See [`Resource::enables`].
    fn enables(&self) -> Option<String>;
    /// See [`Resource::restarts`].
    fn restarts(&self) -> Option<String>;
    /// See [`Resource::read`].
    ///
    /// # Errors
    /// As there.
    fn read(&self, world: &mut World) -> Result<Read<Value>>;
    /// See [`Resource::needs`].
    ///
    /// # Errors
    /// An observation of another type.
    fn needs(&self, observed: &Value) -> Result<Vec<Digest>>;
    /// See [`Resource::diff`].
    ///
    /// # Errors
    /// As there.
    fn diff(&self, observed: &Value, blobs: &dyn Blobs) -> Result<Diff>;
    /// See [`Resource::expect`].
    fn expect(&self, world: &mut World);
    /// See [`Resource::apply`].
    ///
    /// # Errors
    /// As there.
    fn apply(&self, observed: &Value, site: &mut Site) -> Result<()>;
}

impl<R: Resource> Step for R {
    fn resource(&self) -> String {
        format!("{} {}", R::KIND, self.key())
    }

    fn owns(&self) -> Vec<String> {
        Resource::owns(self)
    }

    fn shares(&self) -> Vec<String> {
        Resource::shares(self)
    }

    fn validate(&self) -> Result<(), String> {
        Resource::validate(self)
    }

    fn validate_contents(&self, contents: &dyn Blobs) -> Result<(), InvalidContent> {
        Resource::validate_contents(self, contents)
    }

    fn wants(&self, wants: &mut Wants) {
        Resource::wants(self, wants);
    }

    fn starts(&self) -> Option<String> {
        Resource::starts(self)
    }

    fn enables(&self) -> Option<String> {
        Resource::enables(self)
    }

    fn restarts(&self) -> Option<String> {
        Resource::restarts(self)
    }

    fn read(&self, world: &mut World) -> Result<Read<Value>> {
        Ok(match Resource::read(self, world).with_context(|| self.resource())? {
            Read::Known(observed) => Read::Known(serde_json::to_value(observed)?),
            Read::Unknown(reason) => Read::Unknown(reason),
        })
    }

    fn needs(&self, observed: &Value) -> Result<Vec<Digest>> {
        Ok(Resource::needs(self, &typed::<R>(observed)?))
    }

    fn diff(&self, observed: &Value, blobs: &dyn Blobs) -> Result<Diff> {
        Resource::diff(self, &typed::<R>(observed)?, blobs).with_context(|| self.resource())
    }

    fn expect(&self, world: &mut World) {
        Resource::expect(self, world);
    }

    fn apply(&self, observed: &Value, site: &mut Site) -> Result<()> {
        Resource::apply(self, &typed::<R>(observed)?, site).with_context(|| self.resource())
    }
}

fn typed<R: Resource>(observed: &Value) -> Result<R::Observed> {
    serde_json::from_value(observed.clone()).with_context(|| format!("an observation that is not of type {}", R::KIND))
}
