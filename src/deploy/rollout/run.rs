//! Applies a plan to the hosts, batch by batch.

use super::{CallFailure, DueTasks, PlannedDeploy, RunResult, TaskSelection, call_host};
use crate::deploy::plan::planned_rows;
use crate::fleet::{Fleet, Session};
use crate::playbook::BatchSize;
use crate::protocol::deploy::{
    CheckRelease, DeployFailure, PruneReleases, Rejection, ReleaseVersion, ServiceRef, StageRelease, StagedRelease,
    SwitchOutcome, SwitchStep, TaskPhase,
};
use crate::protocol::lock::LockHolder;
use crate::protocol::{Call, Event};

/// Reports the progress of a rollout.
#[derive(Debug)]
pub enum RolloutEvent<'a> {
    /// Description of the phase that starts.
    Phase(String),
    /// Event that the host reported.
    HostEvent(&'a str, &'a Event),
    /// The release is staged.
    Staged(&'a str, &'a StagedRelease),
    /// A task succeeded; `false`: it had run before.
    Task(&'a str, &'a str, bool),
    /// A switch completed.
    Switched(&'a str, &'a SwitchOutcome),
    /// Old releases were removed.
    Pruned(&'a str, &'a [String]),
}

/// Receives the events of a rollout.
pub type EventSink<'a> = &'a (dyn Fn(&RolloutEvent<'_>) + Send + Sync);

/// Describes a rollout to hosts that have a plan.
pub struct Rollout<'a> {
    /// The hosts.
    pub fleet: &'a Fleet,
    /// The service.
    pub scope: &'a ServiceRef,
    /// Sessions of the service's hosts that the rollout does not change.
    pub other_sessions: &'a [&'a Session],
    /// Sizes of the batches.
    pub batches: &'a [BatchSize],
    /// Release sent by the controller; if absent, the rollout switches to a release that the hosts already have.
    pub new_release: Option<NewRelease<'a>>,
    /// Receiver of the events.
    pub event_sink: EventSink<'a>,
}

/// Holds the data of a release that the controller sends.
pub struct NewRelease<'a> {
    /// Tasks of the recipe.
    pub selection: &'a TaskSelection<'a>,
    /// The tasks that the plan runs.
    pub due_tasks: DueTasks,
    /// Set if the rollout has all hosts of the service.
    pub has_all_hosts: bool,
    /// Number of releases kept per host.
    pub keep_releases: usize,
}

/// Describes why the rollout failed on a host.
#[derive(Clone, Debug, PartialEq)]
pub enum HostFailure {
    /// Another run holds the lock; nothing was changed.
    Locked(LockHolder),
    /// The host differs from the plan; nothing was changed.
    Refused(String),
    /// The switch failed: release that serves now, cause, and the last lines of the journal.
    Failed(String, Vec<String>),
}

/// Describes the result of a rollout.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolloutOutcome {
    /// Hosts that serve the planned release.
    pub switched: Vec<String>,
    /// Hosts that returned to the release that they served before, because the rollout failed, with that release.
    pub returned: Vec<(String, ReleaseVersion)>,
    /// Hosts that served no release before, and whose units were stopped, because the rollout failed.
    pub stopped: Vec<String>,
    /// Hosts on which this rollout made the release the active one; some of them may be out of rotation.
    pub activated: Vec<String>,
    /// Hosts that failed, with the cause.
    pub failed: Vec<(String, HostFailure)>,
    /// Hosts that were not switched because others failed or the run was stopped.
    pub skipped: Vec<String>,
    /// Set if the rollout started a task or a switch.
    pub has_side_effects: bool,
}

impl Rollout<'_> {
    /// Applies the plans.
    pub async fn run_rollout(&self, planned: &[PlannedDeploy]) -> RolloutOutcome {
        let pending_hosts: Vec<&PlannedDeploy> =
            planned.iter().filter(|host| host.plan.pending_rows().next().is_some()).collect();
        let mut outcome = RolloutOutcome::default();
        self.lock_service(planned, &mut outcome).await;
        if self.new_release.is_some() && !self.should_stop(&outcome) {
            self.run_preflight(&pending_hosts, &mut outcome).await;
        }
        if let Some(fresh) = &self.new_release
            && !self.should_stop(&outcome)
        {
            self.share_completed_tasks(fresh, planned, &mut outcome).await;
            self.stage_release(&pending_hosts, &mut outcome).await;
            self.run_tasks(fresh, TaskPhase::BeforeSwitch, planned, &mut outcome).await;
        }
        let switch_ended_well = self.switch_batches(&pending_hosts, &mut outcome).await;
        if self.new_release.is_some() && !switch_ended_well && !self.fleet.cancellation.is_cancelled() {
            self.return_fleet(&pending_hosts, &mut outcome).await;
        }
        if let Some(fresh) = &self.new_release {
            self.run_tasks(fresh, TaskPhase::AfterSwitch, planned, &mut outcome).await;
            self.prune_releases(fresh.keep_releases, &pending_hosts, &mut outcome).await;
        }
        outcome
    }

    pub(super) fn should_stop(&self, outcome: &RolloutOutcome) -> bool {
        !outcome.failed.is_empty() || self.fleet.cancellation.is_cancelled()
    }

    /// Checks on all hosts that they can take the release, before anything changes on any of them.
    async fn run_preflight(&self, pending_hosts: &[&PlannedDeploy], outcome: &mut RolloutOutcome) {
        let request = |host: &PlannedDeploy| CheckRelease {
            scope: self.scope.clone(),
            desired: Box::new(host.desired.clone()),
            listen_ports: host.listen_ports.clone(),
        };
        let replies = self.fleet.map_parallel(pending_hosts, |host| self.send_request(host, request(host))).await;
        for (host, reply) in pending_hosts.iter().zip(replies) {
            let name = &host.session.host;
            match reply {
                Ok(problems) if problems.is_empty() => {}
                Ok(problems) => outcome.record_failure(name, HostFailure::Refused(problems.join("\n  "))),
                Err(CallFailure::Failed(error)) => outcome.record_failure(name, HostFailure::Refused(error)),
                Err(rejected) => outcome.record_call_failure(name, rejected),
            }
        }
    }

    async fn stage_release(&self, pending_hosts: &[&PlannedDeploy], outcome: &mut RolloutOutcome) {
        (self.event_sink)(&RolloutEvent::Phase(format!("staging on {}", format_names(pending_hosts))));
        let request = |host: &PlannedDeploy| StageRelease {
            scope: self.scope.clone(),
            desired: Box::new(host.desired.clone()),
            expected_changes: planned_rows(&host.plan),
            // The plan shows what is kept; without --adopt the host has no plan.
            adopt: !host.observation.unmanaged_paths.is_empty(),
        };
        let replies = self.fleet.map_parallel(pending_hosts, |host| self.send_request(host, request(host))).await;
        for (host, reply) in pending_hosts.iter().zip(replies) {
            let name = &host.session.host;
            match reply {
                Ok(staged) => (self.event_sink)(&RolloutEvent::Staged(name, &staged)),
                Err(failure) => outcome.record_call_failure(name, failure),
            }
        }
    }

    async fn prune_releases(
        &self,
        keep_releases: usize,
        pending_hosts: &[&PlannedDeploy],
        outcome: &mut RolloutOutcome,
    ) {
        if self.should_stop(outcome) {
            return;
        }
        let request = || PruneReleases { scope: self.scope.clone(), keep_releases };
        let replies = self.fleet.map_parallel(pending_hosts, |host| self.send_request(host, request())).await;
        for (host, reply) in pending_hosts.iter().zip(replies) {
            let name = &host.session.host;
            match reply {
                Ok(removed) => (self.event_sink)(&RolloutEvent::Pruned(name, &removed)),
                Err(CallFailure::Failed(error)) => {
                    let message = format!("it serves as it should, but old releases could not be removed: {error}");
                    outcome.record_failure(name, HostFailure::Failed(message, Vec::new()));
                }
                Err(rejected) => outcome.record_call_failure(name, rejected),
            }
        }
    }

    pub(super) async fn send_request<C, T>(&self, host: &PlannedDeploy, call: C) -> Result<T, CallFailure>
    where
        C: Call<Reply = Result<T, Rejection>>,
    {
        self.send_to_session(&host.session, call).await
    }

    /// Sends a request to a host of the service and reports the host's events.
    pub(super) async fn send_to_session<C, T>(&self, session: &Session, call: C) -> Result<T, CallFailure>
    where
        C: Call<Reply = Result<T, Rejection>>,
    {
        call_host(self.fleet, session, call, &|event| {
            (self.event_sink)(&RolloutEvent::HostEvent(&session.host, &event))
        })
        .await
    }
}

impl RolloutOutcome {
    pub(super) fn record_failure(&mut self, host: &str, failure: HostFailure) {
        self.has_side_effects |= matches!(failure, HostFailure::Failed(..));
        self.failed.push((host.to_owned(), failure));
    }

    pub(super) fn record_return(&mut self, host: &str, version: ReleaseVersion) {
        // Its failure says that the new release is active.
        for (failed, failure) in &mut self.failed {
            if failed == host
                && let HostFailure::Failed(text, _) = failure
            {
                text.push_str(&format!("; the host returned to release {version}"));
            }
        }
        self.returned.push((host.to_owned(), version));
    }

    pub(super) fn switched(&mut self, host: &str, outcome: &SwitchOutcome) {
        match describe_failure(outcome) {
            None => {
                self.has_side_effects |= *outcome != SwitchOutcome::Unchanged;
                self.switched.push(host.to_owned());
            }
            Some((text, log)) => self.record_failure(host, HostFailure::Failed(text, log)),
        }
    }

    /// Returns how far the rollout came.
    pub fn result(&self) -> RunResult {
        RunResult::new(&self.failed, self.has_side_effects, !self.skipped.is_empty())
    }

    /// Records why a host has no answer; a cancelled host is skipped.
    pub(super) fn record_call_failure(&mut self, host: &str, failure: CallFailure) {
        match HostFailure::from_call(failure) {
            Some(failure) => self.record_failure(host, failure),
            None => self.skipped.push(host.to_owned()),
        }
    }
}

impl HostFailure {
    /// Returns the failure of a host that has no answer; `None` if it was cancelled.
    pub(super) fn from_call(failure: CallFailure) -> Option<Self> {
        Some(match failure {
            CallFailure::Rejected(Rejection::Locked(holder)) => Self::Locked(holder),
            CallFailure::Rejected(Rejection::Cancelled) => return None,
            CallFailure::Rejected(rejection) => Self::Refused(rejection.to_string()),
            CallFailure::Failed(error) => Self::Failed(error, Vec::new()),
        })
    }
}

/// Describes a failed switch, with the last lines of the journal.
pub(super) fn describe_failure(outcome: &SwitchOutcome) -> Option<(String, Vec<String>)> {
    let why = |failed: &DeployFailure| format!("{}: {}", failed.step, failed.detail);
    let (text, failed) = match outcome {
        SwitchOutcome::Unchanged | SwitchOutcome::Healthy { rotation_failure: None, .. } => return None,
        SwitchOutcome::Healthy { version, rotation_failure: Some(detail), .. } => {
            let text =
                format!("release {version} is active and healthy, but the host is not back in rotation: {detail}");
            return Some((text, Vec::new()));
        }
        SwitchOutcome::RolledBack { version, failure: failed, restored: to, restored_failure: unhealthy } => {
            let now = match unhealthy {
                None => format!("release {to} serves again"),
                Some(also) if also.step == SwitchStep::Rotation => {
                    format!("release {to} serves again, but the host is not back in rotation: {}", also.detail)
                }
                Some(also) => format!("release {to} was put back and is not healthy either ({})", why(also)),
            };
            (format!("release {version} failed ({}); {now}", why(failed)), failed)
        }
        SwitchOutcome::Unhealthy { version, failure: failed } => (
            format!("release {version} was applied again and is not healthy ({}); it was left in place", why(failed)),
            failed,
        ),
        SwitchOutcome::Stopped { version, failure: failed } => (
            format!(
                "release {version} failed ({}); there is no previous release, and its units were stopped",
                why(failed)
            ),
            failed,
        ),
    };
    Some((text, failed.journal_lines.clone()))
}

pub(super) fn format_names(hosts: &[&PlannedDeploy]) -> String {
    let names: Vec<&str> = hosts.iter().take(8).map(|host| host.session.host.as_str()).collect();
    let more = hosts.len().saturating_sub(names.len());
    if more == 0 { names.join(", ") } else { format!("{} and {more} more", names.join(", ")) }
}
