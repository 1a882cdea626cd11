//! What the database says: pages of any range, and snapshots to build lists of.

use std::collections::{BTreeMap, BTreeSet};

use super::{SharedDbError, Timelines};
use crate::{
    database::{DbError, Range},
    ids::{Id, MAX_ID, first_before_now},
    lists::{List, PUBLIC_PARTS},
};

/// The largest number of rows that a rebuild reads per followee.
const MAX_PER_FOLLOWEE: usize = 1000;
/// The smallest one.
const MIN_PER_FOLLOWEE: usize = 50;

/// The newest entries of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// At and below this id there may be more; 0: there is nothing.
    pub floor: Id,
    /// The newest first.
    pub ids: Vec<Id>,
}

impl Timelines {
    /// Reads a page of a list from the database.
    pub(super) async fn page_from_database(&self, list: List, range: Range) -> Result<Vec<Id>, SharedDbError> {
        let databases = self.databases();
        let page = match list {
            List::Home(user) => {
                let followees = databases.users.followees(user).await?;
                if followees.is_empty() {
                    return Ok(Vec::new());
                }
                let rows = databases.tweets.authors_page(&followees, range, range.limit).await?;
                rows.into_iter().map(|(_, id)| id).collect()
            }
            List::Author(author) => databases.tweets.author_page(author, range).await?,
            List::Public(_) => databases.tweets.public_page(range).await?,
        };
        Ok(page)
    }

    /// Reads the newest entries of a list from the database.
    pub(super) async fn snapshot(&self, list: List, cap: usize) -> Result<Snapshot, SharedDbError> {
        let mut snapshot = match list {
            List::Home(user) => self.home_snapshot(user, cap).await?,
            List::Author(author) => {
                let ids = self.databases().tweets.author_page(author, Range::newest(cap + 1)).await?;
                Snapshot::of(ids, cap)
            }
            List::Public(part) => {
                let limit = cap * usize::try_from(PUBLIC_PARTS).unwrap_or(1);
                let ids = self.databases().tweets.public_page(Range::newest(limit + 1)).await?;
                let mut snapshot = Snapshot::of(ids, limit);
                snapshot.ids.retain(|id| List::public_part_of(*id) == List::Public(part));
                snapshot
            }
        };
        if let Some(lists) = self.lists() {
            snapshot.drop_older(first_before_now(lists.options().max_age));
        }
        Ok(snapshot)
    }

    /// Reads up to a number of rows per followee: who follows many gets a higher floor instead of many rows.
    ///
    /// The follows are looked at before and after the tweets. An unfollow that commits before the second look may have
    /// been handled already, without the tweets that the author posted since; one that commits later is handled with
    /// them.
    async fn home_snapshot(&self, user: Id, cap: usize) -> Result<Snapshot, SharedDbError> {
        let mut followees = self.databases().users.followees(user).await?;
        let flagged = self.flagged_authors().await?;
        // merged on read; where tweets are pushed again, reconcile adds the older ones
        followees.retain(|followee| !flagged.iter().any(|author| author.id == *followee && author.pull_author));
        if followees.is_empty() {
            return Ok(Snapshot { floor: 0, ids: Vec::new() });
        }
        let per_followee = (cap * 4 / followees.len()).clamp(MIN_PER_FOLLOWEE, MAX_PER_FOLLOWEE);
        let rows = self.databases().tweets.authors_page(&followees, Range::newest(cap + 1), per_followee).await?;
        let mut snapshot = Snapshot::of_followees(&rows, cap, per_followee);
        let authors: BTreeSet<Id> = rows.iter().map(|(author, _)| *author).collect();
        let authors: Vec<Id> = authors.into_iter().collect();
        let followed: BTreeSet<Id> =
            self.databases().users.followees_among(user, &authors).await?.into_iter().collect();
        let unfollowed: BTreeSet<Id> =
            rows.iter().filter(|(author, _)| !followed.contains(author)).map(|(_, id)| *id).collect();
        snapshot.ids.retain(|id| !unfollowed.contains(id));
        Ok(snapshot)
    }

    /// Checks which of some tweets are deleted.
    pub(crate) async fn deleted_among(&self, ids: &[Id]) -> Result<Vec<Id>, DbError> {
        self.databases().tweets.deleted_among(ids).await
    }
}

impl Snapshot {
    /// Makes one of the newest entries, of which more than `cap` were asked for.
    fn of(mut ids: Vec<Id>, cap: usize) -> Snapshot {
        let floor = ids.get(cap).copied().unwrap_or(0);
        ids.truncate(cap);
        Snapshot { floor, ids }
    }

    /// Makes one of (author, id) rows, the newest first, with up to `per_followee` of each.
    fn of_followees(rows: &[(Id, Id)], cap: usize, per_followee: usize) -> Snapshot {
        let mut floor = rows.get(cap).map_or(0, |(_, id)| *id);
        let mut counts: BTreeMap<Id, usize> = BTreeMap::new();
        for (author, id) in rows {
            let count = counts.entry(*author).or_default();
            *count += 1;
            if *count == per_followee {
                // the next tweet of this author was not read; this one was
                floor = floor.max(id - 1);
            }
        }
        let ids = rows.iter().take(cap).map(|(_, id)| *id).filter(|id| *id > floor).collect();
        Snapshot { floor, ids }
    }

    /// Drops entries below `first`. A list that has none stays complete.
    fn drop_older(&mut self, first: Id) {
        if let Some(newest_dropped) = self.ids.iter().copied().find(|id| *id < first) {
            self.floor = self.floor.max(newest_dropped);
            self.ids.retain(|id| *id > newest_dropped && *id <= MAX_ID);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Snapshot;

    #[test]
    fn floors_tell_what_was_not_read() {
        let of = |rows: &[(i64, i64)], cap, per| {
            let Snapshot { floor, ids } = Snapshot::of_followees(rows, cap, per);
            (floor, ids)
        };
        // all of it was read
        assert_eq!(of(&[(1, 30), (2, 20), (1, 10)], 5, 5), (0, vec![30, 20, 10]));
        // one more than the cap was requested and found
        assert_eq!(of(&[(1, 30), (2, 20), (1, 10)], 2, 5), (10, vec![30, 20]));
        // author 1 may have more below 20
        assert_eq!(of(&[(1, 30), (1, 20), (2, 10)], 5, 2), (19, vec![30, 20]));
        let mut snapshot = Snapshot { floor: 0, ids: vec![30, 20, 10] };
        snapshot.drop_older(5);
        assert_eq!(snapshot, Snapshot { floor: 0, ids: vec![30, 20, 10] });
        snapshot.drop_older(25);
        assert_eq!(snapshot, Snapshot { floor: 20, ids: vec![30] });
    }
}
