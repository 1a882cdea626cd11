//! What operators and their tools ask: alive, ready, which version and epoch, counters.

use std::{fmt::Write, sync::atomic::Ordering, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use serde_json::{Value, json};

use super::EntriesApp;
use crate::VERSION;

/// Time that a shard may take to answer before it counts as dead.
const READY_LIMIT: Duration = Duration::from_secs(1);

/// The process is alive.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 while any shard answers, with the dead ones listed; 503 when none does.
pub(super) async fn readyz(State(app): State<EntriesApp>) -> (StatusCode, Json<Value>) {
    let shards = app.store.shards().check_health(READY_LIMIT).await;
    let dead: Vec<Value> = shards
        .iter()
        .filter_map(|health| {
            let failure = health.failure.as_ref()?;
            Some(json!({ "shard": health.shard, "address": health.address, "failure": failure }))
        })
        .collect();
    let ready = dead.len() < shards.len();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "shards": shards.len(), "dead": dead })))
}

/// The version that runs, on which epoch of which map.
pub(super) async fn version(State(app): State<EntriesApp>) -> Json<Value> {
    let routing = app.store.shards().routing();
    Json(json!({
        "name": "timeline-api",
        "version": VERSION,
        "map_epoch": routing.epoch,
        "cluster": routing.cluster,
        "shards": routing.shards.len(),
    }))
}

/// Prometheus' text format, version 0.0.4.
pub(super) async fn metrics(State(app): State<EntriesApp>) -> impl IntoResponse {
    let stats = app.store.shards().stats();
    let requests = app.counters.requests.load(Ordering::Relaxed);
    let errors = app.counters.errors.load(Ordering::Relaxed);
    let mut text = String::new();
    for (name, kind, help, value) in [
        ("timeline_requests_total", "counter", "HTTP requests", requests),
        ("timeline_errors_total", "counter", "HTTP responses with a status of 500 or above", errors),
        ("timeline_shard_retries_total", "counter", "Attempts at a shard after the first", stats.retries),
        ("timeline_shard_redirects_total", "counter", "New owners learned from a node's ROLE", stats.redirects),
        ("timeline_shard_unavailable_total", "counter", "Requests that no shard accepted in time", stats.unavailable),
        ("timeline_shard_unknown_total", "counter", "Requests without a reply", stats.unknown),
        ("timeline_maps_rejected_total", "counter", "Shard maps that were refused", stats.maps_rejected),
        ("timeline_map_epoch", "gauge", "Epoch of the shard map in use", stats.epoch.0),
    ] {
        // writing to a String cannot fail
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
