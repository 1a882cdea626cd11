//! The flags that a rebalance is planned from. Makes, loads and saves plans.

use std::path::Path;

use clap::Args;
use dunlin_shards::ShardId;

use super::command_error::CommandError;
use super::exit::Exit;
use crate::cli::output_file::{seal_error, write_output_file};
use crate::inventory::ByteSize;
use crate::plan::{DigestKey, open_sealed_json, to_sealed_json};
use crate::rebalance::observation::Observation;
use crate::rebalance::plan::{Balance, Infeasible, PlanOptions, ShardSelection, TransferLimits, plan, what_if};
use crate::rebalance::plan_file::SavedPlan;

/// Number of shards that an error lists; the others are counted.
const MAX_LISTED_SHARDS: usize = 32;
/// Number of shards that the planner's own message lists.
const LISTED_IN_MESSAGE: usize = 8;

/// Flags for balancing the fleet. They cannot be combined with selected shards.
const BALANCE_FLAGS: [&str; 5] = ["drain", "tolerance", "move_replicas", "max_moves", "max_bytes"];

/// The flags of a new plan. A saved plan has its own values.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Move all shards off this host
    #[arg(long, value_name = "HOST")]
    drain: Vec<String>,
    /// Move shards only to these hosts, comma-separated
    #[arg(long, visible_alias = "to", value_name = "HOSTS", value_delimiter = ',')]
    targets: Vec<String>,
    /// Move these shards, comma-separated, and no others
    #[arg(long, value_name = "SHARDS", value_delimiter = ',', conflicts_with_all = BALANCE_FLAGS)]
    shard: Vec<ShardId>,
    /// Move the N shards with the most operations per second, and no others [default: 1]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1", conflicts_with_all = BALANCE_FLAGS,
        conflicts_with = "shard", value_parser = clap::value_parser!(u32).range(1..))]
    hot: Option<u32>,
    /// Resources to balance: bytes, ops or bytes,ops
    #[arg(long, value_name = "WHAT", default_value_t)]
    balance: Balance,
    /// Maximum deviation of a host from its share
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = parse_percent)]
    tolerance: f64,
    /// Maximum share of a host's shard memory to use
    #[arg(long, value_name = "PERCENT", default_value = "90%", value_parser = parse_percent)]
    max_utilization: f64,
    /// Maximum number of shards per host, primaries and replicas together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_shards_per_host: Option<u32>,
    /// Also move replicas to balance hosts (default: only replicas that cannot stay)
    #[arg(long)]
    move_replicas: bool,
    /// Maximum number of moves
    #[arg(long, value_name = "N")]
    max_moves: Option<usize>,
    /// Maximum number of bytes to move (e.g. 10GiB)
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<ByteSize>,
    /// Maximum concurrent moves out of, and into, each host
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=64))]
    moves_per_host: u8,
}

impl PlanArgs {
    fn to_options(&self, limits: TransferLimits) -> PlanOptions {
        let slots = usize::from(self.moves_per_host);
        PlanOptions {
            tolerance: self.tolerance,
            balance: self.balance,
            drain: self.drain.clone(),
            shards: self.selection(),
            targets: (!self.targets.is_empty()).then(|| self.targets.clone()),
            max_moves: self.max_moves,
            max_bytes: self.max_bytes.map(|bytes| bytes.0),
            max_utilization: self.max_utilization,
            max_shards_per_host: self.max_shards_per_host.map(|count| count as usize),
            move_replicas: self.move_replicas,
            transfer: TransferLimits { max_outgoing: slots, max_incoming: slots, max_per_link: slots, ..limits },
            ..PlanOptions::default()
        }
    }

    fn selection(&self) -> ShardSelection {
        match self.hot {
            Some(count) => ShardSelection::Hottest(count as usize),
            None if self.shard.is_empty() => ShardSelection::ForBalance,
            None => ShardSelection::Named(self.shard.clone()),
        }
    }

    /// Makes a plan for moves within these limits; with `simulate`, for a hypothetical fleet.
    ///
    /// # Errors
    /// Returns an error if the scenario or an option is invalid (exit 64), or no placement satisfies the options (exit
    /// 3).
    pub fn make_plan(
        &self,
        mut observation: Observation,
        simulate: Option<&str>,
        limits: TransferLimits,
    ) -> Result<SavedPlan, CommandError> {
        let mut notes = Vec::new();
        if let Some(what) = simulate {
            (observation, notes) = apply_scenario(&observation, what)?;
        }
        let options = self.to_options(limits);
        let mut plan = plan(&observation, &options)
            .map_err(|infeasible| infeasible_failure(&observation, &options, &infeasible, &notes))?;
        plan.notes.splice(0..0, notes);
        Ok(SavedPlan::new(plan, options, observation, simulate.map(str::to_owned)))
    }
}

/// Loads an observation from a file.
///
/// # Errors
/// Returns an error if the file cannot be read, or is inconsistent.
pub fn load_observation(file: &Path) -> Result<Observation, CommandError> {
    Observation::from_json(&read_file(file)?).map_err(|error| {
        let error = anyhow::Error::from(error).context(file.display().to_string());
        CommandError::new(Exit::Error, error).with_hint("dunlin shards status --out FILE writes an observation")
    })
}

/// Loads a saved plan that is still valid, with the changes of sizes since it was made.
///
/// # Errors
/// Returns an error if the file cannot be read (exit 1), or is not as it was saved, or the plan is out of date (exit
/// 3); everything that changed is named.
pub fn load_plan(file: &Path, now: &Observation, key: &DigestKey) -> Result<(SavedPlan, Vec<String>), CommandError> {
    let not_a_plan = |error: serde_json::Error| {
        CommandError::with_message(Exit::Error, format!("{} is not a saved plan: {error}", file.display()))
            .with_hint("dunlin shard-rebalance --dry-run --out FILE saves one")
    };
    let text = read_file(file)?;
    // Another file gets the message that it is no plan.
    serde_json::from_str::<SavedPlan>(&text).map_err(not_a_plan)?;
    let text = open_sealed_json(&text, key).map_err(|error| seal_error(file, error))?;
    let saved: SavedPlan = serde_json::from_str(&text).map_err(not_a_plan)?;
    let mismatches: Vec<String> = saved.find_mismatches(now).iter().map(|stale| format!("\n  {stale}")).collect();
    if !mismatches.is_empty() {
        let text =
            format!("the plan in {} is out of date; no changes were made{}", file.display(), mismatches.concat());
        return Err(CommandError::with_message(Exit::Refused, text)
            .with_hint("make a new plan: dunlin shard-rebalance --dry-run --out FILE"));
    }
    let drift = saved.describe_drift(now);
    Ok((saved, drift))
}

/// Saves a plan to a file, sealed under the inventory's key.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn save_plan(file: &Path, plan: &SavedPlan, key: &DigestKey) -> Result<(), CommandError> {
    let text = to_sealed_json(plan, key).map_err(anyhow::Error::from)?;
    write_output_file(file, text.as_bytes())
}

fn read_file(file: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(file).map_err(|error| {
        CommandError::with_message(Exit::Error, format!("{}: cannot be read: {error}", file.display()))
    })
}

/// Returns the error of an infeasible plan: the rule, the shards that violate it, and the usage of possible targets.
fn infeasible_failure(
    observation: &Observation,
    options: &PlanOptions,
    infeasible: &Infeasible,
    notes: &[String],
) -> CommandError {
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
    CommandError::with_message(Exit::Refused, text).with_hint(infeasible.hint.clone())
}

/// Applies a scenario. Returns the hypothetical fleet, and notes about it.
fn apply_scenario(observation: &Observation, scenario: &str) -> Result<(Observation, Vec<String>), CommandError> {
    let usage_failure =
        |error: what_if::WhatIfError| CommandError::with_message(Exit::Usage, format!("--what-if: {}", error.0));
    let what_if: what_if::WhatIf = scenario.parse().map_err(usage_failure)?;
    let result = what_if.apply(observation).map_err(usage_failure)?;
    let mut notes = vec![format!("this plan is for a hypothetical fleet: {scenario}")];
    notes.extend(result.notes);
    Ok((result.observation, notes))
}

/// Parses `5%` or `0.05`.
fn parse_percent(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let error = || format!("`{text}` is not a percentage between 0% and 100%, such as 5%");
    let value = number.trim().parse::<f64>().map_err(|_| error())? / scale;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(error()) }
}
