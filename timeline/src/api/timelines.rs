//! Pages of tweets.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    App,
    extract::{Caller, IdPath, PageQuery, PageRange, existing_user},
    problem::{Failure, Problems},
    tweets::TweetView,
};
use crate::{
    ids::Id,
    timelines::{Page, Source},
};

/// A page of tweets, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct TweetPage {
    /// The tweets; a page can be short and have a cursor nevertheless.
    tweets: Vec<TweetView>,
    /// The `max_id` of the next page; `null` where there is nothing older.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 9007199254740991i64)]
    next_max_id: Option<Id>,
    /// Source of the page.
    source: Source,
}

impl From<Page> for TweetPage {
    fn from(page: Page) -> TweetPage {
        let tweets = page.tweets.iter().map(|tweet| TweetView::from(tweet.as_ref())).collect();
        TweetPage { tweets, next_max_id: page.next_max_id, source: page.source }
    }
}

/// Reads the tweets of those whom the caller follows.
#[utoipa::path(get, path = "/v1/timelines/home", tag = "timelines", security(("bearer" = [])), params(PageQuery),
    responses((status = 200, description = "A page of tweets", body = TweetPage), Problems))]
pub(super) async fn home(
    State(app): State<App>,
    Caller(user): Caller,
    PageRange(range): PageRange,
) -> Result<Json<TweetPage>, Failure> {
    Ok(Json(app.timelines.home_page(user, range).await?.into()))
}

/// Reads everybody's tweets.
#[utoipa::path(get, path = "/v1/timelines/public", tag = "timelines", params(PageQuery),
    responses((status = 200, description = "A page of tweets", body = TweetPage), Problems))]
pub(super) async fn public(State(app): State<App>, PageRange(range): PageRange) -> Result<Json<TweetPage>, Failure> {
    Ok(Json(app.timelines.public_page(range).await?.into()))
}

/// Reads the tweets of a user.
#[utoipa::path(get, path = "/v1/users/{id}/tweets", tag = "timelines",
    params(("id" = i64, Path, minimum = 1, maximum = 9007199254740991i64), PageQuery),
    responses((status = 200, description = "A page of tweets", body = TweetPage), Problems))]
pub(super) async fn author(
    State(app): State<App>,
    IdPath(id): IdPath,
    PageRange(range): PageRange,
) -> Result<Json<TweetPage>, Failure> {
    existing_user(&app, id).await?.ok_or_else(|| Failure::not_found("there is no such user"))?;
    Ok(Json(app.timelines.author_page(id, range).await?.into()))
}
