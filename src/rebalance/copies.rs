//! The copies of shards as they are: replicas that lag, are down or follow somebody else, instances that the map does
//! not name, and primaries that do not need the replicas which the playbook says. `shards status` tells them, `shards
//! resume` mends what it can without a decision.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use dunlin_shards::ShardMap;
use serde::Serialize;

use super::ground::{read_map, told};
use super::replica::{guard, leaving, needed};
use super::run::{How, retire};
use super::{Ground, publish};
use crate::wire::shard::{MoveState, Observe, Observed, Reply, Request, Role};

/// What there is beside the primaries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// The replicas of the map, by shard and in its order.
    pub replicas: Vec<Replica>,
    /// Instances that neither the map nor an open move names.
    pub strays: Vec<Stray>,
    /// Primaries that need another number of replicas than the playbook says; none where a move of the shard is open.
    pub unlike: Vec<Unlike>,
}

/// A replica of the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replica {
    /// The shard.
    pub shard: u32,
    /// Its host.
    pub host: String,
    /// How it is.
    #[serde(flatten)]
    pub state: State,
}

/// How a replica is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It follows its primary.
    Follows {
        /// Bytes of the stream that the primary had a moment before and it has not; 0: it keeps up.
        behind_bytes: u64,
    },
    /// It has lost its primary.
    Unlinked,
    /// It follows another instance.
    Astray {
        /// Whom, `ip:port`.
        of: String,
    },
    /// It is a primary itself.
    Primary,
    /// Nothing answers there: it is down, or was never made.
    Missing {
        /// What was said instead.
        why: String,
    },
}

/// An instance that nobody names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stray {
    /// The shard.
    pub shard: u32,
    /// Its host.
    pub host: String,
    /// Whom it follows; a master follows nobody.
    pub of: Option<String>,
    /// Is that the shard's primary? Then nothing is lost with it.
    pub is_replica: bool,
    /// Is it a master that needs no replica to accept writes?
    pub accepts_writes: bool,
}

/// A primary that needs another number of replicas than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Unlike {
    /// The shard.
    pub shard: u32,
    /// Its `min-replicas-to-write`.
    pub needs: u64,
    /// What the playbook says.
    pub wanted: u32,
}

impl State {
    /// Does it follow its primary without delay?
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Follows { behind_bytes: 0 })
    }
}

impl Copies {
    /// Is there something that `shards resume` mends?
    pub fn are_open(&self) -> bool {
        !self.unlike.is_empty() || self.strays.iter().any(|stray| stray.is_replica || stray.of.is_none())
    }

    /// How many replicas of the map are on a host.
    pub fn on(&self, host: &str) -> usize {
        self.replicas.iter().filter(|replica| replica.host == host).count()
    }
}

/// Looks at them, after the primaries: so that a replica which keeps up has all that its primary had then. Changes
/// nothing. `hosts` are those that shards may stand on.
///
/// # Errors
/// A host could not be asked, or the map names one that the inventory does not have.
pub async fn look(
    ground: &Ground<'_>,
    map: &ShardMap,
    (hosts, primaries): (&[&str], &BTreeMap<u32, Observed>),
    open: &[&MoveState],
) -> Result<Copies> {
    let answers = ground.fleet.each(hosts, |host| beside(ground, map, host)).await;
    let mut seen: BTreeMap<(u32, &str), Observed> = BTreeMap::new();
    for (host, answer) in hosts.iter().zip(answers) {
        seen.extend(answer?.into_iter().map(|observed| ((observed.shard, *host), observed)));
    }
    let busy: BTreeSet<&str> = open.iter().flat_map(|state| [state.from.as_str(), state.to.as_str()]).collect();
    let mut copies = Copies { unlike: unlike(ground, map, primaries, open)?, ..Copies::default() };
    for entry in &map.shards {
        let shard = u32::from(entry.id.0);
        let owner = ground.address(map, shard, &entry.host)?;
        let offset = primaries.get(&shard).map_or(0, |primary| offset(&primary.role));
        for host in &entry.replicas {
            let state = seen.get(&(shard, host.as_str())).map_or_else(
                || State::Missing { why: "no play makes shards on that host".to_owned() },
                |observed| state(observed, &owner, offset),
            );
            copies.replicas.push(Replica { shard, host: host.clone(), state });
        }
        let strays = hosts.iter().filter(|host| !entry.replicas.iter().any(|replica| replica == *host));
        for host in strays {
            let Some(observed) = seen.get(&(shard, host)) else { continue };
            if observed.error.is_some() || busy.contains(observed.address.as_str()) {
                continue;
            }
            let of = match &observed.role {
                Role::Replica { of, .. } => Some(of.clone()),
                _ => None,
            };
            let is_replica = of.as_ref() == Some(&owner);
            let accepts_writes = of.is_none() && observed.min_replicas == 0;
            copies.strays.push(Stray { shard, host: (*host).to_owned(), of, is_replica, accepts_writes });
        }
    }
    Ok(copies)
}

/// All shards on a host whose primary is elsewhere, whether or not the map has a replica there.
async fn beside(ground: &Ground<'_>, map: &ShardMap, host: &str) -> Result<Vec<Observed>> {
    let others = map.shards.iter().filter(|entry| entry.host != host).map(|entry| u32::from(entry.id.0));
    let instances = others.map(|shard| Ok((shard, ground.address(map, shard, host)?))).collect::<Result<_>>()?;
    let what = Observe { instances, credentials: ground.credentials.clone(), window_ms: 0, sample: 0 };
    match ground.ask(host, Request::Observe(what), &|_, _| {}).await? {
        Reply::Observed(observed) => Ok(observed),
        _ => bail!("an answer that does not fit"),
    }
}

fn offset(role: &Role) -> u64 {
    match role {
        Role::Master { offset, .. } | Role::Replica { offset, .. } => *offset,
        Role::Unreachable => 0,
    }
}

fn state(observed: &Observed, owner: &str, at_owner: u64) -> State {
    if let Some(why) = &observed.error {
        return State::Missing { why: why.clone() };
    }
    match &observed.role {
        Role::Replica { of, .. } if of != owner => State::Astray { of: of.clone() },
        Role::Replica { linked: false, .. } => State::Unlinked,
        Role::Replica { offset, .. } => State::Follows { behind_bytes: at_owner.saturating_sub(*offset) },
        Role::Master { .. } => State::Primary,
        Role::Unreachable => State::Missing { why: "it did not answer".to_owned() },
    }
}

fn unlike(
    ground: &Ground<'_>,
    map: &ShardMap,
    primaries: &BTreeMap<u32, Observed>,
    open: &[&MoveState],
) -> Result<Vec<Unlike>> {
    let compiler = ground.compiler(map, &["redis_shard"])?;
    let hosts: BTreeSet<&str> = map.shards.iter().map(|entry| entry.host.as_str()).collect();
    let mut found = Vec::new();
    for host in hosts.into_iter().filter(|host| !ground.absent.contains(*host)) {
        let compiled = compiler.compile(host, &ground.session(host)?.hello.facts).map_err(|found| told(&found))?;
        for step in compiled.catalogue.plays.iter().flat_map(|play| &play.steps) {
            let id = step.desired["id"].as_str().and_then(|id| id.parse::<u32>().ok());
            let Some((shard, primary)) = id.and_then(|id| Some((id, primaries.get(&id)?))) else { continue };
            let here = map.shards.iter().any(|entry| u32::from(entry.id.0) == shard && entry.host == host);
            let (needs, wanted) = (primary.min_replicas, needed(&step.desired));
            if here && needs != u64::from(wanted) && open.iter().all(|state| state.shard != shard) {
                found.push(Unlike { shard, needs, wanted });
            }
        }
    }
    found.sort_unstable_by_key(|unlike| unlike.shard);
    Ok(found)
}

/// Brings primaries and strays to what map and playbook say: a stray that follows its primary is retired, and a primary
/// needs its replicas. One that is to need fewer does so before a stray goes. What cannot be done yet is returned, by
/// shard; everything serves as before then.
///
/// # Errors
/// A later map than ours is out: it may name what ours does not.
pub async fn settle(ground: &Ground<'_>, copies: &Copies, run: &str) -> Result<Vec<(u32, String)>> {
    let (map, _) = read_map(&ground.map_file)?;
    let published = publish::published(ground, &map).await?;
    if published > map.epoch.0 {
        bail!("epoch {published} is published, {} has only {}", ground.map_file.display(), map.epoch);
    }
    let mut waiting = Vec::new();
    for Unlike { shard, needs, wanted } in &copies.unlike {
        if u64::from(*wanted) < *needs && !ground.absent.is_empty() {
            // A host that is missing may serve the shard: this primary then waits for a replica for a good reason.
            waiting.push((*shard, format!("its primary goes on needing {needs} replicas until all hosts answer")));
            continue;
        }
        if let Err(error) = guard(ground, &map, *shard, run).await {
            waiting.push((*shard, format!("its primary does not need {wanted} replicas yet: {error:#}")));
        }
    }
    let how = How { pass_unclear: true, ..How::default() };
    for Stray { shard, host, .. } in copies.strays.iter().filter(|stray| stray.is_replica) {
        if waiting.iter().any(|(other, _)| other == shard) {
            continue;
        }
        // The primary may count on it.
        let mut named = copies.replicas.iter().filter(|replica| replica.shard == *shard);
        if let Some(replica) = named.find(|replica| !matches!(replica.state, State::Follows { .. })) {
            waiting.push((
                *shard,
                format!("the instance on {host} stays: the replica on {} is not in order", replica.host),
            ));
            continue;
        }
        let retired = match leaving(ground, &map, run, (*shard, host)) {
            Ok(leaving) => retire(ground, &map, &leaving, how).await,
            Err(error) => Err(error),
        };
        match retired {
            Ok(None) => {}
            Ok(Some(why)) => waiting.push((*shard, format!("the instance on {host} stays: {why}"))),
            Err(error) => waiting.push((*shard, format!("the instance on {host} stays: {error:#}"))),
        }
    }
    Ok(waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_held_against_its_primary() {
        let follows = |of: &str, linked, offset| Observed {
            role: Role::Replica { of: of.to_owned(), linked, offset },
            ..Observed::default()
        };
        let down = Observed { error: Some("refused".to_owned()), ..Observed::default() };
        let master = Observed { role: Role::Master { offset: 9, replicas: 0 }, ..Observed::default() };
        for (observed, wanted, good) in [
            (follows("a:1", true, 9), State::Follows { behind_bytes: 0 }, true),
            (follows("a:1", true, 12), State::Follows { behind_bytes: 0 }, true),
            (follows("a:1", true, 4), State::Follows { behind_bytes: 5 }, false),
            (follows("a:1", false, 9), State::Unlinked, false),
            (follows("b:1", true, 9), State::Astray { of: "b:1".to_owned() }, false),
            (master, State::Primary, false),
            (down, State::Missing { why: "refused".to_owned() }, false),
        ] {
            let state = state(&observed, "a:1", 9);
            assert_eq!((state.is_good(), state), (good, wanted));
        }
    }
}
