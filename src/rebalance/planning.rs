//! Makes plans, and loads saved ones with the check that they still apply.

use std::path::Path;

use super::observation::Observation;
use super::plan::{Infeasible, PlanOptions, plan, what_if};
use super::plan_file::SavedPlan;
use super::run_error::{RunError, RunResult};
use crate::inventory::ByteSize;
use crate::plan::{DigestKey, open_sealed_json};

/// Number of shards that an error lists; the others are counted.
const MAX_LISTED_SHARDS: usize = 32;
/// Number of shards that the planner's own message lists.
const LISTED_IN_MESSAGE: usize = 8;

/// Makes a plan; with `scenario`, for a hypothetical fleet.
///
/// # Errors
/// Returns an error if the scenario is invalid, or no placement satisfies the options.
pub fn make_plan(mut observation: Observation, options: PlanOptions, scenario: Option<&str>) -> RunResult<SavedPlan> {
    let mut notes = Vec::new();
    if let Some(what) = scenario {
        (observation, notes) = apply_scenario(&observation, what)?;
    }
    let mut plan = plan(&observation, &options)
        .map_err(|infeasible| infeasible_error(&observation, &options, &infeasible, &notes))?;
    plan.notes.splice(0..0, notes);
    Ok(SavedPlan::new(plan, options, observation, scenario.map(str::to_owned)))
}

/// Loads an observation from a file.
///
/// # Errors
/// Returns an error if the file cannot be read, or is inconsistent.
pub fn load_observation(file: &Path) -> RunResult<Observation> {
    Observation::from_json(&read_file(file)?).map_err(|error| {
        let error = anyhow::Error::from(error).context(file.display().to_string());
        RunError::from(error).with_hint("dunlin shards status --out FILE writes an observation")
    })
}

/// Loads a saved plan that is still valid, with the changes of sizes since it was made.
///
/// # Errors
/// Returns an error if the file cannot be read, or is not as it was saved, or the plan is out of date; everything that
/// changed is named.
pub fn load_plan(file: &Path, now: &Observation, key: &DigestKey) -> RunResult<(SavedPlan, Vec<String>)> {
    let not_a_plan = |error: serde_json::Error| {
        RunError::failed(format!("{} is not a saved plan: {error}", file.display()))
            .with_hint("dunlin shard-rebalance --dry-run --out FILE saves one")
    };
    let text = read_file(file)?;
    // Another file gets the message that it is no plan.
    serde_json::from_str::<SavedPlan>(&text).map_err(not_a_plan)?;
    let text = open_sealed_json(&text, key)
        .map_err(|error| RunError::refused(format!("{}: {error}", file.display())).with_hint("make a new plan"))?;
    let saved: SavedPlan = serde_json::from_str(&text).map_err(not_a_plan)?;
    let mismatches: Vec<String> = saved.find_mismatches(now).iter().map(|stale| format!("\n  {stale}")).collect();
    if !mismatches.is_empty() {
        let text =
            format!("the plan in {} is out of date; no changes were made{}", file.display(), mismatches.concat());
        return Err(RunError::refused(text).with_hint("make a new plan: dunlin shard-rebalance --dry-run --out FILE"));
    }
    let drift = saved.describe_drift(now);
    Ok((saved, drift))
}

fn read_file(file: &Path) -> RunResult<String> {
    std::fs::read_to_string(file)
        .map_err(|error| RunError::failed(format!("{}: cannot be read: {error}", file.display())))
}

/// Returns the error of an infeasible plan: the rule, the shards that violate it, and the usage of possible targets.
fn infeasible_error(
    observation: &Observation,
    options: &PlanOptions,
    infeasible: &Infeasible,
    notes: &[String],
) -> RunError {
    let mut text = format!("no plan is possible ({}): {}", infeasible.rule, infeasible.message);
    // The message itself names a few shards.
    if infeasible.shards.len() > LISTED_IN_MESSAGE {
        let shards: Vec<String> = infeasible.shards.iter().take(MAX_LISTED_SHARDS).map(ToString::to_string).collect();
        text += &format!("\n  shards: {}", shards.join(", "));
        match infeasible.shards.len().saturating_sub(MAX_LISTED_SHARDS) {
            0 => {}
            more => text += &format!(" and {more} more"),
        }
    }
    for host in &observation.hosts {
        let may_take = options.targets.as_ref().is_none_or(|to| to.contains(&host.name));
        if !may_take || host.drain || options.drain.contains(&host.name) {
            continue;
        }
        let here =
            observation.shards.iter().filter(|shard| shard.host == host.name || shard.replicas.contains(&host.name));
        let bytes = ByteSize(here.map(|shard| shard.bytes).sum()).to_human();
        text += &format!("\n  {}: {} for shards, {bytes} in use", host.name, ByteSize(host.capacity_bytes).to_human());
    }
    notes.iter().for_each(|note| text += &format!("\n  {note}"));
    RunError::refused(text).with_hint(infeasible.hint.clone())
}

/// Applies a scenario. Returns the hypothetical fleet, and notes about it.
fn apply_scenario(observation: &Observation, scenario: &str) -> RunResult<(Observation, Vec<String>)> {
    let invalid_scenario = |error: what_if::WhatIfError| RunError::invalid_request(format!("--what-if: {}", error.0));
    let what_if: what_if::WhatIf = scenario.parse().map_err(invalid_scenario)?;
    let result = what_if.apply(observation).map_err(invalid_scenario)?;
    let mut notes = vec![format!("this plan is for a hypothetical fleet: {scenario}")];
    notes.extend(result.notes);
    Ok((result.observation, notes))
}
