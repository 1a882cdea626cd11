//! Posting to timelines and reading them.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::store::{CAP, EntryPage, EntryRange, MAX_ID};
use super::{
    EntriesApp,
    failure::{Failure, describe},
};

const DEFAULT_LIMIT: usize = 50;
const MOST_USERS: usize = 1000;

#[derive(Deserialize)]
pub(super) struct Entry {
    id: u64,
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    limit: Option<usize>,
    max_id: Option<u64>,
    since_id: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Many {
    users: Vec<u64>,
    #[serde(flatten)]
    wanted: Wanted,
}

impl Wanted {
    fn range(&self) -> Result<EntryRange, Failure> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if limit == 0 || limit > CAP {
            return Err(Failure::bad_request(&format!("limit must be between 1 and {CAP}")));
        }
        if self.max_id.max(self.since_id).is_some_and(|id| id > MAX_ID) {
            return Err(Failure::bad_request("ids have at most 53 bits"));
        }
        Ok(EntryRange { limit, max_id: self.max_id, since_id: self.since_id })
    }
}

/// `POST /v1/timelines/{uid}/entries`: 201 once Redis has acknowledged the entry.
pub(super) async fn push(
    State(app): State<EntriesApp>,
    uid: Result<Path<u64>, PathRejection>,
    entry: Result<Json<Entry>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let (Path(uid), Json(Entry { id })) = (uid?, entry?);
    if id > MAX_ID {
        return Err(Failure::bad_request("ids have at most 53 bits"));
    }
    let shard = app.store.push(uid, id).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id, "shard": shard }))))
}

/// `GET /v1/timelines/{uid}?limit=&max_id=&since_id=`: newest first; `max_id` is included, `since_id` is not.
pub(super) async fn read(
    State(app): State<EntriesApp>,
    uid: Result<Path<u64>, PathRejection>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<EntryPage>, Failure> {
    let (Path(uid), Query(wanted)) = (uid?, wanted?);
    Ok(Json(app.store.read(uid, wanted.range()?).await?))
}

/// `POST /v1/timelines/read`: many users at once. A shard that is not available fails only its users.
pub(super) async fn read_many(
    State(app): State<EntriesApp>,
    many: Result<Json<Many>, JsonRejection>,
) -> Result<Json<Value>, Failure> {
    let Json(Many { users, wanted }) = many?;
    if users.len() > MOST_USERS {
        return Err(Failure::bad_request(&format!("at most {MOST_USERS} users at once")));
    }
    let pages = app.store.read_many(&users, wanted.range()?).await;
    let timeline = |(uid, page): (&u64, Result<EntryPage, _>)| match page {
        Ok(EntryPage { entries, next_max_id }) => json!({ "uid": uid, "entries": entries, "next_max_id": next_max_id }),
        Err(error) => {
            let mut failure = describe(&error);
            failure["uid"] = json!(uid);
            failure
        }
    };
    let timelines: Vec<Value> = users.iter().zip(pages).map(timeline).collect();
    Ok(Json(json!({ "timelines": timelines })))
}
