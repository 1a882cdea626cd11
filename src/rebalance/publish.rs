//! Publishing a new epoch: first the authored map, then the routing file of every consumer, by atomic rename.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use dunlin_shards::ShardMap;
use dunlin_shards::map::edit::move_shards;

use super::Ground;
use super::ground::{read_map, shard_id, told};
use crate::wire::provision::Apply;
use crate::wire::{Reply, Request};

/// The hosts whose plays have a `shard_map` step.
///
/// # Errors
/// Mistakes in map, inventory or playbook.
pub fn consumers(ground: &Ground<'_>, map: &ShardMap) -> Result<Vec<String>> {
    let compiler = ground.compiler(map, &["shard_map"])?;
    let publishing = |play: &&crate::playbook::Play| play.steps.iter().any(|step| step.kind.name == "shard_map");
    let plays = ground.playbook.plays.iter().enumerate().filter(|(_, play)| publishing(play));
    let mut hosts: Vec<String> = plays.flat_map(|(number, _)| compiler.hosts_of(number)).map(str::to_owned).collect();
    hosts.sort_unstable();
    hosts.dedup();
    Ok(hosts)
}

/// Writes shards' new hosts into the authored map under the next epoch, and brings it to all consumers.
///
/// # Errors
/// The map cannot be written, or a consumer did not take it (named; the map is then published for the others).
pub async fn publish(ground: &Ground<'_>, moves: &[(u32, String)]) -> Result<ShardMap> {
    let (map, text) = read_map(&ground.map_file)?;
    let moves: Vec<_> = moves.iter().map(|(shard, to)| Ok((shard_id(*shard)?, to.as_str()))).collect::<Result<_>>()?;
    let done = moves.iter().all(|(id, to)| map.shard(*id).is_some_and(|entry| entry.host == *to));
    let map = if done {
        map
    } else {
        let text = move_shards(&text, &moves, map.epoch.next()).map_err(|error| anyhow!("{error}"))?;
        replace(&ground.map_file, &text)?;
        ShardMap::parse(&text).map_err(|_| anyhow!("the edited map is broken"))?
    };
    let hosts = consumers(ground, &map)?;
    let results = ground.fleet.each(&hosts, |host| consumer(ground, &map, host)).await;
    let failed: Vec<String> = hosts
        .iter()
        .zip(results)
        .filter_map(|(host, result)| result.err().map(|error| format!("{host}: {error:#}")))
        .collect();
    if !failed.is_empty() {
        bail!("epoch {} did not reach all consumers: {}", map.epoch.0, failed.join("; "));
    }
    Ok(map)
}

async fn consumer(ground: &Ground<'_>, map: &ShardMap, host: &str) -> Result<()> {
    let session = ground.session(host)?;
    let compiled =
        ground.compiler(map, &["shard_map"])?.compile(host, &session.hello.facts).map_err(|found| told(&found))?;
    session.offer(&compiled.contents);
    let plays = compiled.catalogue.plays.len();
    session.request(Request::Plan(compiled.catalogue), &|_| {}, &ground.fleet.stop).await?;
    for play in 0..plays {
        let request = Request::Apply(Apply { play, run: format!("epoch {}", map.epoch.0) });
        match session.request(request, &|_| {}, &ground.fleet.stop).await? {
            Reply::Applied(applied) => {
                if let Some(failed) = applied.failed {
                    bail!("{}: {}", failed.resource, failed.error);
                }
            }
            _ => bail!("an answer that does not fit"),
        }
    }
    Ok(())
}

/// Replaces a file by rename, durable when it returns.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().with_context(|| format!("{} has no folder", path.display()))?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(text.as_bytes())?;
    if let Ok(meta) = std::fs::metadata(path) {
        std::fs::set_permissions(temporary.path(), meta.permissions())?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(path).with_context(|| path.display().to_string())?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}
