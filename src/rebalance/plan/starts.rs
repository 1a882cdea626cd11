//! Many starts: walks that all begin at the same assignment, each with a seed of its own, and branch and bound after each.
//!
//! A search that only goes on from the best that it has stays near it, however long it goes on; where the fewest bytes
//! move is often elsewhere. Starts do not see each other: they run on all processors and give the same result on each
//! machine.

use super::dual::{Dual, Multipliers};
use super::exact;
use super::processors::on_all_processors;
use super::search::{TURNS, heat, within};
use super::state::{Penalty, State};
use super::walk::{Limits, Prices, Walk};

/// How many starts there are, and how many of the best are looked at more closely.
const STARTS: u64 = 24;
const CLOSER: usize = 4;
/// Steps of the walk of one start, and how much hotter than others it ends: branch and bound does the rest.
const STEPS: usize = 320_000;
const HOTTER: f64 = 5.0;
/// Every second start has a price that swings by this factor, for the bands that are seldom met at a steady one.
const SWING: f64 = 1.003;

/// Of the best so far and all that the starts come to within the bands, what moves the fewest bytes.
pub(crate) fn best(dual: &Dual, prices: &Multipliers, (start, best): (&State, State), goal: i64, seed: u64) -> State {
    let penalty = Penalty::new(dual.model, dual.bands);
    let [first, .., last] = &TURNS;
    let numbers: Vec<u64> = (0..STARTS).collect();
    let mut found = on_all_processors(&numbers, |n| {
        let seed = seed.wrapping_add(n.wrapping_mul(0x5151));
        let mut state = walked(dual, &penalty, start.clone(), (*n, seed), goal);
        exact::improve(dual, prices, &mut state, first.part(goal), seed);
        state
    });
    found.retain(|state| within(state, dual.bands));
    found.sort_by_key(|state| state.moved);
    found.truncate(CLOSER);
    let found: Vec<(u64, State)> = (0..).zip(found).collect();
    let found = on_all_processors(&found, |(n, state)| {
        let mut state = state.clone();
        exact::improve(dual, prices, &mut state, last.part(goal), seed.wrapping_add(*n));
        state
    });
    found.into_iter().fold(best, |best, state| if state.moved < best.moved { state } else { best })
}

/// The walk of the start of that number.
fn walked(dual: &Dual, penalty: &Penalty, start: State, (n, seed): (u64, u64), goal: i64) -> State {
    let mut heat = heat(dual.model, STEPS);
    heat.cold *= HOTTER;
    heat.hot *= if n % 4 == 3 { 2.0 } else { 1.0 };
    let swing = if n % 2 == 0 { SWING } else { 1.0 };
    let mut walk = Walk::new(dual.model, penalty, start, seed);
    walk = walk.priced(Prices { swing, ..Prices::steady(1.0, 4.0) }, Limits::NONE);
    walk.run(heat, goal);
    walk.into_best()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::bounds::counted;
    use super::super::model::Model;
    use super::super::wishes::Wishes;
    use super::*;
    use crate::rebalance::observation::Observation;

    const SIZE: u64 = 100 << 20;

    /// Six shards each on the first two of three hosts.
    fn fleet() -> Observation {
        let host = |name: &str| json!({"name": name, "capacity_bytes": 20 * SIZE});
        let shard = |id: u64| {
            let home = if id.is_multiple_of(2) { "a" } else { "b" };
            json!({"id": id, "host": home, "bytes": SIZE, "ops_per_s": 1.0})
        };
        let value = json!({
            "format_version": 1, "cluster": "x", "epoch": 1,
            "hosts": [host("a"), host("b"), host("c")],
            "shards": (0..12).map(shard).collect::<Vec<_>>(),
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn starts_leave_an_assignment_that_moves_too_much() {
        let observation = fleet();
        let model = Model::new(&observation, &Wishes::default());
        let bands = model.bands();
        // Everything changes its host, where four shards to the third would do.
        let at = |item: usize| if item < 4 { 2 } else { 1 - item % 2 };
        let astray = State::with(&model, (0..12).map(at).collect());
        assert!(within(&astray, &bands));
        let (dual, prices) = (Dual::new(&model, &bands), Multipliers::none(&model));
        let found = best(&dual, &prices, (&State::new(&model), astray), counted(&model, &bands), 1);
        assert!(within(&found, &bands));
        assert_eq!(found.moved, 4 * SIZE as i64);
        let again = best(&dual, &prices, (&State::new(&model), found.clone()), counted(&model, &bands), 2);
        assert_eq!(again.at, found.at, "what is no better does not take its place");
    }
}
