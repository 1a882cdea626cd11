//! The output of `dunlin shards failover`: unreachable hosts, the plan, the outcome.

use serde_json::json;

use crate::cli::command_error::CommandError;
use crate::cli::shards::ShardsContext;
use crate::rebalance::failover::FailoverPlan;
use crate::rebalance::failover::apply::{FailoverOutcome, archive_instance};
use crate::rebalance::{RebalanceContext, publish};
use crate::report::{format_failover, report_outdated_consumer};

impl ShardsContext<'_> {
    /// Prints the consumers of the map that do not answer.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn warn_unreached_consumers(&self, context: &RebalanceContext<'_>) -> Result<(), CommandError> {
        let map = context.map_file.read()?;
        for host in publish::unreachable_consumers(context, &map)? {
            report_outdated_consumer(&host, &self.reporter);
        }
        Ok(())
    }

    /// Prints the plan.
    ///
    /// # Errors
    /// The plan cannot be converted to JSON.
    pub fn print_failover_plan(&self, plan: &FailoverPlan) -> Result<(), CommandError> {
        if self.reporter.json {
            self.reporter.print_json("plan", serde_json::to_value(plan).map_err(anyhow::Error::from)?);
        } else {
            self.reporter.print_painted_data(format_failover(plan, self.reporter.style).trim_end());
        }
        Ok(())
    }

    /// Prints the outcome, and archives old primaries whose hosts answer.
    ///
    /// # Errors
    /// The map cannot be read.
    pub async fn print_failover_outcome(
        &self,
        context: &RebalanceContext<'_>,
        plan: &FailoverPlan,
        outcome: &FailoverOutcome,
    ) -> Result<(), CommandError> {
        let reporter = &self.reporter;
        for promotion in plan.promotions.iter().filter(|p| outcome.promoted.contains_key(&p.shard)) {
            let (shard, to) = (promotion.shard, &promotion.to);
            let promoted = &outcome.promoted[&shard];
            reporter.print_json(
                "failed_over",
                json!({
                    "shard": shard, "from": promotion.from, "to": to, "offset": promoted.offset,
                    "waited_ms": promoted.waited_ms, "already_promoted": promoted.already_promoted,
                }),
            );
            reporter.print_data(&format!("  shard {shard} is served by {to}"));
            if outcome.publish_error.is_none() && !context.hosts.unreachable.contains(&promotion.from) {
                match archive_instance(context, shard, &promotion.from, &self.run_id).await {
                    Ok(archived) => self.print_archived(shard, &promotion.from, &archived),
                    Err(error) => {
                        let next = Some("dunlin shards repair");
                        reporter.report_failure(
                            &format!("shard {shard}"),
                            &format!("the old instance is not archived: {error:#}"),
                            next,
                        );
                    }
                }
            }
        }
        for primary in plan.degraded_primaries.iter().filter(|primary| outcome.lowered.contains(&primary.shard)) {
            reporter.print_json("min_replicas_lowered", json!({"shard": primary.shard, "host": primary.host}));
        }
        for (shard, error) in &outcome.failed {
            reporter.report_failure(
                &format!("shard {shard}"),
                error,
                Some("run the command again, or dunlin shards resume"),
            );
        }
        if let Some(error) = &outcome.publish_error {
            reporter.report_failure("map", error, Some("run the command again, or dunlin shards resume"));
        }
        self.warn_unreached_consumers(context)?;
        for unavailable in &plan.unavailable_shards {
            reporter.report_failure(&format!("shard {}", unavailable.shard), &unavailable.reason, None);
        }
        let (promoted, lowered) = (outcome.promoted.len(), outcome.lowered.len());
        let epoch = outcome.epoch.map(|epoch| format!(", epoch {epoch}")).unwrap_or_default();
        reporter.print_data(&format!("Done: {promoted} promoted, {lowered} continue without a dead replica{epoch}"));
        Ok(())
    }
}
