//! The planner: an observation and wishes in, a plan or the rule that forbids one out.
//!
//! It minimises the bytes that move, so that every host ends within the tolerance around its share. In reading order:
//! `wishes` what is asked, `model` the same as integers, `state` an assignment and its loads, `bounds` what no
//! plan can beat, `search` greedy and local search, `emit` the plan as a value.
//! Nothing here reads a clock, a file or an unseeded source of chance: the same input gives the same plan to the byte.

mod bounds;
mod dual;
mod emit;
mod exact;
mod greedy;
mod infeasible;
mod limit;
mod model;
mod notes;
mod output;
mod relax;
mod rng;
mod schedule;
mod search;
pub mod simulate;
mod state;
mod tidy;
mod trim;
mod walk;
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
    let found = attempt(observation, wishes);
    let replicas = observation.shards.iter().any(|shard| !shard.replicas.is_empty());
    match found {
        Err(error) if error.rule != Rule::Pinned && replicas && !wishes.move_replicas => {
            let freer = Wishes { move_replicas: true, ..wishes.clone() };
            let mut plan = attempt(observation, &freer).map_err(|_| error)?;
            plan.notes.insert(0, "replicas move as well: with them in place no placement keeps the rules".to_owned());
            Ok(plan)
        }
        other => other,
    }
}

fn attempt(observation: &Observation, wishes: &Wishes) -> Result<RebalancePlan, Infeasible> {
    let model = model::Model::new(observation, wishes);
    infeasible::check_rules(&model)?;
    let outcome = search::solve(&model, wishes)?;
    let schedule = schedule::schedule(&model, &outcome.state, &wishes.pace)?;
    Ok(emit::emit(&model, &outcome, &schedule))
}
