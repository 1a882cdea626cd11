//! What the tests share: contents in memory, steps out of JSON, a plan and its application as the host does them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use dunlin::plan::{Action, AttributeChange, Digest, digest_json};
use dunlin::resources::{ApplyContext, BlobSource, Diff, DynResource, HostView, Prefetch, ReadOutcome, find_kind};
use serde_json::{Value, json};

/// Contents by digest, in memory.
#[derive(Default)]
pub struct ResourceBlobs(BTreeMap<Digest, Vec<u8>>);

impl BlobSource for ResourceBlobs {
    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.0.get(digest).cloned().context("no such content")
    }
}

impl ResourceBlobs {
    /// Takes a text in and gives the `Content` of it.
    pub fn add_text(&mut self, text: &str) -> Value {
        let digest = Digest::of_bytes(text.as_bytes());
        self.0.insert(digest.clone(), text.as_bytes().to_vec());
        json!({ "digest": digest, "len": text.len() })
    }

    /// A step of that kind out of its table, in which contents stand as text.
    pub fn parse_step(&mut self, name: &str, mut table: Value) -> Result<Box<dyn DynResource>, String> {
        let kind = find_kind(name).ok_or_else(|| format!("no kind {name}"))?;
        let keys = table.as_object_mut().expect("a table");
        for content in kind.contents {
            if let Some(Value::String(text)) = keys.get(content.playbook_key).cloned() {
                keys.remove(content.playbook_key);
                keys.insert(content.field.to_owned(), self.add_text(&text));
            }
        }
        let step = (kind.parse)(table).map_err(|error| error.to_string())?;
        step.validate()?;
        Ok(step)
    }
}

/// What a plan says of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPlan {
    pub resource: String,
    pub action: Action,
    pub changes: Vec<AttributeChange>,
    pub reason: Option<String>,
    pub fingerprint: Option<Digest>,
}

/// Plans one step on a view of the host, and records what the step will change in it.
pub fn plan_step(
    step: &dyn DynResource,
    host_view: &mut HostView,
    blobs: &dyn BlobSource,
) -> Result<(StepPlan, Option<Value>)> {
    let (diff, observed) = match step.read(host_view)? {
        ReadOutcome::Known(observed) => (step.diff(&observed, blobs)?, Some(observed)),
        ReadOutcome::UnknownUntilApply(reason) => {
            (Diff { action: Action::Unknown, changes: Vec::new(), reason: Some(reason) }, None)
        }
    };
    if diff.action.is_pending() {
        step.predict_state(host_view);
        host_view.mark_pending();
    }
    let fingerprint = observed.as_ref().map(digest_json);
    let Diff { action, changes, reason } = diff;
    Ok((StepPlan { resource: step.resource_name(), action, changes, reason, fingerprint }, observed))
}

/// Plans all steps; `Err` stands where a step's plan is an error, with the error's text.
pub fn plan_steps(steps: &[Box<dyn DynResource>], blobs: &dyn BlobSource) -> Vec<Result<StepPlan, String>> {
    let mut host_view = HostView::current();
    let mut wants = Prefetch::default();
    steps.iter().for_each(|step| step.collect_prefetch(&mut wants));
    host_view.prefetch_units(&wants).expect("the service manager answers");
    steps
        .iter()
        .map(|step| plan_step(&**step, &mut host_view, blobs).map(|(row, _)| row).map_err(|error| format!("{error:#}")))
        .collect()
}

/// Applies one step as it is on this host now, and tells what it found to do.
pub fn apply_step(step: &dyn DynResource, site: &mut ApplyContext, blobs: &dyn BlobSource) -> Result<StepPlan> {
    let (row, observed) = plan_step(step, &mut HostView::current(), blobs)?;
    if row.action.is_pending() {
        step.apply(&observed.context("only apply can tell, and it cannot")?, site)?;
    }
    Ok(row)
}
