//! Looking at all hosts, and the plan that follows. Changes nothing.

use super::send_deploy_request;
use crate::deploy::desired::ReleaseSource;
use crate::deploy::plan::plan_host;
use crate::fleet::{BlobMap, Fleet, Session};
use crate::inventory::Diagnostics;
use crate::plan::{Digest, HostPlan};
use crate::playbook::ContentMap;
use crate::protocol::deploy::{
    CompareWith, DeployReply, DeployRequest, DesiredState, ReleaseTask, ReleaseVersion, ServiceObservation, ServiceRef,
};
use crate::transport::ConnectError;

/// Where the hosts are to get.
pub enum Goal<'a> {
    /// To a release that is here.
    Release {
        /// What the states are made of.
        source: &'a ReleaseSource<'a>,
        /// The contents of the release's files.
        files: &'a BlobMap,
    },
    /// To a release that they keep, with the setup it served with last; without a version to the previous one.
    Stored(Option<ReleaseVersion>),
}

/// A host that was looked at, still connected.
pub struct ObservedHost {
    session: Session,
    desired: DesiredState,
    texts: ContentMap,
    observation: ServiceObservation,
}

/// A host with its plan, still connected.
pub struct PlannedDeploy {
    /// The connection.
    pub session: Session,
    /// Where it is to get.
    pub desired: DesiredState,
    /// How it was found.
    pub observation: ServiceObservation,
    /// What will be done.
    pub plan: HostPlan,
}

/// A host that was not planned.
#[derive(Debug)]
pub enum DeployPlanError {
    /// It could not be reached.
    Connect(ConnectError),
    /// Its templates have mistakes.
    Templates(Diagnostics),
    /// The state cannot be reached as asked; what to do.
    Impossible(String),
    /// It could not look; what it said.
    Host(String),
}

/// Looks at the hosts; each fails by itself. Results in the order of the names.
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
        Goal::Release { source, files } => {
            let prepared = source.prepare_host(host, &session.hello.facts).map_err(DeployPlanError::Templates)?;
            session.add_blobs(files);
            session.add_blobs(&prepared.texts);
            let compare_with = CompareWith::Desired(Box::new(prepared.desired.clone()));
            let seen = request_observation(fleet, &session, scope, compare_with).await?;
            Ok(ObservedHost { session, desired: prepared.desired, texts: prepared.texts, observation: seen })
        }
        Goal::Stored(version) => {
            let mut seen =
                request_observation(fleet, &session, scope, CompareWith::RetainedRelease(version.clone())).await?;
            let desired = seen
                .retained_release
                .take()
                .ok_or_else(|| DeployPlanError::Host("an answer that does not fit".to_owned()))?;
            Ok(ObservedHost { session, desired, texts: ContentMap::new(), observation: seen })
        }
    }
}

/// Looks at one host's releases and what serves there.
///
/// # Errors
/// It could not be reached, or could not look.
pub async fn observe_service(
    fleet: &Fleet,
    host: &str,
    scope: &ServiceRef,
) -> Result<ServiceObservation, DeployPlanError> {
    let session = fleet.connect(host).await.map_err(DeployPlanError::Connect)?;
    request_observation(fleet, &session, scope, CompareWith::Nothing).await
}

async fn request_observation(
    fleet: &Fleet,
    session: &Session,
    scope: &ServiceRef,
    compare_with: CompareWith,
) -> Result<ServiceObservation, DeployPlanError> {
    match send_deploy_request(fleet, session, DeployRequest::Observe { scope: scope.clone(), compare_with }, &|_| {})
        .await
    {
        Ok(DeployReply::Observed(seen)) => Ok(*seen),
        Ok(DeployReply::Refused(why)) => Err(DeployPlanError::Impossible(why)),
        Ok(_) => Err(DeployPlanError::Host("an answer that does not fit".to_owned())),
        Err(error) => Err(DeployPlanError::Host(error)),
    }
}

/// Plans hosts that were looked at, in order. Tasks go to the first one; those that any host did for this release
/// are left out.
pub fn plan_hosts(
    hosts: Vec<ObservedHost>,
    tasks: &[ReleaseTask],
) -> Vec<(String, Result<PlannedDeploy, DeployPlanError>)> {
    let pending_tasks = |step: &&ReleaseTask| {
        let did = |host: &ObservedHost| {
            host.observation
                .completed_tasks
                .iter()
                .any(|(name, at)| *name == step.name && *at == host.desired.manifest.version)
        };
        !hosts.iter().any(did)
    };
    let undone: Vec<ReleaseTask> = tasks.iter().filter(pending_tasks).cloned().collect();
    let mut first_host_tasks = Some(undone);
    let planned = hosts.into_iter().map(|host| {
        let ObservedHost { session, desired, texts, observation: seen } = host;
        let text = |digest: &Digest| String::from_utf8(texts.get(digest)?.to_vec()).ok();
        let name = session.host.clone();
        let plan = plan_host(&name, &desired, &seen, &first_host_tasks.take().unwrap_or_default(), &text);
        (
            name,
            plan.map(|plan| PlannedDeploy { session, desired, observation: seen, plan })
                .map_err(DeployPlanError::Impossible),
        )
    });
    planned.collect()
}
