//! A seeded walk over assignments: simulated annealing with shifts, swaps, exchanges, two-for-one swaps and chains.
//!
//! Work is bounded by a number of steps, never by a clock, so that the result is the same on every machine.

use super::model::{BYTES, Model, Weight};
use super::rng::Rng;
use super::state::{Penalty, State, add, sub};
use super::wishes::Wishes;

/// How a walk weighs things up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prices {
    /// What a moved byte costs.
    pub moved: f64,
    /// What a byte outside of the bands costs.
    pub outside: f64,
}

impl Prices {
    /// The weights.
    pub(crate) const fn steady(moved: f64, outside: f64) -> Self {
        Self { moved, outside }
    }
}

/// Limits on what is away from home.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub moves: usize,
    pub bytes: i64,
}

impl Limits {
    pub(crate) const NONE: Self = Self { moves: usize::MAX, bytes: i64::MAX };

    /// The limits that are wished.
    pub(crate) fn of(wishes: &Wishes) -> Self {
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Self { moves: wishes.max_moves.unwrap_or(usize::MAX), bytes: wishes.max_bytes.map_or(i64::MAX, bytes) }
    }

    /// Whether the assignment is within them.
    pub(crate) fn hold(&self, state: &State) -> bool {
        state.moves <= self.moves && state.moved <= self.bytes
    }
}

/// The temperatures of a run, in bytes, and its number of steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heat {
    pub steps: usize,
    pub hot: f64,
    pub cold: f64,
}

/// One item goes to one host.
type Shift = (usize, usize);

/// A state under way, and the best one that it passed.
pub(crate) struct Walk<'m> {
    model: &'m Model<'m>,
    penalty: &'m Penalty,
    prices: Prices,
    limits: Limits,
    state: State,
    /// What each host costs outside of its bands.
    cost: Vec<f64>,
    /// Hosts that cost something, in no order, and where they stand in that list.
    bad: Vec<usize>,
    bad_place: Vec<usize>,
    movable: Vec<usize>,
    open: Vec<usize>,
    rng: Rng,
    /// What was undone since the best state: item and the host that it left.
    since_best: Vec<Shift>,
    best: Score,
    step: Vec<Shift>,
    touched: Vec<(usize, Weight)>,
}

/// Smaller is better: first what is outside of the bands, then what moves.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score {
    outside: f64,
    moved: i64,
    moves: usize,
}

impl Score {
    fn beats(&self, other: &Self) -> bool {
        let slack = 1e-9 * other.outside.abs() + 1e-6;
        if self.outside == 0.0 && other.outside == 0.0 || (self.outside - other.outside).abs() <= slack {
            return (self.moved, self.moves) < (other.moved, other.moves)
                && (self.outside == 0.0) >= (other.outside == 0.0);
        }
        self.outside < other.outside
    }
}

/// Partners that a matched swap looks at.
const MATCHES: usize = 64;
const NOWHERE: usize = usize::MAX;

impl<'m> Walk<'m> {
    pub(crate) fn new(model: &'m Model<'m>, penalty: &'m Penalty, state: State, seed: u64) -> Self {
        let cost: Vec<f64> = state.load.iter().enumerate().map(|(host, load)| penalty.of(host, *load)).collect();
        let mut walk = Self {
            model,
            penalty,
            prices: Prices::steady(1.0, 4.0),
            limits: Limits::NONE,
            bad: Vec::new(),
            bad_place: vec![NOWHERE; cost.len()],
            movable: (0..model.items.len()).filter(|item| model.items[*item].movable).collect(),
            open: (0..model.hosts.len()).filter(|host| model.hosts[*host].open).collect(),
            rng: Rng::new(seed),
            since_best: Vec::new(),
            best: Score { outside: f64::MAX, moved: i64::MAX, moves: usize::MAX },
            step: Vec::with_capacity(4),
            touched: Vec::with_capacity(8),
            state,
            cost,
        };
        for host in 0..walk.cost.len() {
            walk.mark(host);
        }
        walk.best = walk.score();
        walk
    }

    pub(crate) fn priced(mut self, prices: Prices, limits: Limits) -> Self {
        self.prices = prices;
        self.limits = limits;
        self
    }

    fn mark(&mut self, host: usize) {
        let place = self.bad_place[host];
        if self.cost[host] > 0.0 && place == NOWHERE {
            self.bad_place[host] = self.bad.len();
            self.bad.push(host);
        } else if self.cost[host] <= 0.0 && place != NOWHERE {
            self.bad.swap_remove(place);
            if let Some(other) = self.bad.get(place) {
                self.bad_place[*other] = place;
            }
            self.bad_place[host] = NOWHERE;
        }
    }

    fn score(&self) -> Score {
        let outside = if self.bad.is_empty() { 0.0 } else { self.bad.iter().map(|host| self.cost[*host]).sum() };
        Score { outside, moved: self.state.moved, moves: self.state.moves }
    }

    /// Whether the best state so far keeps all bands.
    fn best_is_within(&self) -> bool {
        self.best.outside == 0.0
    }

    /// Ends the walk at the best state that it passed.
    pub(crate) fn into_best(mut self) -> State {
        self.back_to_best();
        self.state
    }

    /// Goes back to the best state.
    pub(crate) fn back_to_best(&mut self) {
        let undo = std::mem::take(&mut self.since_best);
        for (item, host) in undo.into_iter().rev() {
            self.place(item, host);
        }
        self.since_best.clear();
    }

    fn place(&mut self, item: usize, host: usize) {
        let from = self.state.at[item];
        self.since_best.push((item, from));
        self.state.put(self.model, item, host);
        for host in [from, host] {
            self.cost[host] = self.penalty.of(host, self.state.load[host]);
            self.mark(host);
        }
    }

    /// Walks; stops early once the best state is within its bands and moves at most `goal` bytes.
    pub(crate) fn run(&mut self, heat: Heat, goal: i64) {
        if self.movable.is_empty() || self.open.is_empty() {
            return;
        }
        const STRETCH: usize = 64;
        let stretches = heat.steps.div_ceil(STRETCH).max(1);
        let cooling = (heat.cold / heat.hot).powf(1.0 / stretches as f64);
        let mut temperature = heat.hot;
        for _ in 0..stretches {
            for _ in 0..STRETCH {
                self.once(temperature);
            }
            temperature *= cooling;
            if self.best_is_within() && self.best.moved <= goal {
                break;
            }
        }
    }

    fn once(&mut self, temperature: f64) {
        self.propose();
        let Some(delta) = self.delta() else { return };
        if delta > 0.0 && self.rng.fraction() >= (-delta / temperature).exp() {
            return;
        }
        let step = std::mem::take(&mut self.step);
        for (item, host) in &step {
            self.place(*item, *host);
        }
        if !self.limits.hold(&self.state) {
            for _ in 0..step.len() {
                let (item, host) = self.since_best.pop().expect("each placement was noted");
                self.place(item, host);
                self.since_best.pop();
            }
        }
        self.step = step;
        let score = self.score();
        if score.beats(&self.best) {
            self.best = score;
            self.since_best.clear();
        }
    }

    /// The change in cost of the proposed step; `None` if it is not legal or changes nothing.
    fn delta(&mut self) -> Option<f64> {
        if self.step.is_empty() {
            return None;
        }
        self.touched.clear();
        let mut moved = 0;
        for n in 0..self.step.len() {
            let (item, host) = self.step[n];
            let (data, from) = (&self.model.items[item], self.state.at[item]);
            let twice = self.step[..n].iter().any(|(other, _)| self.model.items[*other].shard == data.shard);
            if from == host || twice || !self.state.legal(self.model, item, host) {
                return None;
            }
            if from == data.home {
                moved += data.weight[BYTES];
            } else if host == data.home {
                moved -= data.weight[BYTES];
            }
            self.touch(from, data.weight, false);
            self.touch(host, data.weight, true);
        }
        let mut outside = 0.0;
        for (host, load) in &self.touched {
            outside += self.penalty.of(*host, *load) - self.cost[*host];
        }
        Some(moved as f64 * self.prices.moved + outside * self.prices.outside)
    }

    fn touch(&mut self, host: usize, weight: Weight, arrives: bool) {
        let change = if arrives { add } else { sub };
        match self.touched.iter_mut().find(|(other, _)| *other == host) {
            Some((_, load)) => *load = change(*load, weight),
            None => self.touched.push((host, change(self.state.load[host], weight))),
        }
    }

    /// Fills `step` with something to try.
    fn propose(&mut self) {
        self.step.clear();
        let Some(item) = self.pick_item() else { return };
        match self.rng.below(64) {
            0..=19 => {
                let host = self.pick_host(item);
                self.step.push((item, host));
            }
            20..=35 => self.swap(item),
            36..=45 => self.exchange(item),
            46..=51 => self.two_for_one(item),
            52..=57 => self.chain(item),
            _ => self.matched_swap(item),
        }
    }

    /// Half of the time something on a host outside of its band, if there is one.
    fn pick_item(&mut self) -> Option<usize> {
        if !self.bad.is_empty() && self.rng.below(2) == 0 {
            let host = self.bad[self.rng.below(self.bad.len())];
            if let Some(item) = self.pick_on(host) {
                return Some(item);
            }
        }
        let at = self.rng.below(self.movable.len());
        Some(self.movable[at])
    }

    fn pick_on(&mut self, host: usize) -> Option<usize> {
        let list = &self.state.on[host];
        if list.is_empty() {
            return None;
        }
        let item = list[self.rng.below(list.len())];
        self.model.items[item].movable.then_some(item)
    }

    /// Home, a host outside of its band, or any open one.
    fn pick_host(&mut self, item: usize) -> usize {
        let home = self.model.items[item].home;
        let roll = self.rng.below(8);
        if self.state.at[item] != home && roll < 3 {
            home
        } else if !self.bad.is_empty() && roll < 5 {
            self.bad[self.rng.below(self.bad.len())]
        } else {
            self.open[self.rng.below(self.open.len())]
        }
    }

    fn swap(&mut self, item: usize) {
        let host = self.pick_host(item);
        if let Some(other) = self.pick_on(host) {
            self.step.extend([(item, host), (other, self.state.at[item])]);
        }
    }

    /// The swap with that host, among all with the item, that costs least.
    fn matched_swap(&mut self, item: usize) {
        let (host, at) = (self.pick_host(item), self.state.at[item]);
        let mut best: Option<(f64, usize)> = None;
        for place in 0..self.state.on[host].len().min(MATCHES) {
            let other = self.state.on[host][place];
            if !self.model.items[other].movable {
                continue;
            }
            self.step.clear();
            self.step.extend([(item, host), (other, at)]);
            if let Some(delta) = self.delta()
                && best.is_none_or(|(least, _)| delta < least)
            {
                best = Some((delta, other));
            }
        }
        self.step.clear();
        if let Some((_, other)) = best {
            self.step.extend([(item, host), (other, at)]);
        }
    }

    /// Something that is away goes home, and another of its old neighbours goes in its stead.
    fn exchange(&mut self, item: usize) {
        let (home, at) = (self.model.items[item].home, self.state.at[item]);
        if at == home {
            return self.swap(item);
        }
        if let Some(other) = self.pick_on(home) {
            self.step.extend([(item, home), (other, at)]);
        }
    }

    fn two_for_one(&mut self, item: usize) {
        let host = self.pick_host(item);
        let at = self.state.at[item];
        let (Some(first), Some(second)) = (self.pick_on(host), self.pick_on(host)) else { return };
        if first != second {
            self.step.extend([(item, host), (first, at), (second, at)]);
        }
    }

    fn chain(&mut self, item: usize) {
        let host = self.pick_host(item);
        let Some(other) = self.pick_on(host) else { return };
        let last = self.pick_host(other);
        self.step.extend([(item, host), (other, last)]);
    }
}
