//! Branch and bound over a few hosts and many of their items at a time, everything else held fast.
//!
//! It finds what a walk seldom does: several moves that are only good together, a primary and its replica among them.
//! Each search is bounded by a number of nodes. A node is cut when what is chosen is dearer, at the prices of
//! [`super::dual`], than an assignment that moves less than the present one can be; or when what has moved, plus what hosts
//! still lack or have too much beyond the choices that are left to them, is no better than it.

use super::dual::{Dual, Multipliers};
use super::model::{BYTES, Band, Model, OPS, Weight};
use super::rng::Rng;
use super::search::within;
use super::state::{State, add, outside, sub};

/// Nodes of one search.
const NODES: usize = 12_000;
/// What one search rearranges at most, and when to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub hosts: usize,
    pub items: usize,
    /// Bytes that are few enough.
    pub goal: i64,
    /// Searches in a row that may find nothing.
    pub patience: usize,
}

/// Rearranges random parts of an assignment within the bands until it moves few enough bytes or many
/// searches in a row find nothing.
pub(crate) fn improve(dual: &Dual, prices: &Multipliers, state: &mut State, until: Part, seed: u64) {
    let (model, bands) = (dual.model, dual.bands);
    if !within(state, bands) {
        return;
    }
    let mut rng = Rng::new(seed ^ 0xb0b);
    let mut idle = 0;
    while idle < until.patience && state.moved > until.goal {
        let hosts = some_hosts(model, state, until.hosts, &mut rng);
        let found = Search::new(dual, prices, state, (hosts, until.items), &mut rng).change(state);
        idle = if found { 0 } else { idle + 1 };
    }
}

/// Two hosts or up to so many, at least one of them with something that came from another.
fn some_hosts(model: &Model, state: &State, most: usize, rng: &mut Rng) -> Vec<usize> {
    let count = model.hosts.len();
    let mut hosts = Vec::new();
    let start = rng.below(state.at.len());
    let mut away = (0..state.at.len()).map(|n| (n + start) % state.at.len());
    if let Some(item) = away.find(|item| state.at[*item] != model.items[*item].home) {
        hosts.extend([state.at[item], model.items[item].home]);
    }
    let want = (2 + rng.below(most - 1)).min(count);
    while hosts.len() < want {
        let host = rng.below(count);
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts.retain(|host| !model.hosts[*host].drained);
    hosts
}

/// A place of an item that an improvement can use: index of the host, and how much dearer than the cheapest it is.
type Place = (usize, f64);

struct Search<'m> {
    model: &'m Model<'m>,
    hosts: Vec<usize>,
    bands: Vec<Band>,
    items: Vec<usize>,
    weights: Vec<Weight>,
    /// Position of each item's home among the hosts; `hosts.len()` if it is elsewhere.
    homes: Vec<usize>,
    places: Vec<Vec<Place>>,
    /// For each item, the other copies of its shard that come before it.
    mates: Vec<Vec<usize>>,
    /// Bytes of the items from a depth on whose home is that host, by depth.
    free: Vec<Vec<i64>>,
    /// What the items from a depth on can bring to that host, by depth.
    coming: Vec<Vec<Weight>>,
    load: Vec<Weight>,
    chosen: Vec<usize>,
    /// The best choice so far and what it moves.
    best: Option<Vec<usize>>,
    least: i64,
    /// Bytes that are moved where every item is at its cheapest place and every price is paid in full.
    floor: f64,
    nodes: usize,
}

impl<'m> Search<'m> {
    /// Over these hosts, and so many items at most.
    fn new(
        dual: &Dual<'m>,
        prices: &Multipliers,
        state: &State,
        (hosts, items): (Vec<usize>, usize),
        rng: &mut Rng,
    ) -> Self {
        let model = dual.model;
        let bands: Vec<Band> = hosts.iter().map(|host| dual.bands[*host]).collect();
        let load: Vec<Weight> = hosts.iter().map(|host| state.load[*host]).collect();
        let mut search = Self {
            model,
            items: Vec::new(),
            weights: Vec::new(),
            homes: Vec::new(),
            places: Vec::new(),
            mates: Vec::new(),
            free: Vec::new(),
            coming: Vec::new(),
            chosen: Vec::new(),
            best: None,
            least: 0,
            floor: 0.0,
            nodes: 0,
            hosts,
            bands,
            load,
        };
        let most = items / 2 + rng.below(items / 2 + 1);
        search.pick(dual, prices, state, (most, rng));
        search.sum(prices, state);
        search
    }

    /// Takes the items with more than one place that an improvement can use, so many at most.
    fn pick(&mut self, dual: &Dual, prices: &Multipliers, state: &State, (most, rng): (usize, &mut Rng)) {
        let model = self.model;
        let pool = self.hosts.iter().flat_map(|host| &state.on[*host]).copied();
        let mut pool: Vec<usize> = pool.filter(|item| model.items[*item].movable).collect();
        pool.sort_unstable();
        let all: Vec<Vec<Place>> = pool.iter().map(|item| self.places_of(dual, prices, *item, state, &pool)).collect();
        let dearer = |(item, places): (&usize, &Vec<Place>)| {
            places.iter().find(|(n, _)| self.hosts[*n] == state.at[*item]).map_or(0.0, |(_, dearer)| *dearer)
        };
        let slack: f64 = pool.iter().zip(&all).map(dearer).sum::<f64>() + self.unused(prices, state);
        let mut open: Vec<(usize, Vec<Place>)> = Vec::new();
        for (item, mut places) in pool.into_iter().zip(all) {
            places.retain(|(n, dearer)| *dearer < slack || self.hosts[*n] == state.at[item]);
            if places.len() > 1 {
                open.push((item, places));
            }
        }
        while open.len() > most {
            open.swap_remove(rng.below(open.len()));
        }
        let picked: Vec<usize> = open.iter().map(|(item, _)| *item).collect();
        let held = |item: usize, host: usize| {
            let mut mates = model.items[item].mates.iter().filter(|mate| !picked.contains(mate));
            mates.any(|mate| model.rules_out(item, host, *mate, state.at[*mate]))
        };
        for (item, places) in &mut open {
            places.retain(|(n, _)| self.hosts[*n] == state.at[*item] || !held(*item, self.hosts[*n]));
        }
        let weight = |item: usize| model.items[item].weight;
        open.sort_by_key(|(item, _)| (std::cmp::Reverse(weight(*item)), *item));
        for (item, places) in open {
            let mates = &model.items[item].mates;
            self.mates.push((0..self.items.len()).filter(|n| mates.contains(&self.items[*n])).collect());
            self.items.push(item);
            self.places.push(places);
        }
    }

    /// Where the item may be if the copies of its shard outside of `pool` stay, cheapest first.
    fn places_of(&self, dual: &Dual, prices: &Multipliers, item: usize, state: &State, pool: &[usize]) -> Vec<Place> {
        let model = self.model;
        let held = |host: usize| {
            let mates = model.items[item].mates.iter();
            mates.filter(|m| pool.binary_search(m).is_err()).any(|m| model.rules_out(item, host, *m, state.at[*m]))
        };
        let may = |host: usize| host == state.at[item] || (model.allowed(item, host) && !held(host));
        let cost = |(n, host): (usize, &usize)| (n, dual.cost(item, *host, &prices.of));
        let mut places: Vec<Place> = self.hosts.iter().enumerate().filter(|(_, h)| may(**h)).map(cost).collect();
        places.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        let cheapest = places[0].1;
        places.iter_mut().for_each(|place| place.1 -= cheapest);
        places
    }

    /// What the prices charge for loads that the hosts do not have, or pay for loads that they have beyond.
    fn unused(&self, prices: &Multipliers, state: &State) -> f64 {
        let one = |host: &usize, band: &Band| {
            let of = |resource: usize| {
                let (price, load) = (prices.of[*host][resource], state.load[*host][resource]);
                let edge = if price > 0.0 { band.hi[resource] } else { band.lo[resource] };
                if price == 0.0 { 0.0 } else { price * (edge - load) as f64 }
            };
            of(BYTES) + of(OPS)
        };
        self.hosts.iter().zip(&self.bands).map(|(host, band)| one(host, band)).sum()
    }

    /// The sums that the bounds need.
    fn sum(&mut self, prices: &Multipliers, state: &State) {
        let place = |host: usize| self.hosts.iter().position(|other| *other == host).unwrap_or(self.hosts.len());
        self.homes = self.items.iter().map(|item| place(self.model.items[*item].home)).collect();
        self.weights = self.items.iter().map(|item| self.model.items[*item].weight).collect();
        self.free = vec![vec![0; self.hosts.len()]; self.items.len() + 1];
        self.coming = vec![vec![[0, 0]; self.hosts.len()]; self.items.len() + 1];
        let mut dearer = 0.0;
        for (n, item) in self.items.iter().enumerate().rev() {
            let (at, weight) = (place(state.at[*item]), self.weights[n]);
            self.load[at] = sub(self.load[at], weight);
            self.free[n] = self.free[n + 1].clone();
            self.coming[n] = self.coming[n + 1].clone();
            if let Some(free) = self.free[n].get_mut(self.homes[n]) {
                *free += weight[BYTES];
            }
            for (host, more) in &self.places[n] {
                self.coming[n][*host] = add(self.coming[n][*host], weight);
                dearer += if *host == at { *more } else { 0.0 };
            }
            if at != self.homes[n] {
                self.least += weight[BYTES];
            }
        }
        self.floor = self.least as f64 - dearer - self.unused(prices, state);
    }

    /// Searches, and does what it found; whether that is anything.
    fn change(mut self, state: &mut State) -> bool {
        self.descend(0, 0.0);
        let Some(best) = self.best else { return false };
        for (item, n) in self.items.iter().zip(best) {
            state.put(self.model, *item, self.hosts[n]);
        }
        true
    }

    fn descend(&mut self, moved: i64, dearer: f64) {
        let depth = self.chosen.len();
        self.nodes += 1;
        let least = self.least as f64 - 0.5;
        if self.nodes > NODES || self.floor + dearer > least || moved + self.must_move(depth) >= self.least {
            return;
        }
        if depth == self.items.len() {
            let mut kept = self.load.iter().zip(&self.bands);
            if kept.all(|(load, band)| outside(band, BYTES, *load) == 0 && outside(band, OPS, *load) == 0) {
                self.least = moved;
                self.best = Some(self.chosen.clone());
            }
            return;
        }
        for n in 0..self.places[depth].len() {
            let (host, more) = self.places[depth][n];
            self.choose(host, moved, dearer + more);
        }
    }

    fn choose(&mut self, host: usize, moved: i64, dearer: f64) {
        let depth = self.chosen.len();
        let (item, at) = (self.items[depth], self.hosts[host]);
        let ruled_out = |m: &usize| self.model.rules_out(item, at, self.items[*m], self.hosts[self.chosen[*m]]);
        if self.mates[depth].iter().any(ruled_out) {
            return;
        }
        let (before, band) = (self.load[host], &self.bands[host]);
        let after = add(before, self.weights[depth]);
        if after[BYTES] > band.hi[BYTES] || after[OPS] > band.hi[OPS] {
            return;
        }
        self.load[host] = after;
        self.chosen.push(host);
        let moved = moved + if host == self.homes[depth] { 0 } else { self.weights[depth][BYTES] };
        if self.can_fill(depth + 1) {
            self.descend(moved, dearer);
        }
        self.chosen.pop();
        self.load[host] = before;
    }

    /// Whether what is left to choose can bring every host what it lacks.
    fn can_fill(&self, depth: usize) -> bool {
        let hosts = self.load.iter().zip(&self.coming[depth]).zip(&self.bands);
        hosts.into_iter().all(|((load, coming), band)| {
            load[BYTES] + coming[BYTES] >= band.lo[BYTES] && load[OPS] + coming[OPS] >= band.lo[OPS]
        })
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
