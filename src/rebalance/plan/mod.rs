//! The planner: an observation and options in, a plan or the rule that forbids one out.
//!
//! It minimizes the bytes that move so that every host ends within the tolerance around its share. In reading order:
//! `options` the request, `resource` the quantities of a load, `model` the request as integers, `assignment` copies on
//! hosts and their loads, `lower_bound` and `lagrangian` the bounds that no plan can beat, `solver` the search
//! (`greedy`, `annealing`, `local_search`, `neighborhood_search`, `multistart`, `relax_tolerance`, `move_limits`)
//! within one `step_budget`, `selected_shards` the placement of shards that the operator names, `schedule` the order of
//! moves, `build_plan` the result. Nothing here reads a clock, a file or an unseeded random number: the same input
//! gives the same plan to the byte.

mod annealing;
mod assignment;
mod build_plan;
mod canonicalize;
mod greedy;
mod infeasible;
mod lagrangian;
mod local_search;
mod lower_bound;
mod model;
mod move_limits;
mod multistart;
mod neighborhood_search;
mod notes;
mod options;
mod rebalance_plan;
mod relax_tolerance;
mod resource;
mod rng;
mod schedule;
mod selected_shards;
mod solver;
mod step_budget;
mod undo_redundant;
pub mod what_if;

pub use infeasible::{Infeasible, Rule};
pub(crate) use notes::OUTSIDE_TOLERANCE;
pub use options::{Balance, PlanOptions, ShardSelection, TransferLimits};
pub use rebalance_plan::{HostBalance, Load, Move, RebalancePlan, Role};

use super::observation::Observation;

/// Plans the moves that balance the fleet as the options ask, or those of the shards that they select.
///
/// If no placement within the tolerance is found, the plan is the closest found, and a note says so.
///
/// # Errors
/// Returns the rule that no placement can keep, with the shards concerned.
pub fn plan(observation: &Observation, options: &PlanOptions) -> Result<RebalancePlan, Infeasible> {
    infeasible::check_options(observation, options)?;
    let found = plan_with(observation, options);
    let has_replicas = observation.shards.iter().any(|shard| !shard.replicas.is_empty());
    match found {
        Err(error)
            if error.rule != Rule::Pinned
                && has_replicas
                && !options.move_replicas
                && options.shards == ShardSelection::ForBalance =>
        {
            let freer = PlanOptions { move_replicas: true, ..options.clone() };
            let mut plan = plan_with(observation, &freer).map_err(|_| error)?;
            plan.notes.insert(0, "replicas move as well: no placement keeps the rules without that".to_owned());
            Ok(plan)
        }
        other => other,
    }
}

fn plan_with(observation: &Observation, options: &PlanOptions) -> Result<RebalancePlan, Infeasible> {
    let model = model::Model::new(observation, options);
    let solution = if options.shards == ShardSelection::ForBalance {
        infeasible::check_rules(&model)?;
        solver::solve(&model, options)?
    } else {
        selected_shards::place_selected(&model, options)?
    };
    let schedule = schedule::schedule_moves(&model, &solution.state, &options.transfer)?;
    Ok(build_plan::build_plan(&model, &solution, &schedule))
}
