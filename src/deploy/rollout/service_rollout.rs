//! The rollout of a service from its hosts to its outcome: plans, what is shown of them, and their application.

use std::collections::BTreeMap;

use super::redact::{redact_outcome, redact_plan_error, redact_rollout_event};
use super::{
    DeployPlanError, DueTasks, EventSink, Goal, HostRecords, NewRelease, OtherHost, PlannedDeploy, Rollout,
    RolloutEvent, RolloutOutcome, TaskSelection, UnknownTask, connect_other_hosts, observe_hosts, plan_hosts,
};
use crate::deploy::plan::hide_sensitive_digests;
use crate::deploy::recipe::Recipe;
use crate::fleet::{Fleet, Session};
use crate::plan::{DigestKey, HostPlan};
use crate::playbook::SecretRedactor;
use crate::protocol::deploy::{ReleaseVersion, ServiceRef};
use crate::protocol::lock::LockHolder;

/// A service and the hosts of a rollout.
pub struct ServiceRollout<'a> {
    /// Connections to all hosts of the service.
    pub fleet: Fleet,
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The service.
    pub scope: ServiceRef,
    /// Names of the hosts to change.
    pub hosts: Vec<String>,
    /// Names of the service's other hosts.
    pub excluded_hosts: Vec<String>,
    /// Words to cut out of what hosts send.
    pub secrets: SecretRedactor,
    /// The key under which digests of sensitive files are shown.
    pub digest_key: Option<DigestKey>,
}

/// Settings of a rollout of a new release.
pub struct ReleaseSettings<'a> {
    /// The tasks of the release.
    pub selection: TaskSelection<'a>,
    /// Keeps a service that dunlin did not deploy as a release to return to.
    pub adopt: bool,
}

/// The plan of a rollout. What it has of hosts is without secrets, but for the plans of [`PlannedDeploy`].
#[derive(Default)]
pub struct RolloutPlan {
    /// Hosts with a plan.
    pub planned: Vec<PlannedDeploy>,
    /// Hosts without one, with the cause.
    pub failed: Vec<(String, DeployPlanError)>,
    /// Hosts that a rollback leaves as they are, with the reason.
    pub idle_hosts: Vec<(String, DeployPlanError)>,
    /// Tasks whose result is unknown.
    pub unknown_tasks: Vec<UnknownTask>,
    due_tasks: DueTasks,
    other_hosts: Vec<OtherHost>,
}

impl ServiceRollout<'_> {
    /// Observes and plans all hosts; changes nothing.
    pub async fn plan_rollout(&self, goal: &Goal<'_>, new_release: Option<&ReleaseSettings<'_>>) -> RolloutPlan {
        let other_hosts = connect_other_hosts(&self.fleet, &self.excluded_hosts, &self.scope).await;
        let mut records: Vec<HostRecords> = other_hosts.iter().map(OtherHost::to_records).collect();
        let mut plan = RolloutPlan { other_hosts, ..RolloutPlan::default() };
        let (mut seen, mut idle) = (Vec::new(), Vec::new());
        for (host, result) in observe_hosts(&self.fleet, &self.hosts, &self.scope, goal).await {
            match result {
                Ok(host) => {
                    records.push(host.to_records());
                    seen.push(host);
                }
                Err(error @ (DeployPlanError::Idle(_) | DeployPlanError::NotInRun(_))) => idle.push((host, error)),
                Err(error) => {
                    records.push(HostRecords { host: host.clone(), records: Err(error.describe()) });
                    plan.failed.push((host, error));
                }
            }
        }
        // A host that serves nothing does not stop the others from going back.
        if seen.is_empty() {
            plan.failed.extend(idle);
        } else {
            plan.idle_hosts = idle;
        }
        let has_all_hosts = self.excluded_hosts.is_empty();
        match new_release.map(|release| release.selection.select_due(&records, has_all_hosts)) {
            Some(Ok(due_tasks)) => plan.due_tasks = due_tasks,
            Some(Err(unknown)) => plan.unknown_tasks = unknown,
            None => {}
        }
        let adopt = new_release.is_some_and(|release| release.adopt);
        for (host, result) in plan_hosts(seen, &plan.due_tasks.due, adopt) {
            match result {
                Ok(host) => plan.planned.push(host),
                Err(error) => plan.failed.push((host, error)),
            }
        }
        plan.failed.iter_mut().for_each(|(_, error)| redact_plan_error(error, &self.secrets));
        plan.unknown_tasks.iter_mut().for_each(|task| task.reason = self.secrets.redact_text(&task.reason));
        plan
    }

    /// Returns the plans without digests that could be guessed, and without secrets in their diffs.
    pub fn shown_plans(&self, plan: &RolloutPlan) -> Vec<HostPlan> {
        let show = |host: &PlannedDeploy| {
            let mut plan = host.plan.clone();
            hide_sensitive_digests(&mut plan, &host.desired, &host.observation, self.digest_key.as_ref());
            plan.rows.iter_mut().for_each(|row| self.secrets.redact_row(row));
            plan
        };
        plan.planned.iter().map(show).collect()
    }

    /// Applies a plan. Events and outcome are without secrets.
    pub async fn apply_plan(
        &self,
        plan: &RolloutPlan,
        new_release: Option<&ReleaseSettings<'_>>,
        event_sink: EventSink<'_>,
    ) -> RolloutOutcome {
        let event_sink = |event: &RolloutEvent<'_>| redact_rollout_event(event, &self.secrets, event_sink);
        let connections = plan.other_hosts.iter().filter_map(|other| other.connection.as_ref().ok());
        let other_sessions: Vec<&Session> = connections.map(|(session, _)| session).collect();
        let new_release = new_release.map(|release| NewRelease {
            selection: &release.selection,
            due_tasks: plan.due_tasks.clone(),
            has_all_hosts: self.excluded_hosts.is_empty(),
            keep_releases: self.recipe.keep_releases,
        });
        let rollout = Rollout {
            fleet: &self.fleet,
            scope: &self.scope,
            other_sessions: &other_sessions,
            // A rollback is urgent, and goes to a release that was healthy on each host.
            batches: if new_release.is_some() { &self.recipe.batches } else { &self.recipe.rollback_batches },
            new_release,
            event_sink: &event_sink,
        };
        let mut outcome = rollout.run_rollout(&plan.planned).await;
        redact_outcome(&mut outcome, &self.secrets);
        outcome
    }
}

impl RolloutPlan {
    /// Returns the connections of the hosts with a plan.
    pub fn sessions(&self) -> Vec<&Session> {
        self.planned.iter().map(|host| &host.session).collect()
    }

    /// Returns the hosts whose service another run has locked, with its holder.
    pub fn locked_hosts(&self) -> Vec<(&str, &LockHolder)> {
        let holder = |host: &PlannedDeploy| host.observation.lock_holder.is_some();
        let locked = self.planned.iter().filter(|host| holder(host));
        locked.filter_map(|host| Some((host.session.host.as_str(), host.observation.lock_holder.as_ref()?))).collect()
    }

    /// Returns the releases that the hosts get, each with its hosts: several, where a rollback to the previous release
    /// follows a partial rollout.
    pub fn releases(&self) -> BTreeMap<&ReleaseVersion, Vec<&str>> {
        let mut releases: BTreeMap<&ReleaseVersion, Vec<&str>> = BTreeMap::new();
        for host in &self.planned {
            releases.entry(&host.desired.manifest.version).or_default().push(&host.session.host);
        }
        releases
    }

    /// Returns the number of hosts and tasks for which the rollout cannot start.
    pub fn failure_count(&self) -> usize {
        self.failed.len() + self.unknown_tasks.len()
    }
}
