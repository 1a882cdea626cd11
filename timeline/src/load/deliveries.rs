//! Reading tweets back: is each acknowledged tweet in its author's timeline and in the home timeline of each follower?

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{
    Base, acks,
    client::{ApiCall, Client},
    graph::{Graph, GraphUser},
};

const READERS: usize = 8;
/// The largest page.
const PAGE: usize = 200;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Findings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TweetSummary {
    /// Tweets that were acknowledged.
    pub acked: u64,
    /// Acknowledged tweets that their authors' timelines do not have.
    pub lost: u64,
    /// Deliveries of acknowledged tweets: one per follower.
    pub deliveries: u64,
    /// Deliveries that are not in the follower's home timeline.
    pub missing: u64,
    /// Entries of home timelines that the service read from Redis.
    pub from_cache: u64,
    /// Entries of home timelines that it read from the database.
    pub from_database: u64,
}

#[derive(Deserialize)]
struct ReceivedTweets {
    tweets: Vec<TweetId>,
    next_max_id: Option<u64>,
    source: String,
}

#[derive(Deserialize)]
struct TweetId {
    id: u64,
}

/// A timeline as pages gave it.
#[derive(Default)]
struct Stored {
    ids: BTreeSet<u64>,
    from_cache: u64,
    from_database: u64,
}

/// Reads the timelines of all users of a graph and compares them with the file of acknowledgements. Deliveries can
/// still be in the queue: home timelines are read again for up to `wait`.
///
/// # Errors
/// Returns an error if the file or a timeline cannot be read.
pub async fn verify_tweets(
    bases: Vec<Base>,
    graph: &Graph,
    acks: &Path,
    wait: Duration,
) -> anyhow::Result<TweetSummary> {
    let acked = Arc::new(acks::read(acks)?);
    let end = Instant::now() + wait;
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        let (mut client, acked) = (Client::new(bases.clone(), number), acked.clone());
        let users: Vec<GraphUser> = graph.users.iter().skip(number).step_by(READERS).cloned().collect();
        readers.spawn(async move {
            let mut summary = TweetSummary::default();
            for user in users {
                summary.add(verify_user(&mut client, &user, &acked, end).await?);
            }
            Ok::<TweetSummary, anyhow::Error>(summary)
        });
    }
    let mut summary = TweetSummary::default();
    while let Some(part) = readers.join_next().await {
        summary.add(part??);
    }
    Ok(summary)
}

impl TweetSummary {
    fn add(&mut self, other: TweetSummary) {
        self.acked += other.acked;
        self.lost += other.lost;
        self.deliveries += other.deliveries;
        self.missing += other.missing;
        self.from_cache += other.from_cache;
        self.from_database += other.from_database;
    }
}

async fn verify_user(
    client: &mut Client,
    user: &GraphUser,
    acked: &BTreeMap<u64, BTreeSet<u64>>,
    end: Instant,
) -> anyhow::Result<TweetSummary> {
    let posted = acked.get(&user.id).cloned().unwrap_or_default();
    let stored = read_timeline(client, &format!("/v1/users/{}/tweets", user.id), None).await?;
    let expected: BTreeSet<u64> = user.follows.iter().filter_map(|id| acked.get(id)).flatten().copied().collect();
    let (home, missing) = loop {
        let home = read_timeline(client, "/v1/timelines/home", Some(&user.token)).await?;
        let missing = expected.difference(&home.ids).count();
        if missing == 0 || Instant::now() >= end {
            break (home, missing);
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    };
    Ok(TweetSummary {
        acked: posted.len() as u64,
        lost: posted.difference(&stored.ids).count() as u64,
        deliveries: expected.len() as u64,
        missing: missing as u64,
        from_cache: home.from_cache,
        from_database: home.from_database,
    })
}

async fn read_timeline(client: &mut Client, path: &str, token: Option<&str>) -> anyhow::Result<Stored> {
    let mut stored = Stored::default();
    let mut cursor = String::new();
    loop {
        let page: ReceivedTweets = client.fetch(&ApiCall::get(format!("{path}?limit={PAGE}{cursor}"), token)).await?;
        let counter = if page.source == "db" { &mut stored.from_database } else { &mut stored.from_cache };
        *counter += page.tweets.len() as u64;
        stored.ids.extend(page.tweets.iter().map(|tweet| tweet.id));
        match page.next_max_id {
            Some(next) => cursor = format!("&max_id={next}"),
            None => return Ok(stored),
        }
    }
}
