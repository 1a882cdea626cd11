//! Looking at all hosts, and the plan that follows. Changes nothing.

use super::ask;
use crate::deploy::desired::Source;
use crate::deploy::plan::plan_host;
use crate::fleet::{Fleet, Session, Supply};
use crate::inventory::Diagnostics;
use crate::plan::{Digest, HostPlan};
use crate::playbook::Contents;
use crate::transport::ConnectError;
use crate::wire::deploy::{About, Desired, Observation, Once, Reply, Request, Scope, Version};

/// Where the hosts are to get.
pub enum Goal<'a> {
    /// To a release that is here.
    Release {
        /// What the states are made of.
        source: &'a Source<'a>,
        /// The contents of the release's files.
        files: &'a Supply,
    },
    /// To a release that they keep, with the setup it served with last; without a version to the previous one.
    Kept(Option<Version>),
}

/// A host that was looked at, still connected.
pub struct Seen {
    session: Session,
    desired: Desired,
    texts: Contents,
    seen: Observation,
}

/// A host with its plan, still connected.
pub struct Planned {
    /// The connection.
    pub session: Session,
    /// Where it is to get.
    pub desired: Desired,
    /// How it was found.
    pub seen: Observation,
    /// What will be done.
    pub plan: HostPlan,
}

/// A host that was not planned.
#[derive(Debug)]
pub enum Refused {
    /// It could not be reached.
    Connect(ConnectError),
    /// Its templates have mistakes.
    Files(Diagnostics),
    /// The state cannot be reached as asked; what to do.
    Refused(String),
    /// It could not look; what it said.
    Failed(String),
}

/// Looks at the hosts; each fails by itself. Results in the order of the names.
pub async fn observe(
    fleet: &Fleet,
    hosts: &[String],
    scope: &Scope,
    goal: &Goal<'_>,
) -> Vec<(String, Result<Seen, Refused>)> {
    let results = fleet.each(hosts, |host| one(fleet, host, scope, goal)).await;
    hosts.iter().cloned().zip(results).collect()
}

async fn one(fleet: &Fleet, host: &str, scope: &Scope, goal: &Goal<'_>) -> Result<Seen, Refused> {
    let session = fleet.connect(host).await.map_err(Refused::Connect)?;
    match goal {
        Goal::Release { source, files } => {
            let prepared = source.prepare(host, &session.hello.facts).map_err(Refused::Files)?;
            session.offer(files);
            session.offer(&prepared.texts);
            let about = About::Desired(Box::new(prepared.desired.clone()));
            let seen = question(fleet, &session, scope, about).await?;
            Ok(Seen { session, desired: prepared.desired, texts: prepared.texts, seen })
        }
        Goal::Kept(version) => {
            let mut seen = question(fleet, &session, scope, About::Kept(version.clone())).await?;
            let desired = seen.kept.take().ok_or_else(|| Refused::Failed("an answer that does not fit".to_owned()))?;
            Ok(Seen { session, desired, texts: Contents::new(), seen })
        }
    }
}

/// Looks at one host's releases and what serves there.
///
/// # Errors
/// It could not be reached, or could not look.
pub async fn look(fleet: &Fleet, host: &str, scope: &Scope) -> Result<Observation, Refused> {
    let session = fleet.connect(host).await.map_err(Refused::Connect)?;
    question(fleet, &session, scope, About::Nothing).await
}

async fn question(fleet: &Fleet, session: &Session, scope: &Scope, about: About) -> Result<Observation, Refused> {
    match ask(fleet, session, Request::Observe { scope: scope.clone(), about }, &|_| {}).await {
        Ok(Reply::Observed(seen)) => Ok(*seen),
        Ok(Reply::Refused(why)) => Err(Refused::Refused(why)),
        Ok(_) => Err(Refused::Failed("an answer that does not fit".to_owned())),
        Err(error) => Err(Refused::Failed(error)),
    }
}

/// Plans hosts that were looked at, in order. Once-steps go to the first one; those that any host did for this release
/// are left out.
pub fn plan(hosts: Vec<Seen>, once: &[Once]) -> Vec<(String, Result<Planned, Refused>)> {
    let undone = |step: &&Once| {
        let did = |host: &Seen| {
            host.seen.once.iter().any(|(name, at)| *name == step.name && *at == host.desired.manifest.version)
        };
        !hosts.iter().any(did)
    };
    let undone: Vec<Once> = once.iter().filter(undone).cloned().collect();
    let mut first = Some(undone);
    let planned = hosts.into_iter().map(|host| {
        let Seen { session, desired, texts, seen } = host;
        let text = |digest: &Digest| String::from_utf8(texts.get(digest)?.to_vec()).ok();
        let name = session.host.clone();
        let plan = plan_host(&name, &desired, &seen, &first.take().unwrap_or_default(), &text);
        (name, plan.map(|plan| Planned { session, desired, seen, plan }).map_err(Refused::Refused))
    });
    planned.collect()
}
