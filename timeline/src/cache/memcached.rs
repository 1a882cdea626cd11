//! A shared memcached, on one or more servers. It is only a cache: while a server does not answer, its entries are missing,
//! and nothing fails.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_memcached::{AsciiProtocol as _, Client, Error, Status, Value};
use futures_util::future::BoxFuture;
use tokio::time::timeout;

/// Time that one exchange may take.
const TIMEOUT: Duration = Duration::from_millis(150);
/// Time for which a server is left alone after it did not answer.
const PAUSE: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 4;
/// Time for which an entry is kept, in seconds.
const TTL: i64 = 300;

/// The servers.
#[derive(Debug)]
pub struct Memcached {
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    address: String,
    connections: Vec<tokio::sync::Mutex<Connection>>,
    next: AtomicUsize,
    retry_at: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Connection {
    client: Option<Client>,
}

enum CacheOperation {
    Get(Vec<String>),
    Add(Vec<(String, String)>),
    Set(Vec<(String, String)>),
    Delete(Vec<String>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("is_open", &self.client.is_some()).finish()
    }
}

impl Memcached {
    /// Makes a client for servers given as `host:port`; connects when first needed.
    pub fn new(addresses: &[String]) -> Memcached {
        let server = |address: &String| Server {
            address: address.clone(),
            connections: (0..CONNECTIONS).map(|_| tokio::sync::Mutex::default()).collect(),
            next: AtomicUsize::new(0),
            retry_at: Mutex::new(None),
        };
        Memcached { servers: addresses.iter().map(server).collect() }
    }

    /// Reads entries; those that are not there are missing.
    pub async fn get_many(&self, keys: &[String]) -> HashMap<String, String> {
        let mut found = HashMap::with_capacity(keys.len());
        for (server, keys) in self.by_server(keys, |key| key) {
            for value in server.exchange(CacheOperation::Get(keys)).await {
                if let (Ok(key), Ok(text)) =
                    (String::from_utf8(value.key), String::from_utf8(value.data.unwrap_or_default()))
                {
                    found.insert(key, text);
                }
            }
        }
        found
    }

    /// Adds those entries that are not there; one that is there already is newer.
    pub async fn add_many(&self, items: &[(String, String)]) {
        for (server, items) in self.by_server(items, |item| &item.0) {
            server.exchange(CacheOperation::Add(items)).await;
        }
    }

    /// Replaces entries.
    pub async fn set_many(&self, items: &[(String, String)]) {
        for (server, items) in self.by_server(items, |item| &item.0) {
            server.exchange(CacheOperation::Set(items)).await;
        }
    }

    /// Replaces one entry.
    pub async fn set(&self, key: &str, value: &str) {
        self.set_many(&[(key.to_owned(), value.to_owned())]).await;
    }

    /// Removes an entry.
    pub async fn delete(&self, key: &str) {
        let keys = [key.to_owned()];
        for (server, keys) in self.by_server(&keys, |key| key) {
            server.exchange(CacheOperation::Delete(keys)).await;
        }
    }

    /// Divides items by the server of their keys.
    fn by_server<T: Clone>(&self, items: &[T], key: fn(&T) -> &str) -> Vec<(&Server, Vec<T>)> {
        let mut groups: Vec<(&Server, Vec<T>)> = self.servers.iter().map(|server| (server, Vec::new())).collect();
        for item in items {
            let index = usize::from(dunlin_shards::slot_for_key(key(item).as_bytes()).0) % groups.len().max(1);
            if let Some((_, group)) = groups.get_mut(index) {
                group.push(item.clone());
            }
        }
        groups.retain(|(_, group)| !group.is_empty());
        groups
    }
}

impl Server {
    /// Runs one operation and returns the entries that it read. None where the server does not answer, or did not a moment
    /// ago.
    async fn exchange(&self, operation: CacheOperation) -> Vec<Value> {
        if self.retry_at.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|moment| Instant::now() < moment) {
            return Vec::new();
        }
        let failure = match timeout(TIMEOUT, self.run(operation)).await {
            Ok(Ok(values)) => return values,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no reply in time".to_owned(),
        };
        tracing::warn!(server = %self.address, error = %failure, "memcached does not answer");
        metrics::counter!("memcached_errors_total").increment(1);
        *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + PAUSE);
        Vec::new()
    }

    async fn run(&self, operation: CacheOperation) -> Result<Vec<Value>, Error> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let mut connection = self.connections[turn].lock().await;
        let mut client = match connection.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => Client::new(format!("tcp://{}", self.address)).await?,
        };
        let values = operation.run(&mut client).await?;
        // after an error the connection is not used again
        connection.client = Some(client);
        Ok(values)
    }
}

impl CacheOperation {
    /// Boxed: the client's generic futures are not `Send` for every lifetime, only for the one at hand.
    fn run(self, client: &mut Client) -> BoxFuture<'_, Result<Vec<Value>, Error>> {
        Box::pin(self.run_with(client))
    }

    async fn run_with(self, client: &mut Client) -> Result<Vec<Value>, Error> {
        match self {
            CacheOperation::Get(keys) => {
                return match client.get_multi(keys).await {
                    // the client's result where none of the keys is there
                    Err(Error::Protocol(Status::NotFound)) => Ok(Vec::new()),
                    result => result,
                };
            }
            CacheOperation::Add(items) => drop(client.add_multi(&pairs(&items), Some(TTL), None).await?),
            CacheOperation::Set(items) => drop(client.set_multi(&pairs(&items), Some(TTL), None).await?),
            CacheOperation::Delete(keys) => {
                for key in keys {
                    // with its reply: a read on another connection must not overtake the removal
                    match client.delete(key).await {
                        Err(Error::Protocol(Status::NotFound)) => {}
                        result => result?,
                    }
                }
            }
        }
        Ok(Vec::new())
    }
}

fn pairs(items: &[(String, String)]) -> Vec<(&str, &str)> {
    items.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}
