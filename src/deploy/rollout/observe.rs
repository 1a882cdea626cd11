//! Observes all hosts and computes the plan. Changes nothing.

use std::sync::Arc;

use super::{CallFailure, HostRecords, call_host};
use crate::deploy::desired::{PreparedHost, ReleaseSource};
use crate::deploy::plan::{describe_unmanaged, plan_host};
use crate::deploy::programs::{HEADER_BYTES, ReleasePrograms};
use crate::fleet::{ContentFile, Fleet, Session};
use crate::inventory::Diagnostics;
use crate::plan::{Digest, HostPlan};
use crate::playbook::ContentMap;
use crate::protocol::deploy::{
    CheckHealth, CompareWith, DeployFailure, DesiredState, ObserveService, Rejection, ReleaseFile, ReleaseTask,
    ReleaseVersion, ServiceObservation, ServiceRef, TaskRecord,
};
use crate::transport::ConnectError;

/// Target of a rollout.
pub enum Goal<'a> {
    /// A release that the controller has.
    Release {
        /// Inputs of the hosts' states.
        source: &'a ReleaseSource<'a>,
        /// The contents of the release's files.
        contents: &'a Arc<ContentFile>,
    },
    /// A release kept on the hosts, with its last setup; the previous one if no version is given.
    Stored(Option<ReleaseVersion>),
    /// The release that served on each host before a run.
    BeforeRun(String),
}

/// An observed host, still connected.
pub struct ObservedHost {
    session: Session,
    desired: DesiredState,
    texts: ContentMap,
    observation: ServiceObservation,
    listen_ports: Vec<u16>,
}

/// A host with its plan, still connected.
pub struct PlannedDeploy {
    /// The connection.
    pub session: Session,
    /// Desired state of the host.
    pub desired: DesiredState,
    /// Observed state of the host.
    pub observation: ServiceObservation,
    /// Plan for the host.
    pub plan: HostPlan,
    /// TCP ports on which the host's units listen.
    pub listen_ports: Vec<u16>,
}

/// Describes why a host has no plan.
#[derive(Debug)]
pub enum DeployPlanError {
    /// The host could not be reached.
    Connect(ConnectError),
    /// The templates contain errors.
    Templates(Diagnostics),
    /// The requested state cannot be reached; contains the next step.
    Impossible(String),
    /// The host serves no release that a rollback could replace; contains the reason for which it has no target.
    Idle(String),
    /// The run that is rolled back switched no release on the host; contains that message.
    NotInRun(String),
    /// The host could not read its state; contains its message.
    Host(String),
}

/// Observes the hosts; each can fail on its own. Returns the results in the order of the names.
pub async fn observe_hosts(
    fleet: &Fleet,
    hosts: &[String],
    scope: &ServiceRef,
    goal: &Goal<'_>,
) -> Vec<(String, Result<ObservedHost, DeployPlanError>)> {
    let results = fleet.map_parallel(hosts, |host| observe_host(fleet, host, scope, goal)).await;
    hosts.iter().cloned().zip(results).collect()
}

async fn observe_host(
    fleet: &Fleet,
    host: &str,
    scope: &ServiceRef,
    goal: &Goal<'_>,
) -> Result<ObservedHost, DeployPlanError> {
    let session = fleet.connect(host).await.map_err(DeployPlanError::Connect)?;
    match goal {
        Goal::Release { source, contents } => {
            let prepared = source.prepare_host(host, &session.hello.facts).map_err(DeployPlanError::Templates)?;
            let header = |file: &ReleaseFile| {
                let first = file.chunks.first().map_or(&file.sha256, |chunk| &chunk.sha256);
                contents.read_beginning(first, HEADER_BYTES as u64).ok().flatten()
            };
            let text = |digest: &Digest| prepared.texts.get(digest).map(|bytes| &bytes[..]);
            let programs = ReleasePrograms { desired: &prepared.desired, root: &scope.base_dir, header: &header };
            if let Some(reason) = programs.find_foreign_program(&session.hello.facts.os.arch, &text) {
                return Err(DeployPlanError::Impossible(reason));
            }
            session.set_content_file(contents);
            session.add_blobs(&prepared.texts);
            let compare_with = CompareWith::Desired(Box::new(prepared.desired.clone()));
            let seen = request_observation(fleet, &session, scope, compare_with).await?;
            let PreparedHost { desired, texts, listen_ports } = prepared;
            Ok(ObservedHost { session, desired, texts, observation: seen, listen_ports })
        }
        Goal::Stored(version) => {
            let compare_with = CompareWith::RetainedRelease(version.clone());
            observe_retained_release(fleet, session, scope, compare_with).await
        }
        Goal::BeforeRun(run) => {
            observe_retained_release(fleet, session, scope, CompareWith::BeforeRun(run.clone())).await
        }
    }
}

/// Observes a connected host, compared with a release that it keeps.
///
/// # Errors
/// Returns an error if the host has no such release, serves none at all ([`DeployPlanError::Idle`]), was not changed by the run
/// ([`DeployPlanError::NotInRun`]), or cannot read its state.
pub async fn observe_retained_release(
    fleet: &Fleet,
    session: Session,
    scope: &ServiceRef,
    compare_with: CompareWith,
) -> Result<ObservedHost, DeployPlanError> {
    let mut seen = match request_observation(fleet, &session, scope, compare_with.clone()).await {
        Err(DeployPlanError::Impossible(reason)) => {
            let now = request_observation(fleet, &session, scope, CompareWith::Nothing).await?;
            let is_settled = now.unfinished_switch.is_none();
            let has_record = |run: &str| now.switch_records.iter().any(|record| record.run == run);
            return Err(match compare_with {
                CompareWith::BeforeRun(run) if is_settled && !has_record(&run) => DeployPlanError::NotInRun(reason),
                _ if is_settled && now.confirmed.is_none() => DeployPlanError::Idle(reason),
                _ => DeployPlanError::Impossible(reason),
            });
        }
        seen => seen?,
    };
    let desired =
        seen.retained_release.take().ok_or_else(|| DeployPlanError::Host("the host named no release".to_owned()))?;
    let (texts, listen_ports) = (ContentMap::new(), Vec::new());
    Ok(ObservedHost { session, desired, texts, observation: seen, listen_ports })
}

/// Health of the active release on a host.
#[derive(Debug)]
pub enum ServiceHealth {
    /// No release is active.
    Inactive,
    /// The units run and the health check passes.
    Healthy,
    /// A unit does not run, or the health check fails.
    Unhealthy(DeployFailure),
}

/// Observes one host's releases, and checks the health of the active one.
///
/// # Errors
/// Returns an error if the host cannot be reached or cannot read its state.
pub async fn observe_service(
    fleet: &Fleet,
    host: &str,
    scope: &ServiceRef,
) -> Result<(ServiceObservation, ServiceHealth), DeployPlanError> {
    let session = fleet.connect(host).await.map_err(DeployPlanError::Connect)?;
    let observation = request_observation(fleet, &session, scope, CompareWith::Nothing).await?;
    if observation.confirmed.is_none() {
        return Ok((observation, ServiceHealth::Inactive));
    }
    let request = CheckHealth { scope: scope.clone(), expected_pids: None };
    let failure = call_host(fleet, &session, request, &|_| {}).await.map_err(DeployPlanError::from)?;
    Ok((observation, failure.map_or(ServiceHealth::Healthy, ServiceHealth::Unhealthy)))
}

async fn request_observation(
    fleet: &Fleet,
    session: &Session,
    scope: &ServiceRef,
    compare_with: CompareWith,
) -> Result<ServiceObservation, DeployPlanError> {
    let request = ObserveService { scope: scope.clone(), compare_with };
    Ok(*call_host(fleet, session, request, &|_| {}).await.map_err(DeployPlanError::from)?)
}

impl From<CallFailure> for DeployPlanError {
    fn from(failure: CallFailure) -> Self {
        match failure {
            CallFailure::Rejected(Rejection::Refused(reason)) => Self::Impossible(reason),
            CallFailure::Rejected(rejection) => Self::Host(rejection.to_string()),
            CallFailure::Failed(error) => Self::Host(error),
        }
    }
}

/// A host of the service that the rollout does not change.
pub struct OtherHost {
    /// Name of the host.
    pub host: String,
    /// The connection and the host's records of tasks; without them the reason.
    pub connection: Result<(Session, Vec<TaskRecord>), String>,
}

/// Connects to hosts of the service that the rollout does not change: they lock the service and record its tasks too.
pub async fn connect_other_hosts(fleet: &Fleet, hosts: &[String], scope: &ServiceRef) -> Vec<OtherHost> {
    let results = fleet.map_parallel(hosts, |host| connect_other_host(fleet, host, scope)).await;
    let to_other = |(host, result): (&String, Result<_, DeployPlanError>)| OtherHost {
        host: host.clone(),
        connection: result.map_err(|error| error.describe()),
    };
    hosts.iter().zip(results).map(to_other).collect()
}

async fn connect_other_host(
    fleet: &Fleet,
    host: &str,
    scope: &ServiceRef,
) -> Result<(Session, Vec<TaskRecord>), DeployPlanError> {
    let session = fleet.connect(host).await.map_err(DeployPlanError::Connect)?;
    let observation = request_observation(fleet, &session, scope, CompareWith::Nothing).await?;
    Ok((session, observation.task_records))
}

impl ObservedHost {
    /// Returns the host's records of tasks.
    pub fn to_records(&self) -> HostRecords {
        HostRecords { host: self.session.host.clone(), records: Ok(self.observation.task_records.clone()) }
    }
}

impl OtherHost {
    /// Returns the host's records of tasks.
    pub fn to_records(&self) -> HostRecords {
        let records = self.connection.as_ref().map(|(_, records)| records.clone()).map_err(String::clone);
        HostRecords { host: self.host.clone(), records }
    }
}

impl DeployPlanError {
    /// Returns the error in one line.
    pub fn describe(&self) -> String {
        match self {
            Self::Connect(error) => error.to_string(),
            Self::Templates(_) => "its templates contain errors".to_owned(),
            Self::Impossible(reason) | Self::Idle(reason) | Self::NotInRun(reason) | Self::Host(reason) => {
                reason.clone()
            }
        }
    }
}

/// Plans observed hosts, in order. The first one runs the due tasks. Without `adopt`, a host with a service that dunlin
/// did not deploy has no plan.
pub fn plan_hosts(
    hosts: Vec<ObservedHost>,
    due_tasks: &[ReleaseTask],
    adopt: bool,
) -> Vec<(String, Result<PlannedDeploy, DeployPlanError>)> {
    let mut first_host_tasks = Some(due_tasks);
    let planned = hosts.into_iter().map(|host| {
        let ObservedHost { session, desired, texts, observation: seen, listen_ports } = host;
        let text = |digest: &Digest| String::from_utf8(texts.get(digest)?.to_vec()).ok();
        let name = session.host.clone();
        let tasks = first_host_tasks.take().unwrap_or_default();
        let plan = match seen.unmanaged_paths.is_empty() || adopt {
            true => plan_host(&name, &desired, &seen, tasks, &text),
            false => {
                let serving = seen.confirmed.as_ref().map(|confirmed| &confirmed.version);
                Err(describe_unmanaged(&seen.unmanaged_paths, serving))
            }
        };
        (
            name,
            plan.map(|plan| PlannedDeploy { session, desired, observation: seen, plan, listen_ports })
                .map_err(DeployPlanError::Impossible),
        )
    });
    planned.collect()
}
