//! State that the clones of a connection set share: the map in use, the counters, and which map may replace it.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use super::{ConnectionOptions, routing_table::RoutingTable};
use crate::{map::Epoch, routing::Routing};

pub(super) struct SharedState {
    pub(super) path: PathBuf,
    pub(super) options: ConnectionOptions,
    table: RwLock<Arc<RoutingTable>>,
    pub(super) counters: RequestCounters,
    last_rejected: Mutex<Option<String>>,
    /// Notified when the map may have changed.
    pub(super) map_check: Arc<Notify>,
}

#[derive(Default)]
pub(super) struct RequestCounters {
    pub(super) retries: AtomicU64,
    pub(super) redirects: AtomicU64,
    pub(super) unknown_outcomes: AtomicU64,
    pub(super) unavailable: AtomicU64,
    maps_accepted: AtomicU64,
    maps_rejected: AtomicU64,
}

/// Counters since the connection set was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionStats {
    /// The epoch of the map in use.
    pub epoch: Epoch,
    /// Attempts after the first.
    pub retries: u64,
    /// Number of redirections caused by the ROLE of a node.
    pub redirects: u64,
    /// Requests that ended as unknown.
    pub unknown: u64,
    /// Requests that ended as unavailable.
    pub unavailable: u64,
    /// Maps accepted after the first.
    pub maps_accepted: u64,
    /// Maps refused or not readable.
    pub maps_rejected: u64,
    /// Reason of the last rejection.
    pub last_rejected: Option<String>,
}

impl SharedState {
    pub(super) fn new(path: PathBuf, options: ConnectionOptions, table: RoutingTable) -> SharedState {
        SharedState {
            path,
            options,
            table: RwLock::new(Arc::new(table)),
            counters: RequestCounters::default(),
            last_rejected: Mutex::new(None),
            map_check: Arc::new(Notify::new()),
        }
    }

    pub(super) fn current_table(&self) -> Arc<RoutingTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a map into use, or says why not: only the same cluster's, and only at a higher epoch.
    pub(super) fn adopt_map(&self, routing: Routing) {
        let table = self.current_table();
        let (current, new) = (&table.routing, &routing);
        if new.cluster != current.cluster {
            return self
                .reject_map(format!("the map is of cluster \"{}\", not of \"{}\"", new.cluster, current.cluster));
        }
        if new.epoch < current.epoch {
            return self.reject_map(format!("the map has epoch {}, lower than {}", new.epoch, current.epoch));
        }
        if new.epoch == current.epoch {
            if *new != **current {
                self.reject_map(format!("the map has other content at the same epoch {}", new.epoch));
            }
            return;
        }
        match RoutingTable::new(routing, &self.options, Some(&table)) {
            Ok(next) => {
                *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
                self.counters.maps_accepted.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.reject_map(error.to_string()),
        }
    }

    pub(super) fn reject_map(&self, why: String) {
        self.counters.maps_rejected.fetch_add(1, Ordering::Relaxed);
        *self.last_rejected.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    pub(super) fn collect_stats(&self) -> ConnectionStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        ConnectionStats {
            epoch: self.current_table().routing.epoch,
            retries: read(&counters.retries),
            redirects: read(&counters.redirects),
            unknown: read(&counters.unknown_outcomes),
            unavailable: read(&counters.unavailable),
            maps_accepted: read(&counters.maps_accepted),
            maps_rejected: read(&counters.maps_rejected),
            last_rejected: self.last_rejected.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
