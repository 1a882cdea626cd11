//! After a failover: what was cut short is ended, old primaries that came back are set aside, replicas made anew. For
//! `dunlin shards failover` and `resume`.

use serde_json::json;

use super::Work;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::shard_run::{Tally, show};
use crate::inventory::Bytes;
use crate::rebalance::copies::Copies;
use crate::rebalance::failover::run::{Ended, repair, resume, set_aside};
use crate::rebalance::failover::{self, Repair, Scope, look};
use crate::rebalance::ground::read_map;
use crate::rebalance::resume::Stand;
use crate::rebalance::run::{Moved, Step};
use crate::rebalance::{Ground, publish};
use crate::report::Bars;
use crate::transport::ConnectError;
use crate::wire::shard::MoveState;
use crate::wire::shard::failover::Aside;

impl Work<'_> {
    /// A failover, a replica in the making, and a shard whose target serves it already, are ended without the hosts that
    /// do not answer; other moves need all.
    ///
    /// # Errors
    /// Some do not answer, and there is something that needs them.
    pub fn may_go_without(
        &self,
        ground: &Ground<'_>,
        missing: &[(String, ConnectError)],
        open: &[(&MoveState, Stand)],
    ) -> Result<(), Failure> {
        let is_here = |address: &String| ground.host_at(address).is_some_and(|host| !ground.absent.contains(host));
        let is_made = |(state, stand): &&(&MoveState, Stand)| {
            state.replica && state.others.is_empty() && (*stand == Stand::Joined || is_here(&state.from))
        };
        // Its source was fenced, and the others' journals are all that could know of a later move.
        let is_served = |(state, stand): &&(&MoveState, Stand)| {
            let only_source = missing.iter().all(|(host, _)| ground.host_at(&state.from) == Some(host));
            !state.replica && only_source && matches!(stand, Stand::Switched | Stand::Elsewhere)
        };
        let goes = |open: &&(&MoveState, Stand)| open.0.failover.is_some() || is_made(open) || is_served(open);
        let needs_all = !open.iter().all(|open| goes(&open));
        let is_something = !open.is_empty() || read_map(&ground.map_file)?.0.lacking().next().is_some();
        let is_begun = |step: &Step| open.iter().any(|(state, _)| state.shard == step.shard);
        if missing.is_empty() || (is_something && !needs_all && self.files.kept()?.iter().all(is_begun)) {
            return Ok(());
        }
        for (host, error) in missing {
            self.reporter.failed(host, &error.to_string(), Some(&error.hint()));
        }
        let text = format!("{} hosts cannot be reached; nothing was begun", missing.len());
        Err(Failure::say(Exit::Refused, text))
    }

    /// Stops old primaries that came back, and keeps their files. Returns what could not be done, by shard.
    pub async fn tidy(&self, ground: &Ground<'_>, copies: &Copies) -> Vec<(u32, String)> {
        let mut left = Vec::new();
        for stray in copies.strays.iter().filter(|stray| stray.of.is_none()) {
            match set_aside(ground, (stray.shard, &stray.host), &self.id).await {
                Ok(aside) => self.tell_aside(stray.shard, &stray.host, &aside),
                Err(error) => left.push((stray.shard, format!("the instance on {} stays: {error:#}", stray.host))),
            }
        }
        left
    }

    /// What became of an old instance.
    pub fn tell_aside(&self, shard: u32, host: &str, Aside { kept, ahead }: &Aside) {
        let Some(kept) = kept.as_ref().map(|kept| kept.display().to_string()) else { return };
        let had = match ahead {
            Some(0) => "it had nothing that the new primary lacks".to_owned(),
            Some(bytes) => format!("it was {} ahead of the new primary", Bytes(*bytes).human()),
            None => "what it had alone is not known".to_owned(),
        };
        self.reporter.data(&format!("  shard {shard}: the old instance on {host} is set aside in {kept}; {had}"));
        self.reporter.line(&json!({
            "event": "set_aside", "shard": shard, "host": host, "kept": kept, "ahead_bytes": ahead,
        }));
    }

    /// The replicas that shards lack by what the map asks for, each with a place; those that there is no place for are
    /// told. None where a later map may know of them.
    ///
    /// # Errors
    /// A host does not answer.
    pub async fn lacking(&self, ground: &Ground<'_>) -> Result<Vec<Repair>, Failure> {
        let (map, _) = read_map(&ground.map_file)?;
        if map.lacking().next().is_none() || publish::published(ground, &map).await? > map.epoch.0 {
            return Ok(Vec::new());
        }
        let sight = look::sight(ground, &map, &self.files.shard_hosts()?, &Scope::Hosts(Vec::new())).await?;
        let (repairs, without) = failover::lacking(&sight);
        for Repair { shard, host, bytes } in &repairs {
            self.reporter.data(&format!("  shard {shard} lacks a replica: one on {host}, {}", Bytes(*bytes).human()));
        }
        for shard in &without {
            self.reporter.data(&format!("  shard {} stays short of a replica: {}", shard.shard, shard.why));
        }
        Ok(repairs)
    }

    /// Makes replicas, and tells how it went; what failed is lacking as before.
    pub async fn repair(&self, ground: &Ground<'_>, repairs: &[Repair], tally: &mut Tally) {
        let bars = Bars::new(self.reporter.json, self.reporter.style.quiet);
        let results = repair(ground, repairs, &self.id, &|host, event| show(&self.reporter, &bars, host, event)).await;
        bars.finish();
        for (Repair { shard, host, .. }, result) in repairs.iter().zip(results) {
            match result {
                Ok(Moved { bytes, seconds, .. }) => {
                    self.reporter.line(&json!({
                        "event": "repaired", "shard": shard, "host": host, "bytes": bytes, "seconds": seconds,
                    }));
                    let size = Bytes(bytes).human();
                    self.reporter
                        .data(&format!("  shard {shard} has a new replica on {host}: {size} in {seconds:.1} s"));
                }
                Err(error) => {
                    tally.failed += 1;
                    let shard = format!("shard {shard}");
                    self.reporter.failed(&shard, &format!("{error:#}"), Some("dunlin shards resume"));
                }
            }
        }
    }

    /// Brings failovers to their end that were cut short.
    ///
    /// # Errors
    /// A consumer did not take the map.
    pub async fn end_failovers(
        &self,
        ground: &Ground<'_>,
        open: &[(&MoveState, Stand)],
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let states: Vec<&MoveState> = open.iter().map(|(state, _)| *state).filter(|s| s.failover.is_some()).collect();
        let bars = Bars::new(self.reporter.json, self.reporter.style.quiet);
        let results = resume(ground, &states, &|host, event| show(&self.reporter, &bars, host, event)).await?;
        bars.finish();
        for (state, result) in states.iter().zip(results) {
            let MoveState { shard, from, to, .. } = state;
            match result {
                Ok(Ended::Promoted) => self.reporter.data(&format!("  shard {shard} serves at {to}")),
                Ok(Ended::TakenBack) => {
                    self.reporter.data(&format!("  shard {shard} serves at {from}, which is there again"));
                }
                Err(error) => {
                    tally.failed += 1;
                    self.reporter.failed(&format!("shard {shard}"), &format!("{error:#}"), None);
                }
            }
        }
        Ok(())
    }
}
