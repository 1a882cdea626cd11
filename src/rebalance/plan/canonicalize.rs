//! Breaks ties: among copies of equal size on one host, those with fewer operations move, then those with lower ids.

use dunlin_shards::ShardId;

use super::assignment::{Assignment, is_host_within, is_within};
use super::model::Model;
use super::resource::HostResource::{Bytes, Ops};
use super::resource::LoadRange;

/// Exchanges moved items for equally large ones from the same home where the tie-break prefers those and all loads stay
/// within their ranges.
pub(crate) fn canonicalize(model: &Model, ranges: &[LoadRange], state: &mut Assignment) {
    let mut away: Vec<usize> =
        (0..model.items.len()).filter(|item| state.host_of[*item] != model.items[*item].home).collect();
    away.sort_by_key(|item| tie_break_rank(model, *item));
    for item in away {
        let (home, at) = (model.items[item].home, state.host_of[item]);
        let mut others: Vec<usize> =
            state.items_on[home].iter().copied().filter(|o| is_same_size(model, item, *o)).collect();
        others.sort_by_key(|other| tie_break_rank(model, *other));
        for other in others {
            if tie_break_rank(model, other) >= tie_break_rank(model, item) {
                break;
            }
            if !state.is_legal(model, item, home) || !state.is_legal(model, other, at) {
                continue;
            }
            state.reassign(model, item, home);
            state.reassign(model, other, at);
            if [home, at].iter().all(|host| is_host_within(state, ranges, *host)) {
                break;
            }
            state.reassign(model, item, at);
            state.reassign(model, other, home);
        }
    }
    debug_assert!(is_within(state, ranges));
}

fn is_same_size(model: &Model, item: usize, other: usize) -> bool {
    let (item, other) = (&model.items[item], &model.items[other]);
    other.movable && other.home == item.home && other.weight[Bytes] == item.weight[Bytes]
}

fn tie_break_rank(model: &Model, item: usize) -> (i64, ShardId) {
    (model.items[item].weight[Ops], model.shard_of(item).id)
}
