//! What is under way on the hosts, and bringing it to an end: on, or back. Any operator's machine can do it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use dunlin_shards::ShardMap;
use tokio::sync::Mutex;

use super::ground::{Watch, placed, read_map, shard_id};
use super::replica::Change;
use super::run::{How, Settling, settle, switch};
use super::{Ground, publish, replica};
use crate::wire::shard::{Logged, MoveSpec, MoveState, Moves, Recovered, Reply, Request, Role, moves_folder};

/// The last move of each shard that a host's journal knows, with the roles now.
pub type Journals = BTreeMap<u32, (String, MoveState)>;

/// Asks all connected hosts for the moves in their journals.
///
/// # Errors
/// A host could not be asked.
pub async fn journals(ground: &Ground<'_>) -> Result<Journals> {
    let hosts: Vec<String> = ground.sessions.keys().cloned().collect();
    let request = Request::Moves(Moves { credentials: ground.credentials.clone(), journals: moves_folder() });
    let answers = ground.fleet.each(&hosts, |host| ground.ask(host, request.clone(), &|_, _| {})).await;
    let mut found = Journals::new();
    for (host, answer) in hosts.into_iter().zip(answers) {
        let Reply::Moves(states) = answer? else { bail!("{host}: an answer that does not fit") };
        for state in states {
            let newer = found.get(&state.shard).is_none_or(|(_, known)| {
                known.epoch < state.epoch || (known.epoch == state.epoch && known.at < state.at)
            });
            if newer {
                found.insert(state.shard, (host.clone(), state));
            }
        }
    }
    Ok(found)
}

/// All moves in the journals of all connected hosts, oldest first.
///
/// # Errors
/// A host could not be asked.
pub async fn logged(ground: &Ground<'_>) -> Result<Vec<Logged>> {
    let hosts: Vec<String> = ground.sessions.keys().cloned().collect();
    let request = Request::Log(Moves { credentials: ground.credentials.clone(), journals: moves_folder() });
    let mut all = Vec::new();
    for answer in ground.fleet.each(&hosts, |host| ground.ask(host, request.clone(), &|_, _| {})).await {
        let Reply::Log(moves) = answer? else { bail!("an answer that does not fit") };
        all.extend(moves);
    }
    all.sort_by(|a, b| (&a.begun, a.shard).cmp(&(&b.begun, b.shard)));
    Ok(all)
}

/// Where a move stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stand {
    /// Over: map and roles agree, the source is gone.
    Over,
    /// The target serves and the source is gone; only the map does not say so yet.
    Elsewhere,
    /// The target serves, also by the map; the source is its live replica, to be retired or to be gone back to.
    Soaking,
    /// The target serves; the map or the source does not follow yet.
    Switched,
    /// The source serves; there is a copy, or the beginning of one.
    Copying,
    /// Neither serves: roles and journal decide.
    Fenced,
    /// A failover that was cut short: the copy left its primary, or may have.
    Failing,
    /// A copy was promoted; only the map does not say so yet.
    Promoted,
    /// A replica is being made; the map does not name it yet.
    Joining,
    /// The map names a new replica; its journal and the one that it replaces are left to be dealt with.
    Joined,
}

/// Where a move stands, by its roles and the map.
pub fn stand(ground: &Ground<'_>, map: &ShardMap, state: &MoveState) -> Stand {
    let entry = map.shards.iter().find(|entry| u32::from(entry.id.0) == state.shard);
    if state.replica {
        let host = ground.host_at(&state.to);
        let named = entry.is_some_and(|entry| entry.replicas.iter().any(|replica| Some(replica.as_str()) == host));
        return replica_stand(state, named, map.epoch.0);
    }
    let at_target = entry.map(|entry| entry.host.as_str()) == ground.host_at(&state.to);
    if let Some(failover) = &state.failover {
        return match (&state.target, failover.promoted) {
            (Role::Master { .. }, true) if !at_target => Stand::Promoted,
            // What became of it later is another move's; an old primary that comes back is looked for by itself.
            _ if failover.finished => Stand::Over,
            _ => Stand::Failing,
        };
    }
    match (&state.target, &state.source) {
        (Role::Master { .. }, Role::Unreachable) if at_target => Stand::Over,
        (Role::Master { .. }, Role::Unreachable) if state.finished => Stand::Elsewhere,
        (Role::Master { .. }, Role::Replica { of, .. }) if at_target && state.finished && *of == state.to => {
            Stand::Soaking
        }
        (Role::Master { .. }, _) => Stand::Switched,
        // A later move took the shard on from that target, or the move was taken back.
        _ if state.finished => Stand::Over,
        (_, Role::Master { .. }) => Stand::Copying,
        _ => Stand::Fenced,
    }
}

fn replica_stand(state: &MoveState, named: bool, epoch: u64) -> Stand {
    match (state.finished, named) {
        (false, true) => Stand::Joined,
        (false, false) => Stand::Joining,
        // The map that named it is a later one than ours.
        (true, false) if state.epoch > epoch && matches!(state.target, Role::Replica { .. }) => Stand::Elsewhere,
        (true, _) => Stand::Over,
    }
}

/// The map as it would be with what the open moves have done already: where the shards are served now.
pub fn believed(ground: &Ground<'_>, map: &ShardMap, open: &[(&MoveState, Stand)]) -> ShardMap {
    let open = open.iter().filter(|(state, _)| !state.replica);
    let moved = open.filter(|(_, stand)| matches!(stand, Stand::Elsewhere | Stand::Switched | Stand::Promoted));
    moved.fold(map.clone(), |map, (state, _)| match ground.host_at(&state.to) {
        Some(host) => back(&map, state.shard, host),
        None => map,
    })
}

/// Brings the map up to date with moves that were made from another machine: one epoch for all of them.
///
/// # Errors
/// As [`publish::publish`].
pub async fn adopt(ground: &Ground<'_>, states: &[&MoveState]) -> Result<()> {
    let (map, _) = read_map(&ground.map_file)?;
    let place = |state: &&MoveState| {
        if state.replica {
            let (old, new) = replica::hosts_of(ground, state)?;
            let primary = map.shard(shard_id(state.shard)?).map(|entry| entry.host.as_str());
            if primary != ground.host_at(&state.from) {
                // Its primary changed before, and only a newer map knows of that.
                bail!(
                    "shard {}: {} is a replica of {}, which is not its primary by this map",
                    state.shard,
                    state.to,
                    state.from
                );
            }
            return replica::exchanged(&map, Change { shard: state.shard, old, new });
        }
        let host = ground.host_at(&state.to).with_context(|| format!("{} is not in the inventory", state.to))?;
        placed(&map, state.shard, host)
    };
    let places = states.iter().map(place).collect::<Result<Vec<_>>>()?;
    publish::publish(ground, &places).await.map(drop)
}

/// Brings one move to its end. Returns why its old instance could not be retired yet, where that is so.
///
/// # Errors
/// It cannot be decided by roles (the message says what to decide), or a step failed.
pub async fn resume(ground: &Ground<'_>, state: &MoveState, watch: Watch<'_>) -> Result<Option<String>> {
    if state.replica {
        return replica::resume(ground, state, watch).await;
    }
    let (map, _) = read_map(&ground.map_file)?;
    let Some((from, to)) = ground.host_at(&state.from).zip(ground.host_at(&state.to)) else {
        bail!("shard {}: {} or {} is not in the inventory", state.shard, state.from, state.to);
    };
    let spec = spec(ground, &map, state, to)?;
    let before = back(&map, state.shard, from);
    match ground.ask(to, Request::Recover(spec.clone()), watch).await? {
        Reply::Recovered(Recovered::AtTarget { .. }) => {}
        Reply::Recovered(Recovered::AtSource { .. }) => {
            ground.ask(to, Request::Copy(spec.clone()), watch).await?;
            switch(ground, &before, &spec, (from, to), watch).await?;
        }
        Reply::Recovered(Recovered::Undecided { why }) => bail!("shard {}: {why}", state.shard),
        _ => bail!("an answer that does not fit"),
    }
    let settling = Settling { publishing: &Mutex::new(()), how: How { pass_unclear: true, ..How::default() }, watch };
    settle(ground, &before, &spec, (from, to), &settling).await
}

/// Takes one move back, where it has not passed the fence.
///
/// # Errors
/// It has, or a step failed.
pub async fn abort(ground: &Ground<'_>, state: &MoveState, watch: Watch<'_>) -> Result<()> {
    if state.replica {
        return replica::abort(ground, state).await;
    }
    let (map, _) = read_map(&ground.map_file)?;
    let Some(to) = ground.host_at(&state.to) else { bail!("{} is not in the inventory", state.to) };
    let spec = spec(ground, &map, state, to)?;
    ground.ask(to, Request::Abort(spec), watch).await.map(drop)
}

/// The move again, as it was begun.
fn spec(ground: &Ground<'_>, map: &ShardMap, state: &MoveState, to: &str) -> Result<MoveSpec> {
    // Contents of the instance are offered on the way.
    let after = back(map, state.shard, to);
    let instance = ground.instance(&after, state.shard, to, ground.session(to)?)?;
    Ok(MoveSpec {
        job: ground.job(to, state.shard, &state.run),
        by: ground.by.clone(),
        from: state.from.clone(),
        to: state.to.clone(),
        others: state.others.clone(),
        epoch: state.epoch,
        app_user: state.app_user.clone(),
        instance,
        source_is_armed: false,
        limits: ground.limits(state.sparing),
    })
}

/// The map with a shard on a host, whatever the map says now.
fn back(map: &ShardMap, shard: u32, host: &str) -> ShardMap {
    let mut other = map.clone();
    for entry in &mut other.shards {
        if u32::from(entry.id.0) == shard {
            entry.host = host.to_owned();
        }
    }
    other
}
