//! Many starts: walks that all begin at the same assignment, each with a seed of its own, and branch and bound after
//! each; then a line ([`super::lines`]) from each of the best.
//!
//! A search that only goes on from the best that it has stays near it, however long it goes on; where the fewest bytes
//! move is often elsewhere. Neither starts nor lines see each other: they run on all processors and give the same
//! result on each machine.

use super::dual::{Dual, Multipliers};
use super::lines::{Lines, Stroll};
use super::processors::on_all_processors;
use super::search::{TURNS, within};
use super::state::{Penalty, State};

/// How many starts there are, and how many of the best assignments lines begin at.
const STARTS: u64 = 24;
const LINES: usize = 8;
/// Steps of the walk of one start.
const STEPS: usize = 320_000;

/// Of the best so far and all that the starts come to within the bands, what moves the fewest bytes.
pub(crate) fn best(dual: &Dual, prices: &Multipliers, (start, best): (&State, State), goal: i64, seed: u64) -> State {
    let penalty = Penalty::new(dual.model, dual.bands);
    let lines = Lines { dual, prices, penalty: &penalty, mend: TURNS[0].part(goal) };
    let numbers: Vec<u64> = (0..STARTS).collect();
    let mut found = on_all_processors(&numbers, |n| {
        let seed = seed.wrapping_add(n.wrapping_mul(0x5151));
        let hot = if n % 4 == 3 { 2.0 } else { 1.0 };
        let stroll = Stroll { steps: STEPS, hot, swings: n.is_multiple_of(2), seed };
        lines.mended(lines.walked(start.clone(), &stroll), seed)
    });
    found.retain(|state| within(state, dual.bands));
    found.push(best.clone());
    found.sort_by_key(|state| state.moved);
    found.dedup_by(|a, b| a.at == b.at);
    found.truncate(LINES);
    let found: Vec<(u64, State)> = (1..).zip(found).collect();
    let found = on_all_processors(&found, |(n, state)| {
        lines.follow(state.clone(), seed.wrapping_add(n.wrapping_mul(1000 * 0x9191)))
    });
    found.into_iter().fold(best, |best, state| if state.moved < best.moved { state } else { best })
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::super::bounds::counted;
    use super::super::model::Model;
    use super::super::wishes::Wishes;
    use super::*;
    use crate::rebalance::observation::Observation;

    pub(crate) const SIZE: u64 = 100 << 20;

    /// Six shards each on the first two of three hosts.
    pub(crate) fn fleet() -> Observation {
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

    /// Everything changes its host, where four shards to the third would do.
    pub(crate) fn astray(model: &Model) -> State {
        let at = |item: usize| if item < 4 { 2 } else { 1 - item % 2 };
        State::with(model, (0..12).map(at).collect())
    }

    #[test]
    fn starts_leave_an_assignment_that_moves_too_much() {
        let observation = fleet();
        let model = Model::new(&observation, &Wishes::default());
        let bands = model.bands();
        let astray = astray(&model);
        assert!(within(&astray, &bands));
        let (dual, prices) = (Dual::new(&model, &bands), Multipliers::none(&model));
        let found = best(&dual, &prices, (&State::new(&model), astray), counted(&model, &bands), 1);
        assert!(within(&found, &bands));
        assert_eq!(found.moved, 4 * SIZE as i64);
        let again = best(&dual, &prices, (&State::new(&model), found.clone()), counted(&model, &bands), 2);
        assert_eq!(again.at, found.at, "what is no better does not take its place");
    }
}
