//! Branch and bound over a few hosts and many of their items at a time, everything else fixed.
//!
//! It finds what annealing seldom does: several moves that are only good together, a primary and its replica among
//! them. Each search is bounded by a number of nodes. A node is pruned if the chosen placements cost more, at the
//! multipliers of [`super::lagrangian`], than any assignment that moves less than the current one can; or if the bytes
//! moved so far, plus what hosts still lack or have too much beyond the choices that remain to them, are no improvement
//! on it.

use super::assignment::{Assignment, is_within};
use super::lagrangian::{Lagrangian, Multipliers};
use super::model::Model;
use super::resource::HostResource::{self, Bytes};
use super::resource::{LoadRange, Weight};
use super::rng::Rng;
use super::step_budget::StepBudget;

/// Maximum number of nodes of one search.
const MAX_NODES: usize = 12_000;
/// Steps of annealing that take as long as the setup of one search, and nodes that take as long as one step.
const SETUP_STEPS: usize = 200;
const NODES_PER_STEP: usize = 4;

/// Size of the part that one search rearranges, and when to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neighborhood {
    pub hosts: usize,
    pub items: usize,
    /// Moved bytes at which the search stops.
    pub goal: i64,
    /// Searches in a row that may find nothing.
    pub patience: usize,
}

/// Rearranges random parts of an assignment within the ranges until it moves few enough bytes or many
/// searches in a row find nothing.
pub(crate) fn improve(
    lagrangian: &Lagrangian,
    multipliers: &Multipliers,
    state: &mut Assignment,
    until: Neighborhood,
    steps: &mut StepBudget,
    seed: u64,
) {
    let (model, ranges) = (lagrangian.model, lagrangian.ranges);
    if !is_within(state, ranges) {
        return;
    }
    let mut rng = Rng::new(seed ^ 0xb0b);
    let mut idle = 0;
    while idle < until.patience && state.moved > until.goal && !steps.is_spent() {
        let hosts = pick_hosts(model, state, until.hosts, &mut rng);
        let mut search = BranchAndBound::new(lagrangian, multipliers, state, hosts, until.items, &mut rng);
        search.branch(0, 0.0);
        steps.take(SETUP_STEPS + search.nodes / NODES_PER_STEP);
        let found = search.apply_best(state);
        idle = if found { 0 } else { idle + 1 };
    }
}

/// Picks from two up to `most` hosts, among them the two ends of a move if there is one.
fn pick_hosts(model: &Model, state: &Assignment, most: usize, rng: &mut Rng) -> Vec<usize> {
    let count = model.hosts.len();
    let mut hosts = Vec::new();
    let start = rng.below(state.host_of.len());
    let mut away = (0..state.host_of.len()).map(|n| (n + start) % state.host_of.len());
    if let Some(item) = away.find(|item| state.host_of[*item] != model.items[*item].home) {
        hosts.extend([state.host_of[item], model.items[item].home]);
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

/// A host for an item, and its cost on top of the cheapest host.
#[derive(Debug, Clone, Copy)]
struct HostOption {
    /// Index into the hosts of the search.
    host: usize,
    extra_cost: f64,
}

struct BranchAndBound<'m> {
    model: &'m Model<'m>,
    hosts: Vec<usize>,
    ranges: Vec<LoadRange>,
    items: Vec<usize>,
    weights: Vec<Weight>,
    /// Position of each item's home among the hosts; `hosts.len()` if it is elsewhere.
    homes: Vec<usize>,
    options: Vec<Vec<HostOption>>,
    /// For each item, the other copies of its shard that come before it.
    siblings: Vec<Vec<usize>>,
    /// Bytes of the items from a depth on whose home is that host, by depth.
    free: Vec<Vec<i64>>,
    /// Load that the items from a depth on can bring to that host, by depth.
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

impl<'m> BranchAndBound<'m> {
    /// Creates a search over these hosts and up to `max_items` items.
    fn new(
        lagrangian: &Lagrangian<'m>,
        multipliers: &Multipliers,
        state: &Assignment,
        hosts: Vec<usize>,
        max_items: usize,
        rng: &mut Rng,
    ) -> Self {
        let model = lagrangian.model;
        let ranges: Vec<LoadRange> = hosts.iter().map(|host| lagrangian.ranges[*host]).collect();
        let load: Vec<Weight> = hosts.iter().map(|host| state.load[*host]).collect();
        let mut search = Self {
            model,
            items: Vec::new(),
            weights: Vec::new(),
            homes: Vec::new(),
            options: Vec::new(),
            siblings: Vec::new(),
            free: Vec::new(),
            coming: Vec::new(),
            chosen: Vec::new(),
            best: None,
            least: 0,
            floor: 0.0,
            nodes: 0,
            hosts,
            ranges,
            load,
        };
        let most = max_items / 2 + rng.below(max_items / 2 + 1);
        search.pick_items(lagrangian, multipliers, state, most, rng);
        search.precompute_sums(multipliers, state);
        search
    }

    /// Picks up to `most` items with more than one host that an improvement can use.
    fn pick_items(
        &mut self,
        lagrangian: &Lagrangian,
        multipliers: &Multipliers,
        state: &Assignment,
        most: usize,
        rng: &mut Rng,
    ) {
        let model = self.model;
        let pool = self.hosts.iter().flat_map(|host| &state.items_on[*host]).copied();
        let mut pool: Vec<usize> = pool.filter(|item| model.items[*item].movable).collect();
        pool.sort_unstable();
        let all: Vec<Vec<HostOption>> =
            pool.iter().map(|item| self.host_options(lagrangian, multipliers, *item, state, &pool)).collect();
        let dearer = |(item, options): (&usize, &Vec<HostOption>)| {
            options
                .iter()
                .find(|place| self.hosts[place.host] == state.host_of[*item])
                .map_or(0.0, |place| place.extra_cost)
        };
        let slack: f64 = pool.iter().zip(&all).map(dearer).sum::<f64>() + self.priced_slack(multipliers, state);
        let mut open: Vec<(usize, Vec<HostOption>)> = Vec::new();
        for (item, mut options) in pool.into_iter().zip(all) {
            options.retain(|place| place.extra_cost < slack || self.hosts[place.host] == state.host_of[item]);
            if options.len() > 1 {
                open.push((item, options));
            }
        }
        while open.len() > most {
            open.swap_remove(rng.below(open.len()));
        }
        let picked: Vec<usize> = open.iter().map(|(item, _)| *item).collect();
        let held = |item: usize, host: usize| {
            let mut siblings = model.items[item].siblings.iter().filter(|sibling| !picked.contains(sibling));
            siblings.any(|sibling| model.excludes(item, host, *sibling, state.host_of[*sibling]))
        };
        for (item, options) in &mut open {
            options.retain(|place| {
                let host = self.hosts[place.host];
                host == state.host_of[*item] || !held(*item, host)
            });
        }
        let weight = |item: usize| model.items[item].weight;
        open.sort_by_key(|(item, _)| (std::cmp::Reverse(weight(*item)), *item));
        for (item, options) in open {
            let siblings = &model.items[item].siblings;
            self.siblings.push((0..self.items.len()).filter(|n| siblings.contains(&self.items[*n])).collect());
            self.items.push(item);
            self.options.push(options);
        }
    }

    /// Returns the hosts that the item may be on if the copies of its shard outside of `pool` stay, cheapest first.
    fn host_options(
        &self,
        lagrangian: &Lagrangian,
        multipliers: &Multipliers,
        item: usize,
        state: &Assignment,
        pool: &[usize],
    ) -> Vec<HostOption> {
        let model = self.model;
        let held = |host: usize| {
            let siblings = model.items[item].siblings.iter();
            siblings
                .filter(|m| pool.binary_search(m).is_err())
                .any(|m| model.excludes(item, host, *m, state.host_of[*m]))
        };
        let may = |host: usize| host == state.host_of[item] || (model.is_allowed(item, host) && !held(host));
        let cost = |(host, name): (usize, &usize)| HostOption {
            host,
            extra_cost: lagrangian.placement_cost(item, *name, &multipliers.per_host),
        };
        let mut options: Vec<HostOption> = self.hosts.iter().enumerate().filter(|(_, h)| may(**h)).map(cost).collect();
        options.sort_by(|a, b| a.extra_cost.total_cmp(&b.extra_cost).then(a.host.cmp(&b.host)));
        let cheapest = options.first().map_or(0.0, |place| place.extra_cost);
        options.iter_mut().for_each(|place| place.extra_cost -= cheapest);
        options
    }

    /// Returns the price of the loads that hosts lack, minus that of the loads beyond their ranges.
    fn priced_slack(&self, multipliers: &Multipliers, state: &Assignment) -> f64 {
        let one = |host: &usize, range: &LoadRange| {
            let of = |resource: HostResource| {
                let (price, load) = (multipliers.per_host[*host][resource], state.load[*host][resource]);
                let edge = if price > 0.0 { range.max[resource] } else { range.min[resource] };
                if price == 0.0 { 0.0 } else { price * (edge - load) as f64 }
            };
            HostResource::ALL.into_iter().map(of).sum::<f64>()
        };
        self.hosts.iter().zip(&self.ranges).map(|(host, range)| one(host, range)).sum()
    }

    /// Computes the sums that the bounds need.
    fn precompute_sums(&mut self, multipliers: &Multipliers, state: &Assignment) {
        let place = |host: usize| self.hosts.iter().position(|other| *other == host).unwrap_or(self.hosts.len());
        self.homes = self.items.iter().map(|item| place(self.model.items[*item].home)).collect();
        self.weights = self.items.iter().map(|item| self.model.items[*item].weight).collect();
        self.free = vec![vec![0; self.hosts.len()]; self.items.len() + 1];
        self.coming = vec![vec![Weight::default(); self.hosts.len()]; self.items.len() + 1];
        let mut dearer = 0.0;
        for (n, item) in self.items.iter().enumerate().rev() {
            let (at, weight) = (place(state.host_of[*item]), self.weights[n]);
            self.load[at] = self.load[at] - weight;
            self.free[n] = self.free[n + 1].clone();
            self.coming[n] = self.coming[n + 1].clone();
            if let Some(free) = self.free[n].get_mut(self.homes[n]) {
                *free += weight[Bytes];
            }
            for HostOption { host, extra_cost: more } in &self.options[n] {
                self.coming[n][*host] = self.coming[n][*host] + weight;
                dearer += if *host == at { *more } else { 0.0 };
            }
            if at != self.homes[n] {
                self.least += weight[Bytes];
            }
        }
        self.floor = self.least as f64 - dearer - self.priced_slack(multipliers, state);
    }

    /// Applies the best choice; `false` if none was found.
    fn apply_best(self, state: &mut Assignment) -> bool {
        let Some(best) = self.best else { return false };
        for (item, n) in self.items.iter().zip(best) {
            state.reassign(self.model, *item, self.hosts[n]);
        }
        true
    }

    fn branch(&mut self, moved: i64, dearer: f64) {
        let depth = self.chosen.len();
        self.nodes += 1;
        let least = self.least as f64 - 0.5;
        if self.nodes > MAX_NODES
            || self.floor + dearer > least
            || moved + self.remaining_bytes_bound(depth) >= self.least
        {
            return;
        }
        if depth == self.items.len() {
            if self.load.iter().zip(&self.ranges).all(|(load, range)| range.contains(*load)) {
                self.least = moved;
                self.best = Some(self.chosen.clone());
            }
            return;
        }
        for n in 0..self.options[depth].len() {
            let HostOption { host, extra_cost: more } = self.options[depth][n];
            self.try_host(host, moved, dearer + more);
        }
    }

    fn try_host(&mut self, host: usize, moved: i64, dearer: f64) {
        let depth = self.chosen.len();
        let (item, at) = (self.items[depth], self.hosts[host]);
        let ruled_out = |m: &usize| self.model.excludes(item, at, self.items[*m], self.hosts[self.chosen[*m]]);
        if self.siblings[depth].iter().any(ruled_out) {
            return;
        }
        let (before, range) = (self.load[host], &self.ranges[host]);
        let after = before + self.weights[depth];
        if !range.is_below_max(after) {
            return;
        }
        self.load[host] = after;
        self.chosen.push(host);
        let moved = moved + if host == self.homes[depth] { 0 } else { self.weights[depth][Bytes] };
        if self.can_reach_minimum(depth + 1) {
            self.branch(moved, dearer);
        }
        self.chosen.pop();
        self.load[host] = before;
    }

    /// Returns whether what is left to choose can bring every host what it lacks.
    fn can_reach_minimum(&self, depth: usize) -> bool {
        let hosts = self.load.iter().zip(&self.coming[depth]).zip(&self.ranges);
        hosts.into_iter().all(|((load, coming), range)| range.is_above_min(*load + *coming))
    }

    /// Returns a bound of the bytes that have yet to move: what hosts would have too much or too little if all
    /// remaining items stayed at home.
    fn remaining_bytes_bound(&self, depth: usize) -> i64 {
        let (mut over, mut under) = (0, 0);
        for (host, range) in self.ranges.iter().enumerate() {
            let full = self.load[host][Bytes] + self.free[depth][host];
            over += (full - range.max[Bytes]).max(0);
            under += (range.min[Bytes] - full).max(0);
        }
        over.max(under)
    }
}
