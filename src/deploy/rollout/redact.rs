//! Cuts secrets out of what hosts report of a rollout: a hook, a task or a service may print its configuration.

use super::{DeployPlanError, HostFailure, RolloutEvent, RolloutOutcome, ServiceHealth};
use crate::playbook::SecretRedactor;
use crate::protocol::deploy::{DeployFailure, ServiceObservation, SwitchOutcome};

/// Passes an event on without secrets in its texts.
pub(super) fn redact_rollout_event(
    event: &RolloutEvent<'_>,
    secrets: &SecretRedactor,
    pass_on: &dyn Fn(&RolloutEvent<'_>),
) {
    match event {
        RolloutEvent::HostEvent(host, event) => {
            pass_on(&RolloutEvent::HostEvent(host, &secrets.redact_event((*event).clone())));
        }
        RolloutEvent::Switched(host, outcome) => {
            pass_on(&RolloutEvent::Switched(host, &redact_switch((*outcome).clone(), secrets)));
        }
        other => pass_on(other),
    }
}

/// Cuts secrets out of the failures of a rollout.
pub(super) fn redact_outcome(outcome: &mut RolloutOutcome, secrets: &SecretRedactor) {
    redact_failures(&mut outcome.failed, secrets);
}

/// Cuts secrets out of the failures of hosts: a hook or a service may print what its configuration has.
pub(super) fn redact_failures(failed: &mut [(String, HostFailure)], secrets: &SecretRedactor) {
    for (_, failure) in failed {
        match failure {
            HostFailure::Locked(_) => {}
            HostFailure::Refused(reason) => *reason = secrets.redact_text(reason),
            HostFailure::Failed(reason, log) => {
                for text in log.iter_mut().chain([reason]) {
                    *text = secrets.redact_text(text);
                }
            }
        }
    }
}

/// Cuts secrets out of the error of a host without a plan: the host may quote what a command printed.
pub(super) fn redact_plan_error(error: &mut DeployPlanError, secrets: &SecretRedactor) {
    match error {
        DeployPlanError::Connect(error) => error.detail = secrets.redact_text(&error.detail),
        DeployPlanError::Templates(_) => {}
        DeployPlanError::Impossible(reason)
        | DeployPlanError::Idle(reason)
        | DeployPlanError::NotInRun(reason)
        | DeployPlanError::Host(reason) => {
            *reason = secrets.redact_text(reason);
        }
    }
}

/// Cuts secrets out of the failures that a host recorded.
pub(super) fn redact_observation(observation: &mut ServiceObservation, secrets: &SecretRedactor) {
    let releases = observation.releases.iter_mut().filter_map(|release| release.last_failure.as_mut());
    let switches = observation.switch_records.iter_mut().filter_map(|record| record.failure.as_mut());
    releases.chain(switches).for_each(|text| *text = secrets.redact_text(text));
}

/// Cuts secrets out of the failure of a health check.
pub(super) fn redact_health(health: &mut ServiceHealth, secrets: &SecretRedactor) {
    if let ServiceHealth::Unhealthy(failure) = health {
        redact_failure(failure, secrets);
    }
}

fn redact_switch(mut outcome: SwitchOutcome, secrets: &SecretRedactor) -> SwitchOutcome {
    match &mut outcome {
        SwitchOutcome::Unchanged => {}
        SwitchOutcome::Healthy { rotation_failure, .. } => {
            rotation_failure.iter_mut().for_each(|text| *text = secrets.redact_text(text));
        }
        SwitchOutcome::RolledBack { failure, restored_failure, .. } => {
            redact_failure(failure, secrets);
            restored_failure.iter_mut().for_each(|failure| redact_failure(failure, secrets));
        }
        SwitchOutcome::Unhealthy { failure, .. } | SwitchOutcome::Stopped { failure, .. } => {
            redact_failure(failure, secrets);
        }
    }
    outcome
}

fn redact_failure(failure: &mut DeployFailure, secrets: &SecretRedactor) {
    for text in failure.journal_lines.iter_mut().chain([&mut failure.detail]) {
        *text = secrets.redact_text(text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::Event;
    use crate::protocol::deploy::{ReleaseVersion, SwitchStep};

    #[test]
    fn outcomes_and_events_show_no_secret() {
        let secrets = SecretRedactor::from_secrets(&json!({"db": "hunter2"}));
        let failure = || DeployFailure {
            step: SwitchStep::Health,
            detail: "password hunter2 refused".to_owned(),
            journal_lines: vec!["login hunter2".to_owned()],
        };
        let version = || ReleaseVersion::new("1".to_owned()).unwrap();
        let outcomes = [
            SwitchOutcome::Stopped { version: version(), failure: failure() },
            SwitchOutcome::Unhealthy { version: version(), failure: failure() },
            SwitchOutcome::RolledBack {
                version: version(),
                failure: failure(),
                restored: version(),
                restored_failure: Some(failure()),
            },
            SwitchOutcome::Healthy {
                version: version(),
                previous: None,
                restarted: Vec::new(),
                gap_ms: 0,
                main_pids: Vec::new(),
                rotation_failure: Some("hook: hunter2".to_owned()),
                in_maintenance: false,
            },
        ];
        for outcome in &outcomes {
            redact_rollout_event(&RolloutEvent::Switched("a", outcome), &secrets, &|event| {
                assert!(!format!("{event:?}").contains("hunter2") && format!("{event:?}").contains("***"), "{event:?}");
            });
        }
        let note = Event::Note { text: "hunter2".to_owned() };
        redact_rollout_event(&RolloutEvent::HostEvent("a", &note), &secrets, &|event| {
            assert!(!format!("{event:?}").contains("hunter2"), "{event:?}");
        });
    }
}
