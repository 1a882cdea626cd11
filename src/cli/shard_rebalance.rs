//! `dunlin shard-rebalance`.

use std::path::PathBuf;

use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::confirm::require_confirmation;
use super::connect_args::ConnectArgs;
use super::exit::Exit;
use super::outcome::CommandOutcome;
use super::output_file::write_output_file;
use super::plan_args::PlanArgs;
use super::project::find_project;
use super::shard_apply::{add_totals, apply_and_report, lock_hosts_and_start_run, run_preflight};
use super::shard_files::ShardFiles;
use super::throttle_args::ThrottleArgs;
use crate::plan::{DigestKey, to_sealed_json};
use crate::project::load_digest_key;
use crate::rebalance::apply::planned_moves;
use crate::rebalance::finish::ApplyOptions;
use crate::rebalance::needs::DemandOptions;
use crate::rebalance::observation::Observation;
use crate::rebalance::observe::observe_for_plan;
use crate::rebalance::plan_file::SavedPlan;
use crate::rebalance::planning::{load_observation, load_plan, make_plan};
use crate::rebalance::run_end::RunTotals;
use crate::rebalance::run_moves::{Estimate, MovesRequest};
use crate::rebalance::start_check::{ensure_no_pending_moves, ensure_unchanged};
use crate::report::{Reporter, format_rebalance};

/// Rebalance shards across hosts, moving as few bytes as possible
#[derive(Debug, Args)]
pub struct ShardRebalance {
    #[command(flatten)]
    plan_args: PlanArgs,
    /// Plan from an observation file, without connecting to hosts
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    from_observation: Option<PathBuf>,
    /// Plan for a hypothetical fleet (e.g. growth=2x,lose=redis-07,add=redis-09:32GiB)
    #[arg(long, value_name = "SCENARIO", requires = "dry_run", conflicts_with = "plan")]
    what_if: Option<String>,
    /// Show the plan without applying it
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run, exit with 2 if moves are planned
    #[arg(long, requires = "dry_run")]
    detailed_exitcode: bool,
    /// Save the plan to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Apply a saved plan; fails if the map or hosts have changed since it was made, or sizes break its rules
    #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "PlanArgs"])]
    plan: Option<PathBuf>,
    /// Keep old instances as live replicas; `shards move-back` returns without a copy, `shards resume` retires them
    #[arg(long)]
    keep_source: bool,
    /// Allow moves between instances with different listpack limits. Small values are re-encoded; the expected memory
    /// change is shown first
    #[arg(long)]
    allow_reencoding: bool,
    #[command(flatten)]
    throttle: ThrottleArgs,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Skip the confirmation prompt
    #[arg(short, long)]
    yes: bool,
}

impl ShardRebalance {
    /// Observes, plans, shows the plan, asks for confirmation, and moves shards.
    ///
    /// # Errors
    /// Files have mistakes, a host or shard does not answer, no plan is possible, preflight fails, or another run holds a
    /// lock.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let (reporter, id, mut totals) = (common.new_reporter(), common.run.to_string(), RunTotals::default());
        let result = self.run_rebalance(common, &id, &reporter, &mut totals).await;
        add_totals(totals, result)
    }

    async fn run_rebalance(
        &self,
        common: &CommonArgs,
        id: &str,
        reporter: &Reporter,
        totals: &mut RunTotals,
    ) -> Result<Exit, CommandError> {
        if let Some(file) = &self.from_observation {
            let plan = self.load_or_make_plan(load_observation(file)?, reporter, common)?;
            totals.moves = plan.plan.moves.len();
            return self.print_plan(&plan, reporter, common);
        }
        let files = ShardFiles::load(&self.connect, common)?;
        if self.dry_run {
            // A file that cannot be used is an error here too.
            files.cluster.state.load_pending_moves()?;
        } else {
            ensure_no_pending_moves(&files.cluster)?;
        }
        let fleet = files.build_fleet(common)?;
        let mut context = files.connect_all(&fleet, common).await?;
        context.options.throttle = self.throttle.to_overrides();
        context.options.allow_reencoding = self.allow_reencoding;
        let observation = observe_for_plan(&files.cluster, &context).await?;
        let saved_plan = self.load_or_make_plan(observation, reporter, common)?;
        let plan = &saved_plan.plan;
        totals.moves = plan.moves.len();
        let exit = self.print_plan(&saved_plan, reporter, common)?;
        if plan.is_empty() || self.what_if.is_some() {
            return Ok(exit);
        }
        let moves = planned_moves(plan);
        let demand = DemandOptions { max_concurrent: self.throttle.max_concurrent(), keep_source: self.keep_source };
        if self.dry_run {
            run_preflight(&context, &moves, id, demand, reporter).await?;
            return Ok(exit);
        }
        if !self.yes {
            run_preflight(&context, &moves, id, demand, reporter).await?;
            require_confirmation("Move these shards?", self.yes)?;
        }
        lock_hosts_and_start_run(&files, &mut context, "shard-rebalance", id, reporter).await?;
        ensure_unchanged(&files.cluster, &context, &moves).await?;
        run_preflight(&context, &moves, id, demand, reporter).await?;
        let options = ApplyOptions {
            keep_source: self.keep_source,
            max_concurrent: self.throttle.max_concurrent(),
            ..ApplyOptions::default()
        };
        let estimate = Some(Estimate::from_plan(plan));
        apply_and_report(&files, &context, &MovesRequest { id, moves: &moves, options, estimate }, reporter, totals)
            .await
    }

    /// Loads the saved plan, or makes a new one.
    fn load_or_make_plan(
        &self,
        observation: Observation,
        reporter: &Reporter,
        common: &CommonArgs,
    ) -> Result<SavedPlan, CommandError> {
        let Some(file) = &self.plan else {
            let options = self.plan_args.to_options(self.throttle.to_transfer_limits());
            return Ok(make_plan(observation, options, self.what_if.as_deref())?);
        };
        let (plan, drift) = load_plan(file, &observation, &self.load_seal_key(common)?)?;
        for change in drift {
            reporter.print_status(&format!("note: sizes have changed since the plan was saved: {change}"));
        }
        Ok(plan)
    }

    /// Returns the key that seals saved plans.
    fn load_seal_key(&self, common: &CommonArgs) -> Result<DigestKey, CommandError> {
        Ok(load_digest_key(&find_project(&self.connect.inventory, common)?)?)
    }

    fn print_plan(
        &self,
        saved_plan: &SavedPlan,
        reporter: &Reporter,
        common: &CommonArgs,
    ) -> Result<Exit, CommandError> {
        let plan = &saved_plan.plan;
        if reporter.json {
            reporter.print_json("plan", serde_json::to_value(plan).map_err(anyhow::Error::from)?);
        } else {
            reporter.print_painted_data(format_rebalance(plan, reporter.style).trim_end());
        }
        if let Some(file) = &self.out {
            let text = to_sealed_json(saved_plan, &self.load_seal_key(common)?).map_err(anyhow::Error::from)?;
            write_output_file(file, text.as_bytes())?;
        }
        Ok(if self.detailed_exitcode && !plan.is_empty() { Exit::Pending } else { Exit::Done })
    }
}
