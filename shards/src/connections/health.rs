//! Which shards answer right now.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{error::Outcome, state::Inner, table::Target};
use crate::map::ShardId;

/// Whether one shard answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardHealth {
    /// The shard.
    pub shard: ShardId,
    /// The node that was asked, `host:port`.
    pub address: String,
    /// Why it is not reachable; `None` where it is.
    pub failure: Option<String>,
}

pub(super) async fn ask(inner: &Arc<Inner>, limit: Duration) -> Vec<ShardHealth> {
    let mut asked: JoinSet<ShardHealth> = JoinSet::new();
    for target in inner.table().targets() {
        asked.spawn(ask_one(target.clone(), limit));
    }
    let mut healths = asked.join_all().await;
    healths.sort_by_key(|health| health.shard);
    healths
}

async fn ask_one(target: Arc<Target>, limit: Duration) -> ShardHealth {
    let node = target.node();
    let ping = redis::cmd("PING");
    let failure = match tokio::time::timeout(limit, node.send(&[&ping])).await {
        Err(_) => Some(format!("no answer within {} ms", limit.as_millis())),
        Ok(mut outcomes) => match outcomes.pop() {
            Some(Outcome::Done(_)) | None => None,
            Some(Outcome::NotApplied(error) | Outcome::Refused(error) | Outcome::Unknown(error)) => {
                Some(error.to_string())
            }
        },
    };
    ShardHealth { shard: target.id, address: node.address.clone(), failure }
}
