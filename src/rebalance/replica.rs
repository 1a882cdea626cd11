//! Making replicas: where there was none, or in the place of another one. Nothing is fenced for it: the
//! primary serves all the while.
//!
//! The new one is born, caught up with and compared; then the map names it; then the one that it replaces is retired,
//! which is a live replica up to then. Cut short before the map names it, it is finished or removed; after that, the one
//! that is left over is a stray, which `shards resume` retires.

use anyhow::{Context, Result, bail};
use dunlin_shards::{Placement, ShardMap};
use tokio::sync::Mutex;

use super::ground::{Watch, read_map, shard_id};
use super::run::{How, Leaving, Moved, Settling, phase, retire};
use super::{Ground, publish};
use crate::wire::shard::{Arm, MoveSpec, MoveState, Reply, Request};
use crate::wire::sparing::Sparing;

/// A replica to be made.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The shard.
    pub shard: u32,
    /// The host whose replica it replaces.
    pub old: Option<&'a str>,
    /// The host that it is made on.
    pub new: &'a str,
}

/// Makes a replica; the one that it replaces is retired once the map is out.
///
/// # Errors
/// A step failed; asked again, it goes on there.
pub async fn change(ground: &Ground<'_>, what: Change<'_>, run: &str, settling: &Settling<'_>) -> Result<Moved> {
    let (map, _) = read_map(&ground.map_file)?;
    made(ground, spec(ground, &map, run, what)?, what, settling).await
}

async fn made(ground: &Ground<'_>, spec: MoveSpec, what: Change<'_>, settling: &Settling<'_>) -> Result<Moved> {
    let begin = std::time::Instant::now();
    let mut moved = Moved::default();
    match ground.ask(what.new, Request::Replicate(spec.clone()), settling.watch).await? {
        Reply::Copied(copied) => moved.bytes = copied.bytes,
        _ => bail!("an answer that does not fit"),
    }
    moved.kept = settle(ground, &spec, what, settling).await?;
    moved.seconds = begin.elapsed().as_secs_f64();
    Ok(moved)
}

/// What follows the copy: the map, the end of the new one's journal, the old one's retirement. Returns why that has to
/// wait, where it has.
async fn settle(
    ground: &Ground<'_>,
    spec: &MoveSpec,
    what: Change<'_>,
    settling: &Settling<'_>,
) -> Result<Option<String>> {
    phase(spec, what.new, "publish", settling.watch);
    let map = {
        let _turn = settling.publishing.lock().await;
        let (now, _) = read_map(&ground.map_file)?;
        publish::publish(ground, &[exchanged(&now, what)?]).await?
    };
    let named = MoveSpec { epoch: map.epoch.0, ..spec.clone() };
    ground.ask(what.new, Request::Keep(named), &|_, _| {}).await?;
    let kept = match what.old {
        Some(old) => {
            phase(spec, what.new, "retire", settling.watch);
            let leaving = leaving(ground, &map, &spec.job.run, (spec.job.shard, old))?;
            retire(ground, &map, &leaving, settling.how).await?
        }
        None => None,
    };
    phase(spec, what.new, "done", settling.watch);
    Ok(kept)
}

/// A replica that the map does not name, on its way out.
///
/// # Errors
/// The playbook makes no instances on that host.
pub fn leaving<'a>(
    ground: &Ground<'_>,
    map: &ShardMap,
    run: &'a str,
    (shard, host): (u32, &'a str),
) -> Result<Leaving<'a>> {
    let entry = map.shard(shard_id(shard)?).with_context(|| format!("there is no shard {shard}"))?;
    let with = with(map, &exchanged(map, Change { shard, old: None, new: host })?);
    let instance = ground.instance(&with, shard, host, ground.session(host)?)?;
    Ok(Leaving { run, shard, host, owner: ground.address(map, shard, &entry.host)?, instance })
}

/// The making of a replica as its host is asked for it.
///
/// # Errors
/// The playbook makes no such instance there.
pub fn spec(ground: &Ground<'_>, map: &ShardMap, run: &str, what: Change<'_>) -> Result<MoveSpec> {
    let Change { shard, old, new } = what;
    let entry = map.shard(shard_id(shard)?).with_context(|| format!("there is no shard {shard}"))?;
    let after = with(map, &exchanged(map, what)?);
    Ok(MoveSpec {
        job: ground.job(new, shard, run),
        by: ground.by.clone(),
        from: ground.address(map, shard, &entry.host)?,
        to: ground.address(map, shard, new)?,
        others: old.map(|host| ground.address(map, shard, host)).into_iter().collect::<Result<_>>()?,
        epoch: map.epoch.next().0,
        app_user: entry.id.user(),
        instance: ground.instance(&after, shard, new, ground.session(new)?)?,
        source_is_armed: false,
        limits: ground.limits(Sparing::default()),
    })
}

/// [`spec`], with all replicas that the primary is to have, for its host to say what stands in its way.
///
/// # Errors
/// As [`spec`].
pub fn asked(ground: &Ground<'_>, map: &ShardMap, run: &str, what: Change<'_>) -> Result<MoveSpec> {
    let place = placement(map, what.shard)?;
    let others = place.replicas.iter().map(|host| ground.address(map, what.shard, host)).collect::<Result<_>>()?;
    Ok(MoveSpec { others, ..spec(ground, map, run, what)? })
}

/// A shard's copies with a replica on the new host, in the old one's place.
///
/// # Errors
/// There is no such shard, or its primary is on that host.
pub fn exchanged(map: &ShardMap, what: Change<'_>) -> Result<Placement> {
    let Change { shard, old, new } = what;
    let mut place = placement(map, shard)?;
    if place.host == new {
        bail!("the primary of shard {shard} is on {new}; a replica is made on another host");
    }
    let is_there = place.replicas.iter().any(|host| host == new);
    match place.replicas.iter().position(|host| Some(host.as_str()) == old) {
        Some(at) if is_there => drop(place.replicas.remove(at)),
        Some(at) => place.replicas[at] = new.to_owned(),
        None if is_there => {}
        None => place.replicas.push(new.to_owned()),
    }
    Ok(place)
}

fn placement(map: &ShardMap, shard: u32) -> Result<Placement> {
    let entry = map.shard(shard_id(shard)?).with_context(|| format!("there is no shard {shard}"))?;
    Ok(entry.placement())
}

/// The map with a shard's copies there, and the next epoch.
fn with(map: &ShardMap, place: &Placement) -> ShardMap {
    let mut after = map.clone();
    for entry in after.shards.iter_mut().filter(|entry| entry.id == place.shard) {
        entry.replicas.clone_from(&place.replicas);
    }
    after.epoch = after.epoch.next();
    after
}

/// Has a shard's primary need as many replicas as the playbook says (`min_replicas`), once they are attached.
///
/// # Errors
/// Too few of them are, or the primary is none.
pub async fn guard(ground: &Ground<'_>, map: &ShardMap, shard: u32, run: &str) -> Result<()> {
    let entry = map.shard(shard_id(shard)?).with_context(|| format!("there is no shard {shard}"))?;
    let host = &entry.host;
    let instance = ground.instance(map, shard, host, ground.session(host)?)?;
    let arm = Arm {
        job: ground.job(host, shard, run),
        address: ground.address(map, shard, host)?,
        replicas: needed(&instance),
        instance,
    };
    ground.ask(host, Request::Guard(arm), &|_, _| {}).await.map(drop)
}

/// How many replicas an instance of the playbook is to need as a primary.
pub fn needed(instance: &serde_json::Value) -> u32 {
    instance["min_replicas"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The hosts that the making of a replica concerns, by its journal: that of the one which is replaced, and its own.
///
/// # Errors
/// One of them is not in the inventory.
pub fn hosts_of<'g>(ground: &'g Ground<'_>, state: &MoveState) -> Result<(Option<&'g str>, &'g str)> {
    let host = |address: &String| {
        ground.host_at(address).with_context(|| format!("shard {}: {address} is not in the inventory", state.shard))
    };
    Ok((state.others.first().map(host).transpose()?, host(&state.to)?))
}

/// Brings the making of a replica to its end. Returns why the replaced one could not be retired yet, where that is so.
///
/// # Errors
/// Its primary has changed before the map named it, or a step failed.
pub async fn resume(ground: &Ground<'_>, state: &MoveState, watch: Watch<'_>) -> Result<Option<String>> {
    let (map, _) = read_map(&ground.map_file)?;
    let (old, new) = hosts_of(ground, state)?;
    let what = Change { shard: state.shard, old, new };
    let spec = MoveSpec { limits: ground.limits(state.sparing), ..spec(ground, &map, &state.run, what)? };
    let settling = Settling { publishing: &Mutex::new(()), how: How { pass_unclear: true, ..How::default() }, watch };
    if exchanged(&map, what)? == placement(&map, state.shard)? {
        return settle(ground, &spec, what, &settling).await;
    }
    if spec.from != state.from {
        let MoveState { from, to, shard, .. } = state;
        bail!("shard {shard} is at {} meanwhile; {to} follows {from}: dunlin shards abort removes it", spec.from);
    }
    Ok(made(ground, spec, what, &settling).await?.kept)
}

/// Removes a replica that the map does not name yet.
///
/// # Errors
/// A later map than ours is out and may name it, or a step failed.
pub async fn abort(ground: &Ground<'_>, state: &MoveState) -> Result<()> {
    let (map, _) = read_map(&ground.map_file)?;
    let (old, new) = hosts_of(ground, state)?;
    let published = publish::published(ground, &map).await?;
    if published > map.epoch.0 {
        bail!(
            "epoch {published} is published, {} has only {}: bring it up to date, it may name the replica",
            ground.map_file.display(),
            map.epoch
        );
    }
    let spec = spec(ground, &map, &state.run, Change { shard: state.shard, old, new })?;
    ground.ask(new, Request::Abort(MoveSpec { from: state.from.clone(), ..spec }), &|_, _| {}).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_takes_the_place_of_another() {
        let text = "cluster=\"x\"\nepoch=1\nport_base=7000\n[[shard]]\nid=0\nslots=\"0-16383\"\nhost=\"a\"\nreplicas=[\"b\",\"c\"]\n";
        let map = ShardMap::parse(text).unwrap();
        let replicas = |old, new| exchanged(&map, Change { shard: 0, old, new }).map(|place| place.replicas);
        assert_eq!(replicas(Some("b"), "d").unwrap(), ["d", "c"]);
        assert_eq!(replicas(None, "d").unwrap(), ["b", "c", "d"]);
        // Asked again, and after the map was published.
        assert_eq!(replicas(Some("x"), "b").unwrap(), ["b", "c"]);
        assert_eq!(replicas(Some("b"), "c").unwrap(), ["c"]);
        let refused = replicas(Some("b"), "a").unwrap_err();
        crate::messages::check("replica-on-its-primary", [("b to a", refused)]);
    }
}
