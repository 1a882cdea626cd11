//! Users, who follows whom, and the authors whose tweets are merged on read.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Database, DbError, sql};
use crate::ids::Id;

/// A user with the counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Profile {
    /// The id.
    #[schema(value_type = i64, minimum = 1, maximum = 9007199254740991i64)]
    pub id: Id,
    /// The name; not unique.
    pub name: String,
    /// The number of users who follow this one. Updated through the queue.
    pub followers_count: i64,
    /// The number of users whom this one follows.
    pub following_count: i64,
    /// The number of tweets that are not deleted.
    pub tweets_count: i64,
}

/// Followers of one author in a range of ids, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerRange {
    /// The author.
    pub author: Id,
    /// The first follower.
    pub first: Id,
    /// The last one.
    pub last: Id,
}

/// The next followers of an author after a given one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerChunk {
    /// Their number, up to the limit that was asked for.
    pub count: usize,
    /// The last of them; `None` where there are none.
    pub last: Option<Id>,
}

/// An author whose tweets are merged when a timeline is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlaggedAuthor {
    /// The author.
    pub id: Id,
    /// True if the tweets are not pushed to the followers (any more).
    pub pull_author: bool,
    /// True if that has been so for longer than the grace period, so that all readers know it.
    pub is_settled: bool,
}

impl Database {
    /// Adds a user and returns the id.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn create_user(&self, name: &str) -> Result<Id, DbError> {
        let rows = self.query(sql::INSERT_USER, &[&name]).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    /// Reads users by id, in no particular order; those that do not exist are missing.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn profiles(&self, ids: &[Id]) -> Result<Vec<Profile>, DbError> {
        let rows = self.query(sql::USERS_BY_ID, &[&ids]).await?;
        Ok(rows.iter().map(profile).collect())
    }

    /// Reads users with ids up to `max_id` and above `since_id`, the newest first.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn profiles_page(&self, range: super::Range) -> Result<Vec<Profile>, DbError> {
        let limit = range.limit as i64;
        let rows = self.query(sql::USERS_PAGE, &[&range.max_id, &range.since_id, &limit]).await?;
        Ok(rows.iter().map(profile).collect())
    }

    /// Adds an edge and its event; `false` where it was there already.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn follow(&self, follower: Id, followee: Id, payload: &str) -> Result<bool, DbError> {
        Ok(self.execute(sql::INSERT_FOLLOW, &[&followee, &follower, &payload]).await? > 0)
    }

    /// Removes an edge and adds its event; `false` where it was not there.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn unfollow(&self, follower: Id, followee: Id, payload: &str) -> Result<bool, DbError> {
        Ok(self.execute(sql::DELETE_FOLLOW, &[&followee, &follower, &payload]).await? > 0)
    }

    /// Tells whether `follower` follows `followee`.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn is_following(&self, follower: Id, followee: Id) -> Result<bool, DbError> {
        Ok(!self.query(sql::FOLLOW_EXISTS, &[&followee, &follower]).await?.is_empty())
    }

    /// Lists the users whom a user follows.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn followees(&self, follower: Id) -> Result<Vec<Id>, DbError> {
        let rows = self.query(sql::FOLLOWEES, &[&follower]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Lists those of some authors whom a user follows.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn followees_among(&self, follower: Id, authors: &[Id]) -> Result<Vec<Id>, DbError> {
        let rows = self.query(sql::FOLLOWEES_AMONG, &[&follower, &authors]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Finds, for each author, the next `limit` followers after a given id.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn follower_chunks(&self, after: &[(Id, Id)], limit: usize) -> Result<Vec<FollowerChunk>, DbError> {
        let (authors, cursors): (Vec<Id>, Vec<Id>) = after.iter().copied().unzip();
        let rows = self.query(sql::FOLLOWER_CHUNKS, &[&authors, &cursors, &(limit as i64)]).await?;
        let chunk = |row: &tokio_postgres::Row| FollowerChunk {
            count: usize::try_from(row.get::<_, i64>(0)).unwrap_or(0),
            last: row.get(1),
        };
        Ok(rows.iter().map(chunk).collect())
    }

    /// Lists the followers of each range, in the order of the ranges.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn followers(&self, ranges: &[FollowerRange]) -> Result<Vec<Vec<Id>>, DbError> {
        let column = |of: fn(&FollowerRange) -> Id| ranges.iter().map(of).collect::<Vec<Id>>();
        let (authors, first, last) =
            (column(|range| range.author), column(|range| range.first), column(|range| range.last));
        let rows = self.query(sql::FOLLOWER_RANGES, &[&authors, &first, &last]).await?;
        let mut followers = vec![Vec::new(); ranges.len()];
        for row in rows {
            let place = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
            if let Some(list) = followers.get_mut(place) {
                list.push(row.get(1));
            }
        }
        Ok(followers)
    }

    /// Lists the authors whose tweets are merged on read.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn flagged_authors(&self, grace: std::time::Duration) -> Result<Vec<FlaggedAuthor>, DbError> {
        let rows = self.query(sql::FLAGGED_AUTHORS, &[&grace.as_secs_f64()]).await?;
        let flagged = |row: &tokio_postgres::Row| FlaggedAuthor {
            id: row.get(0),
            pull_author: row.get(1),
            is_settled: row.get(2),
        };
        Ok(rows.iter().map(flagged).collect())
    }

    /// Ends the merging of an author on read, where the tweets are pushed.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn delete_flag(&self, author: Id) -> Result<(), DbError> {
        self.execute(sql::DELETE_FLAG, &[&author]).await.map(drop)
    }
}

fn profile(row: &tokio_postgres::Row) -> Profile {
    Profile {
        id: row.get(0),
        name: row.get(1),
        followers_count: row.get(2),
        following_count: row.get(3),
        tweets_count: row.get(4),
    }
}
