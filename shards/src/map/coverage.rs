//! Finds slots without an owner and slots with two owners.

use crate::slot::{SLOT_COUNT, Slot, SlotRange};

/// The owner of each slot, as an index into the list of owners.
pub(crate) struct SlotCoverage {
    owner: Vec<Option<usize>>,
    overlaps: Vec<SlotOverlap>,
}

/// Slots that two owners claim.
pub(crate) struct SlotOverlap {
    pub(crate) slots: SlotRange,
    pub(crate) first: usize,
    pub(crate) second: usize,
}

impl SlotCoverage {
    /// Takes the slots of each owner, in order; of two claims the first wins and the second is an overlap.
    pub(crate) fn from_ranges<'a>(owners: impl IntoIterator<Item = &'a [SlotRange]>) -> SlotCoverage {
        let mut coverage = SlotCoverage { owner: vec![None; usize::from(SLOT_COUNT)], overlaps: Vec::new() };
        for (index, ranges) in owners.into_iter().enumerate() {
            for range in ranges {
                coverage.claim_range(index, *range);
            }
        }
        coverage
    }

    fn claim_range(&mut self, index: usize, range: SlotRange) {
        for number in range.first.0..=range.last.0 {
            let owner = &mut self.owner[usize::from(number)];
            match *owner {
                None => *owner = Some(index),
                Some(first) => self.add_overlap(first, index, Slot(number)),
            }
        }
    }

    fn add_overlap(&mut self, first: usize, second: usize, slot: Slot) {
        if let Some(last) = self.overlaps.last_mut()
            && (last.first, last.second) == (first, second)
            && last.slots.last.0 + 1 == slot.0
        {
            last.slots.last = slot;
            return;
        }
        self.overlaps.push(SlotOverlap { slots: SlotRange { first: slot, last: slot }, first, second });
    }

    /// Ranges that two owners claim.
    pub(crate) fn overlaps(&self) -> &[SlotOverlap] {
        &self.overlaps
    }

    /// Ranges without an owner, in ascending order.
    pub(crate) fn find_gaps(&self) -> Vec<SlotRange> {
        let mut holes: Vec<SlotRange> = Vec::new();
        for slot in (0..SLOT_COUNT).map(Slot).filter(|slot| self.owner_of(*slot).is_none()) {
            match holes.last_mut() {
                Some(hole) if hole.last.0 + 1 == slot.0 => hole.last = slot,
                _ => holes.push(SlotRange { first: slot, last: slot }),
            }
        }
        holes
    }

    /// Returns the index of the shard that owns a slot.
    pub(crate) fn owner_of(&self, slot: Slot) -> Option<usize> {
        self.owner.get(usize::from(slot.0)).copied().flatten()
    }

    /// Returns the owner of each slot, by index, for a coverage without holes. (A shard count fits 16 bits, as there
    /// are fewer slots than that; a hole would be `u16::MAX`.)
    pub(crate) fn into_owners(self) -> Vec<u16> {
        self.owner.into_iter().map(|owner| owner.and_then(|index| index.try_into().ok()).unwrap_or(u16::MAX)).collect()
    }
}
