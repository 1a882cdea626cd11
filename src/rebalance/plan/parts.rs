//! Parts of a fleet that have nothing to do with each other: no copy can go from one to another, and none bars another's
//! way. Two zones with replicas that stay make two of them.
//!
//! What is cheapest for each is cheapest for all, and their bounds add up. Each is searched as if it were alone, where
//! there is much less to try.

use super::model::{Band, Model};
use super::search::{self, is_large};
use super::state::State;

/// Hosts between which copies can move, and all copies on them, as indexes of the whole model, ascending.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    hosts: Vec<usize>,
    items: Vec<usize>,
}

/// [`search::cheapest`] of each part, put together. `start`: each copy on a host that it may be on.
pub(crate) fn cheapest(model: &Model, bands: &[Band], start: State, seed: u64) -> (State, i64) {
    let parts = if is_large(model) { Vec::new() } else { parts(model) };
    if parts.len() < 2 {
        return search::cheapest(model, bands, start, seed);
    }
    let (mut at, mut bound) = (start.at, 0);
    for part in parts {
        let alone = part.alone(model);
        let bands: Vec<Band> = part.hosts.iter().map(|host| bands[*host]).collect();
        let start = part.items.iter().map(|item| part.place(at[*item])).collect();
        let (found, least) = search::cheapest(&alone, &bands, State::with(&alone, start), seed);
        bound += least;
        for (item, place) in part.items.iter().zip(found.at) {
            at[*item] = part.hosts[place];
        }
    }
    (State::with(model, at), bound)
}

/// The parts in which anything can move.
fn parts(model: &Model) -> Vec<Part> {
    let leader = leaders(model);
    let home = |item: &usize| leader[model.items[*item].home];
    let mut leaders: Vec<usize> =
        (0..model.items.len()).filter(|item| model.items[*item].movable).map(|item| home(&item)).collect();
    leaders.sort_unstable();
    leaders.dedup();
    let part = |one: usize| Part {
        hosts: (0..leader.len()).filter(|host| leader[*host] == one).collect(),
        items: (0..model.items.len()).filter(|item| home(item) == one).collect(),
    };
    leaders.into_iter().map(part).collect()
}

/// For each host, the first one of its part.
fn leaders(model: &Model) -> Vec<usize> {
    let mut leader: Vec<usize> = (0..model.hosts.len()).collect();
    loop {
        let before = leader.clone();
        for item in (0..model.items.len()).filter(|item| model.items[*item].movable) {
            join_reach(model, item, &mut leader);
        }
        if leader == before {
            return leader;
        }
    }
}

/// Joins what the copy can reach, what its shard's other copies that can move are on, and the hosts of those that cannot
/// where they bar it from a host of its part.
fn join_reach(model: &Model, item: usize, leader: &mut [usize]) {
    let data = &model.items[item];
    let (movable, fixed): (Vec<usize>, Vec<usize>) = data.mates.iter().partition(|mate| model.items[**mate].movable);
    let bars = |host: usize, mate: &usize| model.clash(host, model.items[*mate].home);
    for host in 0..leader.len() {
        let barring = fixed.iter().find(|mate| bars(host, mate));
        match barring {
            None if model.allowed(item, host) => join(leader, data.home, host),
            Some(mate) if leader[host] == leader[data.home] => join(leader, host, model.items[*mate].home),
            _ => (),
        }
    }
    for mate in movable {
        join(leader, data.home, model.items[mate].home);
    }
}

fn join(leader: &mut [usize], one: usize, other: usize) {
    let (one, other) = (leader[one], leader[other]);
    if one != other {
        leader.iter_mut().filter(|leader| **leader == one.max(other)).for_each(|leader| *leader = one.min(other));
    }
}

impl Part {
    /// The model of the part alone. Its hosts and items have numbers of their own, which tell nothing about names.
    fn alone<'a>(&self, model: &Model<'a>) -> Model<'a> {
        let mut items: Vec<_> = self.items.iter().map(|item| model.items[*item].clone()).collect();
        for item in &mut items {
            item.home = self.place(item.home);
            item.mates = item.mates.iter().filter_map(|mate| self.items.binary_search(mate).ok()).collect();
        }
        let hosts = self.hosts.iter().map(|host| model.hosts[*host].clone()).collect();
        Model { items, hosts, ..*model }
    }

    /// A host's number in the part.
    fn place(&self, host: usize) -> usize {
        self.hosts.binary_search(&host).expect("copies stay within their part")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::wishes::Wishes;
    use super::*;
    use crate::rebalance::observation::Observation;

    const SIZE: u64 = 100 << 20;

    /// Two hosts in each of two zones; all shards begin on the first host of a zone, with a replica in the other.
    fn fleet(zone: Value) -> Observation {
        let host = |name: &str, zone: Value| json!({"name": name, "zone": zone, "capacity_bytes": 60 * SIZE});
        let shard = |id: u64| {
            let on = if id.is_multiple_of(2) { ["a1", "b1"] } else { ["b1", "a1"] };
            json!({"id": id, "host": on[0], "replicas": [on[1]], "bytes": SIZE, "ops_per_s": 1.0})
        };
        let value = json!({
            "format_version": 1, "cluster": "x", "epoch": 1,
            "hosts": [host("a1", json!("a")), host("b1", json!("b")), host("a2", zone), host("b2", json!("b"))],
            "shards": (0..12).map(shard).collect::<Vec<_>>(),
        });
        serde_json::from_value(value).unwrap()
    }

    fn hosts(model: &Model) -> Vec<Vec<usize>> {
        parts(model).into_iter().map(|part| part.hosts).collect()
    }

    #[test]
    fn zones_between_which_nothing_can_move_are_parts() {
        let observation = fleet(json!("a"));
        assert_eq!(hosts(&Model::new(&observation, &Wishes::default())), [[0, 2], [1, 3]]);
        let replicas_too = Wishes { move_replicas: true, ..Wishes::default() };
        assert_eq!(hosts(&Model::new(&observation, &replicas_too)), [[0, 1, 2, 3]]);
        let no_zones = Wishes { zones: false, ..Wishes::default() };
        assert_eq!(hosts(&Model::new(&observation, &no_zones)), [[0, 1, 2, 3]]);
        let unzoned = fleet(Value::Null);
        assert_eq!(
            hosts(&Model::new(&unzoned, &Wishes::default())),
            [[0, 1, 2, 3]],
            "all may go to the host in no zone"
        );
    }

    #[test]
    fn parts_are_put_together_again() {
        let observation = fleet(json!("a"));
        let model = Model::new(&observation, &Wishes { tolerance: 0.4, ..Wishes::default() });
        let (found, bound) = cheapest(&model, &model.bands(), State::new(&model), 1);
        assert!(search::within(&found, &model.bands()) && found.misplaced(&model).is_empty());
        assert_eq!(found.moved, bound);
        let (whole, least) = search::cheapest(&model, &model.bands(), State::new(&model), 1);
        assert_eq!((found.moved, bound >= least), (whole.moved, true));
    }
}
