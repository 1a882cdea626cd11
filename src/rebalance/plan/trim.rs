//! Moves that the bands can do without are taken back.
//!
//! A walk seldom leaves one behind; it does where the bands had to give way and are wider than what it walked in.

use std::cmp::Reverse;

use super::model::{BYTES, Band, Model};
use super::state::State;
use super::tidy::within_host;

/// Takes back moves, and pairs of moves that meet on a host, while every load stays within its band; the largest first.
pub(crate) fn trim(model: &Model, bands: &[Band], state: &mut State) {
    let mut away: Vec<usize> = (0..state.at.len()).filter(|item| is_away(model, state, *item)).collect();
    away.sort_by_key(|item| (Reverse(model.items[*item].weight[BYTES]), *item));
    loop {
        let before = away.len();
        for n in 0..away.len() {
            one(model, bands, state, &away[n..]);
        }
        away.retain(|item| is_away(model, state, *item));
        if away.len() == before {
            return;
        }
    }
}

/// Takes the first of the moves back, alone or with one of the others.
fn one(model: &Model, bands: &[Band], state: &mut State, away: &[usize]) {
    let Some((first, others)) = away.split_first() else { return };
    if !is_away(model, state, *first) || take_back(model, bands, state, &[*first]) {
        return;
    }
    for other in others {
        let together = is_away(model, state, *other) && meet(model, state, *first, *other);
        if together && take_back(model, bands, state, &[*first, *other]) {
            return;
        }
    }
}

fn is_away(model: &Model, state: &State, item: usize) -> bool {
    state.at[item] != model.items[item].home
}

/// Whether two moves have a host in common; those that have none are each as good without the other.
fn meet(model: &Model, state: &State, a: usize, b: usize) -> bool {
    let ends = |item: usize| [state.at[item], model.items[item].home];
    ends(a).iter().any(|host| ends(b).contains(host))
}

/// Puts the items back home if that breaks no rule; says whether it did.
fn take_back(model: &Model, bands: &[Band], state: &mut State, items: &[usize]) -> bool {
    let from: Vec<usize> = items.iter().map(|item| state.at[*item]).collect();
    for item in items {
        state.put(model, *item, model.items[*item].home);
    }
    let homes = items.iter().map(|item| model.items[*item].home);
    let legal = items.iter().all(|item| state.legal(model, *item, state.at[*item]));
    if legal && homes.chain(from.iter().copied()).all(|host| within_host(state, bands, host)) {
        return true;
    }
    for (item, host) in items.iter().zip(from) {
        state.put(model, *item, host);
    }
    false
}
