//! Tweets: posting, reading, deleting.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::{
    App, WithRequestId,
    extract::{Body, Caller, IdPath},
    problem::{Failure, Problems},
};
use crate::{
    database::{Posted, Tweet},
    ids::{Id, to_unix_ms},
};

const MAX_BODY: usize = 280;
const MAX_KEY: usize = 64;

/// A tweet to post.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTweet {
    /// The text.
    #[schema(min_length = 1, max_length = 280, pattern = r"^[^\x00]+$")]
    body: String,
}

/// A tweet.
#[derive(Serialize, ToSchema)]
pub(super) struct TweetView {
    /// The id.
    #[schema(value_type = i64, minimum = 1, maximum = 9007199254740991i64)]
    id: Id,
    /// The author.
    #[schema(value_type = i64, minimum = 1, maximum = 9007199254740991i64)]
    author_id: Id,
    /// The text.
    body: String,
    /// The moment it was posted, in milliseconds since 1970.
    created_at_ms: i64,
}

impl From<&Tweet> for TweetView {
    fn from(tweet: &Tweet) -> TweetView {
        let Tweet { id, author_id, body } = tweet.clone();
        TweetView { id, author_id, body, created_at_ms: to_unix_ms(id) }
    }
}

/// Posts a tweet. With an `Idempotency-Key`, a repetition within a day returns the first tweet.
#[utoipa::path(post, path = "/v1/tweets", tag = "tweets", security(("bearer" = [])), request_body = NewTweet,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 64, pattern = r"^[!-~]+$")),
    responses((status = 201, description = "The tweet is stored", body = TweetView), Problems))]
pub(super) async fn post(
    State(app): State<App>,
    Caller(author): Caller,
    request_id: WithRequestId,
    headers: HeaderMap,
    Body(NewTweet { body }): Body<NewTweet>,
) -> Result<(StatusCode, Json<TweetView>), Failure> {
    let length = body.chars().count();
    if !(1..=MAX_BODY).contains(&length) || body.contains('\0') {
        return Err(Failure::unprocessable(format!("a tweet has 1 to {MAX_BODY} characters and none of them is NUL")));
    }
    let tweets = &app.timelines.databases().tweets;
    let id = match idempotency_key(&headers)? {
        None => tweets.post(author, &body, &request_id.0.0).await?,
        Some(key) => {
            let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(body.as_bytes()));
            let key = format!("{author}:{key}");
            match tweets.post_once(author, &body, &request_id.0.0, &key, &digest).await? {
                Posted::Id(id) => id,
                Posted::OtherBody => {
                    return Err(Failure::unprocessable("the idempotency key was used for another tweet"));
                }
            }
        }
    };
    app.wake.notify_one();
    Ok((StatusCode::CREATED, Json(TweetView { id, author_id: author, body, created_at_ms: to_unix_ms(id) })))
}

/// Reads a tweet.
#[utoipa::path(get, path = "/v1/tweets/{id}", tag = "tweets",
    params(("id" = i64, Path, minimum = 1, maximum = 9007199254740991i64)),
    responses((status = 200, description = "The tweet", body = TweetView), Problems))]
pub(super) async fn read(State(app): State<App>, IdPath(id): IdPath) -> Result<Json<TweetView>, Failure> {
    let tweet = app.timelines.cache().tweet(id).await?;
    let tweet = tweet.ok_or_else(|| Failure::not_found("there is no such tweet"))?;
    Ok(Json(TweetView::from(tweet.as_ref())))
}

/// Deletes a tweet of the caller. Does nothing if that is so already.
#[utoipa::path(delete, path = "/v1/tweets/{id}", tag = "tweets", security(("bearer" = [])),
    params(("id" = i64, Path, minimum = 1, maximum = 9007199254740991i64)),
    responses((status = 204, description = "The tweet is deleted"), Problems))]
pub(super) async fn delete(
    State(app): State<App>,
    Caller(author): Caller,
    request_id: WithRequestId,
    IdPath(id): IdPath,
) -> Result<StatusCode, Failure> {
    let tweets = &app.timelines.databases().tweets;
    if !tweets.delete_tweet(id, author, &request_id.0.0).await? {
        match tweets.tweet_author(id).await? {
            None => return Err(Failure::not_found("there is no such tweet")),
            Some(other) if other != author => {
                return Err(Failure::new(StatusCode::FORBIDDEN, "only the author deletes a tweet"));
            }
            Some(_) => {}
        }
    }
    app.timelines.cache().hide_tweet(id).await;
    app.wake.notify_one();
    Ok(StatusCode::NO_CONTENT)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    if !(1..=MAX_KEY).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::bad_request(format!("an idempotency key has 1 to {MAX_KEY} visible ASCII characters")));
    }
    Ok(Some(key.to_owned()))
}
