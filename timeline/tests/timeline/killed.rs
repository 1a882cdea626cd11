//! Programs that are killed where it hurts: the API between its commit and its response, the worker between its write
//! to Redis and its acknowledgement.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    programs::{API, PushSetup, WORKER, address, create_user, is_ready, run, start, text},
    servers::{Postgres, Process},
    support::{ids_of, request, sql_rows, until},
};

/// Both programs, an author and a follower whose timeline is in Redis.
struct Killable {
    postgres: Arc<Postgres>,
    url: String,
    setup: PushSetup,
    api: Process,
    worker: Process,
    author: (i64, String),
    reader: (i64, String),
}

impl Killable {
    async fn start() -> Killable {
        let postgres = Arc::new(Postgres::start());
        let url = postgres.create_database();
        let setup = PushSetup::create(&url);
        let (api, worker) = (start(API, &setup.environment), start(WORKER, &setup.environment));
        let registrar = text(&run(API, &["token", "--user", "0"], &setup.environment));
        let service = address(&setup.environment, "TIMELINE_LISTEN");
        for name in ["TIMELINE_ADMIN_LISTEN", "TIMELINE_WORKER_ADMIN_LISTEN"] {
            until("it is ready", async || is_ready(address(&setup.environment, name)).await).await;
        }
        let author = create_user(service, &registrar, "author").await;
        let reader = create_user(service, &registrar, "reader").await;
        let killable = Killable { postgres, url, setup, api, worker, author, reader };
        let path = format!("/v1/users/{}/follow", killable.author.0);
        assert_eq!(killable.ask("PUT", &path, &killable.reader.1).await.0, 204);
        // both lists are in Redis from now on
        killable.settle().await;
        assert_eq!(killable.home().await, [0i64; 0]);
        let tweets = format!("/v1/users/{}/tweets", killable.author.0);
        assert_eq!(killable.ask("GET", &tweets, "").await.0, 200);
        killable
    }

    fn service(&self) -> std::net::SocketAddr {
        address(&self.setup.environment, "TIMELINE_LISTEN")
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, Value) {
        let (status, body) = request(self.service(), headers, method, path, "").await;
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    async fn home(&self) -> Vec<i64> {
        ids_of(&self.ask("GET", "/v1/timelines/home", &self.reader.1).await.1)
    }

    async fn count(&self, query: &str) -> String {
        sql_rows(&self.url, query).await[0][0].clone()
    }

    /// Waits until outbox and queue are empty.
    async fn settle(&self) {
        until("nothing waits", async || {
            self.count("select (select count(*) from outbox) + (select count(*) from queue)").await == "0"
        })
        .await;
    }

    /// Checks that there is one tweet: in SQL, in the timeline in Redis, and in the counters.
    async fn check_one_tweet(&self, id: i64) {
        self.settle().await;
        assert_eq!(self.count("select string_agg(id::text, ' ') from tweets").await, id.to_string());
        until("the reader has the tweet", async || self.home().await == [id]).await;
        for key in [format!("tl:{}", self.reader.0), format!("au:{}", self.author.0)] {
            assert_eq!(self.entries(&key), [id.to_string(), "b".to_owned()], "{key}");
        }
        let counters = "select string_agg(format('%s %s %s', followers_count, following_count, tweets_count), ', ' \
                        order by id) from users";
        assert_eq!(self.count(counters).await, "1 0 1, 0 1 0");
    }

    fn entries(&self, key: &str) -> Vec<String> {
        let read = |shard: &crate::redis_server::TestServer| -> Vec<String> {
            redis::cmd("ZRANGE").arg(key).arg(0).arg(-1).query(&mut shard.connect_admin()).expect("ZRANGE")
        };
        self.setup.shards.iter().flat_map(read).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_that_is_killed_after_its_commit_has_posted_once() {
    let mut killable = Killable::start().await;
    let sql = |killable: &Killable, text: &str| killable.postgres.sql("postgres", text);
    // a commit is on disk, and waits for a standby that does not exist
    sql(&killable, "alter system set synchronous_standby_names = 'missing'");
    sql(&killable, "select pg_reload_conf()");
    let body = json!({ "body": "once" }).to_string();
    let headers = format!("{}Idempotency-Key: killed\r\n", killable.author.1);
    let mut stream = TcpStream::connect(killable.service()).await.expect("the service listens");
    let head = "POST /v1/tweets HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let post = format!("{head}{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(post.as_bytes()).await.expect("the request is sent");
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    until("the commit waits", async || killable.count(waiting).await == "1").await;
    killable.api.signal("KILL");
    killable.api.wait(Duration::from_secs(10));
    sql(&killable, "alter system reset synchronous_standby_names");
    sql(&killable, "select pg_reload_conf()");
    until("the tweet is committed", async || killable.count("select count(*) from tweets").await == "1").await;
    killable.api = start(API, &killable.setup.environment);
    let operators = address(&killable.setup.environment, "TIMELINE_ADMIN_LISTEN");
    until("it is ready", async || is_ready(operators).await).await;
    let (status, tweet) = request(killable.service(), &headers, "POST", "/v1/tweets", &body).await;
    assert_eq!(status, 201, "{tweet}");
    let tweet: Value = serde_json::from_str(&tweet).expect("JSON");
    killable.check_one_tweet(tweet["id"].as_i64().expect("an id")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_after_its_write_to_redis_delivers_once() {
    let mut killable = Killable::start().await;
    killable.worker.signal("STOP");
    let body = json!({ "body": "once" }).to_string();
    let (status, tweet) = request(killable.service(), &killable.author.1, "POST", "/v1/tweets", &body).await;
    assert_eq!(status, 201, "{tweet}");
    let tweet: Value = serde_json::from_str(&tweet).expect("JSON");
    let id = tweet["id"].as_i64().expect("an id");
    // the worker asks whether the tweet was deleted after it has written a list, and waits here; the timeline of the
    // reader is another task, which may have got as far
    let (client, connection) =
        tokio_postgres::connect(&killable.url, tokio_postgres::NoTls).await.expect("Postgres accepts");
    let driver = tokio::spawn(connection);
    client.batch_execute("begin; lock table tweets in access exclusive mode").await.expect("a lock");
    killable.worker.signal("CONT");
    let author = format!("au:{}", killable.author.0);
    until("the worker has written", async || killable.entries(&author).contains(&id.to_string())).await;
    killable.worker.signal("KILL");
    killable.worker.wait(Duration::from_secs(10));
    drop(client);
    drop(driver.await);
    assert_ne!(killable.count("select count(*) from queue where queue = 'plan'").await, "0", "it is not acknowledged");
    killable.worker = start(WORKER, &killable.setup.environment);
    killable.check_one_tweet(id).await;
}
