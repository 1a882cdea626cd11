//! Which shards have two copies, and comparing them live.

use anyhow::{Result, bail};
use dunlin_shards::ShardMap;
use serde_json::Value;

use super::Ground;
use super::ground::Watch;
use super::resume::{Journals, Stand, stand};
use crate::wire::shard::{Limits, MoveSpec, Reply, Request, Verified};

/// Two copies of a shard.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The host that compares.
    pub on: String,
    /// The two, as the host is asked for them.
    pub spec: MoveSpec,
}

/// Primary and replica of each shard by the map, and both sides of each move that is not over.
///
/// # Errors
/// The map names a host that the inventory does not have.
pub fn pairs(ground: &Ground<'_>, map: &ShardMap, found: &Journals) -> Result<Vec<Pair>> {
    let pair = |shard: u32, (from, to): (String, String), on: &str| Pair {
        on: on.to_owned(),
        spec: MoveSpec {
            job: ground.job(on, shard, "verify"),
            by: ground.by.clone(),
            from,
            to,
            others: Vec::new(),
            epoch: map.epoch.0,
            app_user: String::new(),
            instance: Value::Null,
            source_is_armed: false,
            limits: Limits::default(),
        },
    };
    let mut pairs = Vec::new();
    for entry in &map.shards {
        let shard = u32::from(entry.id.0);
        for replica in &entry.replicas {
            let ends = (ground.address(map, shard, &entry.host)?, ground.address(map, shard, replica)?);
            pairs.push(pair(shard, ends, replica));
        }
        if let Some((_, state)) = found.get(&shard)
            && matches!(stand(ground, map, state), Stand::Soaking | Stand::Copying | Stand::Joining)
            && let Some(on) = ground.host_at(&state.to)
        {
            pairs.push(pair(shard, (state.from.clone(), state.to.clone()), on));
        }
    }
    Ok(pairs)
}

/// Compares one pair.
///
/// # Errors
/// What the host said.
pub async fn verify(ground: &Ground<'_>, pair: &Pair, watch: Watch<'_>) -> Result<Verified> {
    match ground.ask(&pair.on, Request::Verify(pair.spec.clone()), watch).await? {
        Reply::Verified(verified) => Ok(verified),
        _ => bail!("an answer that does not fit"),
    }
}
