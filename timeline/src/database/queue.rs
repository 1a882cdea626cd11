//! The rows of the Postgres queue.

use std::time::Duration;

use super::{Database, DbError, sql};

/// A message that was taken from the queue.
#[derive(Debug, Clone)]
pub struct QueueRow {
    /// Its id in its queue.
    pub id: i64,
    /// The text.
    pub payload: String,
    /// Number of times that it was taken, this time included.
    pub attempts: i32,
}

/// The largest number of messages that are counted.
const DEPTH_LIMIT: i64 = 100_000;

impl Database {
    /// Adds messages: queue, text and delay in seconds of each.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn enqueue(&self, queues: &[&str], payloads: &[String], delays: &[f64]) -> Result<(), DbError> {
        self.execute(sql::ENQUEUE, &[&queues, &payloads, &delays]).await.map(drop)
    }

    /// Takes up to `max` messages and hides them for `lease`.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn dequeue(&self, queue: &str, max: usize, lease: Duration) -> Result<Vec<QueueRow>, DbError> {
        let rows = self.query(sql::DEQUEUE, &[&queue, &(max as i64), &lease.as_secs_f64()]).await?;
        let row = |row: &tokio_postgres::Row| QueueRow { id: row.get(0), payload: row.get(1), attempts: row.get(2) };
        Ok(rows.iter().map(row).collect())
    }

    /// Removes messages.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn acknowledge(&self, queue: &str, ids: &[i64]) -> Result<(), DbError> {
        self.execute(sql::ACK, &[&queue, &ids]).await.map(drop)
    }

    /// Makes messages visible again.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn release(&self, queue: &str, ids: &[i64]) -> Result<(), DbError> {
        self.execute(sql::RELEASE, &[&queue, &ids]).await.map(drop)
    }

    /// Moves messages to another queue.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn move_messages(&self, queue: &str, ids: &[i64], to: &str) -> Result<(), DbError> {
        self.execute(sql::MOVE, &[&queue, &ids, &to]).await.map(drop)
    }

    /// Counts the messages of a queue, up to 100,000.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn queue_depth(&self, queue: &str) -> Result<u64, DbError> {
        let rows = self.query(sql::DEPTH, &[&queue, &DEPTH_LIMIT]).await?;
        Ok(rows.first().map_or(0, |row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0)))
    }
}
