//! What the tests share: contents in memory, steps out of JSON, a plan and its application as the host does them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use dunlin::plan::{Action, Change, Digest, digest_of};
use dunlin::resources::{Blobs, Diff, Meta, PathState, Read, Site, Step, Wants, World, kind};
use serde_json::{Value, json};

/// Contents by digest, in memory.
#[derive(Default)]
pub struct Store(BTreeMap<Digest, Vec<u8>>);

impl Blobs for Store {
    fn get(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.0.get(digest).cloned().context("no such content")
    }
}

impl Store {
    /// Takes a text in and gives the `Content` of it.
    pub fn take(&mut self, text: &str) -> Value {
        let digest = Digest::of(text.as_bytes());
        self.0.insert(digest.clone(), text.as_bytes().to_vec());
        json!({ "digest": digest, "len": text.len() })
    }

    /// A step of that kind out of its table, in which contents stand as text.
    pub fn step(&mut self, name: &str, mut table: Value) -> Result<Box<dyn Step>, String> {
        let kind = kind(name).ok_or_else(|| format!("no kind {name}"))?;
        let keys = table.as_object_mut().expect("a table");
        for content in kind.contents {
            if let Some(Value::String(text)) = keys.get(content.toml).cloned() {
                keys.remove(content.toml);
                keys.insert(content.field.to_owned(), self.take(&text));
            }
        }
        let step = (kind.parse)(table).map_err(|error| error.to_string())?;
        step.validate()?;
        Ok(step)
    }
}

/// What a plan says of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub resource: String,
    pub action: Action,
    pub changes: Vec<Change>,
    pub reason: Option<String>,
    pub fingerprint: Option<Digest>,
}

/// Plans one step in a world and tells the world what will come of it.
pub fn plan_step(step: &dyn Step, world: &mut World, blobs: &dyn Blobs) -> Result<(Planned, Option<Value>)> {
    let (diff, observed) = match step.read(world)? {
        Read::Known(observed) => (step.diff(&observed, blobs)?, Some(observed)),
        Read::Unknown(reason) => (Diff { action: Action::Unknown, changes: Vec::new(), reason: Some(reason) }, None),
    };
    if diff.action.is_pending() {
        step.expect(world);
        world.expect_pending();
    }
    let fingerprint = observed.as_ref().map(digest_of);
    let Diff { action, changes, reason } = diff;
    Ok((Planned { resource: step.resource(), action, changes, reason, fingerprint }, observed))
}

/// Plans all steps; `Err` stands where a step's plan is an error, with the error's text.
pub fn plan(steps: &[Box<dyn Step>], blobs: &dyn Blobs) -> Vec<Result<Planned, String>> {
    let mut world = World::now();
    let mut wants = Wants::default();
    steps.iter().for_each(|step| step.wants(&mut wants));
    world.fetch(&wants).expect("the world answers");
    steps
        .iter()
        .map(|step| plan_step(&**step, &mut world, blobs).map(|(row, _)| row).map_err(|error| format!("{error:#}")))
        .collect()
}

/// Applies one step as it is on this host now, and tells what it found to do.
pub fn apply_step(step: &dyn Step, site: &mut Site, blobs: &dyn Blobs) -> Result<Planned> {
    let (row, observed) = plan_step(step, &mut World::now(), blobs)?;
    if row.action.is_pending() {
        step.apply(&observed.context("only apply can tell, and it cannot")?, site)?;
    }
    Ok(row)
}

/// The names of the user and group that run the tests: what they make belongs to these.
pub fn owner() -> (String, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    match World::now().path(folder.path()).expect("it can be looked at") {
        PathState::Directory { meta: Meta { owner, group, .. } } => (owner, group),
        other => panic!("a folder, not {other:?}"),
    }
}
