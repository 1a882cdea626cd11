//! Where no assignment keeps the wished bands: the nearest ones that can be kept.
//!
//! First the worst deviation is made as small as possible, then the sum of what is left. What then is the worst is the
//! tolerance that can be met, and takes the place of the wished one.

use super::model::{BYTES, Band, Model, OPS};
use super::search::{Aim, effort, heat, is_large, search, within};
use super::state::{Penalty, State, outside};
use super::walk::{Limits, Prices, Walk};

/// Moved bytes cost next to nothing while evenness is what is sought.
const EVEN: Prices = Prices::steady(0.02, 4.0);

/// How much further out than the nearest a plan may be, as a fraction of a share: without it every load would have to be
/// met to the last byte, which takes many moves and is gone an hour later.
const EASE: f64 = 0.002;

/// Halvings of what is unknown about the least worst deviation.
const HALVINGS: u64 = 6;

/// Walks for each of them, and how many times as long as usual they are: few long ones where many short ones fail.
const WALKS: [(u64, usize); 2] = [(8, 1), (2, 8)];

/// Searches with seeds of their own, one after another. A later one counts only if it comes nearer than the first by more
/// than [`EASE`].
const STARTS: u64 = 2;

/// The nearest assignment that was found, and bands that it keeps.
pub(crate) fn nearest(model: &Model, wished: &[Band], start: State, seed: u64) -> (State, Vec<Band>) {
    let starts = if is_large(model) { 1 } else { STARTS };
    let (mut best, mut high) = least_worst(model, wished, start.clone(), seed);
    for n in 1..starts {
        let found = least_worst(model, wished, start.clone(), seed.wrapping_add(n.wrapping_mul(0x7171)));
        if found.1 + EASE < high {
            (best, high) = found;
        }
    }
    let walls = walls(model, high);
    let best = evened(model, wished, &walls, best, seed);
    let bands = given_way(model, &best, wished);
    (best, bands)
}

/// An assignment whose worst deviation from the bands is small, and that deviation as a fraction of a share.
fn least_worst(model: &Model, wished: &[Band], start: State, seed: u64) -> (State, f64) {
    let mut best = evened(model, wished, &model.walls(), start, seed);
    let (mut low, mut high) = (0.0, worst(model, wished, &best));
    for round in 1..=HALVINGS {
        if high - low < 0.002 {
            break;
        }
        let walls = walls(model, (low + high) / 2.0);
        let mut tried = best.clone();
        for (walks, longer) in WALKS {
            let aim = Aim { goal: i64::MAX, rounds: walks, patience: walks, price: 0.1, longer };
            if !within(&tried, &walls) {
                tried = search(model, &walls, tried, aim, seed.wrapping_add(round));
            }
        }
        if within(&tried, &walls) {
            high = worst(model, wished, &tried);
            best = tried;
        } else {
            low = (low + high) / 2.0;
        }
    }
    (best, high)
}

/// Walks towards the bands that keep the walls.
fn evened(model: &Model, bands: &[Band], walls: &[Band], start: State, seed: u64) -> State {
    let penalty = Penalty::walled(model, bands, walls);
    let mut walk = Walk::new(model, &penalty, start, seed).priced(EVEN, Limits::NONE);
    for hotter in [8.0, 2.0, 0.5] {
        let mut heat = heat(model, effort(model));
        heat.hot *= hotter;
        walk.run(heat, i64::MAX);
        walk.back_to_best();
    }
    walk.into_best()
}

/// The largest deviation from a wished band, as a fraction of the host's share.
pub(crate) fn worst(model: &Model, wished: &[Band], state: &State) -> f64 {
    let mut worst = 0.0f64;
    for (host, band) in wished.iter().enumerate() {
        for resource in [BYTES, OPS] {
            let outside = outside(band, resource, state.load[host]) as f64;
            worst = worst.max(outside / model.hosts[host].target[resource].max(1.0));
        }
    }
    worst
}

/// Bands of the wished tolerance plus `more`, within what the hosts can hold.
fn walls(model: &Model, more: f64) -> Vec<Band> {
    model.hosts.iter().map(|host| model.band(host, model.tolerance + more)).collect()
}

/// The bands as far as they have to give way: of each resource, by as much as the worst load is out, for all hosts alike.
///
/// So the tolerance that can be met takes the place of the one that was wished, and no bytes move that would only make
/// other hosts than the worst a little more even. What a host can do nothing about does not count as the worst: one
/// shard larger than a share does not let all others go.
fn given_way(model: &Model, state: &State, wished: &[Band]) -> Vec<Band> {
    let mut bands = widened(state, wished);
    for resource in [BYTES, OPS] {
        let out = |host: &usize| outside(&wished[*host], resource, state.load[*host]);
        let lost = |host: &usize| out(host) > 0 && helpless(model, state, &wished[*host], (*host, resource));
        let free: Vec<usize> = (0..bands.len()).filter(|host| !lost(host)).collect();
        let part = |host: &usize| out(host) as f64 / model.hosts[*host].target[resource].max(1.0);
        let worst = free.iter().map(part).fold(0.0, f64::max);
        for host in free.into_iter().filter(|_| worst > 0.0) {
            let wide = model.band(&model.hosts[host], model.tolerance + worst + EASE);
            let band = &mut bands[host];
            band.lo[resource] = band.lo[resource].min(wide.lo[resource]);
            band.hi[resource] = band.hi[resource].max(wide.hi[resource]);
        }
    }
    bands
}

/// Whether a host is outside of its band whatever becomes of the others: one of its copies, or what cannot leave it, is
/// too much already; or it lacks something and may receive nothing.
fn helpless(model: &Model, state: &State, band: &Band, (host, resource): (usize, usize)) -> bool {
    let weight = |item: &usize| model.items[*item].weight[resource];
    let here = &state.on[host];
    let largest = here.iter().map(weight).max().unwrap_or(0);
    let fixed: i64 = here.iter().filter(|item| !model.items[**item].movable).map(weight).sum();
    if state.load[host][resource] < band.lo[resource] {
        return !model.hosts[host].open;
    }
    largest.max(fixed) > band.hi[resource]
}

/// The bands, widened just as far as the assignment needs.
pub(crate) fn widened(state: &State, wished: &[Band]) -> Vec<Band> {
    let mut bands = wished.to_vec();
    for (band, load) in bands.iter_mut().zip(&state.load) {
        for resource in [BYTES, OPS] {
            band.lo[resource] = band.lo[resource].min(load[resource]);
            band.hi[resource] = band.hi[resource].max(load[resource]);
        }
    }
    bands
}
