//! Applying: the pending rows of one play in order, then its notified handlers, then a check for remaining changes.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::pending_handlers::PendingHandlers;
use super::plan::{PreparedCatalog, PreparedPlay, PreparedStep};
use super::secrets::KeyedBlobs;
use crate::plan::{Action, AttributeChange, StepRef};
use crate::protocol::provision::{ApplyPlay, FailedStep, PlayResult};
use crate::protocol::{Event, ProgressSink};
use crate::resources::{ApplyContext, BlobSource, Diff, HostView, ReadOutcome};

/// Applies one play.
///
/// # Errors
/// Returns an error if the play does not exist or the host's journal cannot be written. A failed step is part of the
/// reply.
pub fn apply_play(
    planned: &PreparedCatalog,
    request: &ApplyPlay,
    blobs: &dyn BlobSource,
    sink: &dyn ProgressSink,
) -> Result<PlayResult> {
    let play =
        planned.plays.get(request.play_index).with_context(|| format!("play {} does not exist", request.play_index))?;
    let blobs = &KeyedBlobs { blobs, key: planned.digest_key.as_ref() };
    let mut run = PlayRun {
        planned,
        play,
        play_index: request.play_index,
        site: ApplyContext::new(blobs),
        sink,
        applied_count: 0,
        pending_handlers: PendingHandlers::load_file()?,
    };
    let mut failed = run.apply_steps()?;
    if failed.is_none() {
        failed = run.run_handlers()?;
    }
    let mut applied = PlayResult { applied_changes: run.applied_count, failure: failed, still_differing: Vec::new() };
    if applied.failure.is_none() {
        applied.still_differing = remaining_changes(play, blobs)?;
    }
    Ok(applied)
}

struct PlayRun<'a> {
    planned: &'a PreparedCatalog,
    play: &'a PreparedPlay,
    play_index: usize,
    site: ApplyContext<'a>,
    sink: &'a dyn ProgressSink,
    applied_count: usize,
    pending_handlers: PendingHandlers,
}

impl PlayRun<'_> {
    fn apply_steps(&mut self) -> Result<Option<FailedStep>> {
        for (index, step) in self.play.steps.iter().enumerate() {
            let at = StepRef { play: self.play_index, step: index };
            let is_pending = self.planned.find_row(at).is_some_and(|row| row.action.is_pending());
            if !is_pending {
                continue;
            }
            if self.sink.is_cancelled() {
                return Ok(Some(step_failure(at, step, "stopped before this step".to_owned())));
            }
            if !step.notify.is_empty() {
                self.pending_handlers.add_handlers(&self.play.name, &self.handlers_to_run(step))?;
            }
            self.site.set_upcoming_enables(self.upcoming_enables(index));
            if let Some(failure) = self.apply_step(at, step) {
                return Ok(Some(failure));
            }
        }
        Ok(self.site.flush_reload().err().map(|error| FailedStep {
            step: StepRef { play: self.play_index, step: self.play.steps.len() },
            resource: "systemd".to_owned(),
            error: format!("{error:#}"),
        }))
    }

    /// Returns the units that the pending steps right after this one enable, up to the first that enables none.
    fn upcoming_enables(&self, index: usize) -> Vec<String> {
        let behind = self.play.steps.iter().enumerate().skip(index + 1);
        let is_pending = |number| {
            let at = StepRef { play: self.play_index, step: number };
            self.planned.find_row(at).is_some_and(|row| row.action.is_pending())
        };
        behind.filter(|(number, _)| is_pending(*number)).map_while(|(_, step)| step.resource.enabled_unit()).collect()
    }

    /// Returns the handlers of a step that will run by the plan.
    fn handlers_to_run(&self, step: &PreparedStep) -> Vec<String> {
        let runs = |name: &String| {
            self.play.handlers.iter().enumerate().any(|(index, handler)| {
                let at = StepRef { play: self.play_index, step: self.play.steps.len() + index };
                handler.name.as_ref() == Some(name) && self.planned.find_row(at).is_some()
            })
        };
        step.notify.iter().filter(|name| runs(name)).cloned().collect()
    }

    fn run_handlers(&mut self) -> Result<Option<FailedStep>> {
        for (index, handler) in self.play.handlers.iter().enumerate() {
            let at = StepRef { play: self.play_index, step: self.play.steps.len() + index };
            if self.planned.find_row(at).is_none() {
                continue;
            }
            if let Some(failure) = self.apply_step(at, handler) {
                return Ok(Some(failure));
            }
            self.pending_handlers.mark_handlers_done(&self.play.name, handler.name.as_slice())?;
        }
        Ok(None)
    }

    fn apply_step(&mut self, at: StepRef, step: &PreparedStep) -> Option<FailedStep> {
        self.sink.emit(Event::StepStarted { step: at });
        let begin = Instant::now();
        match self.read_and_apply(at, step) {
            Ok(action) => {
                self.applied_count += 1;
                self.sink.emit(Event::StepDone { step: at, action, seconds: begin.elapsed().as_secs_f64() });
                None
            }
            Err(error) => {
                let error = step.secrets.redact_text(&format!("{error:#}"));
                self.sink.emit(Event::StepFailed { step: at, error: error.clone() });
                Some(step_failure(at, step, error))
            }
        }
    }

    /// Reads the host as it is now (the earlier steps are done), compares, and applies what the plan has shown.
    fn read_and_apply(&mut self, at: StepRef, step: &PreparedStep) -> Result<Action> {
        let observed = match step.resource.read(&mut HostView::current())? {
            ReadOutcome::Known(observed) => observed,
            ReadOutcome::UnknownUntilApply(reason) => anyhow::bail!("still unknown: {reason}"),
        };
        let diff = step.resource.diff(&observed, self.site.blobs())?;
        if diff.action.is_pending() {
            self.ensure_as_planned(at, step, &diff)?;
            step.resource.apply(&observed, &mut self.site)?;
        }
        Ok(diff.action)
    }

    /// Refuses to make another change than the one that was shown: the resource has changed since. A row that
    /// could not be determined before now has shown nothing. A part of what was shown may be done already: one step
    /// enables the units of those behind it.
    fn ensure_as_planned(&self, at: StepRef, step: &PreparedStep, diff: &Diff) -> Result<()> {
        let Some(row) = self.planned.find_row(at).filter(|row| row.action != Action::Unknown) else { return Ok(()) };
        let is_handler = at.step >= self.play.steps.len();
        let changes = step.secrets.hide_changes(diff.changes.clone(), self.planned.digest_key.as_ref());
        ensure!(
            is_handler || (row.action == diff.action && changes.iter().all(|change| row.changes.contains(change))),
            "it has changed since the plan was made ({}); it was left as it is: run dunlin provision again",
            describe_difference(&row.changes, &changes)
        );
        Ok(())
    }
}

/// Names the attributes whose change is another one now.
fn describe_difference(shown: &[AttributeChange], now: &[AttributeChange]) -> String {
    let all =
        shown.iter().filter(|change| !now.contains(change)).chain(now.iter().filter(|change| !shown.contains(change)));
    let names: BTreeSet<&str> = all.map(|change| change.attribute.as_str()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Returns the rows that a second run would still show. Commands without a condition always run and are excluded.
fn remaining_changes(play: &PreparedPlay, blobs: &dyn BlobSource) -> Result<Vec<String>> {
    let mut view = HostView::current();
    view.prefetch_units(&PreparedCatalog::prefetch_for(play))?;
    let mut left = Vec::new();
    for step in &play.steps {
        let action = match step.resource.read(&mut view)? {
            ReadOutcome::Known(observed) => step.resource.diff(&observed, blobs)?.action,
            ReadOutcome::UnknownUntilApply(_) => Action::Unknown,
        };
        if action.is_pending() && action != Action::Run {
            left.push(format!("{}: still to {action}", step.resource.resource_name()));
        }
    }
    Ok(left)
}

fn step_failure(at: StepRef, step: &PreparedStep, error: String) -> FailedStep {
    FailedStep { step: at, resource: step.resource.resource_name(), error }
}
