//! Tweets, by id, by author and all of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Database, DbError, sql};
use crate::ids::{Id, MAX_ID};

/// A tweet that is not deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tweet {
    /// The id.
    pub id: Id,
    /// The author.
    pub author_id: Id,
    /// The text.
    pub body: String,
}

/// Entries to read, the newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    /// The largest id, itself included.
    pub max_id: Id,
    /// Only ids above this one.
    pub since_id: Id,
    /// The largest number of entries.
    pub limit: usize,
}

/// The outcome of a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// The tweet has this id, now or since the first request with the same key.
    Id(Id),
    /// The key was used for another text.
    OtherBody,
}

#[derive(Deserialize)]
struct FirstResponse {
    id: Id,
    digest: String,
}

impl Range {
    /// Returns the range of the newest `limit` entries.
    pub fn newest(limit: usize) -> Range {
        Range { max_id: MAX_ID, since_id: 0, limit }
    }
}

impl Database {
    /// Adds a tweet with its event.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn post(&self, author: Id, body: &str, request_id: &str) -> Result<Id, DbError> {
        let rows = self.query(sql::INSERT_TWEET, &[&author, &body, &request_id]).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    /// Adds a tweet with its event, unless `key` was used before: then the outcome is that of the first request.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn post_once(
        &self,
        author: Id,
        body: &str,
        request_id: &str,
        key: &str,
        digest: &str,
    ) -> Result<Posted, DbError> {
        let rows = self.query(sql::INSERT_TWEET_ONCE, &[&author, &body, &request_id, &key, &digest]).await?;
        if let Some(row) = rows.first() {
            return Ok(Posted::Id(row.get(0)));
        }
        let rows = self.query(sql::IDEMPOTENT_RESPONSE, &[&key]).await?;
        let first = rows.first().and_then(|row| serde_json::from_str::<FirstResponse>(row.get(0)).ok());
        match first {
            Some(first) if first.digest == digest => Ok(Posted::Id(first.id)),
            _ => Ok(Posted::OtherBody),
        }
    }

    /// Marks a tweet as deleted and adds its event; `false` where it was deleted already or is another author's.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn delete_tweet(&self, id: Id, author: Id, request_id: &str) -> Result<bool, DbError> {
        Ok(!self.query(sql::DELETE_TWEET, &[&id, &author, &request_id]).await?.is_empty())
    }

    /// Returns the author of a tweet, also of a deleted one.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn tweet_author(&self, id: Id) -> Result<Option<Id>, DbError> {
        Ok(self.query(sql::TWEET_AUTHOR, &[&id]).await?.first().map(|row| row.get(0)))
    }

    /// Reads tweets by id, in no particular order; deleted ones are missing.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn tweets(&self, ids: &[Id]) -> Result<Vec<Tweet>, DbError> {
        let rows = self.query(sql::TWEETS_BY_ID, &[&ids]).await?;
        Ok(rows.iter().map(|row| Tweet { id: row.get(0), author_id: row.get(1), body: row.get(2) }).collect())
    }

    /// Lists those of some tweets that are deleted.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn deleted_among(&self, ids: &[Id]) -> Result<Vec<Id>, DbError> {
        let rows = self.query(sql::DELETED_AMONG, &[&ids]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Lists an author's tweets.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn author_page(&self, author: Id, range: Range) -> Result<Vec<Id>, DbError> {
        let limit = range.limit as i64;
        let rows = self.query(sql::AUTHOR_PAGE, &[&author, &range.max_id, &range.since_id, &limit]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Lists the tweets of some authors as (author, id), the newest first, up to `per_author` of each.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn authors_page(
        &self,
        authors: &[Id],
        range: Range,
        per_author: usize,
    ) -> Result<Vec<(Id, Id)>, DbError> {
        let (limit, per_author) = (range.limit as i64, per_author as i64);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&authors, &range.max_id, &range.since_id, &per_author, &limit];
        let rows = self.query(sql::AUTHORS_PAGE, &params).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Lists the tweets of all authors.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn public_page(&self, range: Range) -> Result<Vec<Id>, DbError> {
        let rows = self.query(sql::PUBLIC_PAGE, &[&range.max_id, &range.since_id, &(range.limit as i64)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Forgets idempotency keys older than `age`; returns their number.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn prune_keys(&self, age: Duration) -> Result<u64, DbError> {
        self.execute(sql::PRUNE_KEYS, &[&age.as_secs_f64()]).await
    }
}
