//! Applying on the controller: play after play, batch after batch, hosts of a batch at once.

use std::collections::BTreeMap;

use super::Planned;
use crate::fleet::Fleet;
use crate::playbook::{Batch, Playbook};
use crate::wire::provision::{Applied, Apply};
use crate::wire::{Event, Reply, Request};

/// How one host ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostOutcome {
    /// How many rows were acted on.
    pub done: usize,
    /// What failed, in one line; nothing behind it was tried.
    pub failed: Option<String>,
    /// Not tried, because hosts before it failed.
    pub skipped: bool,
    /// Rows that a second run would show.
    pub unsettled: Vec<String>,
}

/// Where events of hosts go.
pub type Progress<'a> = &'a (dyn Fn(&str, &Event) + Send + Sync);

/// Applies the plans of all hosts. A play goes on to its next batch only while no host has failed; after a failure no
/// further batch and no further play is begun.
pub async fn apply(
    fleet: &Fleet,
    playbook: &Playbook,
    planned: &[Planned],
    run: &str,
    progress: Progress<'_>,
) -> BTreeMap<String, HostOutcome> {
    let mut outcomes: BTreeMap<String, HostOutcome> =
        planned.iter().map(|host| (host.session.host.clone(), HostOutcome::default())).collect();
    let mut stopped = false;
    for play in &playbook.plays {
        let members: Vec<(&Planned, usize)> =
            planned.iter().filter_map(|host| Some((host, part(host, &play.name.value)?))).collect();
        for batch in batches(&members, play.batch.as_ref()) {
            if stopped || fleet.stop.is_cancelled() {
                for (host, _) in batch {
                    outcomes.entry(host.session.host.clone()).or_default().skipped = true;
                }
                continue;
            }
            let results = fleet.each(batch, |(host, play)| one(fleet, host, *play, run, progress)).await;
            for ((host, _), result) in batch.iter().zip(results) {
                let outcome = outcomes.entry(host.session.host.clone()).or_default();
                stopped |= record(outcome, result);
            }
        }
    }
    outcomes
}

/// The number of the play in the host's catalogue, if it has something to do there.
fn part(host: &Planned, play: &str) -> Option<usize> {
    let number = host.catalogue.plays.iter().position(|own| own.name == play)?;
    host.plan.pending().any(|row| row.at.play == number).then_some(number)
}

fn batches<'m, 'p>(members: &'m [(&'p Planned, usize)], batch: Option<&Batch>) -> Vec<&'m [(&'p Planned, usize)]> {
    let Some(batch) = batch else { return vec![members] };
    let mut rest = members;
    let mut parts = Vec::new();
    for size in batch.sizes(members.len()) {
        let (head, tail) = rest.split_at(size.min(rest.len()));
        parts.push(head);
        rest = tail;
    }
    parts
}

async fn one(fleet: &Fleet, host: &Planned, play: usize, run: &str, progress: Progress<'_>) -> Result<Applied, String> {
    let request = Request::Apply(Apply { play, run: run.to_owned() });
    let name = host.session.host.as_str();
    match host.session.request(request, &|event| progress(name, &event), &fleet.stop).await {
        Ok(Reply::Applied(applied)) => Ok(applied),
        Ok(_) => Err("an answer that does not fit".to_owned()),
        Err(error) => Err(error.error),
    }
}

/// Adds a play's result to the host's outcome; `true`: it failed.
fn record(outcome: &mut HostOutcome, result: Result<Applied, String>) -> bool {
    match result {
        Ok(applied) => {
            outcome.done += applied.done;
            outcome.unsettled.extend(applied.unsettled);
            outcome.failed = applied.failed.map(|failed| format!("{}: {}", failed.resource, failed.error));
        }
        Err(error) => outcome.failed = Some(error),
    }
    outcome.failed.is_some()
}
