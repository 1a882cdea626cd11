//! The work that one plan may take, in steps: the same on every machine, where a clock would not be.

use super::annealing::is_large;
use super::model::Model;

/// Steps per shard that can move: 64 shards take less than two seconds of processor time.
const STEPS_PER_SHARD: usize = 200_000;
/// Steps of a fleet that is so large that a step takes several times as long.
const LARGE_FLEET_STEPS: usize = 2_400_000;
/// Maximum for fleets of any size.
const MAX_STEPS: usize = 30_000_000;

/// Steps that are left. A step is one proposal of annealing; other work is counted in multiples of it.
#[derive(Debug)]
pub(crate) struct StepBudget {
    left: usize,
}

impl StepBudget {
    /// Creates the budget of one plan.
    pub(crate) fn new(model: &Model) -> Self {
        let shards = model.observation.shards.len();
        let left = if is_large(model) { LARGE_FLEET_STEPS } else { (STEPS_PER_SHARD * shards).min(MAX_STEPS) };
        Self { left }
    }

    /// Takes a fraction of the rest as a separate budget.
    pub(crate) fn split_off(&mut self, fraction: f64) -> Self {
        let part = (self.left as f64 * fraction) as usize;
        self.left -= part;
        Self { left: part }
    }

    /// Returns what another budget has left.
    pub(crate) fn refund(&mut self, other: Self) {
        self.left += other.left;
    }

    /// Takes up to `steps` steps, and returns the number taken.
    pub(crate) fn take(&mut self, steps: usize) -> usize {
        let taken = steps.min(self.left);
        self.left -= taken;
        taken
    }

    /// Gives back steps that were taken and not used.
    pub(crate) fn give_back(&mut self, steps: usize) {
        self.left += steps;
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.left == 0
    }
}
