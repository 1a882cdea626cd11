//! Errors as `application/problem+json` (RFC 9457).

use std::sync::Arc;

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::database::DbError;

/// A problem document.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// The cause, for people.
    detail: String,
}

/// The problems that any operation can have.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the derive alone")]
pub(super) enum Problems {
    /// The request is malformed.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// The token is missing, not valid or expired.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(Problem),
    /// The token's user is not allowed to do this.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// The resource does not exist (any more).
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// The request body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The request body is not JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(Problem),
    /// A value is invalid.
    #[response(status = 422, content_type = "application/problem+json")]
    Unprocessable(Problem),
    /// The database does not answer. A repetition with the same idempotency key is safe.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    detail: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Failure {
        Failure { status, detail: detail.into() }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn unprocessable(detail: impl Into<String>) -> Failure {
        Failure::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let problem = Problem { kind: "about:blank", title, status: self.status.as_u16(), detail: self.detail };
        let mut response = (self.status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.status {
            StatusCode::UNAUTHORIZED => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            StatusCode::SERVICE_UNAVAILABLE => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
            _ => {}
        }
        response
    }
}

impl From<DbError> for Failure {
    fn from(error: DbError) -> Failure {
        // the cause is for the operators' logs, not for clients
        tracing::warn!(error = crate::describe_error(&error), "a statement failed");
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer; try again")
    }
}

impl From<Arc<DbError>> for Failure {
    fn from(error: Arc<DbError>) -> Failure {
        tracing::warn!(error = crate::describe_error(error.as_ref()), "a statement failed");
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer; try again")
    }
}

pub(super) async fn not_found() -> Failure {
    Failure::not_found("there is no such path")
}

pub(super) async fn method_not_allowed() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "the path does not have this method")
}
