//! The service in this process, on real servers, in each of the three set-ups; and a small HTTP client.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use dunlin_shards::{ConnectionOptions, ShardConnections};
use serde_json::{Value, json};
use tempfile::TempDir;
use timeline::{
    admin::{self, Operations},
    api::{self, App},
    auth::TokenKey,
    cache::{Cache, CacheOptions, Memcached as MemcachedClient},
    database::{DatabaseOptions, Databases, PullThresholds},
    lists::{List, ListOptions, Lists},
    queue::{Queue, QueueName, postgres::PostgresQueue, rabbit::RabbitQueue},
    telemetry,
    timelines::Timelines,
    worker::{Worker, WorkerOptions, relay},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::{
    redis_server::TestServer,
    servers::{Memcached, Postgres, Rabbit, publish_map},
    support::{CountInFlight, Intercepted, ids_of, request, sql_rows},
};

pub const KEY: &[u8] = b"a key that only tests know";

/// What the service runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One database.
    Pull,
    /// One database with the queue, and Redis.
    PushPostgres,
    /// Two databases, RabbitMQ, Redis and memcached.
    PushRabbit,
}

/// The limits of a set-up.
#[derive(Debug, Clone)]
pub struct Limits {
    pub lists: ListOptions,
    pub worker: WorkerOptions,
    pub pull_grace: Duration,
    pub shards: usize,
    pub is_alone: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            lists: ListOptions::default(),
            worker: WorkerOptions { claim_lease: Duration::from_secs(2), ..WorkerOptions::default() },
            pull_grace: Duration::from_millis(1200),
            shards: 3,
            is_alone: false,
        }
    }
}

/// A running service.
pub struct Service {
    pub kind: Kind,
    pub postgres: Arc<Postgres>,
    pub rabbit: Option<Arc<Rabbit>>,
    pub memcached: Option<Memcached>,
    pub shards: Vec<TestServer>,
    pub dir: TempDir,
    pub users_url: String,
    pub tweets_url: String,
    pub queue_prefix: String,
    pub databases: Databases,
    pub timelines: Timelines,
    pub queue: Option<Arc<dyn Queue>>,
    in_flight: Arc<AtomicI64>,
    pub limits: Limits,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub tokens: TokenKey,
    stop: watch::Sender<bool>,
    worker: Vec<JoinHandle<()>>,
}

impl Service {
    pub async fn start(kind: Kind) -> Service {
        Service::start_with(kind, Limits::default(), |queue| queue).await
    }

    /// Starts one whose queue is wrapped.
    pub async fn start_with(
        kind: Kind,
        limits: Limits,
        wrap: impl FnOnce(Arc<dyn Queue>) -> Arc<dyn Queue>,
    ) -> Service {
        Service::start_on(Postgres::shared(), kind, limits, wrap).await
    }

    /// Starts one whose servers no other test uses, so that they can be killed.
    pub async fn start_alone(kind: Kind, mut limits: Limits) -> Service {
        limits.is_alone = true;
        Service::start_on(Arc::new(Postgres::start()), kind, limits, |queue| queue).await
    }

    async fn start_on(
        postgres: Arc<Postgres>,
        kind: Kind,
        limits: Limits,
        wrap: impl FnOnce(Arc<dyn Queue>) -> Arc<dyn Queue>,
    ) -> Service {
        if std::env::var_os("TIMELINE_LOG").is_some() {
            // another test can have started them
            drop(telemetry::start_logs());
        }
        let users_url = postgres.create_database();
        let tweets_url = if kind == Kind::PushRabbit { postgres.create_database() } else { users_url.clone() };
        let options = DatabaseOptions {
            users: users_url.clone(),
            tweets: tweets_url.clone(),
            password: None,
            max_connections: 16,
        };
        let databases = Databases::new(&options).expect("connection strings");
        databases.migrate(false).await.expect("the schema");
        let dir = TempDir::new().expect("a temporary folder");
        let queue_prefix = users_url.rsplit('/').next().expect("a name").to_owned();
        let mut service = Service {
            kind,
            postgres,
            rabbit: match kind {
                Kind::PushRabbit if limits.is_alone => Some(Arc::new(Rabbit::start())),
                Kind::PushRabbit => Some(Rabbit::shared()),
                Kind::Pull | Kind::PushPostgres => None,
            },
            memcached: (kind == Kind::PushRabbit).then(Memcached::start),
            shards: Vec::new(),
            dir,
            users_url,
            tweets_url,
            queue_prefix,
            timelines: timelines(&databases, None, None, Duration::ZERO),
            databases,
            queue: None,
            in_flight: Arc::default(),
            limits,
            address: ([127, 0, 0, 1], 0).into(),
            admin: ([127, 0, 0, 1], 0).into(),
            tokens: TokenKey::new(KEY).expect("a key"),
            stop: watch::channel(false).0,
            worker: Vec::new(),
        };
        service.open(wrap).await;
        service
    }

    async fn open(&mut self, wrap: impl FnOnce(Arc<dyn Queue>) -> Arc<dyn Queue>) {
        let mut lists = None;
        if self.kind != Kind::Pull {
            self.shards = (0..self.limits.shards)
                .map(|_| TestServer::start_server(&["--appendonly", "yes", "--appendfsync", "always"]))
                .collect();
            let primaries: Vec<String> = self.shards.iter().map(TestServer::address).collect();
            publish_map(self.dir.path(), 1, &primaries);
            lists = Some(self.open_lists().await);
            let queue: Arc<dyn Queue> = match &self.rabbit {
                None => Arc::new(PostgresQueue::new(self.databases.tweets.clone(), Duration::from_secs(4))),
                Some(rabbit) => Arc::new(RabbitQueue::start(rabbit.url(), self.queue_prefix.clone())),
            };
            let with = CountInFlight(self.in_flight.clone());
            self.queue = Some(Arc::new(Intercepted { queue: wrap(queue), with }));
        }
        let memcached = self.memcached.as_ref().map(|memcached| Arc::new(MemcachedClient::new(&[memcached.address()])));
        self.timelines = timelines(&self.databases, lists, memcached, self.limits.pull_grace);
        self.start_worker();
        let app = App { timelines: self.timelines.clone(), tokens: self.tokens.clone(), wake: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        self.address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, api::router(app)).await });
        let operations = Operations {
            name: "timeline-api",
            timelines: self.timelines.clone(),
            queue: self.queue.clone(),
            metrics: telemetry::start_metrics().expect("the recorder"),
            draining: self.stop.subscribe(),
            schema: 2,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        self.admin = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, admin::router(operations)).await });
    }

    pub async fn open_lists(&self) -> Lists {
        let options = ConnectionOptions {
            retry_for: Duration::from_millis(600),
            poll_interval: Duration::from_millis(20),
            ..ConnectionOptions::default()
        };
        let shards =
            ShardConnections::open(self.dir.path().join("shards.toml"), options).await.expect("a connection set");
        Lists::new(shards, self.limits.lists.clone())
    }

    /// Starts what works on events: the worker, or in pull mode the relay alone.
    pub fn start_worker(&mut self) {
        // what an aborted worker had is delivered again
        self.in_flight.store(0, Ordering::Relaxed);
        self.stop = watch::channel(false).0;
        let wake = Arc::new(Notify::new());
        let stop = self.stop.subscribe();
        if let (Some(lists), Some(queue)) = (self.timelines.lists(), &self.queue) {
            let options = self.limits.worker.clone();
            let worker = Worker::new(self.timelines.clone(), lists.clone(), queue.clone(), options, wake);
            self.worker.push(tokio::spawn(async move { worker.run(stop).await }));
            return;
        }
        let options = Arc::new(self.limits.worker.clone());
        for (source, database) in self.databases.outboxes() {
            let (timelines, options, wake) = (self.timelines.clone(), options.clone(), wake.clone());
            self.worker.push(tokio::spawn(relay::apply_events(
                timelines,
                source,
                database,
                options,
                wake,
                stop.clone(),
            )));
        }
    }

    /// Ends the worker gracefully.
    pub async fn stop_worker(&mut self) {
        self.stop.send_replace(true);
        for task in self.worker.drain(..) {
            tokio::time::timeout(Duration::from_secs(30), task).await.expect("the worker ends").expect("no panic");
        }
    }

    /// Aborts the worker in the middle of what it does.
    pub async fn abort_worker(&mut self) {
        for task in self.worker.drain(..) {
            task.abort();
            drop(task.await);
        }
    }

    pub fn token(&self, user: i64) -> String {
        self.tokens.issue(user, Duration::from_secs(3600))
    }

    /// One request as a user, or as nobody.
    pub async fn ask(&self, user: Option<i64>, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let headers = user.map(|user| format!("Authorization: Bearer {}\r\n", self.token(user))).unwrap_or_default();
        self.ask_with(&headers, method, path, body).await
    }

    pub async fn ask_with(&self, headers: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, text) = request(self.address, headers, method, path, &text).await;
        let value = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method} {path}: {error}: {text}"))
        };
        (status, value)
    }

    pub async fn admin(&self, path: &str) -> (u16, String) {
        request(self.admin, "", "GET", path, "").await
    }

    /// Creates users and returns their ids, which grow.
    pub async fn create_users(&self, count: usize) -> Vec<i64> {
        let mut ids = Vec::with_capacity(count);
        for number in 0..count {
            let (status, body) =
                self.ask(Some(0), "POST", "/v1/users", &json!({ "name": format!("user {number}") })).await;
            assert_eq!(status, 201, "{body}");
            ids.push(body["id"].as_i64().expect("an id"));
        }
        ids
    }

    pub async fn follow(&self, follower: i64, followee: i64) {
        let (status, body) =
            self.ask(Some(follower), "PUT", &format!("/v1/users/{followee}/follow"), &Value::Null).await;
        assert_eq!(status, 204, "{body}");
    }

    pub async fn unfollow(&self, follower: i64, followee: i64) {
        let path = format!("/v1/users/{followee}/follow");
        let (status, body) = self.ask(Some(follower), "DELETE", &path, &Value::Null).await;
        assert_eq!(status, 204, "{body}");
    }

    pub async fn post(&self, author: i64, text: &str) -> i64 {
        let (status, body) = self.ask(Some(author), "POST", "/v1/tweets", &json!({ "body": text })).await;
        assert_eq!(status, 201, "{body}");
        body["id"].as_i64().expect("an id")
    }

    pub async fn delete(&self, author: i64, tweet: i64) {
        let (status, body) = self.ask(Some(author), "DELETE", &format!("/v1/tweets/{tweet}"), &Value::Null).await;
        assert_eq!(status, 204, "{body}");
    }

    /// Reads all pages of a timeline and returns the ids.
    pub async fn read_all(&self, user: Option<i64>, path: &str, limit: usize) -> Vec<i64> {
        let mut ids = Vec::new();
        let mut cursor = String::new();
        loop {
            let (status, page) = self.ask(user, "GET", &format!("{path}?limit={limit}{cursor}"), &Value::Null).await;
            assert_eq!(status, 200, "{path}: {page}");
            ids.extend(ids_of(&page));
            match page["next_max_id"].as_i64() {
                Some(next) => cursor = format!("&max_id={next}"),
                None => return ids,
            }
        }
    }

    /// The truth about a home timeline.
    pub async fn home_truth(&self, user: i64) -> Vec<i64> {
        let text = format!("select followee_id from follows where follower_id = {user}");
        let followees: Vec<String> = sql_rows(&self.users_url, &text).await.concat();
        if followees.is_empty() {
            return Vec::new();
        }
        let followees = followees.join(",");
        self.tweet_ids(&format!("author_id in ({followees})")).await
    }

    pub async fn author_truth(&self, author: i64) -> Vec<i64> {
        self.tweet_ids(&format!("author_id = {author}")).await
    }

    pub async fn public_truth(&self) -> Vec<i64> {
        self.tweet_ids("true").await
    }

    async fn tweet_ids(&self, condition: &str) -> Vec<i64> {
        let text = format!("select id from tweets where {condition} and deleted_at is null order by id desc");
        let rows = sql_rows(&self.tweets_url, &text).await;
        rows.concat().iter().map(|id| id.parse().expect("a number")).collect()
    }

    /// Waits until no event and no message is left.
    pub async fn settle(&self) {
        let end = Instant::now() + Duration::from_secs(90);
        // several looks: what one saw in the outbox can be in a queue at the next, or between broker and consumer
        let mut empty = 0;
        while empty < 4 {
            let rest = self.rest().await;
            empty = if rest.is_empty() { empty + 1 } else { 0 };
            assert!(Instant::now() < end, "not settled within 90 s: {rest:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // caches of this process that may be older
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }

    /// What is not done yet, by outbox and queue.
    async fn rest(&self) -> Vec<(String, u64)> {
        let mut rest = Vec::new();
        for url in [&self.users_url, &self.tweets_url] {
            let count = &sql_rows(url, "select count(*) from outbox").await[0][0];
            rest.push(("outbox".to_owned(), count.parse().expect("a number")));
        }
        if let Some(queue) = &self.queue {
            for name in QueueName::ALL {
                if name == QueueName::Dead {
                    continue;
                }
                rest.push((name.as_str().to_owned(), queue.depth(name).await.unwrap_or(u64::MAX)));
            }
        }
        // RabbitMQ does not count what is being handled
        rest.push(("in flight".to_owned(), self.in_flight.load(Ordering::Relaxed).unsigned_abs()));
        rest.retain(|(_, count)| *count > 0);
        rest
    }

    /// What Redis has for a user, and where the first page comes from: for a test that fails.
    pub async fn describe_list(&self, user: i64) -> String {
        let (_, page) = self.ask(Some(user), "GET", "/v1/timelines/home?limit=7", &Value::Null).await;
        let Some(lists) = self.timelines.lists() else { return page["source"].to_string() };
        let shard = lists.shard_of(List::Home(user)).0;
        let mut read = redis::cmd("ZRANGE");
        read.arg(format!("tl:{user}")).arg(0).arg(-1).arg("WITHSCORES");
        let list: Vec<String> = read.query(&mut self.shards[usize::from(shard)].connect_admin()).expect("ZRANGE");
        format!("{} of shard {shard}, {list:?}, again {:?}", page["source"], ids_of(&page))
    }

    /// Compares all counters with the tables.
    pub async fn find_wrong_counters(&self) -> Option<String> {
        let text = "select id, followers_count, following_count, tweets_count, \
                    (select count(*) from follows where followee_id = id), \
                    (select count(*) from follows where follower_id = id) from users order by id";
        let tweets = "select author_id, count(*) from tweets where deleted_at is null group by 1";
        let tweets = sql_rows(&self.tweets_url, tweets).await;
        for row in sql_rows(&self.users_url, text).await {
            let tweets = tweets.iter().find(|tweets| tweets[0] == row[0]).map_or("0", |tweets| &tweets[1]);
            let truth = [row[4].as_str(), &row[5], tweets];
            if row[1..4] != truth {
                return Some(format!("counters of {}: {:?}, not {truth:?}", row[0], &row[1..4]));
            }
        }
        None
    }
}

fn timelines(
    databases: &Databases,
    lists: Option<Lists>,
    memcached: Option<Arc<MemcachedClient>>,
    pull_grace: Duration,
) -> Timelines {
    let cache = Cache::new(databases.clone(), memcached, &CacheOptions::default());
    Timelines::new(databases.clone(), lists, cache, pull_grace)
}

/// The thresholds from which authors are merged on read.
pub fn thresholds(upper: i64, lower: i64) -> PullThresholds {
    PullThresholds { upper, lower }
}
