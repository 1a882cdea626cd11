//! `dunlin shards verify`.

use dunlin_shards::ShardId;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::lock_hosts_and_start_run;
use crate::rebalance::run_end::RunTotals;
use crate::rebalance::verify::verify_shards;
use crate::report::{ProgressBars, report_host_event, report_verified_pair};

impl ShardsContext<'_> {
    /// Compares the primaries of the shards with their replicas and old instances; exits with 1 if keys differ.
    ///
    /// # Errors
    /// Returns an error if a shard is not in the map, a host does not answer, or another run holds a lock.
    pub async fn verify_shards(&self, shards: &[ShardId], totals: &mut RunTotals) -> Result<Exit, CommandError> {
        let (cluster, reporter) = (&self.files.cluster, &self.reporter);
        cluster.ensure_shards_exist(shards)?;
        let fleet = self.files.build_fleet(self.common)?;
        let mut context = self.files.connect_all(&fleet, self.common).await?;
        lock_hosts_and_start_run(self.files, &mut context, "shards verify", &self.run_id, reporter).await?;
        let progress = ProgressBars::new(reporter.json, reporter.style.quiet);
        let on_progress = |host: &str, event: &_| report_host_event(host, event, reporter, &progress);
        let pairs = verify_shards(cluster, &context, shards, &on_progress).await?;
        progress.clear_bars();
        if pairs.is_empty() {
            reporter.print_data("no replicas or old instances to compare");
        }
        pairs.iter().for_each(|pair| report_verified_pair(pair, reporter));
        totals.failed = pairs.iter().filter(|pair| pair.result.is_err()).count();
        let is_different = pairs.iter().any(|pair| pair.result.as_ref().is_ok_and(|result| !result.is_equal()));
        Ok(match (totals.failed, is_different) {
            (0, false) => Exit::Done,
            (0, true) => Exit::Error,
            _ => Exit::Partial,
        })
    }
}
