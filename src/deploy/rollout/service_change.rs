//! Plans and applies a change of a service on its hosts, such as maintenance.

use super::{DeployPlanError, EventSink, HostFailure, RolloutEvent, send_deploy_request};
use crate::fleet::{Fleet, Session};
use crate::plan::{Digest, HostPlan, StepRef};
use crate::protocol::deploy::{DeployReply, DeployRequest, ServiceChange, ServiceRef};

/// A change of a service.
pub struct ServiceChangeRun<'a> {
    /// The hosts.
    pub fleet: &'a Fleet,
    /// The service.
    pub scope: &'a ServiceRef,
    /// The change.
    pub change: ServiceChange,
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
    /// Plans the change on the hosts; each can fail on its own. Returns the results in the order of the names.
    pub async fn plan_hosts(&self, hosts: &[String]) -> Vec<(String, Result<PlannedChange, DeployPlanError>)> {
        let results = self.fleet.map_parallel(hosts, |host| self.plan_host(host)).await;
        hosts.iter().cloned().zip(results).collect()
    }

    async fn plan_host(&self, host: &str) -> Result<PlannedChange, DeployPlanError> {
        let session = self.fleet.connect(host).await.map_err(DeployPlanError::Connect)?;
        let request = DeployRequest::PlanChange { scope: self.scope.clone(), change: self.change };
        let mut rows = match send_deploy_request(self.fleet, &session, request, &|_| {}).await {
            Ok(DeployReply::ChangePlanned(rows)) => rows,
            Ok(DeployReply::Refused(reason)) => return Err(DeployPlanError::Impossible(reason)),
            Ok(_) => return Err(DeployPlanError::Host("an unexpected reply".to_owned())),
            Err(error) => return Err(DeployPlanError::Host(error)),
        };
        for (step, row) in rows.iter_mut().enumerate() {
            row.step = StepRef { play: 0, step };
        }
        Ok(PlannedChange { plan: HostPlan { host: session.host.clone(), rows }, session })
    }

    /// Locks the service on all hosts with changes, and applies the change on them at the same time.
    pub async fn apply_change(&self, planned: &[PlannedChange], event_sink: EventSink<'_>) -> ChangeOutcome {
        let pending: Vec<&PlannedChange> =
            planned.iter().filter(|host| host.plan.pending_rows().next().is_some()).collect();
        let mut outcome = ChangeOutcome::default();
        let sessions: Vec<&Session> = pending.iter().map(|host| &host.session).collect();
        let lock =
            |session| self.send_request(session, DeployRequest::LockService { scope: self.scope.clone() }, event_sink);
        let is_locked = |reply: &Result<_, _>| matches!(reply, Ok(DeployReply::ServiceLocked { .. }));
        for (session, reply) in self.fleet.lock_in_order(&sessions, lock, is_locked).await {
            if !is_locked(&reply) {
                outcome.record_reply(&session.host, reply);
            }
        }
        if !outcome.failed.is_empty() || self.fleet.cancellation.is_cancelled() {
            let is_skipped = |host: &&&PlannedChange| outcome.failed.iter().all(|(name, _)| *name != host.session.host);
            outcome.skipped = pending.iter().filter(is_skipped).map(|host| host.session.host.clone()).collect();
            return outcome;
        }
        let apply = |host: &PlannedChange| {
            let scope = self.scope.clone();
            let rows = host.plan.rows.iter();
            let expected_changes: Vec<(String, Digest)> =
                rows.map(|row| (row.resource.clone(), row.fingerprint.clone())).collect();
            DeployRequest::ApplyChange { scope, change: self.change, expected_changes }
        };
        let replies =
            self.fleet.map_parallel(&pending, |host| self.send_request(&host.session, apply(host), event_sink)).await;
        for (host, reply) in pending.iter().zip(replies) {
            outcome.record_reply(&host.session.host, reply);
        }
        outcome
    }

    async fn send_request(
        &self,
        session: &Session,
        request: DeployRequest,
        event_sink: EventSink<'_>,
    ) -> Result<DeployReply, String> {
        let on_event = |event| event_sink(&RolloutEvent::HostEvent(&session.host, &event));
        send_deploy_request(self.fleet, session, request, &on_event).await
    }
}

impl ChangeOutcome {
    fn record_reply(&mut self, host: &str, reply: Result<DeployReply, String>) {
        let failure = match reply {
            Ok(DeployReply::ChangeApplied(None)) => return self.changed.push(host.to_owned()),
            Ok(DeployReply::Cancelled) => return self.skipped.push(host.to_owned()),
            Ok(DeployReply::ChangeApplied(Some(failure))) => {
                HostFailure::Failed(failure.to_string(), failure.journal_lines)
            }
            Ok(DeployReply::Locked(holder)) => HostFailure::Locked(holder),
            Ok(DeployReply::Refused(reason)) => HostFailure::Refused(reason),
            Ok(DeployReply::PlanOutdated(lines)) => HostFailure::Refused(lines.join("\n  ")),
            Ok(_) => HostFailure::Failed("an unexpected reply".to_owned(), Vec::new()),
            Err(error) => HostFailure::Failed(error, Vec::new()),
        };
        self.failed.push((host.to_owned(), failure));
    }
}
