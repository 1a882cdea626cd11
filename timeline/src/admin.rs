//! The operators' port: alive, ready, which version, metrics, shards, and two levers. It asks for no token, so it
//! listens on loopback by default; load balancers check `/readyz` on the users' port.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use crate::{
    GIT, LOCK_HASH, VERSION,
    ids::Id,
    lists::List,
    queue::Queue,
    timelines::{RebuildReason, Timelines},
};

/// Time that a shard may take to answer before it counts as dead.
const SHARD_LIMIT: Duration = Duration::from_secs(1);
/// The share of the shards that must answer.
const MIN_ALIVE: f64 = 0.9;
/// Time for which the users' port repeats its last answer: everybody can ask it.
const REUSE_HEALTH_FOR: Duration = Duration::from_millis(250);

/// Contents of the operators' port.
#[derive(Debug, Clone)]
pub struct Operations {
    /// The name of the binary.
    pub name: &'static str,
    /// The timelines.
    pub timelines: Timelines,
    /// The queue, where this process uses it.
    pub queue: Option<Arc<dyn Queue>>,
    /// The metrics of this process.
    pub metrics: PrometheusHandle,
    /// True once the process is ending.
    pub draining: watch::Receiver<bool>,
    /// The version of the schema.
    pub schema: i32,
}

#[derive(Deserialize)]
struct OfId {
    id: Id,
}

/// Returns the routes of the operators' port.
pub fn router(operations: Operations) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/version", get(version))
        .route("/metrics", get(render_metrics))
        .route("/admin/shards", get(shards))
        .route("/admin/rebuild", post(rebuild))
        .route("/admin/invalidate", post(invalidate))
        .with_state(Arc::new(operations))
}

/// Returns the route that load balancers check on the users' port: the status, without reasons.
pub fn health_router(operations: Operations) -> Router {
    let last = Arc::new(Mutex::new(None));
    let check = move || {
        let (operations, last) = (operations.clone(), last.clone());
        async move {
            if is_ready(&operations, &last).await {
                (StatusCode::OK, "ready\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
            }
        }
    };
    Router::new().route("/readyz", get(check))
}

/// Returns whether the process can serve; callers at the same time share one check.
async fn is_ready(operations: &Operations, last: &Mutex<Option<(Instant, bool)>>) -> bool {
    if *operations.draining.borrow() {
        return false;
    }
    let mut last = last.lock().await;
    match *last {
        Some((checked, ready)) if checked.elapsed() < REUSE_HEALTH_FOR => ready,
        _ => {
            let ready = check_health(operations).await.failures.is_empty();
            *last = Some((Instant::now(), ready));
            ready
        }
    }
}

/// The process is alive.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Result of a health check.
struct Health {
    /// Reasons why the process cannot serve.
    failures: Vec<String>,
    /// The share of the shards that answer, 0 to 1.
    shards_alive: f64,
}

/// Checks whether databases, queue and at least 90 % of the shards answer. One dead shard is no reason to take the
/// process out.
async fn check_health(operations: &Operations) -> Health {
    let databases = operations.timelines.databases();
    let (users, tweets) = tokio::join!(databases.users.ping(), databases.tweets.ping());
    let mut failures: Vec<String> = Vec::new();
    for (name, result) in [("users database", users), ("tweets database", tweets)] {
        if let Err(error) = result {
            failures.push(format!("{name}: {}", crate::describe_error(&error)));
        }
    }
    if let Some(queue) = &operations.queue
        && let Err(error) = queue.ping().await
    {
        failures.push(error.to_string());
    }
    let mut shards_alive = 1.0;
    if let Some(lists) = operations.timelines.lists() {
        shards_alive = lists.share_alive(SHARD_LIMIT).await;
        if shards_alive < MIN_ALIVE {
            failures.push(format!("only {:.0} % of the shards answer", shards_alive * 100.0));
        }
    }
    if *operations.draining.borrow() {
        failures.push("the process is ending".to_owned());
    }
    Health { failures, shards_alive }
}

/// 200 while the process can serve, otherwise 503 with the reasons.
async fn readyz(State(operations): State<Arc<Operations>>) -> (StatusCode, Json<Value>) {
    let Health { failures, shards_alive } = check_health(&operations).await;
    let status = if failures.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": failures.is_empty(), "failures": failures, "shards_alive": shards_alive })))
}

/// The version that runs, on which schema, with which epoch of the map.
async fn version(State(operations): State<Arc<Operations>>) -> Json<Value> {
    let mut version = json!({
        "name": operations.name,
        "version": VERSION,
        "git": GIT,
        "lock_hash": LOCK_HASH,
        "schema": operations.schema,
    });
    if let Some(lists) = operations.timelines.lists() {
        let routing = lists.shards().routing();
        version["map_epoch"] = json!(routing.epoch);
        version["cluster"] = json!(routing.cluster);
        version["shards"] = json!(routing.shards.len());
    }
    Json(version)
}

async fn render_metrics(State(operations): State<Arc<Operations>>) -> impl IntoResponse {
    if let Some(lists) = operations.timelines.lists() {
        let stats = lists.shards().stats();
        metrics::counter!("shard_redirects_total").absolute(stats.redirects);
        metrics::gauge!("shard_map_epoch").set(stats.epoch.0 as f64);
        // sets shard_state
        lists.share_alive(SHARD_LIMIT).await;
    }
    operations.metrics.run_upkeep();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], operations.metrics.render())
}

/// Lists the shards, with the reason where one does not answer.
async fn shards(State(operations): State<Arc<Operations>>) -> Json<Value> {
    let Some(lists) = operations.timelines.lists() else { return Json(json!([])) };
    let health = lists.shards().check_health(SHARD_LIMIT).await;
    let shards =
        health.iter().map(|shard| json!({ "shard": shard.shard, "address": shard.address, "failure": shard.failure }));
    Json(Value::Array(shards.collect()))
}

/// Builds the home timeline of a user again.
async fn rebuild(State(operations): State<Arc<Operations>>, Query(OfId { id }): Query<OfId>) -> impl IntoResponse {
    match operations.timelines.rebuild(List::Home(id), RebuildReason::Requested).await {
        Ok(snapshot) => (StatusCode::OK, Json(json!({ "id": id, "entries": snapshot.ids.len() }))),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": error.to_string() }))),
    }
}

/// Forgets the cached tweet or profile with an id.
async fn invalidate(State(operations): State<Arc<Operations>>, Query(OfId { id }): Query<OfId>) -> Json<Value> {
    operations.timelines.cache().invalidate(id).await;
    Json(json!({ "id": id }))
}
