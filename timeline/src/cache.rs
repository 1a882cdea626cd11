//! Tweets and profiles, cached: in the process for a moment, in a shared memcached for minutes, then the database.
//!
//! Loads coalesce: a missing entry is loaded once per process however many wait for it, and the loads of many requests
//! go out as one query. A reader fills memcached with `add`, a writer with `set`; so an older value never replaces a
//! newer one. A deleted tweet leaves a tombstone there, which hides it from all readers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use moka::future::Cache as LocalCache;

use crate::{
    database::{Databases, DbError, Profile, Tweet},
    ids::Id,
};

mod loader;
mod memcached;

use loader::{Loadable, Loader};
pub use memcached::Memcached;

/// The value in memcached of a tweet that is deleted.
const TOMBSTONE: &str = "-";

/// The sizes and times of the caches.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// Time for which an entry is used in this process without looking again. A deletion through another process is
    /// seen after this time at the latest.
    pub local_ttl: Duration,
    /// Number of entries that this process keeps, per kind.
    pub local_entries: u64,
}

impl Default for CacheOptions {
    fn default() -> CacheOptions {
        CacheOptions { local_ttl: Duration::from_secs(1), local_entries: 200_000 }
    }
}

/// The caches. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    tweets: Kind<Tweet>,
    profiles: Kind<Profile>,
    memcached: Option<Arc<Memcached>>,
    databases: Databases,
}

/// The cache of one kind of entries.
#[derive(Debug, Clone)]
struct Kind<T: Loadable> {
    local: LocalCache<Id, Option<Arc<T>>>,
    loader: Loader<T>,
}

impl Cache {
    /// Makes the caches. To be called inside a tokio runtime.
    pub fn new(databases: Databases, memcached: Option<Arc<Memcached>>, options: &CacheOptions) -> Cache {
        Cache {
            tweets: Kind::new(&databases, memcached.clone(), options),
            profiles: Kind::new(&databases, memcached.clone(), options),
            memcached,
            databases,
        }
    }

    /// Reads tweets; those that are deleted or do not exist are missing.
    ///
    /// # Errors
    /// Returns an error if the database does not answer, and the caches do not have all of them.
    pub async fn tweets(&self, ids: &[Id]) -> Result<HashMap<Id, Arc<Tweet>>, Arc<DbError>> {
        self.tweets.get_many(ids).await
    }

    /// Reads one tweet.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn tweet(&self, id: Id) -> Result<Option<Arc<Tweet>>, Arc<DbError>> {
        self.tweets.get(id).await
    }

    /// Reads one user.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn profile(&self, id: Id) -> Result<Option<Arc<Profile>>, Arc<DbError>> {
        self.profiles.get(id).await
    }

    /// Hides a tweet that was deleted, from this process at once and from the others through memcached.
    pub async fn hide_tweet(&self, id: Id) {
        if let Some(memcached) = &self.memcached {
            memcached.set(&Tweet::memcached_key(id), TOMBSTONE).await;
        }
        self.tweets.local.insert(id, None).await;
    }

    /// Replaces the cached profiles of users whose counters have changed.
    pub async fn refresh_profiles(&self, ids: &[Id]) {
        for id in ids {
            self.profiles.local.invalidate(id).await;
        }
        let Some(memcached) = &self.memcached else { return };
        // where the database does not answer, the old values expire
        let Ok(profiles) = self.databases.users.profiles(ids).await else { return };
        let mut items = Vec::with_capacity(profiles.len());
        for profile in &profiles {
            if let Ok(json) = serde_json::to_string(profile) {
                items.push((Profile::memcached_key(profile.id), json));
            }
        }
        memcached.set_many(&items).await;
    }

    /// Forgets a tweet and a user of this id, in this process and in memcached.
    pub async fn invalidate(&self, id: Id) {
        self.tweets.local.invalidate(&id).await;
        self.profiles.local.invalidate(&id).await;
        if let Some(memcached) = &self.memcached {
            memcached.delete(&Tweet::memcached_key(id)).await;
            memcached.delete(&Profile::memcached_key(id)).await;
        }
    }
}

impl<T: Loadable> Kind<T> {
    fn new(databases: &Databases, memcached: Option<Arc<Memcached>>, options: &CacheOptions) -> Kind<T> {
        let local = LocalCache::builder().max_capacity(options.local_entries).time_to_live(options.local_ttl).build();
        Kind { local, loader: Loader::start(databases.clone(), memcached) }
    }

    async fn get(&self, id: Id) -> Result<Option<Arc<T>>, Arc<DbError>> {
        if let Some(found) = self.local.get(&id).await {
            metrics::counter!("cache_hits_total", "cache" => T::LOCAL_NAME).increment(1);
            return Ok(found);
        }
        metrics::counter!("cache_misses_total", "cache" => T::LOCAL_NAME).increment(1);
        let loaded = self.local.try_get_with(id, self.loader.load(id)).await;
        loaded.map_err(|error| error.as_ref().clone())
    }

    async fn get_many(&self, ids: &[Id]) -> Result<HashMap<Id, Arc<T>>, Arc<DbError>> {
        let found = join_all(ids.iter().map(|id| async move { (*id, self.get(*id).await) })).await;
        let mut entries = HashMap::with_capacity(ids.len());
        for (id, result) in found {
            if let Some(entry) = result? {
                entries.insert(id, entry);
            }
        }
        Ok(entries)
    }
}
