//! Plans cut short by `--max-moves` or `--max-bytes`: as near to the bands as the limits allow.

use super::greedy::place_forced_within;
use super::model::{Band, Model};
use super::search::{effort, heat};
use super::state::{Penalty, State};
use super::walk::{Limits, Prices, Walk};

/// What must move comes first; the rest of the limits goes to the hosts that are furthest out.
pub(crate) fn nearest(model: &Model, wished: &[Band], limits: Limits, seed: u64) -> State {
    let penalty = Penalty::new(model, wished);
    let mut state = State::new(model);
    place_forced_within(model, &penalty, &mut state, limits);
    for round in 0..6 {
        let mut walk =
            Walk::new(model, &penalty, state, seed.wrapping_add(round)).priced(Prices::steady(0.02, 4.0), limits);
        walk.run(heat(model, effort(model)), i64::MAX);
        state = walk.into_best();
    }
    state
}
