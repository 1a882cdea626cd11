//! The desired instance in a request.

use anyhow::{Context, Result};
use dunlin_shards::ShardId;
use serde::Deserialize;
use serde_json::Value;

use crate::resources::redis_shard::RedisShard;

/// Returns the desired state of a shard's instance.
///
/// # Errors
/// Returns an error if the value in the request has another form.
pub fn parse_instance(shard: ShardId, instance: &Value) -> Result<RedisShard> {
    RedisShard::deserialize(instance).with_context(|| format!("the instance of shard {shard}"))
}
