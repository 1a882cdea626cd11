//! Logs as JSON lines, and metrics in Prometheus' text format.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use MetricKind::{Counter, Gauge, Histogram};

/// Upper bounds of the histograms, in seconds.
const BUCKETS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// A metric at `/metrics`.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    kind: MetricKind,
    help: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// The metrics of both programs. Those of a program without a worker or without Redis are fewer.
pub const METRICS: &[Metric] = &[
    metric(Gauge, "build_info", &["git", "version"], "Version and commit of the program; always 1"),
    metric(Counter, "cache_hits_total", &["cache"], "Entries found in a cache"),
    metric(Counter, "cache_misses_total", &["cache"], "Entries not found in a cache"),
    metric(Counter, "db_queries_total", &["op"], "Statements sent to Postgres, by name"),
    metric(Histogram, "http_request_seconds", &[], "Duration of HTTP requests"),
    metric(Counter, "http_requests_total", &["status"], "HTTP requests, by class of the status"),
    metric(Counter, "memcached_errors_total", &[], "Operations that memcached did not answer in time"),
    metric(Gauge, "outbox_oldest_age_seconds", &[], "Age of the oldest event that is not published yet"),
    metric(Gauge, "queue_depth", &["queue"], "Messages that wait in a queue"),
    metric(Gauge, "shard_map_epoch", &[], "Epoch of the shard map that the process uses"),
    metric(Counter, "shard_redirects_total", &[], "Requests sent again to another primary"),
    metric(Gauge, "shard_state", &["shard"], "1 if the shard answers, otherwise 0"),
    metric(Counter, "tl_deliveries_total", &["op", "result"], "Entries delivered to timelines"),
    metric(Counter, "tl_dropped_total", &["shard"], "Deliveries dropped because the shard's timelines are rebuilt"),
    metric(Gauge, "tl_parked_messages", &["shard"], "Messages that wait for a shard that did not answer"),
    metric(Counter, "tl_parked_total", &["shard"], "Deliveries parked because the shard did not answer"),
    metric(Histogram, "tl_push_lag_seconds", &[], "Time from the commit of an event to the reply of Redis"),
    metric(Gauge, "tl_refresh_pending", &["shard"], "1 while the shard's timelines wait to be rebuilt, otherwise 0"),
    metric(Histogram, "tl_read_seconds", &["source"], "Duration of reading a page"),
    metric(Counter, "tl_rebuild_coalesced_total", &[], "Requests that shared the rebuild of another one"),
    metric(Counter, "tl_rebuild_total", &["reason"], "Timelines built from the database"),
];

const fn metric(kind: MetricKind, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, labels, kind, help }
}

/// Writes logs to stderr as JSON lines; `TIMELINE_LOG` says which (`info` by default).
///
/// # Errors
/// Returns an error if `TIMELINE_LOG` is not valid, or logs go somewhere already.
pub fn start_logs() -> anyhow::Result<()> {
    let directives = std::env::var("TIMELINE_LOG").unwrap_or_else(|_| "info,lapin=error".to_owned());
    let filter = EnvFilter::try_new(directives)?;
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter);
    let started = subscriber.with_writer(std::io::stderr).try_init();
    started.map_err(|error| anyhow::anyhow!("cannot start the logs: {error}"))
}

/// Starts to record metrics, once per process, and returns where to render them.
///
/// # Errors
/// Returns an error if another recorder is in place.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS)?;
    match builder.install_recorder() {
        Ok(handle) => {
            METRICS.iter().for_each(Metric::describe);
            metrics::gauge!("build_info", "version" => crate::VERSION, "git" => crate::GIT).set(1.0);
            Ok(HANDLE.get_or_init(|| handle).clone())
        }
        // another thread was faster
        Err(error) => HANDLE.get().cloned().ok_or_else(|| error.into()),
    }
}

impl Metric {
    /// Sets the metric's help text. Counters without labels exist from the start, as 0.
    fn describe(&self) {
        match self.kind {
            Counter => {
                metrics::describe_counter!(self.name, self.help);
                if self.labels.is_empty() {
                    metrics::counter!(self.name).increment(0);
                }
            }
            Gauge => metrics::describe_gauge!(self.name, self.help),
            Histogram => metrics::describe_histogram!(self.name, self.help),
        }
    }
}

/// Returns an ID that no other has, in this process and in others.
pub fn new_unique_id() -> String {
    static PROCESS: OnceLock<String> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let process =
        PROCESS.get_or_init(|| format!("{:x}{:08x}", crate::ids::unix_ms_now(), RandomState::new().hash_one(0) as u32));
    format!("{process}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
