//! Checks which shards are reachable.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{error::AttemptOutcome, routing_table::ShardTarget, state::SharedState};
use crate::map::ShardId;

/// Health of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardHealth {
    /// The shard.
    pub shard: ShardId,
    /// Node that was queried, as `host:port`.
    pub address: String,
    /// Reason why the shard is not reachable; `None` if it is.
    pub failure: Option<String>,
}

pub(super) async fn check_shards(inner: &Arc<SharedState>, limit: Duration) -> Vec<ShardHealth> {
    let mut asked: JoinSet<ShardHealth> = JoinSet::new();
    for target in inner.current_table().targets() {
        asked.spawn(check_shard(target.clone(), limit));
    }
    let mut healths = asked.join_all().await;
    healths.sort_by_key(|health| health.shard);
    healths
}

async fn check_shard(target: Arc<ShardTarget>, limit: Duration) -> ShardHealth {
    let node = target.active_client();
    let ping = redis::cmd("PING");
    let failure = match tokio::time::timeout(limit, node.send_commands(&[&ping])).await {
        Err(_) => Some(format!("no answer within {} ms", limit.as_millis())),
        Ok(mut outcomes) => match outcomes.pop() {
            Some(AttemptOutcome::Replied(_)) | None => None,
            Some(
                AttemptOutcome::NotApplied(error)
                | AttemptOutcome::NoPermission(error)
                | AttemptOutcome::Refused(error)
                | AttemptOutcome::Unknown(error),
            ) => Some(error.to_string()),
        },
    };
    ShardHealth { shard: target.id, address: node.address.clone(), failure }
}
