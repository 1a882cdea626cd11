//! Requests about a service, each a type of its own, tied to the type of its answer.

use serde::{Deserialize, Serialize};

use super::{
    CompareWith, DeployFailure, DesiredState, ReleaseTarget, ReleaseTask, ReleaseVersion, ServiceChange,
    ServiceObservation, ServiceRef, StagedRelease, SwitchOutcome, TaskRecord, TaskRun,
};
use crate::plan::{PlannedRow, ResourceChange};
use crate::protocol::lock::LockHolder;
use crate::protocol::{Call, Reply, Request};

/// Observe the service; changes nothing, takes no lock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObserveService {
    /// The service.
    pub scope: ServiceRef,
    /// Compared with what.
    pub compare_with: CompareWith,
}

/// Find what would stop the deploy on this host; changes nothing. The answer has the reasons for which the host cannot
/// take the release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckRelease {
    /// The service.
    pub scope: ServiceRef,
    /// The state.
    pub desired: Box<DesiredState>,
    /// TCP ports on which the service's units listen.
    pub listen_ports: Vec<u16>,
}

/// Put the release's files and setup beside the existing ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRelease {
    /// The service.
    pub scope: ServiceRef,
    /// The state.
    pub desired: Box<DesiredState>,
    /// The plan's rows; a different host state is rejected with [`Rejection::PlanOutdated`]. Empty: any.
    pub expected_changes: Vec<PlannedRow>,
    /// Keep a service that dunlin did not deploy as the release [`ReleaseVersion::ADOPTED`]; without it, such a host is
    /// refused.
    pub adopt: bool,
}

/// Make a staged state the serving one; return to the one before where it does not get healthy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwitchRelease {
    /// The service.
    pub scope: ServiceRef,
    /// The state.
    pub target: ReleaseTarget,
    /// State that served at plan time; if another one serves now, the answer is [`Rejection::PlanOutdated`].
    pub expected_current: Option<ReleaseTarget>,
    /// The plan, or a return.
    pub purpose: SwitchPurpose,
}

/// Why a host is switched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchPurpose {
    /// A plan was shown and confirmed.
    Plan {
        /// The plan's rows. A change that is due and that the plan does not show, since the host's state is another one
        /// by now, is rejected with [`Rejection::PlanOutdated`].
        expected_changes: Vec<PlannedRow>,
    },
    /// The rollout failed: the host returns to a state that served before, and the next rollback goes further back.
    Return,
}

/// Switch to a release that the host keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RollBack {
    /// The service.
    pub scope: ServiceRef,
    /// To which; without it the previous one.
    pub version: Option<ReleaseVersion>,
    /// As in [`SwitchRelease`].
    pub expected_current: Option<ReleaseTarget>,
    /// The plan, or a return.
    pub purpose: SwitchPurpose,
}

/// Stop the release that this rollout made the active one on a host that served nothing before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeactivateRelease {
    /// The service.
    pub scope: ServiceRef,
    /// The state; if another one serves now, the answer is [`Rejection::PlanOutdated`].
    pub target: ReleaseTarget,
}

/// Check the health of the active release for at most two seconds; changes nothing. The answer has the failure, if it is
/// one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckHealth {
    /// The service.
    pub scope: ServiceRef,
    /// Main processes of the units after the switch; other processes are a failure.
    pub expected_pids: Option<Vec<u32>>,
}

/// Lock the service for this run, until the agent ends. The answer has the records of tasks on this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LockService {
    /// The service.
    pub scope: ServiceRef,
}

/// Record an attempt to run a task, or its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordTask {
    /// The service.
    pub scope: ServiceRef,
    /// The record; it replaces the record of an earlier attempt.
    pub record: TaskRecord,
}

/// Run a task whose attempt is recorded as started on this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunTask {
    /// The service.
    pub scope: ServiceRef,
    /// The staged state that the task belongs to.
    pub target: ReleaseTarget,
    /// The task.
    pub task: ReleaseTask,
    /// The run of dunlin that recorded the attempt.
    pub run: String,
}

/// Plan a change of the service; changes nothing, takes no lock. The answer has the rows of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanChange {
    /// The service.
    pub scope: ServiceRef,
    /// The change.
    pub change: ServiceChange,
}

/// Apply a change of the service. The answer has the failure, if it is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApplyChange {
    /// The service.
    pub scope: ServiceRef,
    /// The change.
    pub change: ServiceChange,
    /// The plan's rows as in [`StageRelease`].
    pub expected_changes: Vec<PlannedRow>,
}

/// Remove the oldest releases, and what killed runs left; never one that serves or could be returned to. The answer has
/// the versions that are gone, then the names of incomplete ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PruneReleases {
    /// The service.
    pub scope: ServiceRef,
    /// Maximum number of releases to keep, including the serving and the previous one; at least 1.
    pub keep_releases: usize,
}

/// Describes why a host did not do what was asked. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// Another run deploys this service on this host.
    #[error("the service is locked by {}", .0.operator)]
    Locked(LockHolder),
    /// The host's state is another than the plan's. One line per difference.
    #[error("{}", .0.join("\n  "))]
    PlanOutdated(Vec<String>),
    /// The reason and the next step.
    #[error("{0}")]
    Refused(String),
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Declares the enums of the requests and of their replies, and ties each request to the type of its answer.
macro_rules! declare_requests {
    ($($name:ident -> $answer:ty,)*) => {
        /// A request about a service on one host.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum DeployRequest {
            $(#[doc = concat!("See [`", stringify!($name), "`].")] $name($name),)*
        }

        /// Reply to a [`DeployRequest`]; of the same name as the request, unless the host rejects it.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum DeployReply {
            $(#[doc = concat!("To [`", stringify!($name), "`].")] $name($answer),)*
            /// Nothing was done.
            Rejected(Rejection),
        }

        impl DeployRequest {
            /// Returns the service of the request.
            pub fn scope(&self) -> &ServiceRef {
                match self {
                    $(Self::$name(request) => &request.scope,)*
                }
            }
        }

        $(
            impl $name {
                /// Returns the reply with an answer to this request.
                pub fn to_reply(answer: Result<$answer, Rejection>) -> DeployReply {
                    answer.map_or_else(DeployReply::Rejected, DeployReply::$name)
                }
            }

            impl Call for $name {
                type Reply = Result<$answer, Rejection>;
                const NAME: &'static str = stringify!($name);

                fn into_request(self) -> Request {
                    Request::Deploy(DeployRequest::$name(self))
                }

                fn from_reply(reply: Reply) -> Option<Self::Reply> {
                    match reply {
                        Reply::Deploy(DeployReply::$name(answer)) => Some(Ok(answer)),
                        Reply::Deploy(DeployReply::Rejected(rejection)) => Some(Err(rejection)),
                        _ => None,
                    }
                }
            }
        )*
    };
}

declare_requests! {
    ObserveService -> Box<ServiceObservation>,
    CheckRelease -> Vec<String>,
    StageRelease -> StagedRelease,
    SwitchRelease -> SwitchOutcome,
    RollBack -> SwitchOutcome,
    DeactivateRelease -> SwitchOutcome,
    CheckHealth -> Option<DeployFailure>,
    LockService -> Vec<TaskRecord>,
    RecordTask -> (),
    RunTask -> TaskRun,
    PlanChange -> Vec<ResourceChange>,
    ApplyChange -> Option<DeployFailure>,
    PruneReleases -> Vec<String>,
}
