//! The controller side of a rollout: observe all hosts → plan → lock the service on all → stage all → switch batch by
//! batch → prune.
//!
//! `observe` and `plan` change nothing. [`Rollout::run_rollout`] stops where a batch fails: hosts behind it keep what
//! they serve, and those before it return to what they served.
//! The sessions stay open from the first question to the last step, since a host's lock lives as long as its agent.

mod notify;
mod observe;
mod redact;
mod run;
mod run_tasks;
mod service_change;
mod service_rollout;
mod service_status;
mod switch_batches;
mod tasks;

pub use notify::Notifier;
pub use observe::{
    DeployPlanError, Goal, ObservedHost, OtherHost, PlannedDeploy, ServiceHealth, connect_other_hosts, observe_hosts,
    observe_retained_release, observe_service, plan_hosts,
};
pub use run::{EventSink, HostFailure, NewRelease, Rollout, RolloutEvent, RolloutOutcome};
pub use service_change::{ChangeOutcome, ChangePlan, PlannedChange, ServiceChangeRun};
pub use service_rollout::{ReleaseSettings, RolloutPlan, ServiceRollout};
pub use service_status::{HostStatus, ServiceStatus};
pub use tasks::{DueTasks, HostRecords, TaskNameError, TaskSelection, UnknownTask, check_task_names};

use crate::fleet::{Fleet, Session};
use crate::protocol::deploy::Rejection;
use crate::protocol::{Call, Event};

/// The result of a run on the hosts that it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunResult {
    /// All hosts are in the planned state.
    Complete,
    /// Some are not, or something was changed before the run failed.
    Partial,
    /// Another run has locked the service; nothing was changed.
    Locked,
    /// Nothing was changed.
    Refused,
}

impl RunResult {
    fn new(failed: &[(String, HostFailure)], has_changes: bool, has_skipped: bool) -> Self {
        let is_locked = failed.iter().any(|(_, failure)| matches!(failure, HostFailure::Locked(_)));
        match (failed.is_empty(), has_changes) {
            (true, _) if !has_skipped => Self::Complete,
            (true, _) | (false, true) => Self::Partial,
            (false, false) if is_locked => Self::Locked,
            (false, false) => Self::Refused,
        }
    }
}

/// Describes why a request about a service has no answer.
#[derive(Debug)]
enum CallFailure {
    /// The host did nothing.
    Rejected(Rejection),
    /// The request failed on the host, or the connection was lost.
    Failed(String),
}

/// Sends a request about a service to one host.
async fn call_host<C, T>(
    fleet: &Fleet,
    session: &Session,
    call: C,
    on_event: &(dyn Fn(Event) + Send + Sync),
) -> Result<T, CallFailure>
where
    C: Call<Reply = Result<T, Rejection>>,
{
    let answer = session.call(call, on_event, &fleet.cancellation).await;
    answer.map_err(|error| CallFailure::Failed(error.message))?.map_err(CallFailure::Rejected)
}
