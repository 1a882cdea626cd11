//! `template`: a file whose content the controller renders. On the host it is a [`File`] in all respects.
//!
//! Leaves alone and is a no-op for the same reasons as `file`.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::file::{self, File};
use super::{Blobs, ContentKey, Diff, Read, Resource, Site, Source, World};
use crate::plan::Digest;

/// The desired state: the keys of `file`, with `src` naming a template and no `content` or `state`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(File);

impl Resource for Template {
    const KIND: &'static str = "template";
    const CONTENTS: &'static [ContentKey] = &[ContentKey { toml: "src", field: "content", source: Source::Template }];
    type Observed = file::Observed;

    fn key(&self) -> String {
        self.0.key()
    }

    fn owns(&self) -> Vec<String> {
        Resource::owns(&self.0)
    }

    fn validate(&self) -> Result<(), String> {
        if self.0.content.is_none() {
            return Err("a template needs `src` (a `file` with state = \"absent\" removes it)".to_owned());
        }
        Resource::validate(&self.0)
    }

    fn read(&self, world: &mut World) -> Result<Read<file::Observed>> {
        Resource::read(&self.0, world)
    }

    fn needs(&self, observed: &file::Observed) -> Vec<Digest> {
        Resource::needs(&self.0, observed)
    }

    fn diff(&self, observed: &file::Observed, blobs: &dyn Blobs) -> Result<Diff> {
        Resource::diff(&self.0, observed, blobs)
    }

    fn expect(&self, world: &mut World) {
        Resource::expect(&self.0, world);
    }

    fn apply(&self, observed: &file::Observed, site: &mut Site) -> Result<()> {
        Resource::apply(&self.0, observed, site)
    }
}
