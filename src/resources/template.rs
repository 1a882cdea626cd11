//! `template`: a file whose content the controller renders. On the host it is a [`FileResource`] in all respects.
//!
//! Has the same limits as `file` and is a no-op for the same reasons.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::file::{self, FileResource};
use super::{ApplyContext, BlobSource, ContentKey, ContentSource, Diff, HostView, ReadOutcome, Resource};
use crate::plan::Digest;

/// The desired state: the keys of `file`, with `src` naming a template and no `content` or `state`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TemplateResource(FileResource);

impl Resource for TemplateResource {
    const KIND: &'static str = "template";
    const SECRET_FIELDS: &'static [&'static str] = &["content"];
    const CONTENTS: &'static [ContentKey] =
        &[ContentKey { playbook_key: "src", field: "content", source: ContentSource::Template }];
    type Observed = file::ObservedFile;

    fn key(&self) -> String {
        self.0.key()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        Resource::exclusive_claims(&self.0)
    }

    fn validate(&self) -> Result<(), String> {
        if self.0.content.is_none() {
            return Err("a template needs `src` (a `file` with state = \"absent\" removes it)".to_owned());
        }
        Resource::validate(&self.0)
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<file::ObservedFile>> {
        Resource::read(&self.0, view)
    }

    fn required_blobs(&self, observed: &file::ObservedFile) -> Vec<Digest> {
        Resource::required_blobs(&self.0, observed)
    }

    fn diff(&self, observed: &file::ObservedFile, blobs: &dyn BlobSource) -> Result<Diff> {
        Resource::diff(&self.0, observed, blobs)
    }

    fn predict_state(&self, view: &mut HostView) {
        Resource::predict_state(&self.0, view);
    }

    fn apply(&self, observed: &file::ObservedFile, context: &mut ApplyContext) -> Result<()> {
        Resource::apply(&self.0, observed, context)
    }
}
