//! What the audit log says about requests: which of them change something, what, and how they ended.

use anyhow::Result;

use super::AuditLog;
use crate::protocol::deploy::{DeployReply, DeployRequest, Rejection, SwitchOutcome, TaskRun};
use crate::protocol::shard::ShardRequest;
use crate::protocol::{Event, ProgressSink, Reply};
use crate::provision::host::PreparedCatalog;

/// A change that a request asks for: what is changed, and how.
pub struct RequestedChange {
    resource: String,
    action: &'static str,
}

/// Passes events on, and notes each row that was applied.
pub struct AuditSink<'a> {
    /// The receiver of the events.
    pub sink: &'a dyn ProgressSink,
    /// The log.
    pub audit_log: &'a AuditLog,
    /// The plan whose rows are applied.
    pub plan: &'a PreparedCatalog,
}

impl ProgressSink for AuditSink<'_> {
    fn emit(&self, event: Event) {
        let row = |step| self.plan.find_row(step);
        let name = |step| row(step).map_or_else(|| "systemd".to_owned(), |row| row.resource.clone());
        match &event {
            Event::StepDone { step, action, .. } => self.audit_log.record_change(&name(*step), action.as_str(), None),
            Event::StepFailed { step, error } => {
                let action = row(*step).map_or("run", |row| row.action.as_str());
                self.audit_log.record_change(&name(*step), action, Some(error));
            }
            _ => {}
        }
        self.sink.emit(event);
    }

    fn is_cancelled(&self) -> bool {
        self.sink.is_cancelled()
    }
}

/// Returns the change of a deploy's request; `None` for one that only reads.
pub fn change_of_deploy(request: &DeployRequest) -> Option<RequestedChange> {
    let (release, action) = match request {
        DeployRequest::ObserveService(_)
        | DeployRequest::CheckRelease(_)
        | DeployRequest::CheckHealth(_)
        | DeployRequest::PlanChange(_)
        | DeployRequest::LockService(_) => return None,
        DeployRequest::RecordTask(request) => (Some(&request.record.version), "record_task"),
        DeployRequest::StageRelease(request) => (Some(&request.desired.manifest.version), "stage"),
        DeployRequest::SwitchRelease(request) => (Some(&request.target.version), "switch"),
        DeployRequest::DeactivateRelease(request) => (Some(&request.target.version), "deactivate"),
        DeployRequest::RollBack(request) => (request.version.as_ref(), "rollback"),
        DeployRequest::RunTask(request) => (Some(&request.target.version), "task"),
        DeployRequest::PruneReleases(_) => (None, "prune"),
        DeployRequest::ApplyChange(request) => (None, request.change.action()),
    };
    let release = release.map(|release| format!(" {release}")).unwrap_or_default();
    Some(RequestedChange { resource: format!("service {}{release}", request.scope().service), action })
}

/// Returns the change of a shard's request; `None` for one that only reads.
pub fn change_of_shard(request: &ShardRequest) -> Option<RequestedChange> {
    let (shard, action) = match request {
        ShardRequest::Observe(_)
        | ShardRequest::ObserveConsumers(_)
        | ShardRequest::StartRun(_)
        | ShardRequest::ListPendingChanges(_)
        | ShardRequest::Preflight(_)
        | ShardRequest::Verify(_)
        | ShardRequest::AssessChoice(_)
        | ShardRequest::ListMoves(_)
        | ShardRequest::ListMoveHistory(_)
        | ShardRequest::ProbeReplicas(_) => return None,
        ShardRequest::Copy(spec) => (spec.header.shard, "copy"),
        ShardRequest::CutOver(spec) => (spec.header.shard, "cut_over"),
        ShardRequest::CreateReplica(spec) => (spec.header.shard, "create_replica"),
        ShardRequest::CommitReplica(spec) => (spec.header.shard, "commit_replica"),
        ShardRequest::Recover(spec) => (spec.header.shard, "recover"),
        ShardRequest::ChooseInstance(choice) => (choice.spec.header.shard, "choose_instance"),
        ShardRequest::DiscardInstance(instance) => (instance.header.shard, "discard_instance"),
        ShardRequest::OpenChosenInstance(choice) => (choice.spec.header.shard, "open_chosen_instance"),
        ShardRequest::Abort(spec) => (spec.header.shard, "abort"),
        ShardRequest::RequireReplicas(wanted) => (wanted.header.shard, "require_replicas"),
        ShardRequest::SetMinReplicas(wanted) => (wanted.header.shard, "set_min_replicas"),
        ShardRequest::Retire(instance) => (instance.header.shard, "retire"),
        ShardRequest::StopOldPrimary(instance) => (instance.header.shard, "stop_old_primary"),
        ShardRequest::Promote(replica) => (replica.header.shard, "promote"),
        ShardRequest::RevertFailover(replica) => (replica.header.shard, "revert_failover"),
        ShardRequest::DiscardMove(instance) => (instance.header.shard, "discard_move"),
        ShardRequest::LowerMinReplicas(wanted) => (wanted.primary.header.shard, "lower_min_replicas"),
        ShardRequest::ArchiveInstance(instance) => (instance.header.shard, "archive"),
    };
    Some(RequestedChange { resource: format!("shard {shard}"), action })
}

/// Notes how the request of a change ended.
pub fn record_reply(audit_log: &AuditLog, change: Option<RequestedChange>, reply: &Result<Reply>) {
    if let Some(change) = change {
        audit_log.record_change(&change.resource, change.action, describe_failure(reply).as_deref());
    }
}

/// Returns why a request failed or was not carried out.
pub fn describe_failure(reply: &Result<Reply>) -> Option<String> {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return Some(format!("{error:#}")),
    };
    Some(match reply {
        Reply::Exec(done) if done.status != 0 => format!("exit status {}", done.status),
        Reply::Deploy(reply) => return describe_deploy_failure(reply),
        _ => return None,
    })
}

fn describe_deploy_failure(reply: &DeployReply) -> Option<String> {
    Some(match reply {
        DeployReply::Rejected(Rejection::PlanOutdated(_)) => "the plan is out of date".to_owned(),
        DeployReply::Rejected(Rejection::Locked(holder)) => holder.describe_lock(),
        DeployReply::Rejected(rejection) => rejection.to_string(),
        DeployReply::ApplyChange(Some(failure)) => format!("{}: failed", failure.step),
        DeployReply::RunTask(TaskRun { failure: Some(_), .. }) => "the task failed".to_owned(),
        DeployReply::SwitchRelease(outcome)
        | DeployReply::RollBack(outcome)
        | DeployReply::DeactivateRelease(outcome) => match outcome {
            SwitchOutcome::Unchanged | SwitchOutcome::Healthy { .. } => return None,
            SwitchOutcome::RolledBack { failure, restored, .. } => {
                format!("{}: release {restored} was restored", failure.step)
            }
            SwitchOutcome::Unhealthy { failure, .. } => format!("{}: not healthy", failure.step),
            SwitchOutcome::Stopped { failure, .. } => format!("{}: stopped", failure.step),
        },
        _ => return None,
    })
}
