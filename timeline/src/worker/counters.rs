//! Counts: each event once, however often it is delivered.

use std::time::Duration;

use super::WorkError;
use crate::{
    database::{CounterEvent, DbError, PullThresholds, sql},
    timelines::Timelines,
};

/// Time that the transaction may take.
const LIMIT: Duration = Duration::from_secs(15);

/// Applies events to the counters and refreshes the cached profiles.
pub(super) async fn apply(
    timelines: &Timelines,
    events: &[CounterEvent],
    thresholds: PullThresholds,
) -> Result<(), WorkError> {
    let apply = timelines.databases().users.apply_counters(events, thresholds);
    // all of its statements together; each has the server's own limit
    let applied = tokio::time::timeout(LIMIT, apply).await;
    let changed = applied.unwrap_or(Err(DbError::Silent { statement: sql::ADD_TO_COUNTERS.name }))?;
    timelines.cache().refresh_profiles(&changed).await;
    Ok(())
}
