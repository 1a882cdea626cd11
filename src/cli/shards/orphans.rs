//! Old primaries that came back and missing replicas: for `dunlin shards failover` and `repair`.

use dunlin_shards::ShardId;
use serde_json::json;

use super::ShardsContext;
use crate::inventory::ByteSize;
use crate::protocol::Event;
use crate::protocol::shard::failover::ArchivedInstance;
use crate::rebalance::RebalanceContext;
use crate::rebalance::failover::ReplicaToCreate;
use crate::rebalance::failover::apply::archive_instance;
use crate::rebalance::failover::create_replicas::create_replicas;
use crate::rebalance::finish::MoveResult;
use crate::rebalance::replica_health::ReplicaHealth;
use crate::rebalance::run_end::RunTotals;
use crate::report::{ProgressBars, report_host_event};

impl ShardsContext<'_> {
    /// Stops old primaries that came back, and archives their files. Returns the failures by shard.
    pub async fn archive_orphans(
        &self,
        context: &RebalanceContext<'_>,
        health: &ReplicaHealth,
    ) -> Vec<(ShardId, String)> {
        let mut unresolved = Vec::new();
        for orphan in health.orphans.iter().filter(|orphan| orphan.follows.is_none()) {
            match archive_instance(context, orphan.shard, &orphan.host, &self.run_id).await {
                Ok(archived) => self.print_archived(orphan.shard, &orphan.host, &archived),
                Err(error) => unresolved
                    .push((orphan.shard, format!("the instance on {} is not archived: {error:#}", orphan.host))),
            }
        }
        unresolved
    }

    /// Prints the archive of an old instance.
    pub fn print_archived(
        &self,
        shard: ShardId,
        host: &str,
        ArchivedInstance { archive_dir, bytes_ahead }: &ArchivedInstance,
    ) {
        let Some(archive) = archive_dir.as_ref().map(|dir| dir.display().to_string()) else { return };
        let difference = match bytes_ahead {
            Some(0) => "the new primary has all of its data".to_owned(),
            Some(bytes) => format!("it was {} ahead of the new primary", ByteSize(*bytes).to_human()),
            None => "how far it was ahead of the new primary is unknown".to_owned(),
        };
        self.reporter
            .print_data(&format!("  shard {shard}: the old instance on {host} is archived in {archive}; {difference}"));
        self.reporter.print_json(
            "instance_archived",
            json!({
                "shard": shard, "host": host, "archive": archive, "ahead_bytes": bytes_ahead,
            }),
        );
    }

    /// Creates replicas, at most `max_concurrent` at a time (0: no limit), and prints the results.
    pub async fn create_replicas(
        &self,
        context: &RebalanceContext<'_>,
        replicas: &[ReplicaToCreate],
        max_concurrent: usize,
        totals: &mut RunTotals,
    ) {
        let progress = ProgressBars::new(self.reporter.json, self.reporter.style.quiet);
        let on_progress = |host: &str, event: &Event| report_host_event(host, event, &self.reporter, &progress);
        let results = create_replicas(context, replicas, &self.run_id, max_concurrent, &on_progress).await;
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
                    let next = match is_replica_in_map(context, *shard, host) {
                        true => "dunlin shards resume".to_owned(),
                        false => {
                            format!("dunlin shards repair, or name another host than {host} in the map's replicas")
                        }
                    };
                    self.reporter.report_failure(&format!("shard {shard}"), &format!("{error:#}"), Some(&next));
                }
            }
        }
    }
}

/// Returns whether the map names the host as one of the shard's replicas.
fn is_replica_in_map(context: &RebalanceContext<'_>, shard: ShardId, host: &str) -> bool {
    let map = context.map_file.read();
    map.is_ok_and(|map| map.find_shard(shard).is_some_and(|entry| entry.replicas.iter().any(|replica| replica == host)))
}
