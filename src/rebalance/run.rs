//! Running a plan: preflight of all moves, then wave after wave copy → switch → publish → retire.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dunlin_shards::ShardMap;
use tokio::sync::Mutex;

use super::ground::{Watch, placed, read_map, shard_id};
use super::plan::Role;
use super::replica::Change;
use super::{Ground, publish, replica};
use crate::wire::Event;
use crate::wire::shard::{Arm, MoveSpec, Refusal, Reply, Request, Retire, Switched};

/// How long a retired instance's files are kept, in hours.
const KEEP_HOURS: u64 = 72;
/// How long clients of the application may take to leave a source once the new map is out.
const LEAVE: Duration = Duration::from_secs(30);

/// One move of the plan.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// The shard.
    pub shard: u32,
    /// The host it leaves.
    pub from: String,
    /// The host it goes to.
    pub to: String,
    /// When: all of a wave are moved at once.
    pub wave: usize,
    /// Which copy moves; a file of an earlier version speaks of primaries only.
    #[serde(default)]
    pub role: Role,
}

impl Step {
    /// What tells it from the other steps of its plan: a detour moves a shard twice.
    pub fn key(&self) -> (u32, usize) {
        (self.shard, self.wave)
    }

    /// The replica that it makes, where it is one that moves.
    fn replica(&self) -> Option<Change<'_>> {
        (self.role == Role::Replica).then_some(Change { shard: self.shard, old: Some(&self.from), new: &self.to })
    }

    /// The move as the target's host is asked whether anything stands in its way.
    fn spec(&self, ground: &Ground<'_>, map: &ShardMap, run: &str) -> Result<MoveSpec> {
        match self.replica() {
            Some(change) => replica::asked(ground, map, run, change),
            None => ground.spec(map, run, self.shard, &self.to),
        }
    }
}

/// What a move was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moved {
    /// Bytes of the copy.
    pub bytes: u64,
    /// How long writes were held, in microseconds.
    pub gap_us: u64,
    /// Seconds from the beginning to the end, the retirement included.
    pub seconds: f64,
    /// Things that are still to do, which the host told.
    pub pending: Vec<String>,
    /// Why the old instance was not retired, where it should have been; it is a replica of the new one.
    pub kept: Option<String>,
}

/// What a run does beside moving.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Leave the old instances as replicas: `shards reverse` goes back without a copy.
    pub soak: bool,
    /// A service that does not tell its epoch no longer keeps an old instance from being retired.
    pub pass_unclear: bool,
    /// At most so many moves at the same time; 0: all of a wave.
    pub concurrent: usize,
}

/// A move that ended, for whoever watches.
pub type Ended<'a> = &'a (dyn Fn(&Step, &Result<Moved>) + Send + Sync);

/// How a run ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was moved, by shard and wave.
    pub moved: BTreeMap<(u32, usize), Moved>,
    /// What failed, by shard and wave.
    pub failed: BTreeMap<(u32, usize), String>,
    /// What was not begun.
    pub left: Vec<Step>,
}

/// All reasons, of all moves, why a plan cannot be run now. Nothing is written to any Redis.
///
/// # Errors
/// A host could not be asked.
pub async fn preflight(
    ground: &Ground<'_>,
    map: &ShardMap,
    steps: &[Step],
    (run, watch): (&str, Watch<'_>),
) -> Result<Vec<String>> {
    let ask = async |step: &Step| -> Result<Vec<String>> {
        let found = refusals(ground, step.spec(ground, map, run)?, &step.to, watch).await?;
        Ok(found.iter().map(|refusal| format!("shard {} to {}: {refusal}", step.shard, step.to)).collect())
    };
    let mut reasons = Vec::new();
    for result in ground.fleet.each(steps, ask).await {
        reasons.extend(result?);
    }
    Ok(reasons)
}

/// What the target's host has against a copy to it. Nothing is written to any Redis.
///
/// # Errors
/// It could not be asked.
pub async fn refusals(ground: &Ground<'_>, spec: MoveSpec, to: &str, watch: Watch<'_>) -> Result<Vec<Refusal>> {
    match ground.ask(to, Request::Preflight(spec), watch).await? {
        Reply::Preflight(found) => Ok(found),
        _ => bail!("an answer that does not fit"),
    }
}

/// Runs the moves; a wave begins only while nothing has failed, and a move only while nobody asked to stop.
pub async fn run(
    ground: &Ground<'_>,
    steps: &[Step],
    run: &str,
    (how, watch, ended): (How, Watch<'_>, Ended<'_>),
) -> Outcome {
    let mut outcome = Outcome::default();
    let publishing = Mutex::new(());
    let waves = steps.iter().map(|step| step.wave).max().map_or(0, |last| last + 1);
    for wave in 0..waves {
        let now: Vec<&Step> = steps.iter().filter(|step| step.wave == wave).collect();
        if !outcome.failed.is_empty() || ground.fleet.stop.is_cancelled() {
            outcome.left.extend(now.into_iter().cloned());
            continue;
        }
        let settling = Settling { publishing: &publishing, how, watch };
        let each = async |step: &&Step| {
            if ground.fleet.stop.is_cancelled() {
                return None;
            }
            let result = one(ground, step, run, &settling).await;
            ended(step, &result);
            Some(result)
        };
        let at_a_time = if how.concurrent > 0 { how.concurrent } else { now.len() };
        let results = ground.fleet.few(&now, at_a_time, each).await;
        for (step, result) in now.into_iter().zip(results) {
            match result {
                Some(Ok(moved)) => drop(outcome.moved.insert(step.key(), moved)),
                Some(Err(error)) => drop(outcome.failed.insert(step.key(), format!("{error:#}"))),
                None => outcome.left.push(step.clone()),
            }
        }
    }
    outcome
}

async fn one(ground: &Ground<'_>, step: &Step, run: &str, settling: &Settling<'_>) -> Result<Moved> {
    let (begin, watch) = (Instant::now(), settling.watch);
    // A detour moves a shard twice in one run; the hosts' journals tell moves apart by their run.
    let run = format!("{run}.{}", step.wave);
    if let Some(change) = step.replica() {
        return replica::change(ground, change, &run, settling).await;
    }
    let (map, _) = read_map(&ground.map_file)?;
    let spec = ground.spec(&map, &run, step.shard, &step.to)?;
    let mut moved = Moved::default();
    match ground.ask(&step.to, Request::Copy(spec.clone()), watch).await? {
        Reply::Copied(copied) => moved.bytes = copied.bytes,
        _ => bail!("an answer that does not fit"),
    }
    if ground.fleet.stop.is_cancelled() {
        // Else the source's file would be armed for a switch that does not begin.
        bail!("interrupted before it was switched: {} serves it, the copy at {} follows", step.from, step.to);
    }
    phase(&spec, &step.to, "switch", watch);
    let switched = switch(ground, &map, &spec, (&step.from, &step.to), watch).await?;
    moved.gap_us = switched.gap_us;
    moved.pending = switched.pending;
    moved.kept = settle(ground, &map, &spec, (&step.from, &step.to), settling).await?;
    moved.seconds = begin.elapsed().as_secs_f64();
    Ok(moved)
}

/// Hands the writes of a copied shard over.
///
/// # Errors
/// What the target's host answered.
pub async fn switch(
    ground: &Ground<'_>,
    before: &ShardMap,
    spec: &MoveSpec,
    (from, to): (&str, &str),
    watch: Watch<'_>,
) -> Result<Switched> {
    // The source's own host makes its file ready, so that no client waits for that disk. Where it does not, the switch
    // has the source do it.
    let arm = Arm {
        job: ground.job(from, spec.job.shard, &spec.job.run),
        address: spec.from.clone(),
        replicas: u32::try_from(spec.others.len())? + 1,
        instance: ground.instance(before, spec.job.shard, from, ground.session(from)?)?,
    };
    let source_is_armed = matches!(ground.ask(from, Request::Arm(arm), watch).await, Ok(Reply::Armed));
    match ground.ask(to, Request::Switch(MoveSpec { source_is_armed, ..spec.clone() }), watch).await? {
        Reply::Switched(switched) => Ok(switched),
        _ => bail!("an answer that does not fit"),
    }
}

/// What settling needs beside the move.
pub struct Settling<'a> {
    /// One epoch after the other.
    pub publishing: &'a Mutex<()>,
    /// What the run does.
    pub how: How,
    /// Who watches.
    pub watch: Watch<'a>,
}

/// What follows a switch: the map is published, and the source retired once the application has left it. Returns why it
/// was not retired, where that has to wait; it is a live replica then, and `shards resume` retires it.
///
/// # Errors
/// A consumer did not take the map, or the source does not follow the target.
pub async fn settle(
    ground: &Ground<'_>,
    before: &ShardMap,
    spec: &MoveSpec,
    (from, to): (&str, &str),
    settling: &Settling<'_>,
) -> Result<Option<String>> {
    let Settling { publishing, how, watch } = settling;
    phase(spec, to, "publish", watch);
    let map = {
        let _turn = publishing.lock().await;
        let (now, _) = read_map(&ground.map_file)?;
        publish::publish(ground, &[placed(&now, spec.job.shard, to)?]).await?
    };
    if how.soak {
        phase(spec, to, "soak", watch);
        return Ok(None);
    }
    if ground.absent.contains(from) {
        return Ok(Some(format!("{from} does not answer")));
    }
    phase(spec, to, "retire", watch);
    let instance = ground.instance(before, spec.job.shard, from, ground.session(from)?)?;
    let leaving = Leaving { run: &spec.job.run, shard: spec.job.shard, host: from, owner: spec.to.clone(), instance };
    let kept = retire(ground, &map, &leaving, *how).await?;
    if kept.is_none() {
        phase(spec, to, "done", watch);
    }
    Ok(kept)
}

/// An instance that is wanted no more where it is.
pub struct Leaving<'a> {
    /// The run.
    pub run: &'a str,
    /// Its shard.
    pub shard: u32,
    /// Its host.
    pub host: &'a str,
    /// The shard's primary, `ip:port`, which it follows.
    pub owner: String,
    /// Its `redis_shard` as it was provisioned.
    pub instance: serde_json::Value,
}

/// Stops an instance once the application has left it, and keeps its files. Returns why that has to wait, where it has.
///
/// # Errors
/// The consumers could not be asked.
pub async fn retire(ground: &Ground<'_>, map: &ShardMap, leaving: &Leaving<'_>, how: How) -> Result<Option<String>> {
    let Leaving { run, shard, host, owner, instance } = leaving;
    let entry = map.shard(shard_id(*shard)?).with_context(|| format!("there is no shard {shard}"))?;
    let behind = publish::left_behind(ground, map, !how.pass_unclear).await?;
    if !behind.is_empty() {
        return Ok(Some(format!("not all consumers are on epoch {}: {}", map.epoch.0, behind.join("; "))));
    }
    let retire = Retire {
        job: ground.job(host, *shard, run),
        address: ground.address(map, *shard, host)?,
        owner: owner.clone(),
        epoch: map.epoch.0,
        app_user: entry.id.user(),
        instance: instance.clone(),
        keep_hours: KEEP_HOURS,
    };
    let begin = Instant::now();
    loop {
        match ground.ask(host, Request::Retire(retire.clone()), &|_, _| {}).await {
            Ok(_) => return Ok(None),
            // Services look at their map a few times a second and then close what they do not need.
            Err(_) if begin.elapsed() < LEAVE && !ground.fleet.stop.is_cancelled() => {
                tokio::time::sleep(Duration::from_millis(250)).await
            }
            Err(error) => return Ok(Some(format!("{error:#}"))),
        }
    }
}

/// Tells what is done with a shard now, where the host does not.
pub fn phase(spec: &MoveSpec, host: &str, phase: &str, watch: Watch<'_>) {
    let (job, phase) = (format!("shard {}", spec.job.shard), phase.to_owned());
    watch(host, &Event::Progress { job, phase, done: 0, total: 1 });
}
