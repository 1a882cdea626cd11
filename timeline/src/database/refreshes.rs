//! Shards whose timelines wait to be rebuilt, because deliveries to them were dropped.
//!
//! A delivery may be dropped once [`Database::request_refresh`] has returned: a refresh that begins later reads what the
//! delivery's event has committed. One that had begun before is void, and does not end the request.

use std::{collections::BTreeSet, time::Duration};

use super::{Database, DbError, sql};

impl Database {
    /// Requests that the timelines of shards are rebuilt. Refreshes of them that are in progress become void.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn request_refresh(&self, shards: &BTreeSet<u16>) -> Result<(), DbError> {
        let shards: Vec<i32> = shards.iter().map(|shard| i32::from(*shard)).collect();
        self.execute(sql::REQUEST_REFRESH, &[&shards]).await.map(drop)
    }

    /// Lists the shards whose timelines wait to be rebuilt, or are being rebuilt.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn requested_refreshes(&self) -> Result<BTreeSet<u16>, DbError> {
        let rows = self.query(sql::REQUESTED_REFRESHES, &[]).await?;
        Ok(rows.iter().filter_map(|row| u16::try_from(row.get::<_, i32>(0)).ok()).collect())
    }

    /// Begins the refresh of a shard, for `lease` at first; `false` where none is requested, or another one is in progress.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn begin_refresh(&self, shard: u16, token: &str, lease: Duration) -> Result<bool, DbError> {
        let shard = i32::from(shard);
        Ok(self.execute(sql::BEGIN_REFRESH, &[&shard, &token, &lease.as_secs_f64()]).await? > 0)
    }

    /// Extends the lease of a refresh; `false` where it is void.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn extend_refresh(&self, shard: u16, token: &str, lease: Duration) -> Result<bool, DbError> {
        let shard = i32::from(shard);
        Ok(self.execute(sql::EXTEND_REFRESH, &[&shard, &token, &lease.as_secs_f64()]).await? > 0)
    }

    /// Ends a refresh, and the request with it; `false` where it is void.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn end_refresh(&self, shard: u16, token: &str) -> Result<bool, DbError> {
        Ok(self.execute(sql::END_REFRESH, &[&i32::from(shard), &token]).await? > 0)
    }
}
