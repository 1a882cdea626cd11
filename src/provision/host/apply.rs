//! Applying: the pending rows of one play in order, then its notified handlers, then a look whether anything is left.

use std::time::Instant;

use anyhow::{Context, Result};

use super::pending::Pending;
use super::planned::{Planned, Play, Ready};
use crate::plan::{Action, StepRef};
use crate::resources::{Blobs, Read, Site, World};
use crate::wire::provision::{Applied, Apply, Failed};
use crate::wire::{Event, Sink};

/// Applies one play.
///
/// # Errors
/// There is no such play, or the host's journal cannot be written. A step that fails is part of the reply.
pub fn apply(planned: &Planned, order: &Apply, blobs: &dyn Blobs, sink: &dyn Sink) -> Result<Applied> {
    let play = planned.plays.get(order.play).with_context(|| format!("there is no play {}", order.play))?;
    let mut run =
        Run { planned, play, number: order.play, site: Site::new(blobs), sink, done: 0, pending: Pending::load()? };
    let mut failed = run.steps()?;
    if failed.is_none() {
        failed = run.handlers()?;
    }
    let mut applied = Applied { done: run.done, failed, unsettled: Vec::new() };
    if applied.failed.is_none() {
        applied.unsettled = unsettled(play, blobs)?;
    }
    Ok(applied)
}

struct Run<'a> {
    planned: &'a Planned,
    play: &'a Play,
    number: usize,
    site: Site<'a>,
    sink: &'a dyn Sink,
    done: usize,
    pending: Pending,
}

impl Run<'_> {
    fn steps(&mut self) -> Result<Option<Failed>> {
        for (index, step) in self.play.steps.iter().enumerate() {
            let at = StepRef { play: self.number, step: index };
            let is_pending = self.planned.row(at).is_some_and(|row| row.action.is_pending());
            if !is_pending {
                continue;
            }
            if self.sink.cancelled() {
                return Ok(Some(failed(at, step, "stopped before this step".to_owned())));
            }
            if !step.notify.is_empty() {
                self.pending.note(&self.play.name, &self.owed(step))?;
            }
            self.site.expect_enables(self.enables_behind(index));
            if let Some(failure) = self.step(at, step) {
                return Ok(Some(failure));
            }
        }
        Ok(self.site.settle_reload().err().map(|error| Failed {
            at: StepRef { play: self.number, step: self.play.steps.len() },
            resource: "systemd".to_owned(),
            error: format!("{error:#}"),
        }))
    }

    /// The units that the pending steps right behind one enable, up to the first that enables none.
    fn enables_behind(&self, index: usize) -> Vec<String> {
        let behind = self.play.steps.iter().enumerate().skip(index + 1);
        let is_pending = |number| {
            let at = StepRef { play: self.number, step: number };
            self.planned.row(at).is_some_and(|row| row.action.is_pending())
        };
        behind.filter(|(number, _)| is_pending(*number)).map_while(|(_, step)| step.resource.enables()).collect()
    }

    /// The handlers of a step that the plan says will run.
    fn owed(&self, step: &Ready) -> Vec<String> {
        let runs = |name: &String| {
            self.play.handlers.iter().enumerate().any(|(index, handler)| {
                let at = StepRef { play: self.number, step: self.play.steps.len() + index };
                handler.name.as_ref() == Some(name) && self.planned.row(at).is_some()
            })
        };
        step.notify.iter().filter(|name| runs(name)).cloned().collect()
    }

    fn handlers(&mut self) -> Result<Option<Failed>> {
        for (index, handler) in self.play.handlers.iter().enumerate() {
            let at = StepRef { play: self.number, step: self.play.steps.len() + index };
            if self.planned.row(at).is_none() {
                continue;
            }
            if let Some(failure) = self.step(at, handler) {
                return Ok(Some(failure));
            }
            self.pending.settle(&self.play.name, handler.name.as_slice())?;
        }
        Ok(None)
    }

    fn step(&mut self, at: StepRef, step: &Ready) -> Option<Failed> {
        self.sink.emit(Event::StepStarted { at });
        let begin = Instant::now();
        match self.act(step) {
            Ok(action) => {
                self.done += 1;
                self.sink.emit(Event::StepDone { at, action, seconds: begin.elapsed().as_secs_f64() });
                None
            }
            Err(error) => {
                let error = format!("{error:#}");
                self.sink.emit(Event::StepFailed { at, error: error.clone() });
                Some(failed(at, step, error))
            }
        }
    }

    /// Reads the host as it is now (the earlier steps are done), compares, and applies.
    fn act(&mut self, step: &Ready) -> Result<Action> {
        let observed = match step.resource.read(&mut World::now())? {
            Read::Known(observed) => observed,
            Read::Unknown(reason) => anyhow::bail!("still unknown: {reason}"),
        };
        let diff = step.resource.diff(&observed, self.site.blobs())?;
        if diff.action.is_pending() {
            step.resource.apply(&observed, &mut self.site)?;
        }
        Ok(diff.action)
    }
}

/// What a second run would show: rows that still differ. Commands without a guard always do, and are left out.
fn unsettled(play: &Play, blobs: &dyn Blobs) -> Result<Vec<String>> {
    let mut world = World::now();
    world.fetch(&Planned::wants(play))?;
    let mut left = Vec::new();
    for step in &play.steps {
        let action = match step.resource.read(&mut world)? {
            Read::Known(observed) => step.resource.diff(&observed, blobs)?.action,
            Read::Unknown(_) => Action::Unknown,
        };
        if action.is_pending() && action != Action::Run {
            left.push(format!("{}: still to {action}", step.resource.resource()));
        }
    }
    Ok(left)
}

fn failed(at: StepRef, step: &Ready, error: String) -> Failed {
    Failed { at, resource: step.resource.resource(), error }
}
