//! Users, and who follows whom.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App, RequestId, WithRequestId,
    extract::{Body, Caller, IdPath, PageQuery, PageRange, Registrar, existing_user},
    problem::{Failure, Problems},
};
use crate::{database::Profile, ids::Id, message::FollowEvent};

const MAX_NAME: usize = 50;
/// Validity of the token of a new user.
const TOKEN_VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);

/// A user to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUser {
    /// The name; not unique.
    #[schema(min_length = 1, max_length = 50, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    name: String,
}

/// A user that was created.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedUser {
    /// The id.
    #[schema(value_type = i64, minimum = 1, maximum = 9007199254740991i64)]
    id: Id,
    /// The name.
    name: String,
    /// A token that names this user, valid for 30 days.
    token: String,
}

/// A page of users, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct UserPage {
    /// The users.
    users: Vec<Profile>,
    /// The `max_id` of the next page; `null` on an empty page.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 9007199254740991i64)]
    next_max_id: Option<Id>,
}

/// Creates a user. Needs the registrar's token.
#[utoipa::path(post, path = "/v1/users", tag = "users", security(("bearer" = [])), request_body = NewUser,
    responses((status = 201, description = "The user is created", body = CreatedUser), Problems))]
pub(super) async fn create(
    State(app): State<App>,
    _: Registrar,
    Body(NewUser { name }): Body<NewUser>,
) -> Result<(StatusCode, Json<CreatedUser>), Failure> {
    let length = name.chars().count();
    if !(1..=MAX_NAME).contains(&length) || name.chars().any(char::is_control) {
        return Err(Failure::unprocessable(format!("a name has 1 to {MAX_NAME} characters and no control characters")));
    }
    let id = app.timelines.databases().users.create_user(&name).await?;
    let token = app.tokens.issue(id, TOKEN_VALIDITY);
    Ok((StatusCode::CREATED, Json(CreatedUser { id, name, token })))
}

/// Lists users.
#[utoipa::path(get, path = "/v1/users", tag = "users", params(PageQuery),
    responses((status = 200, description = "A page of users", body = UserPage), Problems))]
pub(super) async fn list(State(app): State<App>, PageRange(range): PageRange) -> Result<Json<UserPage>, Failure> {
    let users = app.timelines.databases().users.profiles_page(range).await?;
    let next_max_id = users.last().map(|user| user.id - 1);
    Ok(Json(UserPage { users, next_max_id }))
}

/// Reads a user with the counters, which are updated through the queue.
#[utoipa::path(get, path = "/v1/users/{id}", tag = "users",
    params(("id" = i64, Path, minimum = 1, maximum = 9007199254740991i64)),
    responses((status = 200, description = "The user", body = Profile), Problems))]
pub(super) async fn read(State(app): State<App>, IdPath(id): IdPath) -> Result<Json<Profile>, Failure> {
    let profile = existing_user(&app, id).await?.ok_or_else(|| Failure::not_found("there is no such user"))?;
    Ok(Json(profile.as_ref().clone()))
}

/// Follows a user. Does nothing if that is so already.
#[utoipa::path(put, path = "/v1/users/{id}/follow", tag = "users", security(("bearer" = [])),
    params(("id" = i64, Path, minimum = 1, maximum = 9007199254740991i64)),
    responses((status = 204, description = "The user is followed"), Problems))]
pub(super) async fn follow(
    State(app): State<App>,
    Caller(follower): Caller,
    request_id: WithRequestId,
    IdPath(followee): IdPath,
) -> Result<StatusCode, Failure> {
    if follower == followee {
        return Err(Failure::unprocessable("nobody follows oneself"));
    }
    existing_user(&app, followee).await?.ok_or_else(|| Failure::not_found("there is no such user"))?;
    let payload = event_payload(follower, followee, &request_id)?;
    app.timelines.databases().users.follow(follower, followee, &payload).await?;
    app.timelines.forget_merged(follower).await;
    app.wake.notify_one();
    Ok(StatusCode::NO_CONTENT)
}

/// Stops following a user. Does nothing if that is so already.
#[utoipa::path(delete, path = "/v1/users/{id}/follow", tag = "users", security(("bearer" = [])),
    params(("id" = i64, Path, minimum = 1, maximum = 9007199254740991i64)),
    responses((status = 204, description = "The user is not followed"), Problems))]
pub(super) async fn unfollow(
    State(app): State<App>,
    Caller(follower): Caller,
    request_id: WithRequestId,
    IdPath(followee): IdPath,
) -> Result<StatusCode, Failure> {
    let payload = event_payload(follower, followee, &request_id)?;
    app.timelines.databases().users.unfollow(follower, followee, &payload).await?;
    app.timelines.forget_merged(follower).await;
    app.wake.notify_one();
    Ok(StatusCode::NO_CONTENT)
}

fn event_payload(follower: Id, followee: Id, request_id: &RequestId) -> Result<String, Failure> {
    let event = FollowEvent { follower, followee, request_id: request_id.0.clone() };
    serde_json::to_string(&event).map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
