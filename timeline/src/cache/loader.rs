//! Loads missing entries: those that are asked for at the same time go out together.

use std::{collections::HashMap, future::Future, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Memcached, TOMBSTONE};
use crate::{
    database::{Databases, DbError, Profile, Tweet},
    ids::Id,
};

/// Number of entries that one query loads.
const MAX_BATCH: usize = 500;
/// Number of queries that run at a time.
const MAX_CONCURRENT: usize = 8;

/// A kind of entry that can be loaded.
pub(super) trait Loadable: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name of the cache in the process, in metrics.
    const LOCAL_NAME: &'static str;
    /// The name of the cache in memcached, in metrics.
    const SHARED_NAME: &'static str;

    /// Returns the key in memcached.
    fn memcached_key(id: Id) -> String;

    /// Returns the id.
    fn id(&self) -> Id;

    /// Reads entries from the database.
    fn select(databases: &Databases, ids: &[Id]) -> impl Future<Output = Result<Vec<Self>, DbError>> + Send;
}

type Found<T> = Result<Option<Arc<T>>, Arc<DbError>>;

struct Asked<T> {
    id: Id,
    reply: oneshot::Sender<Found<T>>,
}

/// A task that gathers ids and loads them. It ends with the last clone.
#[derive(Debug)]
pub(super) struct Loader<T> {
    asked: mpsc::UnboundedSender<Asked<T>>,
    databases: Databases,
}

impl<T> Clone for Loader<T> {
    fn clone(&self) -> Loader<T> {
        Loader { asked: self.asked.clone(), databases: self.databases.clone() }
    }
}

impl<T: Loadable> Loader<T> {
    pub(super) fn start(databases: Databases, memcached: Option<Arc<Memcached>>) -> Loader<T> {
        let (asked, receiver) = mpsc::unbounded_channel();
        tokio::spawn(gather(receiver, databases.clone(), memcached));
        Loader { asked, databases }
    }

    /// Loads one entry; `None` where it does not exist.
    pub(super) async fn load(&self, id: Id) -> Found<T> {
        let (reply, answer) = oneshot::channel();
        if self.asked.send(Asked { id, reply }).is_ok()
            && let Ok(found) = answer.await
        {
            return found;
        }
        // the task is gone with its runtime: ask alone
        let mut rows = T::select(&self.databases, &[id]).await.map_err(Arc::new)?;
        Ok(rows.pop().map(Arc::new))
    }
}

async fn gather<T: Loadable>(
    mut receiver: mpsc::UnboundedReceiver<Asked<T>>,
    databases: Databases,
    memcached: Option<Arc<Memcached>>,
) {
    let running = Arc::new(Semaphore::new(MAX_CONCURRENT));
    let mut asked = Vec::new();
    while receiver.recv_many(&mut asked, MAX_BATCH).await > 0 {
        // while all queries are busy, more ids gather
        let Ok(permit) = running.clone().acquire_owned().await else { return };
        while asked.len() < MAX_BATCH
            && let Ok(another) = receiver.try_recv()
        {
            asked.push(another);
        }
        let batch = std::mem::take(&mut asked);
        let (databases, memcached) = (databases.clone(), memcached.clone());
        tokio::spawn(async move {
            answer(batch, &databases, memcached.as_deref()).await;
            drop(permit);
        });
    }
}

async fn answer<T: Loadable>(batch: Vec<Asked<T>>, databases: &Databases, memcached: Option<&Memcached>) {
    let mut ids: Vec<Id> = batch.iter().map(|asked| asked.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let loaded = load_all(&ids, databases, memcached).await;
    for asked in batch {
        let entry = match &loaded {
            Ok(loaded) => Ok(loaded.entries.get(&asked.id).cloned().flatten()),
            Err(error) => Err(error.clone()),
        };
        // the request may have been cancelled
        let _ = asked.reply.send(entry);
    }
    // after the replies: no request waits for memcached to store what it has from the database
    if let (Some(memcached), Ok(loaded)) = (memcached, loaded) {
        memcached.add_many(&loaded.from_database).await;
    }
}

/// Entries that were loaded.
struct Loaded<T> {
    /// The values in the order of the keys; `None` for one that does not exist.
    entries: HashMap<Id, Option<Arc<T>>>,
    /// Key and JSON of those that memcached does not have.
    from_database: Vec<(String, String)>,
}

async fn load_all<T: Loadable>(
    ids: &[Id],
    databases: &Databases,
    memcached: Option<&Memcached>,
) -> Result<Loaded<T>, Arc<DbError>> {
    let mut entries: HashMap<Id, Option<Arc<T>>> = HashMap::with_capacity(ids.len());
    if let Some(memcached) = memcached {
        let keys: Vec<String> = ids.iter().map(|id| T::memcached_key(*id)).collect();
        let values = memcached.get_many(&keys).await;
        for (id, key) in ids.iter().zip(&keys) {
            match values.get(key).map(String::as_str) {
                Some(TOMBSTONE) => drop(entries.insert(*id, None)),
                // a value of another release is loaded again
                Some(json) => drop(serde_json::from_str(json).map(|entry| entries.insert(*id, Some(Arc::new(entry))))),
                None => {}
            }
        }
        let hits = entries.len() as u64;
        metrics::counter!("cache_hits_total", "cache" => T::SHARED_NAME).increment(hits);
        metrics::counter!("cache_misses_total", "cache" => T::SHARED_NAME).increment(ids.len() as u64 - hits);
    }
    let missing: Vec<Id> = ids.iter().copied().filter(|id| !entries.contains_key(id)).collect();
    if missing.is_empty() {
        return Ok(Loaded { entries, from_database: Vec::new() });
    }
    let rows = T::select(databases, &missing).await.map_err(Arc::new)?;
    let mut from_database = Vec::with_capacity(rows.len());
    for row in rows {
        if memcached.is_some()
            && let Ok(json) = serde_json::to_string(&row)
        {
            from_database.push((T::memcached_key(row.id()), json));
        }
        entries.insert(row.id(), Some(Arc::new(row)));
    }
    Ok(Loaded { entries, from_database })
}

impl Loadable for Tweet {
    const LOCAL_NAME: &'static str = "tweets_local";
    const SHARED_NAME: &'static str = "tweets_memcached";

    fn memcached_key(id: Id) -> String {
        format!("t1:{id}")
    }

    fn id(&self) -> Id {
        self.id
    }

    async fn select(databases: &Databases, ids: &[Id]) -> Result<Vec<Tweet>, DbError> {
        databases.tweets.tweets(ids).await
    }
}

impl Loadable for Profile {
    const LOCAL_NAME: &'static str = "profiles_local";
    const SHARED_NAME: &'static str = "profiles_memcached";

    fn memcached_key(id: Id) -> String {
        format!("u1:{id}")
    }

    fn id(&self) -> Id {
        self.id
    }

    async fn select(databases: &Databases, ids: &[Id]) -> Result<Vec<Profile>, DbError> {
        databases.users.profiles(ids).await
    }
}
