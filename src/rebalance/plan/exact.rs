//! Branch and bound over a few hosts and items at a time, everything else held fast.
//!
//! It finds what a walk seldom does: several moves that are only good together. Each search is bounded by a number of
//! nodes. A node is cut when what has moved, plus what hosts still lack or have too much beyond the free choices that
//! are left to them, is no better than the present assignment.

use super::model::{BYTES, Band, Model, OPS, Weight};
use super::rng::Rng;
use super::search::within;
use super::state::{State, add, outside, sub};

/// Nodes of one search.
const NODES: usize = 12_000;
/// Hosts and items that one search rearranges, at most.
const HOSTS: usize = 5;
const ITEMS: usize = 30;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Bytes that are few enough.
    pub goal: i64,
    /// Searches in a row that may find nothing.
    pub patience: usize,
}

/// Rearranges random parts of an assignment within the bands until it moves few enough bytes or many
/// searches in a row find nothing.
pub(crate) fn improve(model: &Model, bands: &[Band], state: &mut State, until: Part, seed: u64) {
    if !within(state, bands) {
        return;
    }
    let mut rng = Rng::new(seed ^ 0xb0b);
    let mut idle = 0;
    while idle < until.patience && state.moved > until.goal {
        let (hosts, items) = part(model, state, &mut rng);
        let found = Search::new(model, bands, state, hosts, items).run();
        idle += 1;
        if let Some(shifts) = found {
            idle = 0;
            for (item, host) in shifts {
                state.put(model, item, host);
            }
        }
    }
}

/// Some hosts, at least one of them with something that came from another, and some items on them.
fn part(model: &Model, state: &State, rng: &mut Rng) -> (Vec<usize>, Vec<usize>) {
    let count = model.hosts.len();
    let mut hosts = Vec::new();
    let start = rng.below(state.at.len());
    let away = (0..state.at.len()).map(|n| (n + start) % state.at.len());
    if let Some(item) = away.into_iter().find(|item| state.at[*item] != model.items[*item].home) {
        hosts.extend([state.at[item], model.items[item].home]);
    }
    let want = (2 + rng.below(HOSTS - 1)).min(count);
    while hosts.len() < want {
        let host = rng.below(count);
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts.retain(|host| !model.hosts[*host].drained);
    let mut pool: Vec<usize> =
        hosts.iter().flat_map(|host| &state.on[*host]).copied().filter(|item| model.items[*item].movable).collect();
    pool.sort_unstable();
    let most = ITEMS / 2 + rng.below(ITEMS / 2 + 1);
    let mut items: Vec<usize> = Vec::new();
    while items.len() < most && !pool.is_empty() {
        let item = pool.swap_remove(rng.below(pool.len()));
        let stays = state.at[item] == model.items[item].home;
        let crowd = items.iter().any(|other| model.items[*other].shard == model.items[item].shard);
        if !(crowd || stays && rng.below(3) == 0 && pool.len() > most) {
            items.push(item);
        }
    }
    items.sort_by_key(|item| (std::cmp::Reverse(model.items[*item].weight), *item));
    (hosts, items)
}

struct Search {
    items: Vec<usize>,
    hosts: Vec<usize>,
    bands: Vec<Band>,
    weights: Vec<Weight>,
    /// Position of each item's home among the hosts; `hosts.len()` if it is elsewhere.
    homes: Vec<usize>,
    legal: Vec<Vec<bool>>,
    /// Bytes of the items from a depth on whose home is that host, by depth.
    free: Vec<Vec<i64>>,
    load: Vec<Weight>,
    chosen: Vec<usize>,
    /// The best choice so far and what it moves.
    best: Option<Vec<usize>>,
    least: i64,
    nodes: usize,
}

impl Search {
    fn new(model: &Model, bands: &[Band], state: &State, hosts: Vec<usize>, items: Vec<usize>) -> Self {
        let place = |host: usize| hosts.iter().position(|other| *other == host).unwrap_or(hosts.len());
        let homes: Vec<usize> = items.iter().map(|item| place(model.items[*item].home)).collect();
        let mut load: Vec<Weight> = hosts.iter().map(|host| state.load[*host]).collect();
        let mut free = vec![vec![0; hosts.len()]; items.len() + 1];
        let mut least = 0;
        for (n, item) in items.iter().enumerate().rev() {
            let (at, weight) = (place(state.at[*item]), model.items[*item].weight);
            load[at] = sub(load[at], weight);
            free[n] = free[n + 1].clone();
            if let Some(free) = free[n].get_mut(homes[n]) {
                *free += weight[BYTES];
            }
            if at != homes[n] {
                least += weight[BYTES];
            }
        }
        let legal = |item: &usize| hosts.iter().map(|host| state.legal(model, *item, *host)).collect();
        Self {
            bands: hosts.iter().map(|host| bands[*host]).collect(),
            weights: items.iter().map(|item| model.items[*item].weight).collect(),
            legal: items.iter().map(legal).collect(),
            chosen: Vec::with_capacity(items.len()),
            best: None,
            nodes: 0,

            homes,
            free,
            load,
            least,
            hosts,
            items,
        }
    }

    /// The shifts of a better choice, if there is one.
    fn run(mut self) -> Option<Vec<(usize, usize)>> {
        self.descend(0);
        let best = self.best.take()?;
        Some(self.items.iter().copied().zip(best.into_iter().map(|n| self.hosts[n])).collect())
    }

    fn descend(&mut self, moved: i64) {
        let depth = self.chosen.len();
        self.nodes += 1;
        if self.nodes > NODES || moved + self.must_move(depth) >= self.least {
            return;
        }
        if depth == self.items.len() {
            let kept = self.load.iter().zip(&self.bands);
            if kept.clone().all(|(load, band)| outside(band, BYTES, *load) == 0 && outside(band, OPS, *load) == 0) {
                self.least = moved;
                self.best = Some(self.chosen.clone());
            }
            return;
        }
        let home = self.homes[depth];
        self.choose(home, moved);
        for host in 0..self.hosts.len() {
            if host != home {
                self.choose(host, moved + self.weights[depth][BYTES]);
            }
        }
    }

    fn choose(&mut self, host: usize, moved: i64) {
        let depth = self.chosen.len();
        if host >= self.hosts.len() || !self.legal[depth][host] {
            return;
        }
        let (before, band) = (self.load[host], &self.bands[host]);
        let after = add(before, self.weights[depth]);
        if after[BYTES] > band.hi[BYTES] || after[OPS] > band.hi[OPS] {
            return;
        }
        self.load[host] = after;
        self.chosen.push(host);
        self.descend(moved);
        self.chosen.pop();
        self.load[host] = before;
    }

    /// Bytes that have yet to move: what hosts would have too much or too little if all that is left stayed at home.
    fn must_move(&self, depth: usize) -> i64 {
        let (mut over, mut under) = (0, 0);
        for (host, band) in self.bands.iter().enumerate() {
            let full = self.load[host][BYTES] + self.free[depth][host];
            over += (full - band.hi[BYTES]).max(0);
            under += (band.lo[BYTES] - full).max(0);
        }
        over.max(under)
    }
}
