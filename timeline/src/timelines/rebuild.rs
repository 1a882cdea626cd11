//! Building a list that is not there: once per process, however many ask for it, and never more than a few at a time.

use std::sync::Arc;

pub use super::source::Snapshot;
use super::{SharedDbError, Timelines};
use crate::{
    lists::{List, Lists, RebuildStart},
    telemetry::new_unique_id,
};

/// Number of entries that a snapshot has where nothing is stored.
const PULL_CAP: usize = 1000;

/// Reason for a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildReason {
    /// Somebody wants to read it.
    Cold,
    /// An operator asked for it.
    Requested,
    /// It was removed because deliveries to its shard were dropped.
    Refreshed,
}

impl RebuildReason {
    fn as_str(self) -> &'static str {
        match self {
            RebuildReason::Cold => "cold",
            RebuildReason::Requested => "requested",
            RebuildReason::Refreshed => "refreshed",
        }
    }
}

impl Timelines {
    /// Builds a list and returns the database's entries. An existing list is built again only if requested.
    ///
    /// # Errors
    /// Returns an error if the database does not answer. A shard that does not answer is none: the result is only not
    /// stored then.
    pub async fn rebuild(&self, list: List, reason: RebuildReason) -> Result<Arc<Snapshot>, SharedDbError> {
        let Some(lists) = self.lists() else { return Ok(Arc::new(self.snapshot(list, PULL_CAP).await?)) };
        let entry = self.inner.rebuilds.entry(list).or_try_insert_with(self.build(lists, list, reason)).await.map_err(
            // one error for all who waited
            |error: Arc<SharedDbError>| error.as_ref().clone(),
        )?;
        if !entry.is_fresh() {
            metrics::counter!("tl_rebuild_coalesced_total").increment(1);
        }
        Ok(entry.into_value())
    }

    async fn build(&self, lists: &Lists, list: List, reason: RebuildReason) -> Result<Arc<Snapshot>, SharedDbError> {
        let _slot = self.inner.rebuild_slots.acquire().await;
        let token = new_unique_id();
        let start = lists.begin_rebuild(list, &token, reason == RebuildReason::Requested).await;
        let snapshot = self.snapshot(list, lists.options().cap).await?;
        if let Ok(RebuildStart::Begun) = start {
            metrics::counter!("tl_rebuild_total", "reason" => reason.as_str()).increment(1);
            match lists.commit_rebuild(list, &token, snapshot.floor, &snapshot.ids).await {
                Ok(true) => {}
                Ok(false) => tracing::info!(?list, "the rebuild took too long and was replaced"),
                Err(error) => tracing::warn!(?list, error = %error, "the rebuild could not be stored"),
            }
        }
        Ok(Arc::new(snapshot))
    }
}
