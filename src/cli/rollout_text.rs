//! The events of a rollout as text and as JSON.

use std::collections::BTreeMap;

use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::exit::Exit;
use crate::deploy::rollout::{DeployPlanError, PlannedDeploy, RolloutEvent, UnknownTask};
use crate::inventory::ByteSize;
use crate::plan::format_count;
use crate::playbook::SecretRedactor;
use crate::protocol::deploy::{MaintenanceRecord, ReleaseVersion, ServiceName, StagedRelease, SwitchOutcome};
use crate::protocol::lock::LockHolder;
use crate::protocol::{Event, TRANSFER_PHASE};
use crate::report::{ProgressBars, Reporter, escape_line};

/// Prints why a host cannot be observed or planned, without secrets: the host may quote what a command printed.
pub fn report_plan_error(host: &str, plan_error: &DeployPlanError, secrets: &SecretRedactor, common: &CommonArgs) {
    let reporter = common.new_reporter();
    match plan_error {
        DeployPlanError::Connect(error) => {
            reporter.report_failure(host, &secrets.redact_text(&error.to_string()), Some(&error.hint()));
        }
        DeployPlanError::Templates(found) => {
            reporter.report_host_findings(host, &found.render(common.stderr_color()));
        }
        DeployPlanError::Impossible(reason) | DeployPlanError::Idle(reason) | DeployPlanError::Host(reason) => {
            reporter.report_failure(host, &secrets.redact_text(reason), None);
        }
    }
}

/// Describes the holder of a service's lock.
pub fn describe_holder(holder: &LockHolder) -> String {
    let (operator, since) = (escape_line(&holder.operator), escape_line(&holder.since));
    format!("the service is locked by {operator} since {since} (pid {} on the host)", holder.pid)
}

/// Checks that all hosts roll back to the same release. Without `--to` they may not, after a partial rollout.
///
/// # Errors
/// Returns an error if the hosts would roll back to different releases, with the release of each host.
pub fn ensure_single_target(planned: &[PlannedDeploy], service: &ServiceName) -> Result<(), CommandError> {
    let mut hosts: BTreeMap<&ReleaseVersion, Vec<&str>> = BTreeMap::new();
    for host in planned {
        hosts.entry(&host.desired.manifest.version).or_default().push(&host.session.host);
    }
    if hosts.len() < 2 {
        return Ok(());
    }
    let lines: Vec<String> =
        hosts.iter().map(|(version, hosts)| format!("\n  to {version}: {}", hosts.join(", "))).collect();
    let text = format!("the hosts would roll back to different releases; no changes were made{}", lines.concat());
    Err(CommandError::with_message(Exit::Refused, text)
        .with_hint(format!("dunlin rollback {service} --to VERSION, or select hosts with --limit")))
}

/// Prints the tasks whose result is unknown, with the ways to continue.
pub fn report_unknown_tasks(unknown: &[UnknownTask], secrets: &SecretRedactor, reporter: &Reporter) {
    for UnknownTask { name, reason } in unknown {
        let hints = [
            format!("if it took effect, run the command again with --task-done {name}"),
            format!("if it may run, run the command again with --task-again {name}"),
        ];
        let text = format!("it is unknown whether task {name} ran: {}", secrets.redact_text(reason));
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
