//! Plans and applies a change of a service on its hosts, such as maintenance.

use super::redact::{redact_failures, redact_plan_error, redact_rollout_event};
use super::{CallFailure, DeployPlanError, EventSink, HostFailure, RolloutEvent, RunResult, call_host};
use crate::deploy::plan::planned_rows;
use crate::fleet::{Fleet, Session};
use crate::plan::{HostPlan, StepRef};
use crate::playbook::SecretRedactor;
use crate::protocol::Call;
use crate::protocol::deploy::{
    ApplyChange, DeployFailure, LockService, PlanChange, Rejection, ServiceChange, ServiceRef,
};

/// A change of a service.
pub struct ServiceChangeRun<'a> {
    /// The hosts.
    pub fleet: &'a Fleet,
    /// The service.
    pub scope: &'a ServiceRef,
    /// The change.
    pub change: ServiceChange,
    /// Words to cut out of what hosts send.
    pub secrets: &'a SecretRedactor,
}

/// The plan of a change.
#[derive(Default)]
pub struct ChangePlan {
    /// Hosts with a plan.
    pub planned: Vec<PlannedChange>,
    /// Hosts without one, with the cause.
    pub failed: Vec<(String, DeployPlanError)>,
}

/// A host with the plan of a change, still connected.
pub struct PlannedChange {
    /// The connection.
    pub session: Session,
    /// Plan for the host.
    pub plan: HostPlan,
}

/// Describes the result of a change.
#[derive(Debug, Default)]
pub struct ChangeOutcome {
    /// Hosts that were changed.
    pub changed: Vec<String>,
    /// Hosts that failed, with the cause.
    pub failed: Vec<(String, HostFailure)>,
    /// Hosts that were not changed because the run was stopped.
    pub skipped: Vec<String>,
}

impl ServiceChangeRun<'_> {
    /// Plans the change on the hosts; each can fail on its own.
    pub async fn plan_change(&self, hosts: &[String]) -> ChangePlan {
        let results = self.fleet.map_parallel(hosts, |host| self.plan_host(host)).await;
        let mut plan = ChangePlan::default();
        for (host, result) in hosts.iter().zip(results) {
            match result {
                Ok(host) => plan.planned.push(host),
                Err(mut error) => {
                    redact_plan_error(&mut error, self.secrets);
                    plan.failed.push((host.clone(), error));
                }
            }
        }
        plan
    }

    /// Returns the plans without secrets.
    pub fn shown_plans(&self, plan: &ChangePlan) -> Vec<HostPlan> {
        let show = |host: &PlannedChange| {
            let mut plan = host.plan.clone();
            plan.rows.iter_mut().for_each(|row| self.secrets.redact_row(row));
            plan
        };
        plan.planned.iter().map(show).collect()
    }

    async fn plan_host(&self, host: &str) -> Result<PlannedChange, DeployPlanError> {
        let session = self.fleet.connect(host).await.map_err(DeployPlanError::Connect)?;
        let request = PlanChange { scope: self.scope.clone(), change: self.change };
        let mut rows = call_host(self.fleet, &session, request, &|_| {}).await.map_err(DeployPlanError::from)?;
        for (step, row) in rows.iter_mut().enumerate() {
            row.step = StepRef { play: 0, step };
        }
        Ok(PlannedChange { plan: HostPlan { host: session.host.clone(), rows }, session })
    }

    /// Locks the service on all hosts with changes, and applies the change on them at the same time. Events and outcome are
    /// without secrets.
    pub async fn apply_change(&self, planned: &[PlannedChange], event_sink: EventSink<'_>) -> ChangeOutcome {
        let event_sink = |event: &RolloutEvent<'_>| redact_rollout_event(event, self.secrets, event_sink);
        let mut outcome = self.change_hosts(planned, &event_sink).await;
        redact_failures(&mut outcome.failed, self.secrets);
        outcome
    }

    async fn change_hosts(&self, planned: &[PlannedChange], event_sink: EventSink<'_>) -> ChangeOutcome {
        let pending: Vec<&PlannedChange> =
            planned.iter().filter(|host| host.plan.pending_rows().next().is_some()).collect();
        let mut outcome = ChangeOutcome::default();
        let sessions: Vec<&Session> = pending.iter().map(|host| &host.session).collect();
        let lock = |session| self.send_request(session, LockService { scope: self.scope.clone() }, event_sink);
        for (session, reply) in self.fleet.lock_in_order(&sessions, lock, Result::is_ok).await {
            if let Err(failure) = reply {
                outcome.record_reply(&session.host, Err(failure));
            }
        }
        if !outcome.failed.is_empty() || self.fleet.cancellation.is_cancelled() {
            let is_skipped = |host: &&&PlannedChange| outcome.failed.iter().all(|(name, _)| *name != host.session.host);
            outcome.skipped = pending.iter().filter(is_skipped).map(|host| host.session.host.clone()).collect();
            return outcome;
        }
        let apply = |host: &PlannedChange| {
            let scope = self.scope.clone();
            ApplyChange { scope, change: self.change, expected_changes: planned_rows(&host.plan) }
        };
        let replies =
            self.fleet.map_parallel(&pending, |host| self.send_request(&host.session, apply(host), event_sink)).await;
        for (host, reply) in pending.iter().zip(replies) {
            outcome.record_reply(&host.session.host, reply);
        }
        outcome
    }

    async fn send_request<C, T>(&self, session: &Session, call: C, event_sink: EventSink<'_>) -> Result<T, CallFailure>
    where
        C: Call<Reply = Result<T, Rejection>>,
    {
        let on_event = |event| event_sink(&RolloutEvent::HostEvent(&session.host, &event));
        call_host(self.fleet, session, call, &on_event).await
    }
}

impl ChangeOutcome {
    /// Returns how far the change came.
    pub fn result(&self) -> RunResult {
        let has_failed = self.failed.iter().any(|(_, failure)| matches!(failure, HostFailure::Failed(..)));
        RunResult::new(&self.failed, !self.changed.is_empty() || has_failed, !self.skipped.is_empty())
    }

    fn record_reply(&mut self, host: &str, reply: Result<Option<DeployFailure>, CallFailure>) {
        let failure = match reply {
            Ok(None) => return self.changed.push(host.to_owned()),
            Ok(Some(failure)) => Some(HostFailure::Failed(failure.to_string(), failure.journal_lines)),
            Err(failure) => HostFailure::from_call(failure),
        };
        match failure {
            Some(failure) => self.failed.push((host.to_owned(), failure)),
            None => self.skipped.push(host.to_owned()),
        }
    }
}
