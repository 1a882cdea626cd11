//! Applying on the controller: play after play, batch after batch, hosts of a batch at once.

use std::collections::BTreeMap;

use super::PlannedHost;
use crate::fleet::Fleet;
use crate::playbook::{BatchSchedule, Playbook};
use crate::protocol::Event;
use crate::protocol::provision::{ApplyPlay, PlayResult};

/// Result of applying the plan of one host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostOutcome {
    /// Number of rows that were applied.
    pub applied_count: usize,
    /// Error of the failed row, in one line; later rows were not applied.
    pub failure: Option<String>,
    /// Not tried, because hosts before it failed.
    pub is_skipped: bool,
    /// Rows that a second run would show.
    pub remaining: Vec<String>,
}

/// Receiver of the events of hosts.
pub type HostEventFn<'a> = &'a (dyn Fn(&str, &Event) + Send + Sync);

/// Applies the plans of all hosts. A play starts its next batch only if no host has failed; after a failure no
/// further batch and no further play is begun.
pub async fn apply_plans(
    fleet: &Fleet,
    playbook: &Playbook,
    hosts: &[PlannedHost],
    run: &str,
    progress: HostEventFn<'_>,
) -> BTreeMap<String, HostOutcome> {
    let mut outcomes: BTreeMap<String, HostOutcome> =
        hosts.iter().map(|host| (host.session.host.clone(), HostOutcome::default())).collect();
    let mut has_failed = false;
    for play in &playbook.plays {
        let members: Vec<(&PlannedHost, usize)> =
            hosts.iter().filter_map(|host| Some((host, play_index(host, &play.name.value)?))).collect();
        for batch in split_batches(&members, play.batch.as_ref()) {
            if has_failed || fleet.cancellation.is_cancelled() {
                for (host, _) in batch {
                    outcomes.entry(host.session.host.clone()).or_default().is_skipped = true;
                }
                continue;
            }
            let results = fleet.map_parallel(batch, |(host, play)| apply_play(fleet, host, *play, run, progress)).await;
            for ((host, _), result) in batch.iter().zip(results) {
                let outcome = outcomes.entry(host.session.host.clone()).or_default();
                has_failed |= record_result(outcome, result);
            }
        }
    }
    outcomes
}

/// Returns the number of the play in the host's catalog, if it has something to do there.
fn play_index(host: &PlannedHost, play: &str) -> Option<usize> {
    let number = host.catalog.plays.iter().position(|own| own.name == play)?;
    host.plan.pending_rows().any(|row| row.step.play == number).then_some(number)
}

fn split_batches<'m, 'p>(
    members: &'m [(&'p PlannedHost, usize)],
    batch: Option<&BatchSchedule>,
) -> Vec<&'m [(&'p PlannedHost, usize)]> {
    let Some(batch) = batch else { return vec![members] };
    let mut rest = members;
    let mut parts = Vec::new();
    for size in batch.batch_sizes(members.len()) {
        let (head, tail) = rest.split_at(size.min(rest.len()));
        parts.push(head);
        rest = tail;
    }
    parts
}

async fn apply_play(
    fleet: &Fleet,
    host: &PlannedHost,
    play: usize,
    run: &str,
    progress: HostEventFn<'_>,
) -> Result<PlayResult, String> {
    let request = ApplyPlay { play_index: play, run: run.to_owned() };
    let name = host.session.host.as_str();
    let progress = |event| progress(name, &host.secrets.redact_event(event));
    let result = host.session.call(request, &progress, &fleet.cancellation).await;
    let redact_failure = |mut result: PlayResult| {
        if let Some(failure) = &mut result.failure {
            failure.error = host.secrets.redact_text(&failure.error);
        }
        result
    };
    result.map(redact_failure).map_err(|error| host.secrets.redact_text(&error.message))
}

/// Adds a play's result to the host's outcome; `true`: it failed.
fn record_result(outcome: &mut HostOutcome, result: Result<PlayResult, String>) -> bool {
    match result {
        Ok(applied) => {
            outcome.applied_count += applied.applied_changes;
            outcome.remaining.extend(applied.still_differing);
            outcome.failure = applied.failure.map(|failed| format!("{}: {}", failed.resource, failed.error));
        }
        Err(error) => outcome.failure = Some(error),
    }
    outcome.failure.is_some()
}
