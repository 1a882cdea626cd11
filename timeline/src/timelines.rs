//! Pages of timelines: from the lists in Redis where they are, from the database where they are not, always the same
//! page.
//!
//! In reading order: `source` (what the database says), `rebuild` (how a cold list is made of it), `pages` (how
//! lists, authors merged on read and the database become one page).

use std::{sync::Arc, time::Duration};

use moka::future::Cache as LocalCache;
use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::{
    cache::Cache,
    database::{Databases, DbError, FlaggedAuthor, Range, Tweet},
    ids::Id,
    lists::{List, Lists},
};

mod pages;
mod rebuild;
mod source;

pub use rebuild::{RebuildReason, Snapshot};

/// A statement failed; shared by all who waited for its result.
pub type SharedDbError = Arc<DbError>;

/// Time for which the first page of the public timeline is used without looking again.
const PUBLIC_TTL: Duration = Duration::from_millis(250);
/// Time for which the result of a rebuild serves those who ask for it at the same time.
const REBUILD_TTL: Duration = Duration::from_millis(200);
/// Time for which the list of authors that are merged on read is cached.
const FLAGS_TTL: Duration = Duration::from_secs(1);
/// Number of lists that this process builds at a time.
const MAX_REBUILDS: usize = 8;
/// Time for which a page that was read because a shard does not answer is used: only by those who wait for it.
const FALLBACK_TTL: Duration = Duration::from_millis(1);
/// Number of pages that are read from the database at a time because a shard does not answer.
const MAX_FALLBACKS: usize = 32;

/// Source of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// From one list.
    Cache,
    /// From several lists.
    Merge,
    /// From the database, at least in part.
    Db,
}

/// A page of tweets, the newest first.
#[derive(Debug, Clone)]
pub struct Page {
    /// The tweets.
    pub tweets: Vec<Arc<Tweet>>,
    /// The `max_id` of the next page; `None` where there is nothing older.
    pub next_max_id: Option<Id>,
    /// Source of the page.
    pub source: Source,
}

/// The timelines. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Timelines {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    databases: Databases,
    /// `None` in pull mode.
    lists: Option<Lists>,
    cache: Cache,
    /// Time for which an author's flag is set before tweets are no longer pushed.
    pull_grace: Duration,
    rebuilds: LocalCache<List, Arc<Snapshot>>,
    flagged: LocalCache<(), Arc<Vec<FlaggedAuthor>>>,
    merged: LocalCache<Id, Arc<Vec<Id>>>,
    public_pages: LocalCache<Range, Page>,
    fallbacks: LocalCache<(List, Range), Arc<Vec<Id>>>,
    rebuild_slots: Semaphore,
    fallback_slots: Semaphore,
}

impl Timelines {
    /// Timelines of some databases; with lists, they are pushed, otherwise pulled.
    pub fn new(databases: Databases, lists: Option<Lists>, cache: Cache, pull_grace: Duration) -> Timelines {
        Timelines {
            inner: Arc::new(Inner {
                databases,
                lists,
                cache,
                pull_grace,
                rebuilds: LocalCache::builder().max_capacity(10_000).time_to_live(REBUILD_TTL).build(),
                flagged: LocalCache::builder().max_capacity(1).time_to_live(FLAGS_TTL).build(),
                merged: LocalCache::builder().max_capacity(100_000).time_to_live(FLAGS_TTL).build(),
                public_pages: LocalCache::builder().max_capacity(100).time_to_live(PUBLIC_TTL).build(),
                fallbacks: LocalCache::builder().max_capacity(10_000).time_to_live(FALLBACK_TTL).build(),
                rebuild_slots: Semaphore::new(MAX_REBUILDS),
                fallback_slots: Semaphore::new(MAX_FALLBACKS),
            }),
        }
    }

    /// Returns the databases below.
    pub fn databases(&self) -> &Databases {
        &self.inner.databases
    }

    /// Returns the lists below; `None` in pull mode.
    pub fn lists(&self) -> Option<&Lists> {
        self.inner.lists.as_ref()
    }

    /// Returns the caches of tweets and profiles.
    pub fn cache(&self) -> &Cache {
        &self.inner.cache
    }

    /// Lists the authors whose tweets are merged on read.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn flagged_authors(&self) -> Result<Arc<Vec<FlaggedAuthor>>, SharedDbError> {
        let inner = &self.inner;
        let load = async { inner.databases.users.flagged_authors(inner.pull_grace).await.map(Arc::new) };
        inner.flagged.try_get_with((), load).await
    }

    /// Forgets which merged authors a user follows, after a change of it.
    pub async fn forget_merged(&self, user: Id) {
        self.inner.merged.invalidate(&user).await;
    }

    /// Lists the authors that a user follows and whose tweets are merged on read.
    async fn merged_authors(&self, user: Id) -> Result<Arc<Vec<Id>>, SharedDbError> {
        let flagged = self.flagged_authors().await?;
        if flagged.is_empty() {
            return Ok(Arc::default());
        }
        let authors: Vec<Id> = flagged.iter().map(|author| author.id).collect();
        let load = async { self.inner.databases.users.followees_among(user, &authors).await.map(Arc::new) };
        self.inner.merged.try_get_with(user, load).await
    }
}

impl Source {
    /// Returns its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Cache => "cache",
            Source::Merge => "merge",
            Source::Db => "db",
        }
    }
}
