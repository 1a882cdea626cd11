//! Parts of a request, with problems instead of plain text where they do not fit.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, header::AUTHORIZATION, request::Parts},
};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::IntoParams;

use super::{App, problem::Failure};
use crate::{
    auth::REGISTRAR,
    database::{Profile, Range},
    ids::{Id, MAX_ID},
};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// The user that the token names, who exists.
pub(super) struct Caller(pub(super) Id);

/// The registrar, who may create users.
pub(super) struct Registrar;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

/// The id in a path.
pub(super) struct IdPath(pub(super) Id);

/// The page to read.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// The largest number of entries.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    // `value_type`: of the alias `Id`, utoipa makes a reference to a schema, and the bounds are lost
    /// Only ids up to this one: the `next_max_id` of the page before.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 9007199254740991i64)]
    max_id: Option<Id>,
    /// Only ids above this one.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 9007199254740991i64)]
    since_id: Option<Id>,
}

/// A valid page.
pub(super) struct PageRange(pub(super) Range);

impl FromRequestParts<App> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Caller, Failure> {
        let user = token_user(parts, app)?;
        if user == REGISTRAR {
            return Err(Failure::new(StatusCode::FORBIDDEN, "the registrar's token only creates users"));
        }
        existing_user(app, user).await?.ok_or_else(|| unauthorized("the token names no user"))?;
        Ok(Caller(user))
    }
}

impl FromRequestParts<App> for Registrar {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Registrar, Failure> {
        match token_user(parts, app)? {
            REGISTRAR => Ok(Registrar),
            _ => Err(Failure::new(StatusCode::FORBIDDEN, "only the registrar's token creates users")),
        }
    }
}

/// Reads a user, who may be cached: users are never deleted.
pub(super) async fn existing_user(app: &App, id: Id) -> Result<Option<Arc<Profile>>, Failure> {
    Ok(app.timelines.cache().profile(id).await?)
}

fn token_user(parts: &Parts, app: &App) -> Result<Id, Failure> {
    let header = parts.headers.get(AUTHORIZATION).ok_or_else(|| unauthorized("a bearer token is needed"))?;
    let token = header.to_str().ok().and_then(|header| header.strip_prefix("Bearer "));
    let token = token.ok_or_else(|| unauthorized("the Authorization header is no bearer token"))?;
    app.tokens.verify(token.trim()).map_err(|error| unauthorized(&error.to_string()))
}

fn unauthorized(detail: &str) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, detail)
}

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Body<T>, Failure> {
        let body: Result<Json<T>, JsonRejection> = Json::from_request(request, app).await;
        let Json(body) = body.map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
        Ok(Body(body))
    }
}

impl FromRequestParts<App> for IdPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<IdPath, Failure> {
        let path: Result<Path<Id>, PathRejection> = Path::from_request_parts(parts, app).await;
        let Path(id) = path.map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
        if !(1..=MAX_ID).contains(&id) {
            return Err(Failure::bad_request("ids are between 1 and 9007199254740991"));
        }
        Ok(IdPath(id))
    }
}

impl FromRequestParts<App> for PageRange {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<PageRange, Failure> {
        let query: Result<Query<PageQuery>, QueryRejection> = Query::from_request_parts(parts, app).await;
        let Query(query) = query.map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
        let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Failure::bad_request(format!("limit must be between 1 and {MAX_LIMIT}")));
        }
        let (max_id, since_id) = (query.max_id.unwrap_or(MAX_ID), query.since_id.unwrap_or(0));
        if !(0..=MAX_ID).contains(&max_id) || !(0..=MAX_ID).contains(&since_id) {
            return Err(Failure::bad_request("ids are between 0 and 9007199254740991"));
        }
        Ok(PageRange(Range { max_id, since_id, limit }))
    }
}
