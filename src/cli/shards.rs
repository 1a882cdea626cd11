//! `dunlin shards`: the state of the map, and what is to become of moves that were begun.

mod capacity;
mod failover;
mod log;
mod resume;
mod reverse;
mod status;
mod strays;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Common;
use super::confirm::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::outcome::CommandOutcome;
use super::shard_ground::Files;
use super::shard_run::{Tally, begin};
use crate::rebalance::Ground;
use crate::rebalance::ground::read_map;
use crate::rebalance::resume::{Journals, Stand, abort, journals, stand};
use crate::report::Reporter;
use crate::wire::shard::{MoveState, Role};

/// The state of the map, and of moves under way
#[derive(Debug, Args)]
pub struct Shards {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show where the shards are, how big, how their replicas are, and which moves are under way
    Status {
        /// Write the observation, to plan from it elsewhere
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Bring moves that were cut short to their end, make those that were not begun, retire instances that were left,
    /// make the replicas that shards lack by the map, and have primaries need those that they were given
    Resume(resume::How),
    /// Take back moves that have not switched yet, and forget those that were not begun
    Abort {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Go back to the old instances of shards that were moved with --soak: without a copy, the same way
    Reverse {
        #[command(flatten)]
        which: reverse::Which,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// After a host's death: promote replicas, free primaries of dead replicas, and make new ones
    Failover(failover::Failover),
    /// Compare the copies of shards live, key by key: primary and replica, moved and old instance
    Verify {
        /// Only these shards
        #[arg(value_name = "SHARD")]
        shards: Vec<u32>,
    },
    /// What was moved, when and by whom, from the hosts' journals
    Log {
        /// Only these shards
        #[arg(value_name = "SHARD")]
        shards: Vec<u32>,
    },
    /// How full the hosts are, how they grow, and what another host would change
    Capacity(capacity::Capacity),
}

/// What the subcommands work with.
struct Work<'a> {
    files: &'a Files,
    common: &'a Common,
    reporter: Reporter,
    id: String,
}

impl Shards {
    /// Runs one of them.
    ///
    /// # Errors
    /// Broken files, a host that cannot be reached, a move that roles alone cannot decide, a lock.
    pub async fn run(self, common: &Common) -> Result<CommandOutcome, Failure> {
        let (reporter, id, mut tally) = (common.reporter(), common.run.to_string(), Tally::default());
        let result = async {
            let files = Files::load(common)?;
            let work = Work { files: &files, common, reporter, id };
            match self.what {
                What::Status { out } => work.status(out).await,
                What::Resume(how) => work.resume(&how, &mut tally).await,
                What::Abort { yes } => work.abort(yes, &mut tally).await,
                What::Reverse { which, yes } => work.reverse(&which, yes, &mut tally).await,
                What::Failover(how) => work.failover(&how, &mut tally).await,
                What::Verify { shards } => work.verify(&shards, &mut tally).await,
                What::Log { shards } => work.log(&shards).await,
                What::Capacity(capacity) => work.capacity(&capacity).await,
            }
        }
        .await;
        tally.end(result)
    }

    /// Returns the command's name.
    pub fn name(&self) -> &'static str {
        match &self.what {
            What::Status { .. } => "shards status",
            What::Resume(_) => "shards resume",
            What::Abort { .. } => "shards abort",
            What::Reverse { .. } => "shards reverse",
            What::Failover(_) => "shards failover",
            What::Verify { .. } => "shards verify",
            What::Log { .. } => "shards log",
            What::Capacity(_) => "shards capacity",
        }
    }
}

impl Work<'_> {
    /// The moves that are not over, ascending by shard.
    fn open<'j>(&self, ground: &Ground<'_>, found: &'j Journals) -> Result<Vec<(&'j MoveState, Stand)>, Failure> {
        let (map, _) = read_map(&ground.map_file)?;
        let stands = found.values().map(|(_, state)| (state, stand(ground, &map, state)));
        Ok(stands.filter(|(_, stand)| *stand != Stand::Over).collect())
    }

    fn tell(&self, open: &[(&MoveState, Stand)]) {
        for (state, stand) in open {
            self.reporter.data(&line(state, *stand));
            self.reporter.line("move", json!({
                "shard": state.shard, "from": state.from, "to": state.to, "step": state.step,
                "mark": state.mark, "move_run": state.run, "stand": stand, "source": state.source, "target": state.target,
            }));
        }
    }

    async fn abort(&self, yes: bool, tally: &mut Tally) -> Result<Exit, Failure> {
        let fleet = self.files.fleet(self.common)?;
        let mut ground = self.files.ground(&fleet, self.common).await?;
        if !yes {
            let found = journals(&ground).await?;
            self.tell(&self.open(&ground, &found)?);
            confirm("Take back what is not switched?", yes)?;
        }
        begin(self.files, &mut ground, ("shards abort", &self.id), &self.reporter).await?;
        let found = journals(&ground).await?;
        let (back, on): (Vec<_>, Vec<_>) = self
            .open(&ground, &found)?
            .into_iter()
            .partition(|(_, stand)| matches!(stand, Stand::Copying | Stand::Joining));
        let mut is_left = false;
        for (state, _) in &back {
            if ground.fleet.stop.is_cancelled() {
                self.reporter.say(&format!("shard {} is left as it is", state.shard));
                is_left = true;
                continue;
            }
            match abort(&ground, state, &|_, _| {}).await {
                Ok(()) if state.replica => {
                    self.reporter.data(&format!("shard {}: the replica at {} is removed", state.shard, state.to));
                }
                Ok(()) => self.reporter.data(&format!("shard {} stays at {}", state.shard, state.from)),
                Err(error) => {
                    tally.failed += 1;
                    let shard = format!("shard {}", state.shard);
                    self.reporter.failed(&shard, &format!("{error:#}"), Some("dunlin shards resume"));
                }
            }
        }
        // What has switched cannot be taken back without a move of its own: it is brought to its end.
        let on: Vec<_> = on.into_iter().filter(|(_, stand)| *stand != Stand::Soaking).collect();
        let waiting = self.end_all(&ground, &on, tally).await?;
        tally.moves = back.len() + on.len();
        if ground.fleet.stop.is_cancelled() && (tally.failed > 0 || waiting || is_left) {
            return Ok(self.interrupted());
        }
        self.files.state.save_pending_moves(&[])?;
        Ok(if tally.failed > 0 || waiting { Exit::Partial } else { Exit::Done })
    }
}

impl Work<'_> {
    fn interrupted(&self) -> Exit {
        self.reporter.say("interrupted; next: dunlin shards status, then dunlin shards resume or abort");
        Exit::Interrupted
    }
}

fn line(state: &MoveState, stand: Stand) -> String {
    let what = match stand {
        Stand::Over => "over",
        Stand::Elsewhere => "moved from another machine; this map does not know it yet",
        Stand::Soaking => "moved; the old instance follows as a replica",
        Stand::Switched => "switched: the target serves; to be published and the old instance retired",
        Stand::Copying => "the source serves; the copy is not switched",
        Stand::Joining => "a replica in the making; the map does not name it yet",
        Stand::Joined => "a new replica; the one that it replaces is to be retired",
        Stand::Fenced => "neither serves at this moment; resume decides by their roles",
        Stand::Failing => {
            "a failover that was cut short; resume ends it, or takes it back where the source is there again"
        }
        Stand::Promoted => "failed over: the target serves; to be published",
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
