//! One Redis node as one shard's user sees it: a connection that is opened when needed and opened again when broken.

use std::{
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisConnectionInfo, RedisError, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use super::{Options, error::Outcome};
use crate::routing::{split_address, with_port};

const FIRST_BACK_OFF: Duration = Duration::from_millis(2);
const LONGEST_BACK_OFF: Duration = Duration::from_millis(250);

/// A node.
pub(super) struct Node {
    pub(super) address: String,
    client: Client,
    config: AsyncConnectionConfig,
    connect_timeout: Duration,
    connection: RwLock<Option<Link>>,
    opening: tokio::sync::Mutex<Opening>,
}

/// An open connection, and which one it is: a failure must not close its successor.
#[derive(Clone)]
struct Link {
    number: u64,
    connection: MultiplexedConnection,
}

/// What is known from earlier attempts to open a connection.
#[derive(Default)]
struct Opening {
    opened: u64,
    failure: Option<Failure>,
}

struct Failure {
    not_before: Instant,
    pause: Duration,
    error: RedisError,
}

/// What a node says it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    Master,
    /// A replica, of the node at this address.
    ReplicaOf(String),
}

impl Node {
    /// A node that nothing is connected to yet. `None` where the address is not `host:port`.
    pub(super) fn new(address: &str, user: &str, options: &Options) -> Option<Node> {
        let (host, port) = split_address(address)?;
        let mut redis = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        if let Some(password) = &options.password {
            redis = redis.set_username(user).set_password(password);
        }
        let target = ConnectionAddr::Tcp(host.to_owned(), port);
        let client =
            target.into_connection_info().and_then(|info| Client::open(info.set_redis_settings(redis))).ok()?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(options.connect_timeout))
            .set_response_timeout(Some(options.response_timeout));
        Some(Node {
            address: address.to_owned(),
            client,
            config,
            connect_timeout: options.connect_timeout,
            connection: RwLock::new(None),
            opening: tokio::sync::Mutex::new(Opening::default()),
        })
    }

    /// One attempt at some commands, as one pipeline; an outcome for each.
    pub(super) async fn send(&self, cmds: &[&Cmd]) -> Vec<Outcome> {
        let mut link = match self.link().await {
            Ok(link) => link,
            Err(error) => return cmds.iter().map(|_| Outcome::NotApplied(error.clone())).collect(),
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
        let outcomes: Vec<Outcome> = match replies {
            Ok(values) => values.into_iter().map(|value| Outcome::of(Ok(value))).collect(),
            Err(error) => cmds.iter().map(|_| Outcome::of(Err(error.clone()))).collect(),
        };
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Unknown(_))) {
            self.forget(link.number);
        }
        outcomes
    }

    /// Asks the node what it is. `None` where it does not say.
    pub(super) async fn role(&self) -> Option<Role> {
        let Outcome::Done(value) = self.send(&[&redis::cmd("ROLE")]).await.pop()? else { return None };
        role_of(&value)
    }

    async fn link(&self) -> Result<Link, RedisError> {
        if let Some(link) = self.current() {
            return Ok(link);
        }
        let mut opening = self.opening.lock().await;
        // whoever waited for the lock finds what its holder has done
        if let Some(link) = self.current() {
            return Ok(link);
        }
        if let Some(failure) = opening.failure.as_ref().filter(|failure| Instant::now() < failure.not_before) {
            return Err(failure.error.clone());
        }
        match self.open().await {
            Ok(connection) => {
                *opening = Opening { opened: opening.opened + 1, failure: None };
                let link = Link { number: opening.opened, connection };
                *self.connection.write().unwrap_or_else(PoisonError::into_inner) = Some(link.clone());
                Ok(link)
            }
            Err(error) => {
                let pause =
                    opening.failure.as_ref().map_or(FIRST_BACK_OFF, |last| last.pause * 2).min(LONGEST_BACK_OFF);
                let failure = Failure { not_before: Instant::now() + pause, pause, error: error.clone() };
                opening.failure = Some(failure);
                Err(error)
            }
        }
    }

    /// The library's own time limit ends with the TCP connection; a node that accepts and then is silent is ended here.
    async fn open(&self) -> Result<MultiplexedConnection, RedisError> {
        let connection = self.client.get_multiplexed_async_connection_with_config(&self.config);
        match tokio::time::timeout(self.connect_timeout, connection).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time").into()),
        }
    }

    fn current(&self) -> Option<Link> {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self, number: u64) {
        let mut connection = self.connection.write().unwrap_or_else(PoisonError::into_inner);
        if connection.as_ref().is_some_and(|link| link.number == number) {
            *connection = None;
        }
    }
}

/// Reads `["master", offset, replicas]` or `["slave", host, port, state, offset]`.
fn role_of(value: &Value) -> Option<Role> {
    let Value::Array(parts) = value else { return None };
    let text = |index: usize| parts.get(index).and_then(|part| redis::from_redis_value_ref::<String>(part).ok());
    match text(0)?.as_str() {
        "master" => Some(Role::Master),
        "slave" => Some(Role::ReplicaOf(with_port(&text(1)?, text(2)?.parse().ok()?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::{Role, role_of};

    #[test]
    fn roles() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let master = Value::Array(vec![text("master"), Value::Int(5), Value::Array(vec![])]);
        assert_eq!(role_of(&master), Some(Role::Master));
        let replica = Value::Array(vec![text("slave"), text("fd00::1"), Value::Int(7000), text("connected")]);
        assert_eq!(role_of(&replica), Some(Role::ReplicaOf("[fd00::1]:7000".to_owned())));
        assert_eq!(role_of(&Value::Array(vec![text("slave")])), None);
        assert_eq!(role_of(&Value::Nil), None);
    }
}
