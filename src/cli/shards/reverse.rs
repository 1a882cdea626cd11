//! `dunlin shards reverse`.

use clap::Args;

use super::Work;
use crate::cli::confirm::confirm;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::shard_run::{Tally, Task, begin, carry_out};
use crate::rebalance::Ground;
use crate::rebalance::ground::read_map;
use crate::rebalance::plan::Role;
use crate::rebalance::publish::published;
use crate::rebalance::resume::{Journals, Stand, journals, stand};
use crate::rebalance::run::{How, Step};
use crate::wire::shard::MoveState;

/// Which moves to go back on.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// These shards
    #[arg(value_name = "SHARD")]
    shards: Vec<u32>,
    /// All shards that this run moved
    #[arg(long, value_name = "ID")]
    run: Option<String>,
}

impl Which {
    fn has(&self, state: &MoveState) -> bool {
        match &self.run {
            _ if state.replica => false,
            // The hosts' journals know each wave of a run by itself.
            Some(run) => state.run == *run || state.run.strip_prefix(run).is_some_and(|rest| rest.starts_with('.')),
            None => self.shards.contains(&state.shard),
        }
    }
}

impl Work<'_> {
    /// The same protocol back, without a copy: the old instance is a live replica still.
    ///
    /// # Errors
    /// A shard has no old instance any more, a move is under way, a lock.
    pub async fn reverse(&self, which: &Which, yes: bool, tally: &mut Tally) -> Result<Exit, Failure> {
        let fleet = self.files.fleet(self.common)?;
        let mut ground = self.files.ground(&fleet, self.common).await?;
        if !yes {
            let found = journals(&ground).await?;
            self.tell(&self.open(&ground, &found)?);
            confirm("Go back to the old instances of these shards?", yes)?;
        }
        begin(self.files, &mut ground, ("shards reverse", &self.id), &self.reporter).await?;
        let map = self.files.map()?;
        let newest = published(&ground, map).await?;
        if newest > map.epoch.0 {
            let text = format!("the map has epoch {}, published is {newest}; nothing was changed", map.epoch.0);
            return Err(Failure::say(Exit::Refused, text).hint("dunlin shards resume brings the map up to date"));
        }
        let steps = self.back(&ground, which, &journals(&ground).await?)?;
        let task = Task { id: &self.id, steps: &steps, how: How::default(), planned: None };
        carry_out(self.files, &ground, &task, (&self.reporter, tally)).await
    }

    fn back(&self, ground: &Ground<'_>, which: &Which, found: &Journals) -> Result<Vec<Step>, Failure> {
        let (map, _) = read_map(&ground.map_file)?;
        let mut steps = Vec::new();
        for (_, state) in found.values().filter(|(_, state)| which.has(state)) {
            if stand(ground, &map, state) != Stand::Soaking {
                let text = format!("shard {} has no old instance that follows it; nothing was changed", state.shard);
                return Err(Failure::say(Exit::Refused, text).hint("dunlin shard-rebalance --to HOST moves it anew"));
            }
            if let Some((from, to)) = ground.host_at(&state.to).zip(ground.host_at(&state.from)) {
                steps.push(Step {
                    shard: state.shard,
                    from: from.to_owned(),
                    to: to.to_owned(),
                    wave: 0,
                    role: Role::Primary,
                });
            }
        }
        let missing: Vec<u32> =
            which.shards.iter().copied().filter(|id| steps.iter().all(|step| step.shard != *id)).collect();
        if steps.is_empty() || !missing.is_empty() {
            return Err(Failure::say(Exit::Refused, "no such moves in the hosts' journals; nothing was changed")
                .hint("dunlin shards log names shards and runs"));
        }
        Ok(steps)
    }
}
