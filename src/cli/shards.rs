//! `dunlin shards status | resume | abort`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Common;
use super::confirm::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::run::run_id;
use super::shard_ground::Files;
use super::shard_rebalance::carry_out;
use crate::inventory::Bytes;
use crate::rebalance::resume::{Journals, Stand, abort, journals, resume, stand};
use crate::rebalance::run::Step;
use crate::rebalance::{Ground, observe};
use crate::report::{Bars, Reporter};
use crate::wire::shard::{MoveState, Role};

/// The state of the map, and of moves under way
#[derive(Debug, Args)]
pub struct Shards {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show where the shards are, how big, and which moves are under way
    Status {
        /// Write the observation, to plan from it elsewhere
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Bring moves that were cut short to their end, and make those that were not begun
    Resume {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Take back moves that have not switched yet, and forget those that were not begun
    Abort {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

impl Shards {
    /// Runs one of them.
    ///
    /// # Errors
    /// Broken files, a host that cannot be reached, a move that roles alone cannot decide.
    pub async fn run(self, common: &Common) -> Result<Exit, Failure> {
        let files = Files::load(common)?;
        let fleet = files.fleet(common)?;
        let ground = files.ground(&fleet, common).await?;
        let reporter = common.reporter();
        let found = journals(&ground).await?;
        match self.what {
            What::Status { out } => status(&files, &ground, &found, (out, &reporter)).await,
            What::Resume { yes } => resume_all(&files, &ground, &found, (yes, &reporter)).await,
            What::Abort { yes } => abort_all(&files, &ground, &found, (yes, &reporter)).await,
        }
    }
}

/// The moves that are not over, ascending by shard.
fn open<'j>(files: &Files, ground: &Ground<'_>, found: &'j Journals) -> Result<Vec<(&'j MoveState, Stand)>, Failure> {
    let map = files.map()?;
    let stands = found.values().map(|(_, state)| (state, stand(ground, map, state)));
    Ok(stands.filter(|(_, stand)| *stand != Stand::Over).collect())
}

async fn status(
    files: &Files,
    ground: &Ground<'_>,
    found: &Journals,
    (out, reporter): (Option<PathBuf>, &Reporter),
) -> Result<Exit, Failure> {
    let map = files.map()?;
    reporter.data(&format!("{} at epoch {}: {} shards", map.cluster, map.epoch.0, map.shards.len()));
    let primaries = observe::primaries(ground, map).await;
    if let Ok(primaries) = &primaries {
        for host in files.shard_hosts()? {
            let shards: Vec<_> = map.shards_on(&host.name).collect();
            let bytes: u64 =
                shards.iter().filter_map(|entry| primaries.get(&u32::from(entry.id.0))).map(|seen| seen.bytes).sum();
            reporter.data(&format!("  {:<16} {:>3} shards {:>10}", host.name, shards.len(), Bytes(bytes).human()));
            reporter.line(&json!({"event": "shards", "host": host.name, "shards": shards.len(), "bytes": bytes}));
        }
        let observation = observe::observation(ground, map, &files.shard_hosts()?, primaries);
        if let Some(file) = &out {
            std::fs::write(file, observation.to_json())?;
        }
    }
    let open = open(files, ground, found)?;
    for (state, stand) in &open {
        reporter.data(&line(state, *stand));
        reporter.line(&json!({
            "event": "move", "shard": state.shard, "from": state.from, "to": state.to, "step": state.step,
            "stand": match stand { Stand::Over => "over", Stand::Switched => "switched", Stand::Copying => "copying" },
            "source": state.source, "target": state.target,
        }));
    }
    let left = files.kept()?;
    let begun = |step: &&Step| open.iter().any(|(state, _)| state.shard == step.shard);
    let rest = left.iter().filter(|step| !begun(step)).count();
    if rest > 0 {
        reporter.data(&format!("  {rest} moves of the plan are not begun"));
    }
    if open.is_empty() && rest == 0 {
        reporter.data("  no moves under way");
    } else {
        reporter.say("next: dunlin shards resume, or dunlin shards abort");
    }
    reporter.line(&json!({"event": "status", "epoch": map.epoch.0, "open": open.len(), "not_begun": rest}));
    primaries.map(|_| Exit::Done).map_err(|error| Failure::new(Exit::Error, error).hint("dunlin shards resume"))
}

fn line(state: &MoveState, stand: Stand) -> String {
    let what = match stand {
        Stand::Over => "over",
        Stand::Switched => "switched: the target serves; to be published and the old instance retired",
        Stand::Copying => "the source serves; the copy is not switched",
    };
    format!(
        "  shard {} {} ({}) → {} ({}): {what}; last step {} {}",
        state.shard,
        state.from,
        role(&state.source),
        state.to,
        role(&state.target),
        state.step,
        state.mark
    )
}

fn role(role: &Role) -> &'static str {
    match role {
        Role::Master { .. } => "master",
        Role::Replica { .. } => "replica",
        Role::Unreachable => "down",
    }
}

async fn resume_all(
    files: &Files,
    ground: &Ground<'_>,
    found: &Journals,
    (yes, reporter): (bool, &Reporter),
) -> Result<Exit, Failure> {
    let open = open(files, ground, found)?;
    let left = files.kept()?;
    if open.is_empty() && left.is_empty() {
        reporter.data("nothing to resume");
        return Ok(Exit::Done);
    }
    for (state, stand) in &open {
        reporter.data(&line(state, *stand));
    }
    confirm("Bring these moves to their end?", yes)?;
    let bars = Bars::new(reporter.json, reporter.style.quiet);
    let mut failed = 0;
    for (state, _) in &open {
        let watch = |host: &str, event: &crate::wire::Event| {
            reporter.event(host, event);
            bars.event(host, event);
        };
        match resume(ground, state, &watch).await {
            Ok(()) => reporter.say(&format!("shard {} serves at {}", state.shard, state.to)),
            Err(error) => {
                failed += 1;
                reporter.failed(&format!("shard {}", state.shard), &format!("{error:#}"), None);
            }
        }
    }
    bars.finish();
    let (map, _) = crate::rebalance::ground::read_map(&ground.map_file)?;
    let there =
        |step: &Step| map.shards.iter().any(|entry| u32::from(entry.id.0) == step.shard && entry.host == step.to);
    let rest: Vec<Step> = left.into_iter().filter(|step| !there(step)).collect();
    files.keep(&rest)?;
    if failed > 0 {
        return Ok(Exit::Partial);
    }
    if rest.is_empty() { Ok(Exit::Done) } else { carry_out(files, ground, &rest, (&run_id(), reporter)).await }
}

async fn abort_all(
    files: &Files,
    ground: &Ground<'_>,
    found: &Journals,
    (yes, reporter): (bool, &Reporter),
) -> Result<Exit, Failure> {
    let open = open(files, ground, found)?;
    for (state, stand) in &open {
        reporter.data(&line(state, *stand));
    }
    confirm("Take back what is not switched?", yes)?;
    let mut failed = 0;
    for (state, stand) in &open {
        let result = match stand {
            // What has switched cannot be taken back without a move of its own: it is brought to its end.
            Stand::Switched => resume(ground, state, &|_, _| {}).await,
            _ => abort(ground, state, &|_, _| {}).await,
        };
        if let Err(error) = result {
            failed += 1;
            reporter.failed(&format!("shard {}", state.shard), &format!("{error:#}"), Some("dunlin shards resume"));
        }
    }
    files.keep(&[])?;
    Ok(if failed > 0 { Exit::Partial } else { Exit::Done })
}
