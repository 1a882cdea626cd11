//! The REST interface: timelines under `/v1`, and what operators ask (`/healthz`, `/readyz`, `/version`, `/metrics`).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{get, post},
};

use self::store::Store;

mod failure;
mod status;
pub mod store;
mod timelines;

/// Shared state of the handlers.
#[derive(Clone)]
struct EntriesApp {
    store: Store,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    errors: AtomicU64,
}

/// The routes of the service.
pub fn router(store: Store) -> Router {
    let app = EntriesApp { store, counters: Arc::default() };
    Router::new()
        .route("/v1/timelines/{uid}/entries", post(timelines::push))
        .route("/v1/timelines/{uid}", get(timelines::read))
        .route("/v1/timelines/read", post(timelines::read_many))
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/version", get(status::version))
        .route("/metrics", get(status::metrics))
        .fallback(failure::not_found)
        .layer(from_fn_with_state(app.clone(), count))
        .with_state(app)
}

async fn count(State(app): State<EntriesApp>, request: Request, next: Next) -> Response {
    app.counters.requests.fetch_add(1, Ordering::Relaxed);
    let response = next.run(request).await;
    if response.status().is_server_error() {
        app.counters.errors.fetch_add(1, Ordering::Relaxed);
    }
    response
}
