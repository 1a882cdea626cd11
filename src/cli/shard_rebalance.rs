//! `dunlin shard-rebalance`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::Common;
use super::confirm::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::run::run_id;
use super::shard_ground::Files;
use crate::inventory::Bytes;
use crate::plan::Counts;
use crate::rebalance::observation::Observation;
use crate::rebalance::plan::{Balance, RebalancePlan, Wishes, plan, simulate};
use crate::rebalance::run::{Outcome, Step, preflight, run};
use crate::rebalance::{Ground, observe};
use crate::report::{Bars, Reporter, Summary, rebalance_text};

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
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl ShardRebalance {
    /// observe → plan → show → confirm → move → summarise.
    ///
    /// # Errors
    /// Broken files, a host or a shard that does not answer, an impossible wish, a preflight that refuses.
    pub async fn run(self, common: &Common) -> Result<Exit, Failure> {
        let reporter = common.reporter();
        let id = run_id();
        if let Some(file) = &self.observed {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Failure::say(Exit::Error, format!("{}: {error}", file.display())))?;
            let observation = Observation::from_json(&text)
                .map_err(|error| Failure::say(Exit::Error, format!("{}: {error}", file.display())))?;
            let plan = self.planned(observation)?;
            return self.show(&plan, &reporter);
        }
        let files = Files::load(common)?;
        if !self.dry_run && !files.kept()?.is_empty() {
            return Err(Failure::say(Exit::Refused, "a rebalancing is under way or was cut short")
                .hint("dunlin shards status")
                .hint("dunlin shards resume, or dunlin shards abort"));
        }
        let fleet = files.fleet(common)?;
        let ground = files.ground(&fleet, common).await?;
        let map = files.map()?;
        let primaries = observe::primaries(&ground, map).await.map_err(|error| Failure::new(Exit::Refused, error))?;
        let observation = observe::observation(&ground, map, &files.shard_hosts()?, &primaries);
        let plan = match &self.plan {
            Some(file) => saved(file, &observation)?,
            None => self.planned(observation)?,
        };
        let exit = self.show(&plan, &reporter)?;
        if self.dry_run || plan.is_empty() {
            return Ok(exit);
        }
        let steps = steps(&plan);
        let reasons = preflight(&ground, map, &steps, &id).await?;
        if !reasons.is_empty() {
            return Err(Failure::say(
                Exit::Refused,
                format!("preflight refuses; no Redis was written to\n  {}", reasons.join("\n  ")),
            ));
        }
        confirm("Move these shards?", self.yes)?;
        files.keep(&steps)?;
        carry_out(&files, &ground, &steps, (&id, &reporter)).await
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
            ..Wishes::default()
        };
        let plan = plan(&observation, &wishes).map_err(|infeasible| {
            let shards: Vec<String> = infeasible.shards.iter().map(ToString::to_string).collect();
            let rule = serde_json::to_value(infeasible.rule)
                .ok()
                .and_then(|rule| rule.as_str().map(str::to_owned))
                .unwrap_or_default();
            Failure::say(
                Exit::Refused,
                format!("no such plan ({rule}): {}; shards in the way: {}", infeasible.message, shards.join(", ")),
            )
            .hint(infeasible.hint)
        })?;
        Ok(plan)
    }

    fn show(&self, plan: &RebalancePlan, reporter: &Reporter) -> Result<Exit, Failure> {
        if reporter.json {
            reporter.line(&serde_json::to_value(plan).map_err(anyhow::Error::from)?);
        } else {
            reporter.data(rebalance_text(plan, reporter.style).trim_end());
        }
        if let Some(file) = &self.out {
            std::fs::write(file, serde_json::to_vec_pretty(plan).map_err(anyhow::Error::from)?)?;
        }
        Ok(if self.detailed_exitcode && !plan.is_empty() { Exit::Pending } else { Exit::Done })
    }
}

/// Runs moves, and tells how they ended.
///
/// # Errors
/// The list of what is left cannot be written.
pub async fn carry_out(
    files: &Files,
    ground: &Ground<'_>,
    steps: &[Step],
    (id, reporter): (&str, &Reporter),
) -> Result<Exit, Failure> {
    let bars = Bars::new(reporter.json, reporter.style.quiet);
    let begin = Instant::now();
    let outcome = run(ground, steps, id, &|host, event| {
        reporter.event(host, event);
        bars.event(host, event);
    })
    .await;
    bars.finish();
    let left: Vec<Step> = steps.iter().filter(|step| !outcome.moved.contains_key(&step.shard)).cloned().collect();
    files.keep(&left)?;
    tell(&outcome, begin.elapsed().as_secs_f64(), reporter);
    let exit = match (left.is_empty(), ground.fleet.stop.is_asked()) {
        (true, _) => Exit::Done,
        (false, true) => Exit::Interrupted,
        (false, false) => Exit::Partial,
    };
    let counts = Counts { change: steps.len(), ..Counts::default() };
    reporter.summary(Summary { counts, failed: outcome.failed.len(), exit: exit.code() });
    Ok(exit)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for a reader")]
fn tell(outcome: &Outcome, seconds: f64, reporter: &Reporter) {
    for (shard, error) in &outcome.failed {
        reporter.failed(
            &format!("shard {shard}"),
            error,
            Some("dunlin shards status, then dunlin shards resume or abort"),
        );
    }
    if !outcome.left.is_empty() {
        reporter.say(&format!("{} moves were not begun; dunlin shards resume makes them", outcome.left.len()));
    }
    let bytes: u64 = outcome.moved.values().map(|moved| moved.bytes).sum();
    let gap_ms = outcome.moved.values().map(|moved| moved.gap_us).max().unwrap_or(0) as f64 / 1000.0;
    let moves = outcome.moved.len();
    reporter
        .line(&json!({"event": "rebalanced", "moves": moves, "bytes": bytes, "seconds": seconds, "gap_ms": gap_ms}));
    reporter.data(&format!(
        "Done: {moves} shards ({}) moved in {seconds:.1} s; writes were held for at most {gap_ms:.1} ms",
        Bytes(bytes).human()
    ));
}

fn steps(plan: &RebalancePlan) -> Vec<Step> {
    let step = |m: &crate::rebalance::plan::Move| Step {
        shard: m.shard,
        from: m.from.clone(),
        to: m.to.clone(),
        wave: m.wave,
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
