//! A shared memcached, on one or more servers. It is only a cache: while a server does not answer, its entries are
//! missing, and nothing fails.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_memcached::{AsciiProtocol as _, Client, Error, Status, Value};
use futures_util::future::{BoxFuture, join_all};
use tokio::time::timeout;

/// Time that a read may take. The alternative is one query by primary key, so a slow cache must cost about as much as
/// that and no more: Postgres returns 50 tweets in 2 ms and 500 in 6 ms (medians, on a busy host).
const READ_LIMIT: Duration = Duration::from_millis(20);
/// Time that a change may take. It has no alternative: other processes read the old value until it expires.
const CHANGE_LIMIT: Duration = Duration::from_millis(150);
/// Time for which a server is not read after it did not answer; then one read tries it again.
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
        let parts = self.by_server(keys, |key| key);
        // all servers at a time: several slow ones cost no more than one
        let reads = parts.into_iter().map(|(server, keys)| server.exchange(CacheOperation::Get(keys)));
        for values in join_all(reads).await {
            for value in values {
                if let (Ok(key), Ok(text)) =
                    (String::from_utf8(value.key), String::from_utf8(value.data.unwrap_or_default()))
                {
                    found.insert(key, text);
                }
            }
        }
        found
    }

    /// Adds missing entries; an existing entry is newer.
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
    /// Runs one operation and returns the entries that it read: none if the server does not answer in time, or did not
    /// within the last [`PAUSE`]. Changes are sent during the pause as well.
    async fn exchange(&self, operation: CacheOperation) -> Vec<Value> {
        let is_change = matches!(operation, CacheOperation::Set(_) | CacheOperation::Delete(_));
        if !is_change && !self.allow_read() {
            return Vec::new();
        }
        let limit = if is_change { CHANGE_LIMIT } else { READ_LIMIT };
        let failure = match timeout(limit, self.run(operation)).await {
            Ok(Ok(values)) => {
                *self.lock_retry_at() = None;
                return values;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no reply within {} ms", limit.as_millis()),
        };
        tracing::warn!(server = %self.address, error = %failure, "memcached does not answer");
        metrics::counter!("memcached_errors_total").increment(1);
        *self.lock_retry_at() = Some(Instant::now() + PAUSE);
        Vec::new()
    }

    /// Returns whether the server may be read. Of the reads after a failure, one per [`PAUSE`] may.
    fn allow_read(&self) -> bool {
        let mut retry_at = self.lock_retry_at();
        let Some(moment) = retry_at.as_mut() else { return true };
        let now = Instant::now();
        if now < *moment {
            return false;
        }
        *moment = now + PAUSE;
        true
    }

    fn lock_retry_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.retry_at.lock().unwrap_or_else(PoisonError::into_inner)
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
                    // the client's result if none of the keys exists
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
