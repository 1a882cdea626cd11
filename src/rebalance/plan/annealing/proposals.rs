//! The steps that a walk proposes: which items change their hosts, and to which hosts they go.

use super::{Annealer, Reassignment};

/// Maximum number of partners that a matched swap considers.
const MAX_PARTNERS: usize = 16;

impl Annealer<'_> {
    /// Proposes a random step.
    pub(super) fn propose_step(&mut self) {
        self.proposal.clear();
        let Some(item) = self.pick_item() else { return };
        if let Some(sibling) = self.pick_sibling(item) {
            return self.propose_pair(item, sibling);
        }
        match self.rng.below(64) {
            0..=19 => {
                let host = self.pick_host(item);
                self.set_proposal(&[(item, host)]);
            }
            20..=35 => self.propose_swap(item),
            36..=45 => self.propose_exchange(item),
            46..=51 => self.propose_two_for_one(item),
            52..=57 => self.propose_chain(item),
            _ => self.propose_matched_swap(item),
        }
    }

    fn set_proposal(&mut self, changes: &[(usize, usize)]) {
        self.proposal.clear();
        self.proposal.extend(changes.iter().map(|(item, host)| Reassignment { item: *item, host: *host }));
    }

    /// Returns an item; half of the time one on a host outside its range, if there is one.
    fn pick_item(&mut self) -> Option<usize> {
        if !self.violators.is_empty() && self.rng.below(2) == 0 {
            let host = self.violators[self.rng.below(self.violators.len())];
            if let Some(item) = self.pick_item_on(host) {
                return Some(item);
            }
        }
        let at = self.rng.below(self.movable.len());
        Some(self.movable[at])
    }

    fn pick_item_on(&mut self, host: usize) -> Option<usize> {
        let list = &self.state.items_on[host];
        if list.is_empty() {
            return None;
        }
        let item = list[self.rng.below(list.len())];
        self.model.items[item].movable.then_some(item)
    }

    /// Returns the home of the item, a host outside its range, or any that can receive.
    fn pick_host(&mut self, item: usize) -> usize {
        let home = self.model.items[item].home;
        let roll = self.rng.below(8);
        if self.state.host_of[item] != home && roll < 3 {
            home
        } else if !self.violators.is_empty() && roll < 5 {
            self.violators[self.rng.below(self.violators.len())]
        } else {
            self.receivers[self.rng.below(self.receivers.len())]
        }
    }

    /// Returns, one time in four, another copy of the item's shard that can move.
    fn pick_sibling(&mut self, item: usize) -> Option<usize> {
        let items = &self.model.items;
        let sibling = items[item].siblings.iter().copied().find(|sibling| items[*sibling].movable)?;
        (self.rng.below(4) == 0).then_some(sibling)
    }

    /// Proposes that two copies of a shard change their hosts together: one alone may not be where the other is.
    fn propose_pair(&mut self, item: usize, sibling: usize) {
        let exchange = self.rng.below(2) == 0;
        let host = if exchange { self.state.host_of[sibling] } else { self.pick_host(item) };
        let other = if self.rng.below(3) == 0 { self.state.host_of[item] } else { self.pick_host(sibling) };
        self.set_proposal(&[(item, host), (sibling, other)]);
    }

    /// Proposes to swap the item with one on another host.
    fn propose_swap(&mut self, item: usize) {
        let host = self.pick_host(item);
        if let Some(other) = self.pick_item_on(host) {
            self.set_proposal(&[(item, host), (other, self.state.host_of[item])]);
        }
    }

    /// Proposes the swap of the item with one on a host that costs least.
    fn propose_matched_swap(&mut self, item: usize) {
        let (host, at) = (self.pick_host(item), self.state.host_of[item]);
        let mut best: Option<(f64, usize)> = None;
        let count = self.state.items_on[host].len();
        let first = if count > MAX_PARTNERS { self.rng.below(count) } else { 0 };
        for n in 0..count.min(MAX_PARTNERS) {
            let other = self.state.items_on[host][(first + n) % count];
            if !self.model.items[other].movable {
                continue;
            }
            self.set_proposal(&[(item, host), (other, at)]);
            if let Some(delta) = self.cost_change()
                && best.is_none_or(|(least, _)| delta < least)
            {
                best = Some((delta, other));
            }
        }
        self.proposal.clear();
        if let Some((_, other)) = best {
            self.set_proposal(&[(item, host), (other, at)]);
        }
    }

    /// Proposes that an item returns home and another one from there replaces it.
    fn propose_exchange(&mut self, item: usize) {
        let (home, at) = (self.model.items[item].home, self.state.host_of[item]);
        if at == home {
            return self.propose_swap(item);
        }
        if let Some(other) = self.pick_item_on(home) {
            self.set_proposal(&[(item, home), (other, at)]);
        }
    }

    /// Proposes to swap the item with two on another host.
    fn propose_two_for_one(&mut self, item: usize) {
        let host = self.pick_host(item);
        let at = self.state.host_of[item];
        let (Some(first), Some(second)) = (self.pick_item_on(host), self.pick_item_on(host)) else { return };
        if first != second {
            self.set_proposal(&[(item, host), (first, at), (second, at)]);
        }
    }

    /// Proposes that the item replaces one on another host, which goes to a third.
    fn propose_chain(&mut self, item: usize) {
        let host = self.pick_host(item);
        let Some(other) = self.pick_item_on(host) else { return };
        let last = self.pick_host(other);
        self.set_proposal(&[(item, host), (other, last)]);
    }
}
