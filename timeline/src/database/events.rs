//! Events that wait for the relay, and counters that are changed once per event.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use deadpool_postgres::{Object, Transaction};
use tokio_postgres::{Row, types::ToSql};

use super::{Database, DbError, discard_if_silent, sql, within_limit};
use crate::ids::Id;

/// An event in the outbox.
#[derive(Debug, Clone)]
pub struct Event {
    /// The id, unique per database.
    pub id: Id,
    /// The kind.
    pub kind: String,
    /// JSON.
    pub payload: String,
    /// The moment of the commit, in milliseconds since 1970.
    pub created_ms: i64,
}

/// A change of one user's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CounterChange {
    /// Added to the number of followers.
    pub followers: i64,
    /// Added to the number of followees.
    pub following: i64,
    /// Added to the number of tweets.
    pub tweets: i64,
}

/// The changes of one event; applied once however often it is delivered.
#[derive(Debug, Clone)]
pub struct CounterEvent {
    /// The event's id.
    pub id: Id,
    /// The number of its database.
    pub source: i16,
    /// By user.
    pub changes: Vec<(Id, CounterChange)>,
}

/// The counters of a user beside the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterError {
    /// The user.
    pub user: Id,
    /// The change that makes the counters true.
    pub change: CounterChange,
    /// The number of tweets that the counter has.
    pub tweets: i64,
}

/// From how many followers on an author's tweets are merged on read, and below how many they are pushed again.
#[derive(Debug, Clone, Copy)]
pub struct PullThresholds {
    /// Merged on read from here on.
    pub upper: i64,
    /// Pushed again below.
    pub lower: i64,
}

impl Database {
    /// Claims up to `limit` of the oldest events for `lease`, and returns them in the order of their ids.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn claim_events(&self, limit: usize, lease: Duration) -> Result<Vec<Event>, DbError> {
        let rows = self.query(sql::CLAIM_EVENTS, &[&(limit as i64), &lease.as_secs_f64()]).await?;
        let mut events: Vec<Event> = rows
            .iter()
            .map(|row| Event { id: row.get(0), kind: row.get(1), payload: row.get(2), created_ms: row.get(3) })
            .collect();
        events.sort_by_key(|event| event.id);
        Ok(events)
    }

    /// Removes events that were published or applied.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn delete_events(&self, ids: &[Id]) -> Result<(), DbError> {
        self.execute(sql::DELETE_EVENTS, &[&ids]).await.map(drop)
    }

    /// Returns the age of the oldest event in seconds; 0 where the outbox is empty.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn oldest_event_age(&self) -> Result<f64, DbError> {
        Ok(self.query(sql::OLDEST_EVENT, &[]).await?.first().map_or(0.0, |row| row.get(0)))
    }

    /// Applies counter events in one transaction, each only once, and flags authors that cross a threshold. Returns the
    /// users whose counters were changed.
    ///
    /// # Errors
    /// Returns an error if the database does not answer; nothing was applied, or all of it.
    pub async fn apply_counters(
        &self,
        events: &[CounterEvent],
        thresholds: PullThresholds,
    ) -> Result<Vec<Id>, DbError> {
        let mut connection = self.connection().await?;
        let result = apply_in_transaction(&mut connection, events, thresholds).await;
        discard_if_silent(connection, &result);
        result
    }

    /// Reads the counters of up to `limit` users with ids above `after`, each with the change that makes the numbers of
    /// followers and followees true; tweets are counted in the other database.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn counter_errors(&self, after: Id, limit: usize) -> Result<Vec<CounterError>, DbError> {
        let rows = self.query(sql::TRUE_COUNTERS, &[&after, &(limit as i64)]).await?;
        let error = |row: &Row| {
            let number = |index: usize| row.get::<_, i64>(index);
            let (followers, following) = (number(4) - number(1), number(5) - number(2));
            CounterError {
                user: row.get(0),
                change: CounterChange { followers, following, tweets: 0 },
                tweets: number(3),
            }
        };
        Ok(rows.iter().map(error).collect())
    }

    /// Counts the tweets of some authors; those without any are missing.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn count_tweets(&self, authors: &[Id]) -> Result<BTreeMap<Id, i64>, DbError> {
        let rows = self.query(sql::TRUE_TWEETS, &[&authors]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Adds to the counters of one user.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn add_to_counters(&self, user: Id, change: CounterChange) -> Result<(), DbError> {
        let CounterChange { followers, following, tweets } = change;
        let (users, followers, following, tweets) = (vec![user], vec![followers], vec![following], vec![tweets]);
        self.execute(sql::ADD_TO_COUNTERS, &[&users, &followers, &following, &tweets]).await.map(drop)
    }

    /// Forgets events with ids below `first`; returns their number.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn prune_applied_events(&self, first: Id) -> Result<u64, DbError> {
        self.execute(sql::PRUNE_EVENTS, &[&first]).await
    }
}

impl CounterChange {
    fn add(&mut self, other: CounterChange) {
        self.followers += other.followers;
        self.following += other.following;
        self.tweets += other.tweets;
    }
}

async fn apply_in_transaction(
    client: &mut Object,
    events: &[CounterEvent],
    thresholds: PullThresholds,
) -> Result<Vec<Id>, DbError> {
    const BEGIN: sql::Statement = sql::Statement { name: "BEGIN", text: "begin" };
    const COMMIT: sql::Statement = sql::Statement { name: "COMMIT", text: "commit" };
    let transaction = within_limit(BEGIN, client.transaction()).await?;
    let (ids, sources): (Vec<Id>, Vec<i16>) = events.iter().map(|event| (event.id, event.source)).unzip();
    let rows = run(&transaction, sql::MARK_EVENTS, &[&ids, &sources]).await?;
    let new: BTreeSet<(Id, i16)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut changes: BTreeMap<Id, CounterChange> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for event in events.iter().filter(|event| new.contains(&(event.id, event.source))) {
        // the same event can be in one batch twice
        if seen.insert((event.id, event.source)) {
            for (user, change) in &event.changes {
                changes.entry(*user).or_default().add(*change);
            }
        }
    }
    let users: Vec<Id> = changes.keys().copied().collect();
    if !users.is_empty() {
        let column = |of: fn(&CounterChange) -> i64| changes.values().map(of).collect::<Vec<i64>>();
        let (followers, following, tweets) =
            (column(|change| change.followers), column(|change| change.following), column(|change| change.tweets));
        run(&transaction, sql::ADD_TO_COUNTERS, &[&users, &followers, &following, &tweets]).await?;
        let crossing: Vec<Id> =
            changes.iter().filter(|(_, change)| change.followers != 0).map(|(user, _)| *user).collect();
        if !crossing.is_empty() {
            run(&transaction, sql::FLAG_AUTHORS, &[&crossing, &thresholds.upper]).await?;
            run(&transaction, sql::UNFLAG_AUTHORS, &[&crossing, &thresholds.lower]).await?;
        }
    }
    within_limit(COMMIT, transaction.commit()).await?;
    Ok(users)
}

async fn run(
    transaction: &Transaction<'_>,
    statement: sql::Statement,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, DbError> {
    let run = async {
        let prepared = transaction.prepare_cached(statement.text).await?;
        transaction.query(&prepared, params).await
    };
    within_limit(statement, run).await
}
