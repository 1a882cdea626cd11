//! What the clones of a connection set share: the map in use, the counters, and which map may replace it.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use super::{Options, table::Table};
use crate::{map::Epoch, routing::Routing};

pub(super) struct Inner {
    pub(super) path: PathBuf,
    pub(super) options: Options,
    table: RwLock<Arc<Table>>,
    pub(super) counters: Counters,
    last_rejected: Mutex<Option<String>>,
    /// Rung when something makes a new map likely.
    pub(super) look: Arc<Notify>,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) retries: AtomicU64,
    pub(super) redirects: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) unavailable: AtomicU64,
    maps_accepted: AtomicU64,
    maps_rejected: AtomicU64,
}

/// What has happened since the connection set was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// The epoch of the map in use.
    pub epoch: Epoch,
    /// Attempts after the first.
    pub retries: u64,
    /// How often a node's ROLE sent requests elsewhere.
    pub redirects: u64,
    /// Requests that ended as unknown.
    pub unknown: u64,
    /// Requests that ended as unavailable.
    pub unavailable: u64,
    /// Maps accepted after the first.
    pub maps_accepted: u64,
    /// Maps refused or not readable.
    pub maps_rejected: u64,
    /// Why the last one was.
    pub last_rejected: Option<String>,
}

impl Inner {
    pub(super) fn new(path: PathBuf, options: Options, table: Table) -> Inner {
        Inner {
            path,
            options,
            table: RwLock::new(Arc::new(table)),
            counters: Counters::default(),
            last_rejected: Mutex::new(None),
            look: Arc::new(Notify::new()),
        }
    }

    pub(super) fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a map into use, or says why not: only the same cluster's, and only at a higher epoch.
    pub(super) fn offer(&self, routing: Routing) {
        let table = self.table();
        let (have, new) = (&table.routing, &routing);
        if new.cluster != have.cluster {
            return self.reject(format!("the map is of cluster \"{}\", not of \"{}\"", new.cluster, have.cluster));
        }
        if new.epoch < have.epoch {
            return self.reject(format!("the map has epoch {}, lower than {}", new.epoch, have.epoch));
        }
        if new.epoch == have.epoch {
            if *new != **have {
                self.reject(format!("the map has other content at the same epoch {}", new.epoch));
            }
            return;
        }
        match Table::new(routing, &self.options, Some(&table)) {
            Ok(next) => {
                *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
                self.counters.maps_accepted.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.reject(error.to_string()),
        }
    }

    pub(super) fn reject(&self, why: String) {
        self.counters.maps_rejected.fetch_add(1, Ordering::Relaxed);
        *self.last_rejected.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    pub(super) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Stats {
            epoch: self.table().routing.epoch,
            retries: read(&counters.retries),
            redirects: read(&counters.redirects),
            unknown: read(&counters.unknown),
            unavailable: read(&counters.unavailable),
            maps_accepted: read(&counters.maps_accepted),
            maps_rejected: read(&counters.maps_rejected),
            last_rejected: self.last_rejected.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
