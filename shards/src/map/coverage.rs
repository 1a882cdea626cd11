//! Which slots are owned by nobody, and which by two.

use crate::slot::{SLOTS, Slot, SlotRange};

/// The owner of each slot, as an index into the list of owners.
pub(crate) struct Coverage {
    owner: Vec<Option<usize>>,
    overlaps: Vec<Overlap>,
}

/// Slots that two owners claim.
pub(crate) struct Overlap {
    pub(crate) slots: SlotRange,
    pub(crate) first: usize,
    pub(crate) second: usize,
}

impl Coverage {
    /// Takes the slots of each owner, in order; of two claims the first wins and the second is an overlap.
    pub(crate) fn of<'a>(owners: impl IntoIterator<Item = &'a [SlotRange]>) -> Coverage {
        let mut coverage = Coverage { owner: vec![None; usize::from(SLOTS)], overlaps: Vec::new() };
        for (index, ranges) in owners.into_iter().enumerate() {
            for range in ranges {
                coverage.claim(index, *range);
            }
        }
        coverage
    }

    fn claim(&mut self, index: usize, range: SlotRange) {
        for number in range.first.0..=range.last.0 {
            let owner = &mut self.owner[usize::from(number)];
            match *owner {
                None => *owner = Some(index),
                Some(first) => self.overlap(first, index, Slot(number)),
            }
        }
    }

    fn overlap(&mut self, first: usize, second: usize, slot: Slot) {
        if let Some(last) = self.overlaps.last_mut()
            && (last.first, last.second) == (first, second)
            && last.slots.last.0 + 1 == slot.0
        {
            last.slots.last = slot;
            return;
        }
        self.overlaps.push(Overlap { slots: SlotRange { first: slot, last: slot }, first, second });
    }

    /// Ranges that two owners claim.
    pub(crate) fn overlaps(&self) -> &[Overlap] {
        &self.overlaps
    }

    /// Ranges that nobody owns, from low to high.
    pub(crate) fn holes(&self) -> Vec<SlotRange> {
        let mut holes: Vec<SlotRange> = Vec::new();
        for slot in (0..SLOTS).map(Slot).filter(|slot| self.owner(*slot).is_none()) {
            match holes.last_mut() {
                Some(hole) if hole.last.0 + 1 == slot.0 => hole.last = slot,
                _ => holes.push(SlotRange { first: slot, last: slot }),
            }
        }
        holes
    }

    /// Who owns a slot, by index.
    pub(crate) fn owner(&self, slot: Slot) -> Option<usize> {
        self.owner.get(usize::from(slot.0)).copied().flatten()
    }

    /// The owner of each slot, by index; for a coverage without holes. (A shard count fits 16 bits, as there are
    /// fewer slots than that; a hole would be `u16::MAX`.)
    pub(crate) fn into_owners(self) -> Vec<u16> {
        self.owner.into_iter().map(|owner| owner.and_then(|index| index.try_into().ok()).unwrap_or(u16::MAX)).collect()
    }
}
