//! `dunlin shards verify`.

use dunlin_shards::ShardId;
use serde_json::json;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::lock_hosts_and_start_run;
use crate::plan::format_count;
use crate::rebalance::resume::list_latest_moves;
use crate::rebalance::run_end::RunTotals;
use crate::rebalance::verify::{InstancePair, list_pairs, verify_pair};
use crate::report::{ProgressBars, report_host_event};

impl ShardsContext<'_> {
    /// Compares the primaries of the shards with their replicas and old instances; exits with 1 if keys differ.
    ///
    /// # Errors
    /// Returns an error if a shard is not in the map, a host does not answer, or another run holds a lock.
    pub async fn verify_shards(&self, shards: &[ShardId], totals: &mut RunTotals) -> Result<Exit, CommandError> {
        self.files.cluster.ensure_shards_exist(shards)?;
        let fleet = self.files.build_fleet(self.common)?;
        let mut context = self.files.connect_all(&fleet, self.common).await?;
        lock_hosts_and_start_run(self.files, &mut context, "shards verify", &self.run_id, &self.reporter).await?;
        let mut pairs = list_pairs(&context, &self.files.cluster.map, &list_latest_moves(&context).await?)?;
        pairs.retain(|pair| shards.is_empty() || shards.contains(&pair.spec.header.shard));
        if pairs.is_empty() {
            self.reporter.print_data("no replicas or old instances to compare");
            return Ok(Exit::Done);
        }
        let reporter = &self.reporter;
        let progress = ProgressBars::new(reporter.json, reporter.style.quiet);
        let on_progress =
            |host: &str, event: &crate::protocol::Event| report_host_event(host, event, reporter, &progress);
        let results = fleet.map_parallel(&pairs, |pair| verify_pair(&context, pair, &on_progress)).await;
        progress.clear_bars();
        let mut differing = 0;
        for (InstancePair { spec, .. }, result) in pairs.iter().zip(results) {
            match result {
                Ok(verified) => {
                    reporter.print_json(
                        "verified",
                        json!({
                            "shard": spec.header.shard, "from": spec.record.from, "to": spec.record.to,
                            "equal": verified.is_equal(), "result": verified,
                        }),
                    );
                    if verified.is_equal() {
                        let retried = verified.retried;
                        reporter.print_data(&format!(
                            "shard {}: {} and {} are equal: {} ({retried} compared again)",
                            spec.header.shard,
                            spec.record.from,
                            spec.record.to,
                            format_count(verified.keys, "key")
                        ));
                    } else {
                        differing += 1;
                        let named = [&verified.differing[..], &verified.missing, &verified.extra].concat().join(", ");
                        let text = format!("{} and {} differ: {named}", spec.record.from, spec.record.to);
                        reporter.report_failure(&format!("shard {}", spec.header.shard), &text, None);
                    }
                }
                Err(error) => {
                    totals.failed += 1;
                    reporter.report_failure(&format!("shard {}", spec.header.shard), &format!("{error:#}"), None);
                }
            }
        }
        Ok(match (totals.failed, differing) {
            (0, 0) => Exit::Done,
            (0, _) => Exit::Error,
            _ => Exit::Partial,
        })
    }
}
