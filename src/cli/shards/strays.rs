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
use crate::rebalance::failover::{self, Repair, Scope, Stranded, look};
use crate::rebalance::ground::read_map;
use crate::rebalance::resume::Stand;
use crate::rebalance::run::Moved;
use crate::rebalance::{Ground, publish};
use crate::report::Bars;
use crate::wire::Event;
use crate::wire::shard::MoveState;
use crate::wire::shard::failover::Aside;

impl Work<'_> {
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
        self.reporter.line(
            "set_aside",
            json!({
                "shard": shard, "host": host, "kept": kept, "ahead_bytes": ahead,
            }),
        );
    }

    /// The replicas that shards lack by what the map asks for, each with a place; and whether there are some without.
    ///
    /// # Errors
    /// A host does not answer, or a later map is out, which may have them.
    pub async fn lacking(&self, ground: &Ground<'_>) -> Result<(Vec<Repair>, bool), Failure> {
        let (map, _) = read_map(&ground.map_file)?;
        if map.lacking().next().is_none() {
            return Ok((Vec::new(), false));
        }
        let published = publish::published(ground, &map).await?;
        if published > map.epoch.0 {
            let text = format!("the map has epoch {}, published is {published}", map.epoch);
            return Err(Failure::say(Exit::Refused, text).hint("take over the newer map, then resume again"));
        }
        let sight = look::sight(ground, &map, &self.files.shard_hosts()?, &Scope::Hosts(Vec::new())).await?;
        let (repairs, without) = failover::lacking(&sight);
        for Repair { shard, host, bytes } in &repairs {
            self.reporter.line("to_repair", json!({"shard": shard, "host": host, "bytes": bytes}));
            self.reporter.data(&format!("  shard {shard} lacks a replica: one on {host}, {}", Bytes(*bytes).human()));
        }
        for Stranded { shard, why } in &without {
            self.reporter.line("unrepaired", json!({"shard": shard, "why": why}));
            self.reporter.data(&format!("  shard {shard} stays short of a replica: {why}"));
        }
        Ok((repairs, !without.is_empty()))
    }

    /// Makes replicas, at most so many at a time where that is not 0, and tells how it went.
    pub async fn repair(&self, ground: &Ground<'_>, (repairs, concurrent): (&[Repair], usize), tally: &mut Tally) {
        let bars = Bars::new(self.reporter.json, self.reporter.style.quiet);
        let watch = |host: &str, event: &Event| show(&self.reporter, &bars, host, event);
        let results = repair(ground, repairs, (&self.id, concurrent), &watch).await;
        bars.finish();
        for (Repair { shard, host, .. }, result) in repairs.iter().zip(results) {
            match result {
                Ok(Moved { bytes, seconds, .. }) => {
                    self.reporter.line(
                        "repaired",
                        json!({
                            "shard": shard, "host": host, "bytes": bytes, "seconds": seconds,
                        }),
                    );
                    let size = Bytes(bytes).human();
                    self.reporter
                        .data(&format!("  shard {shard} has a new replica on {host}: {size} in {seconds:.1} s"));
                }
                Err(error) => {
                    tally.failed += 1;
                    let next = format!("dunlin shards resume; or name another host than {host} in the map's replicas");
                    self.reporter.failed(&format!("shard {shard}"), &format!("{error:#}"), Some(&next));
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
