//! The connections of a service to its shards: one multiplexed connection per shard, opened when first needed, that
//! follows a shard to its new host while it is being moved.
//!
//! A request is *acknowledged* once its reply is here. Errors mean:
//!
//! | error | applied | action |
//! |---|---|---|
//! | READONLY, NOREPLICAS, MASTERDOWN, CLUSTERDOWN, LOADING, BUSY, UNBLOCKED, NOAUTH, no connection | no | sent again, for up to [`ConnectionOptions::retry_for`] |
//! | NOPERM | no | sent again if the shard is now at another node, an error otherwise |
//! | OOM, MISCONF, NOSCRIPT, other errors of a command | no | an error at once |
//! | EXECABORT | no | an error at once; send the whole transaction again |
//! | another error that a script or function raised | unknown | an error at once |
//! | the connection broke, or no reply came in time | unknown | sent again with [`RetryPolicy::Idempotent`] only |
//!
//! At a cutover, a held write gets READONLY, a held EXEC gets EXECABORT with READONLY in its text, and a blocked
//! command gets UNBLOCKED. None of them was applied.
//!
//! An error that a script returns by itself (`redis.error_reply`) is classed by its first word, as if Redis had sent
//! it: do not begin it with one of the words above if the script may have written.
//!
//! # Blocking commands and pub/sub
//!
//! A blocking command (BLPOP, XREAD BLOCK) stops all requests to its shard, because they share one connection. Give
//! such commands a [`ShardConnections`] of their own, and a `response_timeout` longer than the command's own. A cutover
//! sends a blocked command to the new node. If the connection breaks instead, whether an element was taken is unknown.
//!
//! Subscriptions need a connection of the application's own, to the node in [`ShardConnections::routing`]. After a
//! cutover, the old node still delivers what is published at the new one, as its replica. dunlin does not retire it
//! while a subscriber is connected. Subscribe at the new node when [`ShardConnections::epoch`] grows, then close the
//! old connection. Messages that are published while no connection exists are lost, as with any Redis.
//!
//! Where to send it: to the primary that the published map names. A node that refuses is asked for its ROLE; if that
//! names another primary, the primary is tried, and used while it accepts and until the map's epoch grows. No other
//! node is ever tried, and a key never goes to another shard.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use redis::{Cmd, FromRedisValue, Value};

use crate::{
    map::{Epoch, ShardId},
    routing::{Routing, RoutingError},
    slot::slot_for_key,
};

mod error;
mod health;
mod map_watcher;
mod retry;
mod routing_table;
mod shard_client;
mod state;
mod tls;

pub use error::{AppliedState, ShardError};
pub use health::ShardHealth;
use routing_table::RoutingTable;
pub use state::ConnectionStats;
use state::SharedState;
pub use tls::build_client;

/// Options of connections and retries.
#[derive(Clone)]
pub struct ConnectionOptions {
    /// The password of the shards' ACL users. `None`: no authentication at all, as the server's default user.
    pub password: Option<String>,
    /// The CA that signed the certificates of the instances, as PEM text. With it, connections use TLS only; without
    /// it, everything is sent in clear, the password too.
    pub tls_ca: Option<String>,
    /// Time limit of a reply. It must be longer than a pause of a move, during which a server holds writes.
    pub response_timeout: Duration,
    /// Time limit of a connection, including authentication.
    pub connect_timeout: Duration,
    /// Time during which a request is retried. The last attempt starts before it ends and may itself take
    /// [`ConnectionOptions::response_timeout`].
    pub retry_for: Duration,
    /// Interval at which the published map is checked.
    pub poll_interval: Duration,
}

impl Default for ConnectionOptions {
    fn default() -> ConnectionOptions {
        ConnectionOptions {
            password: None,
            tls_ca: None,
            response_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            retry_for: Duration::from_secs(5),
            poll_interval: Duration::from_millis(200),
        }
    }
}

impl fmt::Debug for ConnectionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("tls", &self.tls_ca.is_some())
            .field("response_timeout", &self.response_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("retry_for", &self.retry_for)
            .field("poll_interval", &self.poll_interval)
            .finish()
    }
}

/// Permission to repeat a request that may already be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryPolicy {
    /// Repeat it: applying it twice has the same effect as once (reads, ZADD, SET).
    Idempotent,
    /// Repeat it only if it was not applied (increments, pushes onto lists).
    OnlyIfNotApplied,
}

/// The shards of one cluster. Cheap to clone; the clones share connections and map.
#[derive(Clone)]
pub struct ShardConnections {
    inner: Arc<SharedState>,
}

impl ShardConnections {
    /// Reads the published map and watches it from now on. Connects to nothing yet. To be called inside a tokio
    /// runtime; the watch ends with the last clone. Error: the map or the CA cannot be read or is not
    /// valid.
    pub async fn open(path: impl AsRef<Path>, options: ConnectionOptions) -> Result<ShardConnections, RoutingError> {
        let path: PathBuf = path.as_ref().to_owned();
        build_client("localhost", 1, redis::RedisConnectionInfo::default(), options.tls_ca.as_deref())
            .map_err(RoutingError::InvalidCa)?;
        let (routing, stamp) = map_watcher::load_with_stamp(&path)?;
        let table = RoutingTable::new(routing, &options, None)?;
        let interval = options.poll_interval;
        let inner = Arc::new(SharedState::new(path, options, table));
        map_watcher::spawn_watcher(&inner, stamp, interval);
        Ok(ShardConnections { inner })
    }

    /// Returns the epoch of the map in use.
    pub fn epoch(&self) -> Epoch {
        self.inner.current_table().routing.epoch
    }

    /// Returns the map in use.
    pub fn routing(&self) -> Arc<Routing> {
        self.inner.current_table().routing.clone()
    }

    /// Returns the shard that a key belongs to.
    pub fn shard_for_key(&self, key: &[u8]) -> ShardId {
        self.inner.current_table().target_for_slot(slot_for_key(key)).id
    }

    /// Returns the counters of the connection set.
    pub fn stats(&self) -> ConnectionStats {
        self.inner.collect_stats()
    }

    /// Sends one command to the shard of `key` and converts its reply.
    pub async fn query_shard<T: FromRedisValue>(
        &self,
        key: &[u8],
        cmd: &Cmd,
        retry: RetryPolicy,
    ) -> Result<T, ShardError> {
        let shard = self.shard_for_key(key);
        let value = retry::send_one(&self.inner, slot_for_key(key), cmd, retry).await?;
        redis::from_redis_value(value).map_err(|source| ShardError::UnexpectedReply { shard, source })
    }

    /// Sends many commands, each to the shard of its key: one pipeline per shard, all shards at the same time. The
    /// results are in the order of the items; each has its own, so that a shard that is down fails only its items.
    pub async fn query_batch(&self, items: Vec<(Vec<u8>, Cmd)>, retry: RetryPolicy) -> Vec<Result<Value, ShardError>> {
        retry::send_batch(&self.inner, items, retry).await
    }

    /// Asks each shard once whether it answers (PING, at the node that requests go to now), all at the same time and
    /// within `limit`. The result is in the order of the shards' numbers.
    pub async fn check_health(&self, limit: Duration) -> Vec<ShardHealth> {
        health::check_shards(&self.inner, limit).await
    }
}

impl fmt::Debug for ShardConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.inner.current_table();
        write!(f, "Shards({} at epoch {})", table.routing.cluster, table.routing.epoch)
    }
}
