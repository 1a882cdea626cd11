//! `dunlin shard-rebalance`.

use std::path::PathBuf;

use clap::Args;

use super::Common;
use super::confirm::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::run::run_id;
use super::shard_ground::Files;
use super::shard_run::{Foretold, Tally, Task, begin, carry_out, checked};
use super::sparing::Spare;
use crate::inventory::Bytes;
use crate::rebalance::ground::read_map;
use crate::rebalance::observation::Observation;
use crate::rebalance::plan::{Balance, Infeasible, RebalancePlan, Wishes, plan, simulate};
use crate::rebalance::resume::{Stand, journals, stand};
use crate::rebalance::run::{How, Step};
use crate::rebalance::{Ground, observe, publish};
use crate::report::{Reporter, rebalance_text};

/// Plan and run shard moves: as few bytes as possible, no acknowledged write lost
#[derive(Debug, Args)]
pub struct ShardRebalance {
    /// Empty this host
    #[arg(long, value_name = "HOST")]
    drain: Vec<String>,
    /// Only these hosts may receive shards
    #[arg(long, value_name = "HOSTS", value_delimiter = ',')]
    to: Vec<String>,
    /// What is made even: bytes, ops or bytes,ops
    #[arg(long, value_name = "WHAT", default_value = "bytes")]
    balance: Balance,
    /// How far a host may be off its share
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = percent)]
    tolerance: f64,
    /// At most so many moves
    #[arg(long, value_name = "N")]
    max_moves: Option<usize>,
    /// At most so many bytes: 10GiB
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<Bytes>,
    /// Plan from this observation, with no host in reach
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    observed: Option<PathBuf>,
    /// What if: growth=2x,lose=redis-07,add=redis-09:32GiB
    #[arg(long, value_name = "WHAT", requires = "dry_run")]
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
    /// Apply exactly that saved plan; refused where the map is another now
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    plan: Option<PathBuf>,
    /// Leave the old instances as live replicas: `shards reverse` goes back without a copy, `shards resume` retires them
    #[arg(long)]
    soak: bool,
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
    pub async fn run(self, common: &Common) -> Result<Exit, Failure> {
        let (reporter, id, mut tally) = (common.reporter(), run_id(), Tally::default());
        reporter.start("shard-rebalance", &id);
        let result = self.rebalance(common, (&id, &reporter), &mut tally).await;
        tally.end(result, &reporter)
    }

    async fn rebalance(
        &self,
        common: &Common,
        (id, reporter): (&str, &Reporter),
        tally: &mut Tally,
    ) -> Result<Exit, Failure> {
        if let Some(file) = &self.observed {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Failure::say(Exit::Error, format!("{}: {error}", file.display())))?;
            let observation = Observation::from_json(&text)
                .map_err(|error| Failure::say(Exit::Error, format!("{}: {error}", file.display())))?;
            let plan = self.planned(observation)?;
            tally.moves = plan.moves.len();
            return self.show(&plan, reporter);
        }
        let files = Files::load(common)?;
        if !self.dry_run && !files.kept()?.is_empty() {
            return Err(under_way("a rebalancing is under way or was cut short"));
        }
        let fleet = files.fleet(common)?;
        let mut ground = files.ground(&fleet, common).await?;
        ground.sparing = self.spare.asked();
        let map = files.map()?;
        let primaries = observe::primaries(&ground, map).await.map_err(|error| {
            Failure::new(Exit::Refused, error)
                .hint("dunlin shards status; dunlin shards resume, if moves are under way")
        })?;
        let observation = observe::observation(&ground, map, &files.shard_hosts()?, &primaries);
        let plan = match &self.plan {
            Some(file) => saved(file, &observation)?,
            None => self.planned(observation)?,
        };
        tally.moves = plan.moves.len();
        let exit = self.show(&plan, reporter)?;
        if self.dry_run || plan.is_empty() {
            return Ok(exit);
        }
        let steps = steps(&plan);
        if !self.yes {
            checked(&ground, &steps, id).await?;
            confirm("Move these shards?", self.yes)?;
        }
        begin(&files, &mut ground, ("shard-rebalance", id), reporter).await?;
        unchanged(&files, &ground, &steps).await?;
        checked(&ground, &steps, id).await?;
        let how = How { soak: self.soak, concurrent: self.spare.concurrent(), ..How::default() };
        let planned = Some(Foretold::by(&plan));
        carry_out(&files, &ground, &Task { id, steps: &steps, how, planned }, (reporter, tally)).await
    }

    fn planned(&self, mut observation: Observation) -> Result<RebalancePlan, Failure> {
        if let Some(what) = &self.simulate {
            observation = simulated(&observation, what)?;
        }
        let wishes = Wishes {
            tolerance: self.tolerance,
            balance: self.balance,
            drain: self.drain.clone(),
            to: (!self.to.is_empty()).then(|| self.to.clone()),
            max_moves: self.max_moves,
            max_bytes: self.max_bytes.map(|bytes| bytes.0),
            pace: self.spare.pace(),
            ..Wishes::default()
        };
        plan(&observation, &wishes).map_err(|infeasible| refused(&observation, &wishes, &infeasible))
    }

    fn show(&self, plan: &RebalancePlan, reporter: &Reporter) -> Result<Exit, Failure> {
        if reporter.json {
            let mut line = serde_json::to_value(plan).map_err(anyhow::Error::from)?;
            line["event"] = "plan".into();
            reporter.line(&line);
        } else {
            reporter.data(rebalance_text(plan, reporter.style).trim_end());
        }
        if let Some(file) = &self.out {
            std::fs::write(file, serde_json::to_vec_pretty(plan).map_err(anyhow::Error::from)?)?;
        }
        Ok(if self.detailed_exitcode && !plan.is_empty() { Exit::Pending } else { Exit::Done })
    }
}

/// An impossible wish: the rule, what stands in its way, and the figures of the hosts that may take shards.
fn refused(observation: &Observation, wishes: &Wishes, infeasible: &Infeasible) -> Failure {
    let rule = serde_json::to_value(infeasible.rule).unwrap_or_default();
    let mut text = format!("no such plan ({}): {}", rule.as_str().unwrap_or_default(), infeasible.message);
    if !infeasible.shards.is_empty() {
        let shards: Vec<String> = infeasible.shards.iter().map(ToString::to_string).collect();
        text += &format!("; shards in the way: {}", shards.join(", "));
    }
    for host in &observation.hosts {
        let may_take = wishes.to.as_ref().is_none_or(|to| to.contains(&host.name));
        if !may_take || host.drain || wishes.drain.contains(&host.name) {
            continue;
        }
        let here =
            observation.shards.iter().filter(|shard| shard.host == host.name || shard.replicas.contains(&host.name));
        let bytes = Bytes(here.map(|shard| shard.bytes).sum()).human();
        text += &format!("\n  {}: {} for shards, {bytes} in use", host.name, Bytes(host.capacity_bytes).human());
    }
    Failure::say(Exit::Refused, text).hint(infeasible.hint.clone())
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

fn saved(file: &std::path::Path, now: &Observation) -> Result<RebalancePlan, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::say(Exit::Error, format!("{}: {error}", file.display())))?;
    let plan: RebalancePlan = serde_json::from_str(&text)
        .map_err(|error| Failure::say(Exit::Error, format!("{} is not a saved plan: {error}", file.display())))?;
    if plan.cluster != now.cluster || plan.epoch != now.epoch {
        return Err(Failure::say(
            Exit::Refused,
            format!(
                "the plan is for {} at epoch {}, the map is {} at epoch {}; nothing was changed",
                plan.cluster, plan.epoch, now.cluster, now.epoch
            ),
        )
        .hint("make a new plan and look at it"));
    }
    Ok(plan)
}

fn simulated(observation: &Observation, what: &str) -> Result<Observation, Failure> {
    let wrong = |error: simulate::SimulateError| Failure::say(Exit::Usage, format!("--simulate: {}", error.0));
    let what_if: simulate::WhatIf = what.parse().map_err(wrong)?;
    let supposed = what_if.apply(observation).map_err(wrong)?;
    for note in &supposed.notes {
        eprintln!("note: {note}");
    }
    Ok(supposed.observation)
}

/// `5%` or `0.05`.
fn percent(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let value: f64 = number.trim().parse().map_err(|_| "a tolerance is a percentage such as 5%".to_owned())?;
    if (0.0..=100.0).contains(&value) {
        Ok(value / scale)
    } else {
        Err("a tolerance is between 0% and 100%".to_owned())
    }
}
