//! `dunlin shard-rebalance`.

use std::path::PathBuf;

use clap::Args;

use super::Common;
use super::confirm::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::outcome::CommandOutcome;
use super::shard_ground::Files;
use super::shard_run::{Foretold, Tally, Task, begin, carry_out, checked};
use super::shard_wishes::{WishArgs, observed, save, saved};
use super::sparing::Spare;
use crate::rebalance::ground::read_map;
use crate::rebalance::observation::Observation;
use crate::rebalance::plan::RebalancePlan;
use crate::rebalance::resume::{Stand, journals, stand};
use crate::rebalance::run::{How, Step};
use crate::rebalance::saved::SavedPlan;
use crate::rebalance::{Ground, observe, publish};
use crate::report::{Reporter, rebalance_text};

/// Plan and run shard moves: as few bytes as possible, no acknowledged write lost
#[derive(Debug, Args)]
pub struct ShardRebalance {
    #[command(flatten)]
    wishes: WishArgs,
    /// Plan from this observation, with no host in reach
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    observed: Option<PathBuf>,
    /// What if: growth=2x,lose=redis-07,add=redis-09:32GiB
    #[arg(long, value_name = "WHAT", requires = "dry_run", conflicts_with = "plan")]
    simulate: Option<String>,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: exit 2 where moves are planned
    #[arg(long, requires = "dry_run")]
    detailed_exitcode: bool,
    /// Save the plan
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Apply exactly that saved plan; refused where map or hosts are others now, or sizes break its rules
    #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "WishArgs"])]
    plan: Option<PathBuf>,
    /// Leave the old instances as live replicas: `shards reverse` goes back without a copy, `shards resume` retires them
    #[arg(long)]
    soak: bool,
    /// Move also where the target's listpack limits are others than the source's: what is small is encoded anew, and it
    /// is told before what that does to memory
    #[arg(long)]
    allow_reencoding: bool,
    #[command(flatten)]
    spare: Spare,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl ShardRebalance {
    /// observe → plan → show → confirm → move → summarise.
    ///
    /// # Errors
    /// Broken files, a host or a shard that does not answer, an impossible wish, a preflight that refuses, a lock.
    pub async fn run(self, common: &Common) -> Result<CommandOutcome, Failure> {
        let (reporter, id, mut tally) = (common.reporter(), common.run.to_string(), Tally::default());
        let result = self.rebalance(common, (&id, &reporter), &mut tally).await;
        tally.end(result)
    }

    async fn rebalance(
        &self,
        common: &Common,
        (id, reporter): (&str, &Reporter),
        tally: &mut Tally,
    ) -> Result<Exit, Failure> {
        if let Some(file) = &self.observed {
            let plan = self.decided(observed(file)?, reporter)?;
            tally.moves = plan.plan.moves.len();
            return self.show(&plan, reporter);
        }
        let files = Files::load(common)?;
        let pending = files.state.load_pending_moves()?;
        if !self.dry_run && !pending.is_empty() {
            return Err(under_way("a rebalancing is under way or was cut short"));
        }
        let fleet = files.fleet(common)?;
        let mut ground = files.ground(&fleet, common).await?;
        ground.sparing = self.spare.asked();
        ground.allow_reencoding = self.allow_reencoding;
        let map = files.map()?;
        let primaries = observe::primaries(&ground, map).await.map_err(|error| {
            Failure::new(Exit::Refused, error)
                .hint("dunlin shards status; dunlin shards resume, if moves are under way")
        })?;
        let observation = observe::observation(&ground, map, &files.shard_hosts()?, &primaries);
        let decided = self.decided(observation, reporter)?;
        let plan = &decided.plan;
        tally.moves = plan.moves.len();
        let exit = self.show(&decided, reporter)?;
        if self.dry_run || plan.is_empty() {
            return Ok(exit);
        }
        let steps = steps(plan);
        if !self.yes {
            checked(&ground, &steps, (id, reporter)).await?;
            confirm("Move these shards?", self.yes)?;
        }
        begin(&files, &mut ground, ("shard-rebalance", id), reporter).await?;
        unchanged(&files, &ground, &steps).await?;
        checked(&ground, &steps, (id, reporter)).await?;
        let how = How { soak: self.soak, concurrent: self.spare.concurrent(), ..How::default() };
        let planned = Some(Foretold::by(plan));
        carry_out(&files, &ground, &Task { id, steps: &steps, how, planned }, (reporter, tally)).await
    }

    /// The saved plan, or a new one.
    fn decided(&self, observation: Observation, reporter: &Reporter) -> Result<SavedPlan, Failure> {
        let Some(file) = &self.plan else {
            return self.wishes.planned(observation, self.simulate.as_deref(), self.spare.pace());
        };
        let (plan, drift) = saved(file, &observation)?;
        for what in drift {
            reporter.say(&format!("note: sizes have changed since the plan was saved: {what}"));
        }
        Ok(plan)
    }

    fn show(&self, decided: &SavedPlan, reporter: &Reporter) -> Result<Exit, Failure> {
        let plan = &decided.plan;
        if reporter.json {
            reporter.line("plan", serde_json::to_value(plan).map_err(anyhow::Error::from)?);
        } else {
            reporter.data(rebalance_text(plan, reporter.style).trim_end());
        }
        if let Some(file) = &self.out {
            save(file, decided)?;
        }
        Ok(if self.detailed_exitcode && !plan.is_empty() { Exit::Pending } else { Exit::Done })
    }
}

fn under_way(what: &str) -> Failure {
    Failure::say(Exit::Refused, format!("{what}; nothing was changed"))
        .hint("dunlin shards status")
        .hint("dunlin shards resume, or dunlin shards abort")
}

/// Under the lock: the map is the one that was planned from and the one that is published, and no move is under way.
async fn unchanged(files: &Files, ground: &Ground<'_>, steps: &[Step]) -> Result<(), Failure> {
    let map = files.map()?;
    let (now, _) = read_map(&ground.map_file)?;
    let published = publish::published(ground, map).await?;
    if now != *map || published > map.epoch.0 {
        let newer = published.max(now.epoch.0);
        let text = format!(
            "{} has epoch {}, meanwhile epoch {newer} is published; nothing was changed",
            ground.map_file.display(),
            map.epoch.0
        );
        return Err(Failure::say(Exit::Refused, text)
            .hint("take over the newer map, or let dunlin shards resume bring this one up to date"));
    }
    for (_, state) in journals(ground).await?.values() {
        let moves = steps.iter().any(|step| step.shard == state.shard);
        match stand(ground, map, state) {
            Stand::Over => {}
            Stand::Soaking if !moves => {}
            Stand::Soaking => {
                let text = format!("shard {} has its old instance as a replica still", state.shard);
                return Err(Failure::say(Exit::Refused, format!("{text}; nothing was changed"))
                    .hint("dunlin shards resume retires it, dunlin shards reverse goes back to it"));
            }
            _ => return Err(under_way(&format!("a move of shard {} is under way or was cut short", state.shard))),
        }
    }
    Ok(())
}

fn steps(plan: &RebalancePlan) -> Vec<Step> {
    let step = |m: &crate::rebalance::plan::Move| Step {
        shard: m.shard,
        from: m.from.clone(),
        to: m.to.clone(),
        wave: m.wave,
        role: m.role,
    };
    plan.moves.iter().map(step).collect()
}
