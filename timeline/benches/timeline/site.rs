//! Servers, the two programs, and a graph of users that is the same in each run.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use timeline::auth::TokenKey;

use crate::{
    http::{ApiCall, Latencies, Pool},
    redis_server::{TestServer, free_port},
    servers::{Memcached, Postgres, Process, Rabbit, publish_map},
};

const KEY: &[u8] = b"a key that only benches know";

/// Which programs serve.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pull,
    Push,
}

/// What was delivered while there was a backlog.
pub struct Deliveries {
    pub count: f64,
    pub per_second: f64,
}

/// The size of a site.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Users who read; ids 1 to this one.
    pub users: i64,
    /// The mean number of followers.
    pub followers: i64,
    pub shards: usize,
}

/// A running site.
pub struct Site {
    sizes: Sizes,
    postgres: Postgres,
    /// `None` where the queue is in Postgres.
    rabbit: Option<Rabbit>,
    memcached: Memcached,
    database: String,
    shards: Vec<TestServer>,
    dir: TempDir,
    tokens: TokenKey,
    api: Pool,
    worker_admin: Pool,
    _programs: Vec<Process>,
}

impl Site {
    pub async fn start(sizes: Sizes) -> Site {
        let postgres = Postgres::start_durable();
        let database = postgres.create_database();
        let dir = TempDir::new().expect("a temporary folder");
        let limits = ["--zset-max-listpack-entries", "1100"];
        let shards: Vec<TestServer> = (0..sizes.shards).map(|_| TestServer::start_server(&limits)).collect();
        publish_map(dir.path(), 1, &shards.iter().map(TestServer::address).collect::<Vec<_>>());
        std::fs::write(dir.path().join("key"), KEY).expect("the folder is writable");
        let mut site = Site {
            sizes,
            postgres,
            rabbit: (std::env::var("TIMELINE_BENCH_QUEUE").as_deref() == Ok("rabbitmq")).then(Rabbit::start),
            memcached: Memcached::start(),
            database,
            shards,
            dir,
            tokens: TokenKey::new(KEY).expect("a key"),
            api: Pool::new(([127, 0, 0, 1], 0).into()),
            worker_admin: Pool::new(([127, 0, 0, 1], 0).into()),
            _programs: Vec::new(),
        };
        let migrated = std::process::Command::new(env!("CARGO_BIN_EXE_timeline-api"))
            .arg("migrate")
            .env("TIMELINE_DATABASE", &site.database)
            .status();
        assert!(migrated.expect("timeline-api runs").success());
        site.make_graph();
        let (api, _) = site.start_program(env!("CARGO_BIN_EXE_timeline-api"), "push").await;
        let (_, worker) = site.start_program(env!("CARGO_BIN_EXE_timeline-worker"), "push").await;
        (site.api, site.worker_admin) = (Pool::new(api), Pool::new(worker));
        site
    }

    /// Followers fall with the author's rank (Zipf), and so do the authors that a user follows.
    fn make_graph(&self) {
        let Sizes { users, followers, .. } = self.sizes;
        let sql = |text: &str| self.postgres.sql(&self.database, text);
        sql(&format!("insert into users (id, name) select n, 'user ' || n from generate_series(1, {users}) n"));
        // the author of rank r has max * r^-0.6 followers, and at least 10
        let max = (users * 2 / 5).min(followers * 20);
        sql(&format!(
            "insert into follows select a, (a::bigint * 7919 + n * 104729) % {users} + 1 from generate_series(1, {users}) a \
             cross join lateral generate_series(1, greatest(10, ({max} * a ^ -0.6)::int)) n \
             where (a::bigint * 7919 + n * 104729) % {users} + 1 <> a on conflict do nothing"
        ));
        sql("update users set followers_count = (select count(*) from follows where followee_id = id)");
        // a history, so that pages are full
        let count = users * 20;
        sql(&format!(
            "insert into tweets (id, author_id, body) select (extract(epoch from now())::bigint * 1000 - 1577836800000 \
             - 86400000 + n::bigint * 100) * 4096, (n::bigint * 7919) % {users} + 1, 'the body of a tweet that is some hundred \
             characters long, as most of them are, number ' || n from generate_series(1, {count}) n"
        ));
        sql("vacuum analyze");
        println!("{} edges, {count} tweets", sql("select count(*) from follows"));
    }

    async fn start_program(&mut self, program: &str, mode: &str) -> (SocketAddr, SocketAddr) {
        let (listen, admin) = (free_port(), free_port());
        let settings = [
            ("TIMELINE_MODE", mode.to_owned()),
            ("TIMELINE_DATABASE", self.database.clone()),
            ("TIMELINE_SHARDS", self.dir.path().join("shards.toml").display().to_string()),
            ("TIMELINE_TOKEN_KEY_FILE", self.dir.path().join("key").display().to_string()),
            ("TIMELINE_LISTEN", format!("127.0.0.1:{listen}")),
            ("TIMELINE_ADMIN_LISTEN", format!("127.0.0.1:{admin}")),
            ("TIMELINE_WORKER_ADMIN_LISTEN", format!("127.0.0.1:{admin}")),
            ("TIMELINE_QUEUE", self.rabbit.as_ref().map_or_else(|| "postgres".to_owned(), Rabbit::url)),
            ("TIMELINE_MEMCACHED", self.memcached.address()),
            ("TIMELINE_LOG", "error".to_owned()),
        ];
        self._programs.push(Process::spawn(program, &[], |command| {
            command.env_clear().envs(settings);
        }));
        let (listen, admin) = (SocketAddr::from(([127, 0, 0, 1], listen)), SocketAddr::from(([127, 0, 0, 1], admin)));
        let call = self.call(1, "GET", "/readyz", "");
        let end = Instant::now() + Duration::from_secs(60);
        while !matches!(Pool::new(admin).send(&call).await, Some((200, _))) {
            assert!(Instant::now() < end, "{program} does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (listen, admin)
    }

    fn call(&self, user: i64, method: &'static str, path: &str, body: &str) -> ApiCall {
        let token = format!("Bearer {}", self.tokens.issue(user, Duration::from_secs(3600)));
        ApiCall { method, path: path.to_owned(), token, body: body.to_owned() }
    }

    fn home(&self, user: i64) -> ApiCall {
        self.call(user, "GET", "/v1/timelines/home?limit=50", "")
    }

    fn post(&self, author: i64, number: usize) -> ApiCall {
        self.call(author, "POST", "/v1/tweets", &format!("{{\"body\":\"bench {number}\"}}"))
    }

    /// A rank between 1 and the number of users: the first ones often, the last ones seldom.
    fn zipf(&self, number: usize) -> i64 {
        let mixed = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
        let uniform = mixed as f64 / (1u64 << 53) as f64;
        ((self.sizes.users as f64).powf(uniform) as i64).clamp(1, self.sizes.users)
    }

    pub async fn read_all_once(&self) -> Latencies {
        let calls = (1..=self.sizes.users).map(|user| self.home(user)).collect();
        self.api.closed_loop(calls, 16).await
    }

    /// Posts tweets of authors with many followers until there are so many deliveries, faster than they can be made; returns
    /// the deliveries per second while there was a backlog.
    pub async fn delivery_rate(&self, deliveries: i64) -> Deliveries {
        let top = "select id, followers_count from users order by followers_count desc limit 100";
        let authors: Vec<(i64, i64)> = self.postgres.sql(&self.database, top).lines().map(pair).collect();
        let (mut calls, mut planned) = (Vec::new(), 0);
        for number in 0.. {
            let (author, followers) = authors[number % authors.len()];
            if planned >= deliveries {
                break;
            }
            planned += followers;
            calls.push(self.post(author, number));
        }
        let before = self.delivered().await;
        let start = Instant::now();
        let posting = self.api.closed_loop(calls, 8);
        let counting = async {
            while self.delivered().await - before < planned as f64 {
                assert!(start.elapsed() < Duration::from_secs(300), "deliveries do not come");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            planned as f64 / start.elapsed().as_secs_f64()
        };
        let (_, per_second) = tokio::join!(posting, counting);
        Deliveries { count: planned as f64, per_second }
    }

    /// Reads and posts at the same time, each at its rate.
    pub async fn steady_load(&self, mode: Mode, time: Duration, reads: f64, posts: f64) -> (Latencies, Latencies) {
        let reading = self.api.open_loop(reads, time, |number| self.home(self.zipf(number)));
        let posting = async {
            match mode {
                Mode::Push => {
                    self.api.open_loop(posts, time, |number| self.post(self.zipf(number * 31 + 7), number)).await
                }
                Mode::Pull => {
                    self.api.open_loop(1.0, time, |number| self.post(self.zipf(number * 31 + 7), number)).await
                }
            }
        };
        tokio::join!(reading, posting)
    }

    /// Gives one author many followers who do not read, and posts as this author.
    pub async fn post_latency_of_large_author(&self, followers: i64, posts: usize) -> Latencies {
        let author = self.sizes.users;
        let first = self.sizes.users + 1;
        let last = self.sizes.users + followers;
        let sql = |text: &str| self.postgres.sql(&self.database, text);
        sql(&format!("insert into users (id, name) select n, 'f' from generate_series({first}, {last}) n"));
        sql(&format!("insert into follows select {author}, n from generate_series({first}, {last}) n"));
        self.api.open_loop(2.0, Duration::from_secs_f64(posts as f64 / 2.0), |number| self.post(author, number)).await
    }

    /// Reads through a second API process in pull mode.
    pub async fn pull_baseline(&mut self, time: Duration, reads: f64) -> Latencies {
        let (api, _) = self.start_program(env!("CARGO_BIN_EXE_timeline-api"), "pull").await;
        self.api = Pool::new(api);
        self.steady_load(Mode::Pull, time, reads, 1.0).await.0
    }

    pub fn redis_bytes(&self) -> i64 {
        self.shards.iter().map(|shard| info(shard, "used_memory:")).sum()
    }

    /// The mean number of entries of the first users' timelines.
    pub fn mean_entries(&self) -> f64 {
        let (mut sum, mut count) = (0, 0);
        for shard in &self.shards {
            let keys: Vec<String> =
                redis::cmd("KEYS").arg("tl:*").query(&mut shard.connect_admin()).unwrap_or_default();
            for key in keys.iter().take(50) {
                sum += redis::cmd("ZCARD").arg(key).query::<i64>(&mut shard.connect_admin()).unwrap_or(0);
                count += 1;
            }
        }
        sum as f64 / f64::from(count.max(1))
    }

    async fn delivered(&self) -> f64 {
        let metrics = self.worker_metrics().await;
        let lines = metrics.lines().filter(|line| line.starts_with("tl_deliveries_total{op=\"add\""));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The cumulative histogram of push lags: upper bound in seconds → count.
    pub async fn push_lag_buckets(&self) -> BTreeMap<u64, f64> {
        let metrics = self.worker_metrics().await;
        let bucket = |line: &str| {
            let rest = line.strip_prefix("tl_push_lag_seconds_bucket{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            let bound: f64 = bound.parse().unwrap_or(f64::MAX);
            Some(((bound * 1e6) as u64, count.parse().ok()?))
        };
        metrics.lines().filter_map(bucket).collect()
    }

    /// The upper bound in ms of the bucket with the 99th percentile since an earlier look.
    pub async fn push_lag_p99(&self, before: &BTreeMap<u64, f64>) -> f64 {
        let now = self.push_lag_buckets().await;
        let since = |bound: &u64, count: &f64| count - before.get(bound).unwrap_or(&0.0);
        let total = now.iter().next_back().map_or(0.0, |(bound, count)| since(bound, count));
        let found = now.iter().find(|(bound, count)| since(bound, count) >= total * 0.99);
        found.map_or(0.0, |(bound, _)| *bound as f64 / 1000.0)
    }

    async fn worker_metrics(&self) -> String {
        let answer = self.worker_admin.send(&self.call(1, "GET", "/metrics", "")).await;
        answer.map(|(_, body)| String::from_utf8_lossy(&body).into_owned()).unwrap_or_default()
    }
}

fn info(shard: &TestServer, field: &str) -> i64 {
    let text: String = redis::cmd("INFO").arg("memory").query(&mut shard.connect_admin()).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok()).unwrap_or(0)
}

fn pair(line: &str) -> (i64, i64) {
    let (first, second) = line.split_once('\t').expect("two columns");
    (first.parse().expect("a number"), second.parse().expect("a number"))
}
