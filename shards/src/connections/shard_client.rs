//! One Redis node as one shard's user sees it: a connection that is opened when needed and opened again when broken.

use std::{
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use super::{ConnectionOptions, error::AttemptOutcome, tls::build_client};
use crate::address::InstanceAddress;

const MIN_BACKOFF: Duration = Duration::from_millis(2);
const MAX_BACKOFF: Duration = Duration::from_millis(250);

/// A node.
pub(super) struct ShardClient {
    pub(super) address: String,
    client: Client,
    config: AsyncConnectionConfig,
    connect_timeout: Duration,
    connection: RwLock<Option<OpenConnection>>,
    connecting: tokio::sync::Mutex<Connecting>,
}

/// An open connection, and which one it is: a failure must not close its successor.
#[derive(Clone)]
struct OpenConnection {
    number: u64,
    connection: MultiplexedConnection,
}

/// Results of earlier attempts to open a connection.
#[derive(Default)]
struct Connecting {
    opened_count: u64,
    failure: Option<ConnectFailure>,
}

struct ConnectFailure {
    not_before: Instant,
    pause: Duration,
    error: RedisError,
}

/// Role that a node reports.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NodeRole {
    Primary,
    /// A replica, of the node at this address.
    ReplicaOf(String),
}

impl ShardClient {
    /// Returns a client without a connection; `None` if the address is not `host:port`.
    /// [`ShardConnections`](super::ShardConnections) checks the CA when it is opened.
    pub(super) fn new(address: &str, user: &str, options: &ConnectionOptions) -> Option<ShardClient> {
        let InstanceAddress { host, port } = address.parse().ok()?;
        let mut redis = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        if let Some(password) = &options.password {
            redis = redis.set_username(user).set_password(password);
        }
        let client = build_client(&host, port, redis, options.tls_ca.as_deref()).ok()?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(options.connect_timeout))
            .set_response_timeout(Some(options.response_timeout));
        Some(ShardClient {
            address: address.to_owned(),
            client,
            config,
            connect_timeout: options.connect_timeout,
            connection: RwLock::new(None),
            connecting: tokio::sync::Mutex::new(Connecting::default()),
        })
    }

    /// Sends commands once, as one pipeline, and returns one outcome per command.
    pub(super) async fn send_commands(&self, cmds: &[&Cmd]) -> Vec<AttemptOutcome> {
        let mut link = match self.get_or_connect().await {
            Ok(link) => link,
            Err(error) => return cmds.iter().map(|_| AttemptOutcome::NotApplied(error.clone())).collect(),
        };
        let replies = match cmds {
            [cmd] => link.connection.req_packed_command(cmd).await.map(|value| vec![value]),
            _ => {
                let mut pipeline = Pipeline::with_capacity(cmds.len());
                for cmd in cmds {
                    pipeline.add_command((*cmd).clone());
                }
                link.connection.req_packed_commands(&pipeline, 0, cmds.len()).await
            }
        };
        let outcomes: Vec<AttemptOutcome> = match replies {
            Ok(values) => values.into_iter().map(|value| AttemptOutcome::from_reply(Ok(value))).collect(),
            Err(error) => cmds.iter().map(|_| AttemptOutcome::from_reply(Err(error.clone()))).collect(),
        };
        if outcomes.iter().any(|outcome| matches!(outcome, AttemptOutcome::Unknown(_))) {
            self.drop_connection(link.number);
        }
        outcomes
    }

    /// Asks the node what it is. `None` where it does not say.
    pub(super) async fn query_role(&self) -> Option<NodeRole> {
        let AttemptOutcome::Replied(value) = self.send_commands(&[&redis::cmd("ROLE")]).await.pop()? else {
            return None;
        };
        parse_role(&value)
    }

    async fn get_or_connect(&self) -> Result<OpenConnection, RedisError> {
        if let Some(link) = self.current_connection() {
            return Ok(link);
        }
        let mut opening = self.connecting.lock().await;
        // a task that waited for the lock finds the connection of its earlier holder
        if let Some(link) = self.current_connection() {
            return Ok(link);
        }
        if let Some(failure) = opening.failure.as_ref().filter(|failure| Instant::now() < failure.not_before) {
            return Err(failure.error.clone());
        }
        match self.open_connection().await {
            Ok(connection) => {
                *opening = Connecting { opened_count: opening.opened_count + 1, failure: None };
                let link = OpenConnection { number: opening.opened_count, connection };
                *self.connection.write().unwrap_or_else(PoisonError::into_inner) = Some(link.clone());
                Ok(link)
            }
            Err(error) => {
                let pause = opening.failure.as_ref().map_or(MIN_BACKOFF, |last| last.pause * 2).min(MAX_BACKOFF);
                let failure = ConnectFailure { not_before: Instant::now() + pause, pause, error: error.clone() };
                opening.failure = Some(failure);
                Err(error)
            }
        }
    }

    /// Opens a connection within the time limit. The library's own limit covers the TCP connection only, not a node
    /// that accepts it and then stays silent.
    async fn open_connection(&self) -> Result<MultiplexedConnection, RedisError> {
        let connection = self.client.get_multiplexed_async_connection_with_config(&self.config);
        match tokio::time::timeout(self.connect_timeout, connection).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time").into()),
        }
    }

    fn current_connection(&self) -> Option<OpenConnection> {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn drop_connection(&self, number: u64) {
        let mut connection = self.connection.write().unwrap_or_else(PoisonError::into_inner);
        if connection.as_ref().is_some_and(|link| link.number == number) {
            *connection = None;
        }
    }
}

/// Reads `["master", offset, replicas]` or `["slave", host, port, state, offset]`.
fn parse_role(value: &Value) -> Option<NodeRole> {
    let Value::Array(parts) = value else { return None };
    let text = |index: usize| parts.get(index).and_then(|part| redis::from_redis_value_ref::<String>(part).ok());
    match text(0)?.as_str() {
        "master" => Some(NodeRole::Primary),
        "slave" => Some(NodeRole::ReplicaOf(InstanceAddress::new(text(1)?, text(2)?.parse().ok()?).to_string())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::{NodeRole, parse_role};

    #[test]
    fn role_replies_are_parsed() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let master = Value::Array(vec![text("master"), Value::Int(5), Value::Array(vec![])]);
        assert_eq!(parse_role(&master), Some(NodeRole::Primary));
        let replica = Value::Array(vec![text("slave"), text("fd00::1"), Value::Int(7000), text("connected")]);
        assert_eq!(parse_role(&replica), Some(NodeRole::ReplicaOf("[fd00::1]:7000".to_owned())));
        assert_eq!(parse_role(&Value::Array(vec![text("slave")])), None);
        assert_eq!(parse_role(&Value::Nil), None);
    }
}
