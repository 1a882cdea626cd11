//! From lists, merged authors and the database to one page.

use std::{sync::Arc, time::Instant};

use futures_util::future::try_join_all;

use super::{Page, RebuildReason, SharedDbError, Source, Timelines};
use crate::{
    database::Range,
    ids::Id,
    lists::{List, Listing, Lists, PUBLIC_PARTS},
};

/// Number of times that a page is filled up after deleted tweets were left out.
const MAX_FILLS: usize = 10;

/// A timeline that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timeline {
    Home(Id),
    Author(Id),
    Public,
}

/// Ids of a page before deleted ones are left out.
struct Ids {
    ids: Vec<Id>,
    source: Source,
}

impl Timelines {
    /// Reads a page of the tweets of those whom a user follows.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn home_page(&self, user: Id, range: Range) -> Result<Page, SharedDbError> {
        self.page(Timeline::Home(user), range).await
    }

    /// Reads a page of an author's tweets.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn author_page(&self, author: Id, range: Range) -> Result<Page, SharedDbError> {
        self.page(Timeline::Author(author), range).await
    }

    /// Reads a page of everybody's tweets.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn public_page(&self, range: Range) -> Result<Page, SharedDbError> {
        if range != Range::newest(range.limit) {
            return self.page(Timeline::Public, range).await;
        }
        let mut page = self.inner.public_pages.try_get_with(range, self.page(Timeline::Public, range)).await.map_err(
            // one error for all who waited
            |error: Arc<SharedDbError>| error.as_ref().clone(),
        )?;
        // the page may be older than a deletion
        let hidden = self.cache().tweets(&page.tweets.iter().map(|tweet| tweet.id).collect::<Vec<Id>>()).await?;
        page.tweets.retain(|tweet| hidden.contains_key(&tweet.id));
        Ok(page)
    }

    async fn page(&self, timeline: Timeline, range: Range) -> Result<Page, SharedDbError> {
        let start = Instant::now();
        let mut page = Page { tweets: Vec::new(), next_max_id: None, source: Source::Cache };
        let mut rest = range;
        for _ in 0..MAX_FILLS {
            let Ids { ids, source } = self.ids(timeline, rest).await?;
            page.source = page.source.and(source);
            let Some(last) = ids.last().copied() else {
                page.next_max_id = page.tweets.last().map(|tweet| tweet.id - 1);
                break;
            };
            let found = self.cache().tweets(&ids).await?;
            page.tweets.extend(ids.iter().filter_map(|id| found.get(id).cloned()));
            let is_last = ids.len() < rest.limit;
            // if deleted tweets fill all attempts, the page is short and its cursor continues behind them
            page.next_max_id = Some(last - 1);
            if page.tweets.len() >= range.limit || is_last {
                page.next_max_id = page.tweets.last().map(|tweet| tweet.id - 1);
                break;
            }
            rest.max_id = last - 1;
            rest.limit = range.limit - page.tweets.len();
        }
        metrics::histogram!("tl_read_seconds", "source" => page.source.as_str()).record(start.elapsed().as_secs_f64());
        Ok(page)
    }

    async fn ids(&self, timeline: Timeline, range: Range) -> Result<Ids, SharedDbError> {
        let Some(lists) = self.lists() else {
            let list = match timeline {
                Timeline::Home(user) => List::Home(user),
                Timeline::Author(author) => List::Author(author),
                Timeline::Public => List::Public(0),
            };
            return Ok(Ids { ids: self.page_from_database(list, range).await?, source: Source::Db });
        };
        match timeline {
            Timeline::Home(user) => {
                let authors = self.merged_authors(user).await?;
                let pushed = self.list_ids(lists, List::Home(user), range).await?;
                if authors.is_empty() {
                    return Ok(pushed);
                }
                let parts = authors.iter().map(|author| self.list_ids(lists, List::Author(*author), range));
                let mut parts = try_join_all(parts).await?;
                parts.push(pushed);
                Ok(Ids::merge(parts, range.limit))
            }
            Timeline::Author(author) => self.list_ids(lists, List::Author(author), range).await,
            Timeline::Public => self.public_ids(lists, range).await,
        }
    }

    /// Reads a page of one list, and continues in the database below its floor.
    async fn list_ids(&self, lists: &Lists, list: List, range: Range) -> Result<Ids, SharedDbError> {
        let (floor, mut ids) = match self.warm_listing(lists, list, range).await? {
            Some(listing) => listing,
            None => return Ok(Ids { ids: self.fallback_page(list, range).await?, source: Source::Db }),
        };
        if ids.len() >= range.limit || floor <= range.since_id {
            return Ok(Ids { ids, source: Source::Cache });
        }
        let rest = Range { max_id: range.max_id.min(floor), since_id: range.since_id, limit: range.limit - ids.len() };
        ids.extend(self.page_from_database(list, rest).await?);
        Ok(Ids { ids, source: Source::Db })
    }

    /// Reads a page from the database because a shard does not answer. Requests for the same page at the same time
    /// share one read.
    async fn fallback_page(&self, list: List, range: Range) -> Result<Vec<Id>, SharedDbError> {
        let load = async {
            let _slot = self.inner.fallback_slots.acquire().await;
            self.page_from_database(list, range).await.map(Arc::new)
        };
        let page = self.inner.fallbacks.try_get_with((list, range), load).await;
        page.map(|ids| ids.to_vec()).map_err(|error| error.as_ref().clone())
    }

    /// Reads floor and page of a list, which is built first where it is cold. `None` where its shard does not answer.
    async fn warm_listing(
        &self,
        lists: &Lists,
        list: List,
        range: Range,
    ) -> Result<Option<(Id, Vec<Id>)>, SharedDbError> {
        match lists.read(list, range).await {
            Ok(Listing::Entries { floor, ids }) => return Ok(Some((floor, ids))),
            Ok(Listing::Cold | Listing::Rebuilding) => {}
            Err(_) => return Ok(None),
        }
        let snapshot = self.rebuild(list, RebuildReason::Cold).await?;
        // what was pushed meanwhile is in the list only
        if let Ok(Listing::Entries { floor, ids }) = lists.read(list, range).await {
            return Ok(Some((floor, ids)));
        }
        let in_range = |id: &&Id| **id <= range.max_id && **id > range.since_id;
        let ids = snapshot.ids.iter().filter(in_range).take(range.limit).copied().collect();
        Ok(Some((snapshot.floor, ids)))
    }

    /// The public timeline has every tweet above the highest floor of its parts.
    async fn public_ids(&self, lists: &Lists, range: Range) -> Result<Ids, SharedDbError> {
        let parts = (0..PUBLIC_PARTS).map(|part| self.warm_listing(lists, List::Public(part), range));
        let parts = try_join_all(parts).await?;
        let mut floor = 0;
        let mut ids = Vec::new();
        for part in parts {
            let Some((part_floor, part_ids)) = part else {
                return Ok(Ids { ids: self.fallback_page(List::Public(0), range).await?, source: Source::Db });
            };
            floor = floor.max(part_floor);
            ids.extend(part_ids);
        }
        ids.retain(|id| *id > floor);
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.truncate(range.limit);
        if ids.len() >= range.limit || floor <= range.since_id {
            return Ok(Ids { ids, source: Source::Cache });
        }
        let rest = Range { max_id: range.max_id.min(floor), since_id: range.since_id, limit: range.limit - ids.len() };
        ids.extend(self.page_from_database(List::Public(0), rest).await?);
        Ok(Ids { ids, source: Source::Db })
    }
}

impl Ids {
    fn merge(parts: Vec<Ids>, limit: usize) -> Ids {
        let mut source = Source::Merge;
        let mut ids = Vec::new();
        for part in parts {
            source = source.and(part.source);
            ids.extend(part.ids);
        }
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.dedup();
        ids.truncate(limit);
        Ids { ids, source }
    }
}

impl Source {
    /// The source of a page that is made of two parts.
    fn and(self, other: Source) -> Source {
        match (self, other) {
            (Source::Db, _) | (_, Source::Db) => Source::Db,
            (Source::Merge, _) | (_, Source::Merge) => Source::Merge,
            (Source::Cache, Source::Cache) => Source::Cache,
        }
    }
}
