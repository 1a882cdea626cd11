//! `dunlin shards restart`.

use clap::Args;
use dunlin_shards::{ShardId, ShardMap};
use serde_json::json;

use super::ShardsContext;
use super::dry_run::{DryRunArgs, MoveAction};
use crate::cli::command_error::CommandError;
use crate::cli::confirm::require_confirmation;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::{ApplyRequest, RunTotals, apply_and_report, lock_hosts_and_start_run, run_preflight};
use crate::cli::shard_rebalance::{ensure_unchanged, in_progress_error};
use crate::cli::throttle_args::ThrottleArgs;
use crate::inventory::ByteSize;
use crate::rebalance::apply::PlannedMove;
use crate::rebalance::finish::ApplyOptions;
use crate::rebalance::needs::DemandOptions;
use crate::rebalance::observation::Observation;
use crate::rebalance::observe;
use crate::rebalance::restart::{RestartOptions, plan_restart};

/// The flags of `shards restart`.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Restart the primaries on this host
    #[arg(value_name = "HOST", required_unless_present = "shard", conflicts_with = "shard")]
    host: Option<String>,
    /// Restart the primaries of these shards, comma-separated
    #[arg(long, value_name = "SHARDS", value_delimiter = ',')]
    shard: Vec<ShardId>,
    /// Move the shards through this host (default: the least loaded host with enough memory)
    #[arg(long, value_name = "HOST")]
    via: Option<String>,
    /// Do not move the shards back
    #[arg(long)]
    stay: bool,
    /// Maximum number of shards to restart at a time
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=64))]
    moves_per_host: u8,
    /// Allow moves between instances with different listpack limits
    #[arg(long)]
    allow_reencoding: bool,
    /// Skip the confirmation prompt
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRunArgs,
    #[command(flatten)]
    throttle: ThrottleArgs,
}

impl ShardsContext<'_> {
    /// Restarts primaries: each moves to another host and back, where a new instance starts with the current files.
    ///
    /// # Errors
    /// Returns an error if a host or shard does not answer, no host may receive a shard, preflight fails, or another
    /// run holds a lock.
    pub async fn restart_shards(&self, args: &RestartArgs, totals: &mut RunTotals) -> Result<Exit, CommandError> {
        if !args.dry_run.dry_run && !self.files.state.load_pending_moves()?.is_empty() {
            return Err(in_progress_error("a rebalance is in progress or was interrupted"));
        }
        let map = self.files.shard_map()?;
        let shards = self.select_restarted_shards(args, map)?;
        if shards.is_empty() {
            self.reporter.print_data("nothing to restart: no primary is on this host");
            return Ok(Exit::Done);
        }
        let fleet = self.files.build_fleet(self.common)?;
        let mut context = self.files.connect_all(&fleet, self.common).await?;
        context.options.throttle = args.throttle.to_overrides();
        context.options.allow_reencoding = args.allow_reencoding;
        let primaries = observe::observe_primaries(&context, map).await.map_err(|error| {
            CommandError::new(Exit::Refused, error)
                .with_hint("dunlin shards status; if moves are in progress, dunlin shards resume")
        })?;
        let observation = observe::build_observation(&context, map, &self.files.shard_hosts()?, &primaries);
        let moves = plan_moves(args, &observation, &shards)?;
        totals.moves = moves.len();
        self.print_restarts(&moves, &observation);
        let demand = DemandOptions { max_concurrent: args.throttle.max_concurrent(), keep_source: false };
        if args.dry_run.dry_run || !args.yes {
            run_preflight(&context, &moves, &self.run_id, demand, &self.reporter).await?;
        }
        if args.dry_run.dry_run {
            return Ok(args.dry_run.exit(!moves.is_empty()));
        }
        require_confirmation("Restart these shards?", args.yes)?;
        lock_hosts_and_start_run(self.files, &mut context, "shards restart", &self.run_id, &self.reporter).await?;
        ensure_unchanged(self.files, &context, &moves).await?;
        run_preflight(&context, &moves, &self.run_id, demand, &self.reporter).await?;
        let options = ApplyOptions { max_concurrent: args.throttle.max_concurrent(), ..ApplyOptions::default() };
        let request = ApplyRequest { id: &self.run_id, moves: &moves, options, estimate: None };
        apply_and_report(self.files, &context, &request, &self.reporter, totals).await
    }

    /// Returns the shards that the flags select, ascending.
    ///
    /// # Errors
    /// Returns an error if the inventory has no such host, or the map no such shard: exit 64.
    fn select_restarted_shards(&self, args: &RestartArgs, map: &ShardMap) -> Result<Vec<ShardId>, CommandError> {
        self.ensure_shards_exist(&args.shard)?;
        let shard_hosts = self.files.shard_hosts()?;
        if let Some(unknown) =
            args.host.iter().chain(&args.via).find(|name| shard_hosts.iter().all(|host| host.name != **name))
        {
            return Err(CommandError::with_message(Exit::Usage, format!("{unknown} is not a host of shards"))
                .with_hint("dunlin shards status lists the hosts of shards"));
        }
        let selected = map.shards.iter().filter(|entry| match &args.host {
            Some(host) => entry.host == *host,
            None => args.shard.contains(&entry.id),
        });
        let selected: Vec<_> = selected.collect();
        if let Some(entry) = selected.iter().find(|entry| args.via.as_ref() == Some(&entry.host)) {
            let text = format!("shard {} is on {}; --via must name another host", entry.id, entry.host);
            return Err(CommandError::with_message(Exit::Usage, text));
        }
        let mut shards: Vec<ShardId> = selected.iter().map(|entry| entry.id).collect();
        shards.sort_unstable();
        Ok(shards)
    }

    /// Prints the plan: each shard with its hosts on the way, and its size.
    fn print_restarts(&self, moves: &[PlannedMove], observation: &Observation) {
        for shard in &observation.shards {
            let mut steps = moves.iter().filter(|step| step.shard == shard.id).peekable();
            if steps.peek().is_none() {
                continue;
            }
            let hosts: Vec<&str> =
                std::iter::once(shard.host.as_str()).chain(steps.map(|step| step.to.as_str())).collect();
            let size = ByteSize(shard.bytes).to_human();
            self.reporter.print_data(&format!("  shard {:<4} {}   {size} per move", shard.id, hosts.join(" → ")));
        }
        for PlannedMove { shard, from, to, role, .. } in moves {
            let action = MoveAction::Move;
            self.reporter.print_json(
                "planned_move",
                json!({ "shard": shard, "from": from, "to": to, "role": role, "action": action }),
            );
        }
    }
}

fn plan_moves(
    args: &RestartArgs,
    observation: &Observation,
    shards: &[ShardId],
) -> Result<Vec<PlannedMove>, CommandError> {
    let options = RestartOptions {
        shards: shards.to_vec(),
        via: args.via.clone(),
        stay: args.stay,
        concurrency: args.moves_per_host.into(),
    };
    plan_restart(observation, &options).map_err(|infeasible| {
        let text = format!("no plan is possible ({}): {}", infeasible.rule, infeasible.message);
        CommandError::with_message(Exit::Refused, text)
            .with_hint("name a host with --via, or add one: dunlin provision-new-host")
    })
}
