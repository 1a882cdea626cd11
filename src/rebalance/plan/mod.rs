//! The planner: an observation and wishes in, a plan or the rule that forbids one out.
//!
//! It minimises the bytes that move, so that every host ends within the tolerance around its share. In reading order:
//! [`wishes`] what is asked, [`model`] the same as integers, [`state`] an assignment and its loads, [`bounds`] what no
//! plan can beat, [`search`] greedy and local search, [`emit`] the plan as a value. Nothing here reads a clock, a file
//! or an unseeded source of chance: the same input gives the same plan to the byte.

mod bounds;
mod emit;
mod infeasible;
mod model;
mod output;
mod rng;
mod search;
mod state;
mod wishes;

pub use infeasible::{Infeasible, Rule};
pub use output::{HostPlan, Load, Move, RebalancePlan, Role};
pub use wishes::{Balance, Pace, Wishes};

use super::observation::Observation;

/// Plans the moves that `wishes` asks of the fleet in `observation`.
///
/// A tolerance that no placement meets is planned as near as possible and noted in the plan. The error names the rule
/// that no placement can keep and the shards in its way.
pub fn plan(observation: &Observation, wishes: &Wishes) -> Result<RebalancePlan, Infeasible> {
    infeasible::check_wishes(observation, wishes)?;
    let model = model::Model::new(observation, wishes);
    infeasible::check_rules(&model)?;
    let outcome = search::solve(&model, wishes)?;
    Ok(emit::emit(&model, &outcome, wishes))
}
