//! `dunlin shards restart`.

use clap::Args;
use dunlin_shards::ShardId;

use super::ShardsContext;
use super::dry_run::DryRunArgs;
use crate::cli::command_error::CommandError;
use crate::cli::confirm::require_confirmation;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::{apply_and_report, lock_hosts_and_start_run, run_preflight};
use crate::cli::throttle_args::ThrottleArgs;
use crate::rebalance::finish::ApplyOptions;
use crate::rebalance::needs::DemandOptions;
use crate::rebalance::observe;
use crate::rebalance::restart::{RestartOptions, plan_restart_moves};
use crate::rebalance::run_end::RunTotals;
use crate::rebalance::run_moves::MovesRequest;
use crate::rebalance::start_check::{ensure_no_pending_moves, ensure_unchanged};
use crate::report::report_restart_plan;

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
        let cluster = &self.files.cluster;
        if !args.dry_run.dry_run {
            ensure_no_pending_moves(cluster)?;
        }
        let mut options = args.to_options();
        options.select_shards(cluster, args.host.as_ref())?;
        if options.shards.is_empty() {
            self.reporter.print_data("nothing to restart: no primary is on this host");
            return Ok(Exit::Done);
        }
        let fleet = self.files.build_fleet(self.common)?;
        let mut context = self.files.connect_all(&fleet, self.common).await?;
        context.options.throttle = args.throttle.to_overrides();
        context.options.allow_reencoding = args.allow_reencoding;
        let observation = observe::observe_for_plan(cluster, &context).await?;
        let moves = plan_restart_moves(&observation, &options)?;
        totals.moves = moves.len();
        report_restart_plan(&moves, &observation, &self.reporter);
        let demand = DemandOptions { max_concurrent: args.throttle.max_concurrent(), keep_source: false };
        if args.dry_run.dry_run || !args.yes {
            run_preflight(&context, &moves, &self.run_id, demand, &self.reporter).await?;
        }
        if args.dry_run.dry_run {
            return Ok(args.dry_run.exit(!moves.is_empty()));
        }
        require_confirmation("Restart these shards?", args.yes)?;
        lock_hosts_and_start_run(self.files, &mut context, "shards restart", &self.run_id, &self.reporter).await?;
        ensure_unchanged(cluster, &context, &moves).await?;
        run_preflight(&context, &moves, &self.run_id, demand, &self.reporter).await?;
        let options = ApplyOptions { max_concurrent: args.throttle.max_concurrent(), ..ApplyOptions::default() };
        let request = MovesRequest { id: &self.run_id, moves: &moves, options, estimate: None };
        apply_and_report(self.files, &context, &request, &self.reporter, totals).await
    }
}

impl RestartArgs {
    fn to_options(&self) -> RestartOptions {
        RestartOptions {
            shards: self.shard.clone(),
            via: self.via.clone(),
            stay: self.stay,
            concurrency: self.moves_per_host.into(),
        }
    }
}
