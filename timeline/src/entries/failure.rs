//! Errors as JSON: `{"error":…}`, and for a shard that is not available whether the request was applied.

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use dunlin_shards::{AppliedState, ShardError};
use serde_json::{Value, json};

/// A request that failed.
pub(super) struct Failure {
    status: StatusCode,
    body: Value,
}

impl Failure {
    /// The request itself is wrong.
    pub(super) fn bad_request(message: &str) -> Failure {
        Failure { status: StatusCode::BAD_REQUEST, body: json!({ "error": message }) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<ShardError> for Failure {
    fn from(error: ShardError) -> Failure {
        let status = match error {
            ShardError::UnexpectedReply { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Failure { status, body: describe(&error) }
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Failure {
        Failure { status: rejection.status(), body: json!({ "error": rejection.body_text() }) }
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Failure {
        Failure { status: rejection.status(), body: json!({ "error": rejection.body_text() }) }
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Failure {
        Failure { status: rejection.status(), body: json!({ "error": rejection.body_text() }) }
    }
}

/// `{"error":…,"applied":"no"|"unknown"|"yes","shard":…}`
pub(super) fn describe(error: &ShardError) -> Value {
    let applied = match error.applied_state() {
        AppliedState::No => "no",
        AppliedState::Unknown => "unknown",
        AppliedState::Yes => "yes",
    };
    let cause = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
    json!({ "error": format!("{error}{cause}"), "applied": applied, "shard": error.shard_id() })
}

pub(super) async fn not_found() -> Failure {
    Failure { status: StatusCode::NOT_FOUND, body: json!({ "error": "there is nothing here" }) }
}
