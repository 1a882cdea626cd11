//! One suite for the three set-ups: what the API does must not depend on what it runs on.

use serde_json::{Value, json};

use crate::{
    setup::{Kind, Service},
    support::ids_of,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pull() {
    suite(&Service::start(Kind::Pull).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_with_the_queue_in_postgres() {
    suite(&Service::start(Kind::PushPostgres).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_with_rabbitmq_memcached_and_two_databases() {
    suite(&Service::start(Kind::PushRabbit).await).await;
}

async fn suite(service: &Service) {
    users_and_tokens(service).await;
    posting(service).await;
    timelines(service).await;
    problems(service).await;
    operators(service).await;
}

async fn users_and_tokens(service: &Service) {
    let (status, ann) = service.ask(Some(0), "POST", "/v1/users", &json!({ "name": "Ann ☂" })).await;
    assert_eq!((status, &ann["name"]), (201, &json!("Ann ☂")), "{ann}");
    let id = ann["id"].as_i64().expect("an id");
    assert!(id > 0 && id < 1 << 53);
    let expected = json!({ "id": id, "name": "Ann ☂", "followers_count": 0, "following_count": 0, "tweets_count": 0 });
    assert_eq!(service.ask(None, "GET", &format!("/v1/users/{id}"), &Value::Null).await, (200, expected));
    // the token that came with the user works, and it is no registrar's
    let bearer = format!("Authorization: Bearer {}\r\n", ann["token"].as_str().expect("a token"));
    assert_eq!(service.ask_with(&bearer, "POST", "/v1/tweets", &json!({ "body": "hello" })).await.0, 201);
    assert_eq!(service.ask_with(&bearer, "POST", "/v1/users", &json!({ "name": "x" })).await.0, 403);
    for (user, status) in [(None, 401), (Some(0), 403), (Some(4711), 401)] {
        let (got, body) = service.ask(user, "POST", "/v1/tweets", &json!({ "body": "x" })).await;
        assert_eq!(got, status, "{user:?}: {body}");
    }
    let forged = "Authorization: Bearer v1.1.99999999999.AAAA\r\n";
    assert_eq!(service.ask_with(forged, "POST", "/v1/tweets", &json!({ "body": "x" })).await.0, 401);
    let more = service.create_users(3).await;
    let (_, page) = service.ask(None, "GET", "/v1/users?limit=2", &Value::Null).await;
    assert_eq!((&page["users"][0]["id"], &page["users"][1]["id"]), (&json!(more[2]), &json!(more[1])));
    let (_, page) =
        service.ask(None, "GET", &format!("/v1/users?limit=9&max_id={}", page["next_max_id"]), &Value::Null).await;
    assert_eq!((&page["users"][0]["id"], &page["users"][1]["id"]), (&json!(more[0]), &json!(id)));
}

async fn posting(service: &Service) {
    let author = service.create_users(1).await[0];
    let key = |key: &str| format!("Authorization: Bearer {}\r\nIdempotency-Key: {key}\r\n", service.token(author));
    let body = json!({ "body": "once" });
    let (status, first) = service.ask_with(&key("k1"), "POST", "/v1/tweets", &body).await;
    assert_eq!(status, 201, "{first}");
    let (again, same, other) = (key("k1"), key("k1"), key("k2"));
    let posts = tokio::join!(
        service.ask_with(&again, "POST", "/v1/tweets", &body),
        service.ask_with(&same, "POST", "/v1/tweets", &body),
        service.ask_with(&other, "POST", "/v1/tweets", &body),
    );
    assert_eq!((posts.0, &posts.1), ((201, first.clone()), &(201, first.clone())));
    assert_ne!(posts.2.1["id"], first["id"]);
    assert_eq!(service.ask_with(&key("k1"), "POST", "/v1/tweets", &json!({ "body": "two" })).await.0, 422);

    let id = first["id"].as_i64().expect("an id");
    assert_eq!(service.ask(None, "GET", &format!("/v1/tweets/{id}"), &Value::Null).await, (200, first));
    let stranger = service.create_users(1).await[0];
    assert_eq!(service.ask(Some(stranger), "DELETE", &format!("/v1/tweets/{id}"), &Value::Null).await.0, 403);
    service.delete(author, id).await;
    assert_eq!(service.ask(None, "GET", &format!("/v1/tweets/{id}"), &Value::Null).await.0, 404);
    service.delete(author, id).await;
}

async fn timelines(service: &Service) {
    let users = service.create_users(4).await;
    let (reader, authors) = (users[0], &users[1..]);
    for author in authors {
        service.follow(reader, *author).await;
    }
    // a timeline that is read while it is empty must not stay empty
    assert_eq!(service.read_all(Some(reader), "/v1/timelines/home", 5).await, [0i64; 0]);
    let mut posted = Vec::new();
    for number in 0..12 {
        posted.push(service.post(authors[number % 3], &format!("tweet {number}")).await);
    }
    service.settle().await;
    posted.reverse();
    let home = service.read_all(Some(reader), "/v1/timelines/home", 5).await;
    assert_eq!(home, posted);
    assert_eq!(home, service.home_truth(reader).await);
    // a page, its cursor, and a cursor in the other direction
    let (_, page) = service.ask(Some(reader), "GET", "/v1/timelines/home?limit=4", &Value::Null).await;
    assert_eq!((ids_of(&page), &page["next_max_id"]), (posted[..4].to_vec(), &json!(posted[3] - 1)));
    assert!(page["tweets"][0]["body"] == "tweet 11" && page["tweets"][0]["author_id"] == authors[2], "{page}");
    let path = format!("/v1/timelines/home?limit=50&since_id={}", posted[2]);
    assert_eq!(ids_of(&service.ask(Some(reader), "GET", &path, &Value::Null).await.1), posted[..2]);
    let path = format!("/v1/timelines/home?limit=50&max_id={}&since_id={}", posted[2], posted[5]);
    assert_eq!(ids_of(&service.ask(Some(reader), "GET", &path, &Value::Null).await.1), posted[2..5]);
    let (_, page) = service.ask(Some(reader), "GET", "/v1/timelines/home?max_id=0", &Value::Null).await;
    assert_eq!((&page["tweets"], &page["next_max_id"]), (&json!([]), &Value::Null));

    // deletions are hidden, unfollowing filters out, following merges in
    service.delete(authors[2], posted[0]).await;
    service.unfollow(reader, authors[0]).await;
    service.settle().await;
    let home = service.read_all(Some(reader), "/v1/timelines/home", 3).await;
    assert_eq!((home.len(), &home), (7, &service.home_truth(reader).await));
    service.follow(reader, authors[0]).await;
    service.settle().await;
    let home = service.read_all(Some(reader), "/v1/timelines/home", 3).await;
    assert_eq!((home.len(), &home), (11, &service.home_truth(reader).await));
    let path = format!("/v1/users/{}/tweets", authors[0]);
    assert_eq!(service.read_all(None, &path, 2).await, service.author_truth(authors[0]).await);
    let public = service.read_all(None, "/v1/timelines/public", 3).await;
    assert_eq!(public, service.public_truth().await);
    assert_eq!(service.find_wrong_counters().await, None);
    let (_, profile) = service.ask(None, "GET", &format!("/v1/users/{reader}"), &Value::Null).await;
    assert_eq!((&profile["following_count"], &profile["followers_count"]), (&json!(3), &json!(0)));
}

async fn problems(service: &Service) {
    let user = service.create_users(1).await[0];
    let long = "x".repeat(281);
    for (method, path, body, expected) in [
        ("POST", "/v1/tweets", json!({ "body": "" }), 422),
        ("POST", "/v1/tweets", json!({ "body": long }), 422),
        ("POST", "/v1/tweets", json!({ "body": "a\0b" }), 422),
        ("POST", "/v1/tweets", json!({ "text": "x" }), 422),
        ("POST", "/v1/tweets", json!([]), 422),
        ("PUT", &format!("/v1/users/{user}/follow"), Value::Null, 422),
        ("PUT", "/v1/users/17/follow", Value::Null, 404),
        ("GET", "/v1/users/17/tweets", Value::Null, 404),
        ("GET", "/v1/tweets/17", Value::Null, 404),
        ("DELETE", "/v1/tweets/17", Value::Null, 404),
        ("GET", "/v1/tweets/0", Value::Null, 400),
        ("GET", "/v1/tweets/9007199254740992", Value::Null, 400),
        ("GET", "/v1/tweets/x", Value::Null, 400),
        ("GET", "/v1/timelines/home?limit=0", Value::Null, 400),
        ("GET", "/v1/timelines/home?limit=201", Value::Null, 400),
        ("GET", "/v1/timelines/home?max_id=-1", Value::Null, 400),
        ("GET", "/v1/timelines/home?page=2", Value::Null, 400),
        ("GET", "/v2", Value::Null, 404),
        ("PATCH", "/v1/tweets", Value::Null, 405),
    ] {
        let (status, body) = service.ask(Some(user), method, path, &body).await;
        assert!(
            status == expected && body["status"] == expected && body["detail"].is_string(),
            "{method} {path}: {status} {body}"
        );
    }
}

async fn operators(service: &Service) {
    assert_eq!(service.admin("/healthz").await.0, 200);
    let (status, ready) = service.admin("/readyz").await;
    assert_eq!(status, 200, "{ready}");
    let version: Value = serde_json::from_str(&service.admin("/version").await.1).expect("JSON");
    assert_eq!((&version["name"], &version["schema"]), (&json!("timeline-api"), &json!(2)));
    let metrics = service.admin("/metrics").await.1;
    for name in ["tl_read_seconds", "db_queries_total", "build_info", "http_requests_total"] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    let (status, document) = service.ask(None, "GET", "/openapi.json", &Value::Null).await;
    assert_eq!(status, 200);
    let paths: Vec<&String> = document["paths"].as_object().expect("paths").keys().collect();
    assert_eq!(paths.len(), 8, "{paths:?}");
}
