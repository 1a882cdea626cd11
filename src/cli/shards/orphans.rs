//! After a failover: what was cut short is ended, old primaries that came back are set aside, replicas made anew. For
//! `dunlin shards failover` and `resume`.

use serde_json::json;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::{RunTotals, print_event};
use crate::inventory::ByteSize;
use crate::protocol::Event;
use crate::protocol::shard::MoveState;
use crate::protocol::shard::failover::ArchivedInstance;
use crate::rebalance::apply::MoveResult;
use crate::rebalance::context::read_map;
use crate::rebalance::failover::apply::{FailoverResolution, archive_instance, create_replicas, resume_failovers};
use crate::rebalance::failover::{self, FailoverScope, ReplicaToCreate, UnresolvedShard, observe};
use crate::rebalance::replica_health::ReplicaHealth;
use crate::rebalance::resume::MoveStatus;
use crate::rebalance::{RebalanceContext, publish};
use crate::report::ProgressBars;

impl ShardsContext<'_> {
    /// Stops old primaries that came back, and keeps their files. Returns what could not be done, by shard.
    pub async fn archive_orphans(&self, context: &RebalanceContext<'_>, health: &ReplicaHealth) -> Vec<(u32, String)> {
        let mut unresolved = Vec::new();
        for orphan in health.orphans.iter().filter(|stray| stray.follows.is_none()) {
            match archive_instance(context, (orphan.shard, &orphan.host), &self.run_id).await {
                Ok(archived) => self.print_archived(orphan.shard, &orphan.host, &archived),
                Err(error) => {
                    unresolved.push((orphan.shard, format!("the instance on {} stays: {error:#}", orphan.host)))
                }
            }
        }
        unresolved
    }

    /// What became of an old instance.
    pub fn print_archived(
        &self,
        shard: u32,
        host: &str,
        ArchivedInstance { archive_dir: kept, bytes_ahead: ahead }: &ArchivedInstance,
    ) {
        let Some(kept) = kept.as_ref().map(|kept| kept.display().to_string()) else { return };
        let difference = match ahead {
            Some(0) => "it had nothing that the new primary lacks".to_owned(),
            Some(bytes) => format!("it was {} ahead of the new primary", ByteSize(*bytes).to_human()),
            None => "what it had alone is not known".to_owned(),
        };
        self.reporter
            .print_data(&format!("  shard {shard}: the old instance on {host} is set aside in {kept}; {difference}"));
        self.reporter.print_json(
            "instance_archived",
            json!({
                "shard": shard, "host": host, "kept": kept, "ahead_bytes": ahead,
            }),
        );
    }

    /// The replicas that shards lack by what the map asks for, each with a place; and whether there are some without.
    ///
    /// # Errors
    /// A host does not answer, or a later map is out, which may have them.
    pub async fn find_missing_replicas(
        &self,
        context: &RebalanceContext<'_>,
    ) -> Result<(Vec<ReplicaToCreate>, bool), CommandError> {
        let (map, _) = read_map(&context.map_file)?;
        if map.underreplicated_shards().next().is_none() {
            return Ok((Vec::new(), false));
        }
        let published = publish::published_epoch(context, &map).await?;
        if published > map.epoch.0 {
            let text = format!("the map has epoch {}, published is {published}", map.epoch);
            return Err(
                CommandError::with_message(Exit::Refused, text).with_hint("take over the newer map, then resume again")
            );
        }
        let view =
            observe::observe_cluster(context, &map, &self.files.shard_hosts()?, &FailoverScope::Hosts(Vec::new()))
                .await?;
        let (repairs, unplaceable) = failover::find_missing_replicas(&view);
        for ReplicaToCreate { shard, host, bytes } in &repairs {
            self.reporter.print_json("replica_planned", json!({"shard": shard, "host": host, "bytes": bytes}));
            self.reporter.print_data(&format!(
                "  shard {shard} lacks a replica: one on {host}, {}",
                ByteSize(*bytes).to_human()
            ));
        }
        for UnresolvedShard { shard, reason: why } in &unplaceable {
            self.reporter.print_json("replica_unplaceable", json!({"shard": shard, "why": why}));
            self.reporter.print_data(&format!("  shard {shard} stays short of a replica: {why}"));
        }
        Ok((repairs, !unplaceable.is_empty()))
    }

    /// Makes replicas, at most so many at a time where that is not 0, and tells how it went.
    pub async fn create_replicas(
        &self,
        context: &RebalanceContext<'_>,
        (replicas, max_concurrent): (&[ReplicaToCreate], usize),
        totals: &mut RunTotals,
    ) {
        let progress = ProgressBars::new(self.reporter.json, self.reporter.style.quiet);
        let on_progress = |host: &str, event: &Event| print_event(&self.reporter, &progress, host, event);
        let results = create_replicas(context, replicas, (&self.run_id, max_concurrent), &on_progress).await;
        progress.clear_bars();
        for (ReplicaToCreate { shard, host, .. }, result) in replicas.iter().zip(results) {
            match result {
                Ok(MoveResult { bytes, seconds, .. }) => {
                    self.reporter.print_json(
                        "repaired",
                        json!({
                            "shard": shard, "host": host, "bytes": bytes, "seconds": seconds,
                        }),
                    );
                    let size = ByteSize(bytes).to_human();
                    self.reporter
                        .print_data(&format!("  shard {shard} has a new replica on {host}: {size} in {seconds:.1} s"));
                }
                Err(error) => {
                    totals.failed += 1;
                    let next = format!("dunlin shards resume; or name another host than {host} in the map's replicas");
                    self.reporter.report_failure(&format!("shard {shard}"), &format!("{error:#}"), Some(&next));
                }
            }
        }
    }

    /// Brings failovers to their end that were cut short.
    ///
    /// # Errors
    /// A consumer did not take the map.
    pub async fn resume_failovers(
        &self,
        context: &RebalanceContext<'_>,
        open_moves: &[(&MoveState, MoveStatus)],
        totals: &mut RunTotals,
    ) -> Result<(), CommandError> {
        let states: Vec<&MoveState> =
            open_moves.iter().map(|(state, _)| *state).filter(|s| s.failover.is_some()).collect();
        let progress = ProgressBars::new(self.reporter.json, self.reporter.style.quiet);
        let results =
            resume_failovers(context, &states, &|host, event| print_event(&self.reporter, &progress, host, event))
                .await?;
        progress.clear_bars();
        for (state, result) in states.iter().zip(results) {
            let MoveState { shard, from, to, .. } = state;
            match result {
                Ok(FailoverResolution::Promoted) => {
                    self.reporter.print_data(&format!("  shard {shard} serves at {to}"))
                }
                Ok(FailoverResolution::Reverted) => {
                    self.reporter.print_data(&format!("  shard {shard} serves at {from}, which is there again"));
                }
                Err(error) => {
                    totals.failed += 1;
                    self.reporter.report_failure(&format!("shard {shard}"), &format!("{error:#}"), None);
                }
            }
        }
        Ok(())
    }
}
