//! The last tie-breaks: among copies of equal size the ones with fewer operations, then lower ids, move.

use super::model::{BYTES, Band, Model, OPS};
use super::search::within;
use super::state::State;

/// Exchanges moved items for equal ones that stayed at the same home, where that is better and keeps the bands.
pub(crate) fn tidy(model: &Model, bands: &[Band], state: &mut State) {
    let mut away: Vec<usize> =
        (0..model.items.len()).filter(|item| state.at[*item] != model.items[*item].home).collect();
    away.sort_by_key(|item| rank(model, *item));
    for item in away {
        let (home, at) = (model.items[item].home, state.at[item]);
        let mut others: Vec<usize> = state.on[home].iter().copied().filter(|o| same_size(model, item, *o)).collect();
        others.sort_by_key(|other| rank(model, *other));
        for other in others {
            if rank(model, other) >= rank(model, item) {
                break;
            }
            if !state.legal(model, item, home) || !state.legal(model, other, at) {
                continue;
            }
            state.put(model, item, home);
            state.put(model, other, at);
            if [home, at].iter().all(|host| within_host(state, bands, *host)) {
                break;
            }
            state.put(model, item, at);
            state.put(model, other, home);
        }
    }
    debug_assert!(within(state, bands));
}

fn same_size(model: &Model, item: usize, other: usize) -> bool {
    let (item, other) = (&model.items[item], &model.items[other]);
    other.movable && other.home == item.home && other.weight[BYTES] == item.weight[BYTES]
}

fn rank(model: &Model, item: usize) -> (i64, u32) {
    (model.items[item].weight[OPS], model.shard(item).id)
}

/// Whether the host's loads are within its band.
pub(crate) fn within_host(state: &State, bands: &[Band], host: usize) -> bool {
    let (load, band) = (state.load[host], bands[host]);
    [BYTES, OPS].iter().all(|r| (band.lo[*r]..=band.hi[*r]).contains(&load[*r]))
}
