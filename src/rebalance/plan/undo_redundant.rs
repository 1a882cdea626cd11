//! Undoes moves without which all loads stay within their ranges.
//!
//! Annealing rarely leaves one, except where the ranges were widened after it ran.

use std::cmp::Reverse;

use super::assignment::{Assignment, is_host_within};
use super::model::Model;
use super::resource::{HostResource::Bytes, LoadRange};

/// Undoes moves, and pairs of moves that share a host, while every load stays within its range; the largest first.
pub(crate) fn undo_redundant_moves(model: &Model, ranges: &[LoadRange], state: &mut Assignment) {
    let mut away: Vec<usize> = (0..state.host_of.len()).filter(|item| is_away(model, state, *item)).collect();
    away.sort_by_key(|item| (Reverse(model.items[*item].weight[Bytes]), *item));
    loop {
        let before = away.len();
        for n in 0..away.len() {
            undo_with_partner(model, ranges, state, &away[n..]);
        }
        away.retain(|item| is_away(model, state, *item));
        if away.len() == before {
            return;
        }
    }
}

/// Undoes the first of the moves, alone or with one of the others.
fn undo_with_partner(model: &Model, ranges: &[LoadRange], state: &mut Assignment, away: &[usize]) {
    let Some((first, others)) = away.split_first() else { return };
    if !is_away(model, state, *first) || try_undo(model, ranges, state, &[*first]) {
        return;
    }
    for other in others {
        let together = is_away(model, state, *other) && share_host(model, state, *first, *other);
        if together && try_undo(model, ranges, state, &[*first, *other]) {
            return;
        }
    }
}

fn is_away(model: &Model, state: &Assignment, item: usize) -> bool {
    state.host_of[item] != model.items[item].home
}

/// Returns whether two moves have a host in common; only such moves can make each other redundant.
fn share_host(model: &Model, state: &Assignment, a: usize, b: usize) -> bool {
    let ends = |item: usize| [state.host_of[item], model.items[item].home];
    ends(a).iter().any(|host| ends(b).contains(host))
}

/// Returns the items to their homes if that breaks no rule; `false` if it would.
fn try_undo(model: &Model, ranges: &[LoadRange], state: &mut Assignment, items: &[usize]) -> bool {
    let from: Vec<usize> = items.iter().map(|item| state.host_of[*item]).collect();
    for item in items {
        state.reassign(model, *item, model.items[*item].home);
    }
    let homes = items.iter().map(|item| model.items[*item].home);
    let legal = items.iter().all(|item| state.is_legal(model, *item, state.host_of[*item]));
    if legal && homes.chain(from.iter().copied()).all(|host| is_host_within(state, ranges, host)) {
        return true;
    }
    for (item, host) in items.iter().zip(from) {
        state.reassign(model, *item, host);
    }
    false
}
