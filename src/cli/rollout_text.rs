//! What a rollout tells, in words and as JSON lines.

use std::collections::BTreeMap;

use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::exit::Exit;
use crate::deploy::rollout::{DeployPlanError, PlannedDeploy, RolloutEvent};
use crate::protocol::Event;
use crate::protocol::deploy::{ReleaseVersion, ServiceName, SwitchOutcome};
use crate::protocol::lock::LockHolder;
use crate::report::Reporter;

/// Tells why a host could not be looked at or planned.
pub fn report_plan_error(host: &str, plan_error: &DeployPlanError, common: &CommonArgs) {
    let reporter = common.new_reporter();
    match plan_error {
        DeployPlanError::Connect(error) => reporter.report_failure(host, &error.to_string(), Some(&error.hint())),
        DeployPlanError::Templates(found) => {
            reporter.report_failure(host, &format!("\n{}", found.render(common.stderr_colour())), None)
        }
        DeployPlanError::Impossible(why) | DeployPlanError::Host(why) => reporter.report_failure(host, why, None),
    }
}

/// Who holds a service's lock.
pub fn describe_holder(holder: &LockHolder) -> String {
    format!("{} is deploying this service since {} (process {} there)", holder.operator, holder.since, holder.pid)
}

/// Without `--to`, all hosts must return to the same release: after a rollout that stopped half way they would not.
///
/// # Errors
/// Which hosts would go where.
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
    let text = format!("the hosts would return to different releases; nothing was changed{}", lines.concat());
    Err(CommandError::with_message(Exit::Refused, text)
        .with_hint(format!("dunlin rollback {service} --to V, or --limit to some hosts")))
}

/// Tells what happens while a rollout runs.
pub fn report_rollout_event(rollout_event: &RolloutEvent<'_>, reporter: &Reporter) {
    match rollout_event {
        RolloutEvent::Phase(phase) => {
            reporter.print_json("phase", json!({"phase": phase}));
            reporter.print_status(phase);
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
        RolloutEvent::Staged(host, (reused, written, bytes)) => {
            reporter.print_json(
                "staged",
                json!({
                    "host": host, "reused": reused, "written": written, "bytes": bytes,
                }),
            );
            reporter
                .print_status(&format!("{host}: staged: {written} files written ({bytes} bytes), {reused} taken over"));
        }
        RolloutEvent::Task(host, name, ran) => {
            reporter.print_json("task", json!({"host": host, "name": name, "ran": ran}));
            let how = if *ran { "done" } else { "was done before" };
            reporter.print_status(&format!("{host}: task {name}: {how}"));
        }
        RolloutEvent::Switched(host, outcome) => {
            reporter.print_json("switched", json!({"host": host, "result": outcome}));
            if let Some(text) = describe_switch(outcome) {
                reporter.print_status(&format!("{host}: {text}"));
            }
        }
        RolloutEvent::Pruned(_, []) => {}
        RolloutEvent::Pruned(host, gone) => {
            reporter.print_json("pruned", json!({"host": host, "releases": gone}));
            // The host has told each of them itself, as a note.
        }
    }
}

/// A switch that ended well; the others are told as failures at the end.
fn describe_switch(outcome: &SwitchOutcome) -> Option<String> {
    match outcome {
        SwitchOutcome::Unchanged => Some("nothing to switch".to_owned()),
        SwitchOutcome::Healthy { version, previous: before, gap_ms, failed_hook: hook, .. } => {
            let before = before.as_ref().filter(|before| *before != version);
            let before = before.map(|before| format!(" (was {before})")).unwrap_or_default();
            let hook = hook.as_ref().map(|hook| format!("; {hook}")).unwrap_or_default();
            Some(format!("release {version} serves{before}, healthy after {gap_ms} ms{hook}"))
        }
        SwitchOutcome::RolledBack { .. } | SwitchOutcome::Unhealthy { .. } | SwitchOutcome::Stopped { .. } => None,
    }
}
