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

/// Upper bounds of the histograms, in seconds.
const BUCKETS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Writes logs to stderr as JSON lines; `TIMELINE_LOG` says which (`info` by default).
///
/// # Errors
/// `TIMELINE_LOG` is not valid, or logs go somewhere already.
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
/// Another recorder is in place.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS)?;
    match builder.install_recorder() {
        Ok(handle) => {
            metrics::gauge!("build_info", "version" => crate::VERSION, "git" => crate::GIT).set(1.0);
            Ok(HANDLE.get_or_init(|| handle).clone())
        }
        // another thread was faster
        Err(error) => HANDLE.get().cloned().ok_or_else(|| error.into()),
    }
}

/// Returns an ID that is unique for this process.
pub fn process_token() -> &'static str {
    static TOKEN: OnceLock<String> = OnceLock::new();
    TOKEN.get_or_init(|| format!("{:x}{:08x}", crate::ids::unix_ms_now(), RandomState::new().hash_one(0) as u32))
}

/// Returns a new id for a request that has none.
pub fn new_request_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", process_token(), COUNT.fetch_add(1, Ordering::Relaxed))
}
