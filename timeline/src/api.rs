//! The REST interface, under `/v1`. Errors are problem documents (RFC 9457); `GET /openapi.json` describes all of it.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderName, HeaderValue},
    middleware::{Next, from_fn},
    response::Response,
    routing::get,
};
use tokio::sync::Notify;
use utoipa::{
    OpenApi,
    openapi::{
        Info,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{VERSION, auth::TokenKey, telemetry::new_unique_id, timelines::Timelines};

mod extract;
mod problem;
mod timelines;
mod tweets;
mod users;

/// The largest request body in bytes.
const MAX_BODY: usize = 64 * 1024;
const MAX_REQUEST_ID: usize = 64;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Shared state of the handlers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    /// The timelines, with databases and caches below.
    pub timelines: Timelines,
    /// Signs and checks tokens.
    pub tokens: TokenKey,
    /// Rung after each event, for a relay in this process.
    pub wake: Arc<Notify>,
}

/// The document's parts that no operation brings with it.
#[derive(OpenApi)]
#[openapi(components(schemas(problem::Problem)))]
struct Document;

/// The id of a request: the client's, or a new one. It goes with the event through the queue.
#[derive(Debug, Clone)]
struct RequestId(String);

/// Returns the routes of the service.
pub fn router(app: App) -> Router {
    let (router, document) = routes_with_document().split_for_parts();
    let document = Arc::new(document);
    let serve_document = move || {
        let document = document.clone();
        async move { Json(document.as_ref().clone()) }
    };
    router
        .route("/openapi.json", get(serve_document))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(trace_request))
        .with_state(app)
}

/// Returns the description of the service.
pub fn document() -> utoipa::openapi::OpenApi {
    routes_with_document().into_openapi()
}

fn routes_with_document() -> OpenApiRouter<App> {
    let mut document = Document::openapi();
    document.info = Info::new("timeline", VERSION);
    let mut router = OpenApiRouter::with_openapi(document)
        .routes(routes!(users::create, users::list))
        .routes(routes!(users::read))
        .routes(routes!(users::follow, users::unfollow))
        .routes(routes!(timelines::author))
        .routes(routes!(tweets::post))
        .routes(routes!(tweets::read, tweets::delete))
        .routes(routes!(timelines::home))
        .routes(routes!(timelines::public));
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    router.get_openapi_mut().components.get_or_insert_default().add_security_scheme("bearer", bearer);
    router
}

/// Gives a request its id, and logs and counts how it ended.
async fn trace_request(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_word = |id: &&str| {
        !id.is_empty()
            && id.len() <= MAX_REQUEST_ID
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let id = given.filter(is_word).map_or_else(new_unique_id, str::to_owned);
    request.extensions_mut().insert(RequestId(id.clone()));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let start = std::time::Instant::now();
    let mut response = next.run(request).await;
    let status = response.status();
    let class = match status.as_u16() {
        500.. => "5xx",
        400.. => "4xx",
        _ => "2xx",
    };
    metrics::counter!("http_requests_total", "status" => class).increment(1);
    metrics::histogram!("http_request_seconds").record(start.elapsed().as_secs_f64());
    if status.is_server_error() {
        tracing::warn!(request_id = %id, %method, path, status = status.as_u16(), "request failed");
    } else {
        tracing::debug!(request_id = %id, %method, path, status = status.as_u16(), "request");
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Reads the id that [`trace_request`] has given.
type WithRequestId = Extension<RequestId>;
