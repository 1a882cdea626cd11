//! Asking the hosts that answer: their copies, and primaries as seen from everywhere.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use dunlin_shards::ShardMap;

use super::{Copy, Scope, Shard, Sight};
use crate::inventory::Host;
use crate::rebalance::observation::Observation;
use crate::rebalance::{Ground, observe};
use crate::wire::shard::failover::{Place, Seen, Survey};
use crate::wire::shard::{Reply, Request, Role, moves_folder};

/// What the hosts that answer see of all shards. The primaries that the scope gives up are tried from every host.
///
/// # Errors
/// A host that was connected does not answer.
pub async fn sight(ground: &Ground<'_>, map: &ShardMap, hosts: &[&Host], scope: &Scope) -> Result<Sight> {
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
            let place = if copies.contains(&host) {
                let address = ground.address(map, id, host)?;
                Place { shard: id, address, primary: (*host != entry.host).then(|| primary.clone()) }
            } else if is_given_up {
                Place { shard: id, address: primary.clone(), primary: None }
            } else {
                continue;
            };
            asked.entry(host.clone()).or_default().push(place);
        }
    }
    let seen = surveyed(ground, &asked).await?;
    let observation = observe::observation(ground, map, hosts, &BTreeMap::new());
    let Observation { hosts, .. } = observation;
    Ok(Sight {
        cluster: map.cluster.clone(),
        epoch: map.epoch.0,
        silent: ground.absent.clone(),
        shards: map.shards.iter().map(|entry| shard(ground, map, entry, &seen)).collect::<Result<_>>()?,
        hosts: hosts.into_iter().filter(|host| !ground.absent.contains(&host.name)).collect(),
    })
}

/// By host and address.
type Found = BTreeMap<(String, String), Seen>;

fn shard(ground: &Ground<'_>, map: &ShardMap, entry: &dunlin_shards::Shard, found: &Found) -> Result<Shard> {
    let id = u32::from(entry.id.0);
    let copy = |host: &String| -> Result<Copy> {
        let address = ground.address(map, id, host)?;
        let blank = Seen { shard: id, address: address.clone(), ..Seen::default() };
        let seen = found.get(&(host.clone(), address.clone())).cloned().unwrap_or(blank);
        Ok(Copy { host: host.clone(), address, seen })
    };
    let copies = std::iter::once(&entry.host).chain(&entry.replicas).map(copy).collect::<Result<Vec<_>>>()?;
    let is_witness = |((host, address), seen): &(&(String, String), &Seen)| {
        *host != entry.host && *address == copies[0].address && matches!(seen.role, Role::Master { .. })
    };
    let witnesses = found.iter().filter(is_witness).map(|((host, _), _)| host.clone()).collect();
    Ok(Shard { id, copies, witnesses })
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
        found.extend(answer?.into_iter().map(|seen| (((*host).clone(), seen.address.clone()), seen)));
    }
    Ok(found)
}
