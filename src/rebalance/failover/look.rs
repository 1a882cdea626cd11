//! Asking the hosts that answer: their copies, and primaries as seen from everywhere.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use dunlin_shards::ShardMap;

use super::{Copy, Moving, Scope, Shard, Sight, Stage};
use crate::inventory::Host;
use crate::rebalance::observation::Observation;
use crate::rebalance::resume::{Journals, Stand, journals, stand};
use crate::rebalance::{Ground, observe};
use crate::wire::shard::failover::{Place, Seen, Survey};
use crate::wire::shard::{MoveState, Reply, Request, Role, moves_folder};

/// What the hosts that answer see of all shards. The primaries that the scope gives up are tried from every host.
///
/// # Errors
/// A host that was connected does not answer.
pub async fn sight(ground: &Ground<'_>, map: &ShardMap, hosts: &[&Host], scope: &Scope) -> Result<Sight> {
    let found = journals(ground).await?;
    let mut asked: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for entry in &map.shards {
        let id = u32::from(entry.id.0);
        let primary = ground.address(map, id, &entry.host)?;
        let is_given_up = match scope {
            Scope::Hosts(hosts) => hosts.contains(&entry.host),
            Scope::Shards(shards) => shards.contains(&id),
        };
        let copies: Vec<&String> = std::iter::once(&entry.host).chain(&entry.replicas).collect();
        for host in ground.sessions.keys() {
            if !is_given_up && !copies.contains(&host) {
                continue;
            }
            // Where the map names no copy, there may be one all the same.
            let address = ground.address(map, id, host)?;
            let place = Place { shard: id, address, primary: (*host != entry.host).then(|| primary.clone()) };
            asked.entry(host.clone()).or_default().push(place);
        }
    }
    let seen = surveyed(ground, &asked).await?;
    let observation = observe::observation(ground, map, hosts, &BTreeMap::new());
    let Observation { hosts, .. } = observation;
    Ok(Sight {
        cluster: map.cluster.clone(),
        epoch: map.epoch.0,
        replicas: map.replicas,
        silent: ground.absent.clone(),
        shards: map.shards.iter().map(|entry| shard(ground, map, entry, (&seen, &found))).collect::<Result<_>>()?,
        hosts: hosts.into_iter().filter(|host| !ground.absent.contains(&host.name)).collect(),
    })
}

/// By host and shard.
type Found = BTreeMap<(String, u32), Seen>;

fn shard(
    ground: &Ground<'_>,
    map: &ShardMap,
    entry: &dunlin_shards::Shard,
    (found, journals): (&Found, &Journals),
) -> Result<Shard> {
    let id = u32::from(entry.id.0);
    let copy = |host: &String| -> Result<Copy> {
        let address = ground.address(map, id, host)?;
        let blank = Seen { shard: id, address: address.clone(), ..Seen::default() };
        let seen = found.get(&(host.clone(), id)).cloned().unwrap_or(blank);
        Ok(Copy { host: host.clone(), address, seen })
    };
    let copies = std::iter::once(&entry.host).chain(&entry.replicas).map(copy).collect::<Result<Vec<_>>>()?;
    let elsewhere = |what: &dyn Fn(&Seen) -> bool| -> Vec<String> {
        let others = found.iter().filter(|((host, shard), _)| *shard == id && copies.iter().all(|c| c.host != *host));
        others.filter(|(_, seen)| what(seen)).map(|((host, _), _)| host.clone()).collect()
    };
    let witnesses = elsewhere(&|seen| matches!(seen.primary, Role::Master { .. }));
    let primary = &copies[0].address;
    let mut strays = elsewhere(&|seen| matches!(&seen.role, Role::Replica { of, .. } if of == primary));
    let moving = journals.get(&id).and_then(|(host, state)| moving(host, state, stand(ground, map, state)));
    // The copy of a move may have followed a relay instead, which ended with its agent.
    if let Some(moving) = moving.as_ref().filter(|moving| moving.stage == Stage::Copied && !strays.contains(&moving.to))
        && elsewhere(&|seen| matches!(seen.role, Role::Replica { .. })).contains(&moving.to)
    {
        strays.push(moving.to.clone());
    }
    Ok(Shard { id, copies, witnesses, strays, moving })
}

/// A move that stands in a failover's way, or has to be given up for it.
fn moving(to: &str, state: &MoveState, stand: Stand) -> Option<Moving> {
    let fenced = matches!(state.step.as_str(), "fence" | "promote" | "open" | "settle");
    let promoted = fenced && state.step != "fence";
    let stage = match stand {
        // What soaks is a replica that the map does not name.
        Stand::Over | Stand::Soaking | Stand::Failing | Stand::Promoted => return None,
        Stand::Elsewhere if !state.replica => Stage::Switched,
        // Started anew, a target that was not opened is a master too.
        Stand::Switched if promoted => Stage::Switched,
        Stand::Joining => Stage::Copied,
        Stand::Copying | Stand::Fenced if !fenced => Stage::Copied,
        _ => Stage::Unclear,
    };
    Some(Moving { to: to.to_owned(), stage })
}

async fn surveyed(ground: &Ground<'_>, asked: &BTreeMap<String, Vec<Place>>) -> Result<Found> {
    let hosts: Vec<(&String, &Vec<Place>)> = asked.iter().collect();
    let ask = async |(host, places): &(&String, &Vec<Place>)| -> Result<Vec<Seen>> {
        let credentials = ground.credentials.clone();
        let survey = Survey { places: (*places).clone(), credentials, journals: moves_folder() };
        match ground.ask(host, Request::Survey(survey), &|_, _| {}).await? {
            Reply::Surveyed(seen) => Ok(seen),
            _ => bail!("{host}: an answer that does not fit"),
        }
    };
    let mut found = Found::new();
    for ((host, _), answer) in hosts.iter().zip(ground.fleet.each(&hosts, ask).await) {
        found.extend(answer?.into_iter().map(|seen| (((*host).clone(), seen.shard), seen)));
    }
    Ok(found)
}
