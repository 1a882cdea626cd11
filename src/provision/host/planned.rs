//! Planning: each step is read through what the earlier steps will have made, and compared.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::pending::{self, Pending};
use crate::plan::{Action, Digest, Row, StepRef, digest_of};
use crate::resources::{self, Blobs, Diff, Read, Step, Wants, World};
use crate::wire::provision::{Catalogue, Step as Wanted};

/// A step of the catalogue, made ready.
pub struct Ready {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its resource.
    pub resource: Box<dyn Step>,
    /// The handlers it notifies.
    pub notify: Vec<String>,
}

/// A play of the catalogue, made ready.
pub struct Play {
    /// Its name.
    pub name: String,
    /// Its steps.
    pub steps: Vec<Ready>,
    /// Its handlers.
    pub handlers: Vec<Ready>,
}

/// A catalogue with its plan.
pub struct Planned {
    /// The plays.
    pub plays: Vec<Play>,
    rows: Vec<Row>,
}

impl Planned {
    /// One row for each step, and for each handler that would run; in the order in which they are applied.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The row of a step.
    pub fn row(&self, at: StepRef) -> Option<&Row> {
        self.rows.iter().find(|row| row.at == at)
    }

    /// What all steps of a play will look up.
    pub fn wants(play: &Play) -> Wants {
        let mut wants = Wants::default();
        for step in &play.steps {
            step.resource.wants(&mut wants);
        }
        wants
    }
}

/// What was read for a step, before contents were there to compare with.
struct Reading {
    at: StepRef,
    read: Read<Value>,
}

/// Plans a catalogue. Contents that a diff needs are asked for in one go.
///
/// # Errors
/// A step of an unknown type or shape, or a host that cannot be read; with the resource's name.
pub fn plan(catalogue: Catalogue, blobs: &dyn Blobs) -> Result<Planned> {
    let plays = ready(catalogue)?;
    let mut world = World::now();
    let mut wants = Wants::default();
    for step in plays.iter().flat_map(|play| &play.steps) {
        step.resource.wants(&mut wants);
    }
    world.fetch(&wants)?;
    let readings = read(&plays, &mut world, blobs)?;
    let left = Pending::load().context("reading the restarts that an earlier run owes")?;
    let mut rows = Vec::new();
    let mut readings = readings.into_iter();
    for (number, play) in plays.iter().enumerate() {
        let from = rows.len();
        for (step, reading) in play.steps.iter().zip(readings.by_ref()) {
            rows.push(row(step, &reading, blobs)?);
        }
        let handlers = handler_rows(number, play, &rows[from..], &left);
        rows.extend(handlers);
    }
    Ok(Planned { plays, rows })
}

fn ready(catalogue: Catalogue) -> Result<Vec<Play>> {
    let steps = |wanted: Vec<Wanted>| wanted.into_iter().map(make).collect::<Result<Vec<_>>>();
    catalogue
        .plays
        .into_iter()
        .map(|play| Ok(Play { name: play.name, steps: steps(play.steps)?, handlers: steps(play.handlers)? }))
        .collect()
}

fn make(wanted: Wanted) -> Result<Ready> {
    let kind =
        resources::kind(&wanted.kind).with_context(|| format!("no type of resource is called {}", wanted.kind))?;
    let resource = (kind.parse)(wanted.desired).with_context(|| format!("a step of type {}", wanted.kind))?;
    Ok(Ready { name: wanted.name, resource, notify: wanted.notify })
}

/// Reads every step; asks for all lacking contents at once, so that comparing waits for the network only once.
fn read(plays: &[Play], world: &mut World, blobs: &dyn Blobs) -> Result<Vec<Reading>> {
    let (mut readings, mut lacking) = (Vec::new(), Vec::<Digest>::new());
    for (number, play) in plays.iter().enumerate() {
        for (index, step) in play.steps.iter().enumerate() {
            let read = step.resource.read(world)?;
            let mut is_pending = true;
            if let Read::Known(observed) = &read {
                let needs = step.resource.needs(observed)?;
                // A content that differs is a pending change; without one the comparison can be made now.
                is_pending = !needs.is_empty() || step.resource.diff(observed, blobs)?.action.is_pending();
                lacking.extend(needs);
            }
            if is_pending {
                world.expect_pending();
                step.resource.expect(world);
            }
            readings.push(Reading { at: StepRef { play: number, step: index }, read });
        }
    }
    blobs.prefetch(&lacking)?;
    Ok(readings)
}

fn row(step: &Ready, reading: &Reading, blobs: &dyn Blobs) -> Result<Row> {
    let (diff, fingerprint) = match &reading.read {
        Read::Known(observed) => (step.resource.diff(observed, blobs)?, digest_of(observed)),
        Read::Unknown(reason) => {
            (Diff { action: Action::Unknown, changes: Vec::new(), reason: Some(reason.clone()) }, digest_of(reason))
        }
    };
    Ok(Row {
        at: reading.at,
        name: step.name.clone(),
        resource: step.resource.resource(),
        action: diff.action,
        changes: diff.changes,
        reason: diff.reason,
        fingerprint,
    })
}

/// The handlers that will run: notified by a pending step, or owed by an earlier run that did not get to them.
///
/// What a later step of this play (or the notifying one itself) starts afresh needs no restart by a handler.
fn handler_rows(number: usize, play: &Play, rows: &[Row], left: &Pending) -> Vec<Row> {
    let steps = || play.steps.iter().zip(rows).enumerate();
    let started: BTreeMap<String, usize> = steps()
        .filter(|(_, (_, row))| starts(row))
        .filter_map(|(at, (step, _))| Some((step.resource.starts()?, at)))
        .collect();
    let mut found = Vec::new();
    for (index, handler) in play.handlers.iter().enumerate() {
        let name = handler.name.clone().unwrap_or_default();
        let notifier = steps().rfind(|(_, (step, row))| row.action.is_pending() && step.notify.contains(&name));
        let fresh = handler.resource.restarts().and_then(|unit| started.get(&unit).copied());
        if let Some((at, _)) = notifier
            && fresh.is_some_and(|start| start >= at)
        {
            continue;
        }
        let reason = match notifier {
            Some((_, (_, row))) => format!("{} changes", row.resource),
            None if left.owes(&play.name, &name) => {
                "an earlier run changed what it depends on and did not get to it".to_owned()
            }
            None => continue,
        };
        found.push(Row {
            at: StepRef { play: number, step: play.steps.len() + index },
            name: handler.name.clone(),
            resource: handler.resource.resource(),
            action: Action::Run,
            changes: Vec::new(),
            fingerprint: digest_of(&pending::key(&play.name, &name)),
            reason: Some(reason),
        });
    }
    found
}

/// Does this row start what it is about? It is made, or goes from stopped to running.
fn starts(row: &Row) -> bool {
    let runs = |change: &crate::plan::Change| change.what == "running" && change.to.as_deref() == Some("active");
    row.action == Action::Add || row.changes.iter().any(runs)
}
