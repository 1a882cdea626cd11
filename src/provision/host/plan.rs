//! Planning: reads each step on top of the predicted changes of earlier steps, and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::pending_handlers::{self, PendingHandlers};
use super::secrets::{KeyedBlobs, SecretFields};
use crate::plan::{Action, Digest, DigestKey, ResourceChange, StepRef, digest_json};
use crate::protocol::provision::{Catalog, CatalogStep as Wanted};
use crate::resources::{self, BlobSource, Diff, DynResource, HostView, Prefetch, ReadOutcome};

/// A step of the catalog, made ready.
pub struct PreparedStep {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its resource.
    pub resource: Box<dyn DynResource>,
    /// The handlers it notifies.
    pub notify: Vec<String>,
    /// The fields that must not be shown.
    pub secrets: SecretFields,
    /// Digest of its desired state, under the catalog's key.
    desired: Digest,
}

/// A play of the catalog, made ready.
pub struct PreparedPlay {
    /// Its name.
    pub name: String,
    /// Its steps.
    pub steps: Vec<PreparedStep>,
    /// Its handlers.
    pub handlers: Vec<PreparedStep>,
}

/// A catalog with its plan.
pub struct PreparedCatalog {
    /// The plays.
    pub plays: Vec<PreparedPlay>,
    /// The key under which digests are shown and rows fingerprinted.
    pub digest_key: Option<DigestKey>,
    rows: Vec<ResourceChange>,
}

impl PreparedCatalog {
    /// Returns the rows in the order in which they are applied: one per step, and one per handler that would run.
    pub fn rows(&self) -> &[ResourceChange] {
        &self.rows
    }

    /// Returns the row of a step.
    pub fn find_row(&self, at: StepRef) -> Option<&ResourceChange> {
        self.rows.iter().find(|row| row.step == at)
    }

    /// Collects the lookups of the steps of a play.
    pub fn prefetch_for(play: &PreparedPlay) -> Prefetch {
        let mut wants = Prefetch::default();
        for step in &play.steps {
            step.resource.collect_prefetch(&mut wants);
        }
        wants
    }
}

/// State that was read for a step before the contents to compare with are available.
struct StepReading {
    at: StepRef,
    read: ReadOutcome<Value>,
    /// The real path, where a link in the folder of the step's path is followed.
    behind_links: Option<PathBuf>,
}

/// Plans a catalog. Contents that a diff needs are requested together.
///
/// # Errors
/// Returns an error if a step has an unknown type or shape, or the host cannot be read; with the resource's name.
pub fn plan_catalog(catalog: Catalog, blobs: &dyn BlobSource) -> Result<PreparedCatalog> {
    let digest_key = catalog.digest_key.clone();
    let key = digest_key.as_ref();
    let blobs = &KeyedBlobs { blobs, key };
    let plays = prepare_plays(catalog, key)?;
    let mut view = HostView::current();
    let mut wants = Prefetch::default();
    for step in plays.iter().flat_map(|play| &play.steps) {
        step.resource.collect_prefetch(&mut wants);
    }
    view.prefetch_units(&wants)?;
    let readings = read_steps(&plays, &mut view, blobs)?;
    let pending = PendingHandlers::load_file().context("reading the pending restarts of an earlier run")?;
    let mut rows = Vec::new();
    let mut readings = readings.into_iter();
    for (number, play) in plays.iter().enumerate() {
        let from = rows.len();
        let mut refusing = BTreeSet::new();
        for (index, (step, reading)) in play.steps.iter().zip(readings.by_ref()).enumerate() {
            if let ReadOutcome::Known(observed) = &reading.read
                && step.resource.refuses_restart(observed)?
            {
                refusing.insert(index);
            }
            rows.push(build_row(step, &reading, blobs).map_err(|error| step.secrets.redact_error(error))?);
        }
        let handlers = build_handler_rows(number, play, &rows[from..], &refusing, &pending);
        rows.extend(handlers);
    }
    Ok(PreparedCatalog { plays, digest_key, rows })
}

fn prepare_plays(catalog: Catalog, key: Option<&DigestKey>) -> Result<Vec<PreparedPlay>> {
    let steps =
        |wanted: Vec<Wanted>| wanted.into_iter().map(|step| prepare_step(step, key)).collect::<Result<Vec<_>>>();
    catalog
        .plays
        .into_iter()
        .map(|play| Ok(PreparedPlay { name: play.name, steps: steps(play.steps)?, handlers: steps(play.handlers)? }))
        .collect()
}

fn prepare_step(step: Wanted, key: Option<&DigestKey>) -> Result<PreparedStep> {
    let secrets = SecretFields::of_step(step.secret_fields, &step.desired);
    let desired = fingerprint(key, &(&step.kind, &step.desired, &step.notify));
    let kind = resources::find_kind(&step.kind).with_context(|| format!("unknown resource type {}", step.kind))?;
    let resource = (kind.parse)(step.desired).with_context(|| format!("a step of type {}", step.kind))?;
    Ok(PreparedStep { name: step.name, resource, notify: step.notify, secrets, desired })
}

/// Returns the digest that binds a plan to a value: under the key, since the value may have a secret that can be
/// guessed.
fn fingerprint<T: Serialize>(key: Option<&DigestKey>, value: &T) -> Digest {
    key.map_or_else(|| digest_json(value), |key| key.authenticate_json(value))
}

/// Reads every step; asks for all lacking contents at once, so that comparing waits for the network only once.
fn read_steps(plays: &[PreparedPlay], view: &mut HostView, blobs: &dyn BlobSource) -> Result<Vec<StepReading>> {
    let (mut readings, mut missing) = (Vec::new(), Vec::<Digest>::new());
    for (number, play) in plays.iter().enumerate() {
        for (index, step) in play.steps.iter().enumerate() {
            let read = step.resource.read(view).map_err(|error| step.secrets.redact_error(error))?;
            let behind_links = step
                .resource
                .exclusive_claims()
                .iter()
                .find_map(|claim| view.path_behind_links(Path::new(claim.strip_prefix("path ")?)));
            let mut is_pending = true;
            if let ReadOutcome::Known(observed) = &read {
                let needs = step.resource.required_blobs(observed)?;
                // A content that differs is a pending change; without one the comparison can be made now.
                is_pending = !needs.is_empty() || step.resource.diff(observed, blobs)?.action.is_pending();
                missing.extend(needs);
            }
            if is_pending {
                view.mark_pending();
                step.resource.predict_state(view);
            }
            readings.push(StepReading { at: StepRef { play: number, step: index }, read, behind_links });
        }
    }
    blobs.fetch_blobs(&missing)?;
    Ok(readings)
}

fn build_row(step: &PreparedStep, reading: &StepReading, blobs: &KeyedBlobs<'_>) -> Result<ResourceChange> {
    let (diff, observed) = match &reading.read {
        ReadOutcome::Known(observed) => (step.resource.diff(observed, blobs)?, fingerprint(blobs.key, observed)),
        ReadOutcome::UnknownUntilApply(reason) => {
            let diff = Diff { action: Action::Unknown, changes: Vec::new(), reason: Some(reason.clone()) };
            (diff, fingerprint(blobs.key, reason))
        }
    };
    // A plan is a contract: of what was found, of what is wanted, and of where a link on the way leads.
    let fingerprint = fingerprint(blobs.key, &(&observed, &step.desired, &reading.behind_links));
    let through_link = reading.behind_links.as_ref().map(|real| format!("through a link: {}", real.display()));
    Ok(ResourceChange {
        step: reading.at,
        name: step.name.clone(),
        resource: step.resource.resource_name(),
        action: diff.action,
        changes: step.secrets.hide_changes(diff.changes, blobs.key),
        reason: diff.reason.map(|reason| step.secrets.redact_text(&reason)).or(through_link),
        fingerprint,
    })
}

/// Returns the rows of the handlers that will run: notified by a pending step, or pending from an earlier run that did
/// not reach them.
///
/// A step of `refusing` is not restarted: it notifies no handler, and no handler restarts its unit.
///
/// What a later step of this play (or the notifying one itself) starts afresh needs no restart by a handler.
fn build_handler_rows(
    number: usize,
    play: &PreparedPlay,
    rows: &[ResourceChange],
    refusing: &BTreeSet<usize>,
    pending: &PendingHandlers,
) -> Vec<ResourceChange> {
    let steps = || play.steps.iter().zip(rows).enumerate();
    let started: BTreeMap<String, usize> = steps()
        .filter(|(_, (_, row))| is_start(row))
        .filter_map(|(at, (step, _))| Some((step.resource.started_unit()?, at)))
        .collect();
    let refusing_units: BTreeSet<String> =
        refusing.iter().filter_map(|index| play.steps.get(*index)?.resource.started_unit()).collect();
    let mut found = Vec::new();
    for (index, handler) in play.handlers.iter().enumerate() {
        if handler.resource.restarted_unit().is_some_and(|unit| refusing_units.contains(&unit)) {
            continue;
        }
        let name = handler.name.clone().unwrap_or_default();
        let notifier = steps().rfind(|(at, (step, row))| {
            row.action.is_pending()
                && !refusing.contains(at)
                && step.notify.contains(&name)
                && (row.changes.is_empty() || step.resource.needs_handlers(&row.changes))
        });
        let started_at = handler.resource.restarted_unit().and_then(|unit| started.get(&unit).copied());
        if let Some((at, _)) = notifier
            && started_at.is_some_and(|start| start >= at)
        {
            continue;
        }
        let reason = match notifier {
            Some((_, (_, row))) => format!("{} changes", row.resource),
            None if pending.is_pending(&play.name, &name) => {
                "an earlier run changed what it depends on, and stopped before this step".to_owned()
            }
            None => continue,
        };
        found.push(ResourceChange {
            step: StepRef { play: number, step: play.steps.len() + index },
            name: handler.name.clone(),
            resource: handler.resource.resource_name(),
            action: Action::Run,
            changes: Vec::new(),
            fingerprint: digest_json(&(pending_handlers::handler_key(&play.name, &name), &handler.desired)),
            reason: Some(reason),
        });
    }
    found
}

/// Returns whether the row starts its unit: the resource is created, or changes from stopped to running.
fn is_start(row: &ResourceChange) -> bool {
    let runs =
        |change: &crate::plan::AttributeChange| change.attribute == "running" && change.to.as_deref() == Some("active");
    row.action == Action::Add || row.changes.iter().any(runs)
}
