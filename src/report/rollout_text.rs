//! The plan errors, events and outcome of a rollout, or of another change of a service, as text and as JSON.

use serde_json::json;

use super::{ProgressBars, Reporter, escape_line};
use crate::deploy::rollout::{
    ChangeOutcome, DeployPlanError, HostFailure, RolloutEvent, RolloutOutcome, RolloutPlan, UnknownTask,
};
use crate::inventory::ByteSize;
use crate::plan::format_count;
use crate::protocol::deploy::{MaintenanceRecord, StagedRelease, SwitchOutcome};
use crate::protocol::lock::LockHolder;
use crate::protocol::{Event, TRANSFER_PHASE};

/// Prints the hosts that cannot be observed or planned.
pub fn report_plan_errors(failed: &[(String, DeployPlanError)], reporter: &Reporter) {
    for (host, error) in failed {
        match error {
            DeployPlanError::Connect(error) => {
                reporter.report_failure(host, &error.to_string(), Some(&error.hint()));
            }
            DeployPlanError::Templates(found) => {
                reporter.report_host_findings(host, &found.render(reporter.stderr_color));
            }
            DeployPlanError::Impossible(reason)
            | DeployPlanError::Idle(reason)
            | DeployPlanError::NotInRun(reason)
            | DeployPlanError::Host(reason) => {
                reporter.report_failure(host, reason, None);
            }
        }
    }
}

/// Prints what keeps a rollout from starting, and the hosts that it leaves as they are.
pub fn report_rollout_problems(plan: &RolloutPlan, reporter: &Reporter) {
    report_plan_errors(&plan.failed, reporter);
    for (host, error) in &plan.idle_hosts {
        reporter.print_status(&match error {
            DeployPlanError::NotInRun(reason) => format!("{host}: {reason}; it is left as it is"),
            _ => format!("{host}: no release is active; it is left as it is"),
        });
    }
    report_unknown_tasks(&plan.unknown_tasks, reporter);
}

/// Prints the hosts that stay out of rotation after a switch.
pub fn report_maintenance(plan: &RolloutPlan, reporter: &Reporter) {
    for host in &plan.planned {
        if let Some(record) = &host.observation.maintenance {
            let (name, state) = (&host.session.host, describe_maintenance(record));
            reporter.print_status(&format!("{name}: {state}; it stays out of rotation after a switch"));
        }
    }
}

/// Describes the holder of a service's lock.
pub fn describe_holder(holder: &LockHolder) -> String {
    let (operator, since) = (escape_line(&holder.operator), escape_line(&holder.since));
    format!("the service is locked by {operator} since {since} (pid {} on the host)", holder.pid)
}

/// Prints the tasks whose result is unknown, with the ways to continue.
fn report_unknown_tasks(unknown: &[UnknownTask], reporter: &Reporter) {
    for UnknownTask { name, reason } in unknown {
        let hints = [
            format!("if it took effect, run the command again with --task-done {name}"),
            format!("if it may run, run the command again with --task-again {name}"),
        ];
        let text = format!("it is unknown whether task {name} ran: {reason}");
        reporter.report_error(&text, &hints);
    }
}

/// Prints an event of a rollout.
pub fn report_rollout_event(rollout_event: &RolloutEvent<'_>, reporter: &Reporter, progress: &ProgressBars) {
    match rollout_event {
        RolloutEvent::Phase(phase) => {
            reporter.print_json("phase", json!({"phase": phase}));
            reporter.print_status(phase);
        }
        RolloutEvent::HostEvent(host, event @ Event::Progress { phase, done, total, .. })
            if phase == TRANSFER_PHASE =>
        {
            reporter.report_event(host, event);
            progress.show_transfer(host, *done, *total);
        }
        RolloutEvent::HostEvent(host, event) => {
            reporter.report_event(host, event);
            if let Event::Progress { job, phase, .. } = event
                && reporter.style.verbose
                && !reporter.json
            {
                reporter.print_status(&format!("{host}: {job}: {phase}"));
            }
        }
        RolloutEvent::Staged(host, StagedRelease { reused, written, bytes }) => {
            reporter.print_json(
                "staged",
                json!({
                    "host": host, "reused": reused, "written": written, "bytes": bytes,
                }),
            );
            let bytes = ByteSize(*bytes).to_human();
            reporter.print_status(&format!(
                "{host}: staged: {} written ({bytes} sent), {reused} reused",
                format_count(*written, "file")
            ));
        }
        RolloutEvent::Task(host, name, ran) => {
            reporter.print_json("task", json!({"host": host, "name": name, "ran": ran}));
            let how = if *ran { "done" } else { "already done" };
            reporter.print_status(&format!("{host}: task {name}: {how}"));
        }
        RolloutEvent::Switched(host, outcome) => {
            reporter.print_json("switched", json!({"host": host, "result": outcome}));
            if let Some(text) = describe_switch(outcome) {
                reporter.print_status(&format!("{host}: {text}"));
            }
        }
        RolloutEvent::Pruned(_, []) => {}
        RolloutEvent::Pruned(host, removed) => {
            reporter.print_json("pruned", json!({"host": host, "releases": removed}));
            // The host reports each of them as a note.
        }
    }
}

/// Describes a switch that succeeded. Others are reported as failures at the end.
fn describe_switch(outcome: &SwitchOutcome) -> Option<String> {
    match outcome {
        SwitchOutcome::Unchanged => Some("nothing to switch".to_owned()),
        SwitchOutcome::Healthy {
            version, previous: before, gap_ms, rotation_failure: None, in_maintenance, ..
        } => {
            let before = before.as_ref().filter(|before| *before != version);
            let before = before.map(|before| format!(" (was {before})")).unwrap_or_default();
            let rotation = if *in_maintenance { "; in maintenance, it stays out of rotation" } else { "" };
            Some(format!("release {version} is active{before}, healthy after {gap_ms} ms{rotation}"))
        }
        SwitchOutcome::Healthy { .. }
        | SwitchOutcome::RolledBack { .. }
        | SwitchOutcome::Unhealthy { .. }
        | SwitchOutcome::Stopped { .. } => None,
    }
}

/// Describes the maintenance of a host.
pub fn describe_maintenance(record: &MaintenanceRecord) -> String {
    let since = i64::try_from(record.since).ok().and_then(|since| jiff::Timestamp::from_second(since).ok());
    let since = since.map(|since| since.to_string()).unwrap_or_default();
    format!("in maintenance since {since} by {}", escape_line(&record.operator))
}

/// Prints the outcome of a rollout.
pub fn report_rollout_outcome(outcome: &RolloutOutcome, service: &str, reporter: &Reporter) {
    report_host_failures(&outcome.failed, reporter);
    if !outcome.returned.is_empty() {
        let hosts: Vec<_> =
            outcome.returned.iter().map(|(host, version)| json!({"host": host, "version": version})).collect();
        reporter.print_json("returned", json!({"hosts": hosts}));
        let texts: Vec<String> = outcome.returned.iter().map(|(host, version)| format!("{host} ({version})")).collect();
        reporter.print_status(&format!("returned to the previous release: {}", texts.join(", ")));
    }
    if !outcome.stopped.is_empty() {
        reporter.print_json("stopped", json!({"hosts": outcome.stopped}));
        let hosts = outcome.stopped.join(", ");
        reporter.print_status(&format!("stopped, since no release served there before: {hosts}"));
    }
    if !outcome.skipped.is_empty() {
        reporter.print_json("skipped", json!({"hosts": outcome.skipped}));
        reporter.print_status(&format!("not switched: {}", outcome.skipped.join(", ")));
    }
    let (switched, failed) = (outcome.switched.len(), outcome.failed.len());
    reporter.print_data(&format!(
        "Done: {} switched, {failed} failed, {} returned, {} skipped",
        format_count(switched, "host"),
        outcome.returned.len() + outcome.stopped.len(),
        outcome.skipped.len()
    ));
    if (failed > 0 || !outcome.skipped.is_empty()) && switched > 0 {
        let hosts = outcome.switched.join(":");
        reporter.print_status(&format!(
            "  next: run the command again to continue, or dunlin rollback {service} --limit '{hosts}'"
        ));
    }
}

/// Prints the outcome of another change of a service.
pub fn report_change_outcome(outcome: &ChangeOutcome, reporter: &Reporter) {
    report_host_failures(&outcome.failed, reporter);
    for host in &outcome.changed {
        reporter.print_json("changed", json!({"host": host}));
    }
    if !outcome.skipped.is_empty() {
        reporter.print_json("skipped", json!({"hosts": outcome.skipped}));
        reporter.print_status(&format!("not changed: {}", outcome.skipped.join(", ")));
    }
    let (changed, failed) = (outcome.changed.len(), outcome.failed.len());
    reporter.print_data(&format!(
        "Done: {} changed, {failed} failed, {} skipped",
        format_count(changed, "host"),
        outcome.skipped.len()
    ));
}

fn report_host_failures(failed: &[(String, HostFailure)], reporter: &Reporter) {
    for (host, failure) in failed {
        match failure {
            HostFailure::Locked(holder) => reporter.report_failure(host, &describe_holder(holder), None),
            HostFailure::Refused(reason) => {
                reporter.report_failure(host, reason, Some("run the command again to see a new plan"));
            }
            HostFailure::Failed(reason, log) => {
                reporter.report_failure(host, reason, None);
                log.iter().for_each(|line| reporter.print_status(&format!("  {host} | {line}")));
            }
        }
    }
}
