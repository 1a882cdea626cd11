//! A failover as the operator requests it: its scope, and the plan for the hosts as they are now.

use std::collections::BTreeSet;

use dunlin_shards::ShardId;

use super::observe::observe_cluster;
use super::{FailoverBlocker, FailoverOptions, FailoverPlan, FailoverScope, plan_failover};
use crate::rebalance::RebalanceContext;
use crate::rebalance::cluster_files::ClusterFiles;
use crate::rebalance::run_error::{RunError, RunResult};

impl FailoverScope {
    /// Parses the names of dead hosts, or the numbers of shards.
    ///
    /// # Errors
    /// Returns an error if a name is neither, or hosts and shards are mixed.
    pub fn parse(cluster: &ClusterFiles, names: &[String]) -> RunResult<Self> {
        let unknown =
            |name: &str| RunError::invalid_request(format!("{name} is neither a shard of the map nor a host"));
        let numbers: Vec<Option<ShardId>> = names.iter().map(|name| name.parse().ok()).collect();
        if let Some(shards) = numbers.iter().copied().collect::<Option<Vec<ShardId>>>() {
            return match shards.iter().find(|id| cluster.map.find_shard(**id).is_none()) {
                Some(id) => Err(unknown(&id.to_string())),
                None => Ok(Self::Shards(shards)),
            };
        }
        if numbers.iter().any(Option::is_some) {
            return Err(RunError::invalid_request("give either hosts or shards, not both"));
        }
        match names.iter().find(|name| cluster.inventory.find_host(name).is_none()) {
            Some(name) => Err(unknown(name)),
            None => Ok(Self::Hosts(names.to_vec())),
        }
    }
}

impl FailoverPlan {
    /// Returns the number of changes.
    pub fn count_changes(&self) -> usize {
        self.promotions.len() + self.degraded_primaries.len() + self.replicas_to_create.len()
    }

    /// Checks that a plan without changes leaves no shard unavailable.
    ///
    /// # Errors
    /// It does: nothing can be promoted.
    pub fn ensure_all_available(&self) -> RunResult<()> {
        if self.unavailable_shards.is_empty() {
            return Ok(());
        }
        Err(RunError::refused("nothing can be promoted; no changes were made"))
    }

    /// Checks that another plan, made before, has the same decisions.
    ///
    /// # Errors
    /// It has others.
    pub fn ensure_same_decisions(&self, confirmed: &Self) -> RunResult<()> {
        if self.has_same_decisions(confirmed) {
            return Ok(());
        }
        Err(RunError::refused("the instances have changed since the plan was shown; no changes were made")
            .with_hint("run the command again to see a new plan"))
    }
}

/// Observes the cluster and plans the failover by the current map.
///
/// # Errors
/// Returns an error if a host or shard is alive, a replica does not answer, or a later map is published.
pub async fn plan_current_failover(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    scope: &FailoverScope,
    options: FailoverOptions,
) -> RunResult<FailoverPlan> {
    let view = observe_cluster(context, &cluster.map, &cluster.shard_hosts()?, scope).await?;
    let planned = plan_failover(&view, scope, options).map_err(|blockers| blockers_error(&blockers))?;
    cluster.ensure_map_is_current(context).await?;
    Ok(planned)
}

fn blockers_error(blockers: &[FailoverBlocker]) -> RunError {
    let reasons: Vec<&str> = blockers.iter().map(|blocker| blocker.reason.as_str()).collect();
    let text = format!("the failover is refused; no changes were made\n  {}", reasons.join("\n  "));
    let next: BTreeSet<&str> = blockers.iter().map(|blocker| blocker.next_step.as_str()).collect();
    next.into_iter().fold(RunError::refused(text), RunError::with_hint)
}
