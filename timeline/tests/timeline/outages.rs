//! Servers that freeze, are killed, and lose their data: the service goes on without them, and nothing is lost.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use timeline::{database::Range, lists::List, worker::reconcile};

use crate::{
    pages::{change_at_random, check_all, small_limits},
    setup::{Kind, Limits, Service},
    support::{ids_of, until},
};

const FROZEN_FOR: Duration = Duration::from_secs(30);
/// Number of tweets that are posted while a shard is frozen.
const POSTS: u32 = 150;
/// Number of those that are posted before, at the same rate.
const POSTS_BEFORE: u32 = 50;

/// Posts a number of tweets evenly over a time; returns each with the moment before its request.
async fn post_evenly(service: &Service, author: i64, count: u32, time: Duration) -> Vec<(i64, Instant)> {
    let mut posted = Vec::new();
    for number in 0..count {
        let start = Instant::now();
        posted.push((service.post(author, &format!("tweet {number}")).await, start));
        if number % 10 == 0 {
            let (status, body) = service.admin("/readyz").await;
            assert_eq!(status, 200, "{body}");
        }
        tokio::time::sleep((time / count).saturating_sub(start.elapsed())).await;
    }
    posted
}

/// Returns how often the database has looked for the newest tweets of an author.
fn count_author_scans(service: &Service) -> u64 {
    let query = "select idx_scan from pg_stat_user_indexes where indexrelname = 'tweets_author'";
    service.postgres.sql(&service.tweets_url, query).parse().expect("a number")
}

/// Notes when tweets arrive in timelines, by reading these in Redis again and again.
struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<BTreeMap<i64, Instant>>>,
}

impl Watch {
    fn start(service: &Service, users: &[i64]) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let lists = service.timelines.lists().expect("push mode");
        let watch = |user: &i64| {
            let shard = usize::from(lists.shard_of(List::Home(*user)).0);
            let (mut connection, stop, user) = (service.shards[shard].connect_admin(), stop.clone(), *user);
            std::thread::spawn(move || {
                let mut seen = BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    let mut read = redis::cmd("ZRANGE");
                    let newest: Vec<String> =
                        read.arg(format!("tl:{user}")).arg(0).arg(20).query(&mut connection).expect("ZRANGE");
                    for id in newest.iter().filter_map(|id| id.parse().ok()) {
                        seen.entry(id).or_insert_with(Instant::now);
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                seen
            })
        };
        Watch { threads: users.iter().map(watch).collect(), stop }
    }

    /// Returns the time from the request of each tweet to its arrival in each timeline, the shortest first.
    async fn finish(self, posted: &[(i64, Instant)]) -> Vec<Duration> {
        // those that are not there by then have not arrived in time
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.stop.store(true, Ordering::Relaxed);
        let mut lags = Vec::new();
        for thread in self.threads {
            let seen = thread.join().expect("no panic");
            lags.extend(posted.iter().map(|(id, start)| seen.get(id).map_or(Duration::MAX, |moment| *moment - *start)));
        }
        lags.sort_unstable();
        lags
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_frozen_shard_does_not_hold_up_the_others() {
    let limits = Limits { shards: 64, ..Limits::default() };
    let service = Service::start_with(Kind::PushPostgres, limits, |queue| queue).await;
    let lists = service.timelines.lists().expect("push mode").clone();
    let author = service.create_users(1).await[0];
    let readers = service.create_users(128).await;
    for reader in &readers {
        service.follow(*reader, author).await;
        assert!(service.read_all(Some(*reader), "/v1/timelines/home", 50).await.is_empty());
    }
    service.settle().await;
    let frozen = lists.shard_of(List::Home(readers[0]));
    let is_frozen = |reader: i64| lists.shard_of(List::Home(reader)) == frozen;
    let others: Vec<i64> = readers.iter().copied().filter(|reader| !is_frozen(*reader)).take(8).collect();
    let pid: String = redis::cmd("INFO")
        .arg("server")
        .query(&mut service.shards[usize::from(frozen.0)].connect_admin())
        .expect("INFO");
    let pid = pid.lines().find_map(|line| line.strip_prefix("process_id:")).expect("an id").trim().to_owned();
    let signal = |name: &str| {
        assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs").success())
    };
    let watch = Watch::start(&service, &others);
    let before = post_evenly(&service, author, POSTS_BEFORE, FROZEN_FOR / 3).await;
    let before = watch.finish(&before).await;
    signal("STOP");
    let scans = count_author_scans(&service);
    let reads: Vec<_> = (0..1000)
        .map(|_| {
            let (timelines, reader) = (service.timelines.clone(), readers[0]);
            tokio::spawn(async move { timelines.home_page(reader, Range::newest(40)).await })
        })
        .collect();
    let watch = Watch::start(&service, &others);
    let posted = post_evenly(&service, author, POSTS, FROZEN_FOR).await;
    let lags = watch.finish(&posted).await;
    let p99 = |lags: &[Duration]| lags[lags.len() * 99 / 100];
    let (before, beside) = (p99(&before), p99(&lags));
    println!("push lag p99 {before:?}, beside a frozen shard {beside:?}, max {:?}", lags[lags.len() - 1]);
    // a delivery that waits for the frozen shard comes when that one goes on; other programs run on this machine, so
    // that the figure itself is printed and not a limit
    assert!(beside < before + FROZEN_FOR / 4, "push lag p99 {beside:?}, before {before:?}");
    for read in reads {
        let page = read.await.expect("no panic").expect("the database answers");
        assert_eq!(page.tweets.len(), 40);
    }
    let scans = count_author_scans(&service) - scans;
    assert!(scans < 400, "1000 readers of one timeline on the frozen shard: {scans} scans");
    // who reads a timeline on the frozen shard reads the database
    let (status, page) = service.ask(Some(readers[0]), "GET", "/v1/timelines/home?limit=50", &Value::Null).await;
    assert_eq!((status, ids_of(&page).len(), &page["source"]), (200, 50, &json!("db")));
    let gauge = format!("tl_parked_messages{{shard=\"{}\"}} ", frozen.0);
    let metrics = timeline::telemetry::start_metrics().expect("the recorder of this process");
    until("the parked deliveries are counted", async || {
        let text = metrics.render();
        text.lines()
            .filter_map(|line| line.strip_prefix(&gauge))
            .any(|count| count.parse().is_ok_and(|count: f64| count > 0.0))
    })
    .await;
    signal("CONT");
    service.settle().await;
    for reader in &readers {
        assert_eq!(service.read_all(Some(*reader), "/v1/timelines/home", 50).await, service.home_truth(*reader).await);
        let key = format!("tl:{reader}");
        let shard = usize::from(lists.shard_of(List::Home(*reader)).0);
        let count: u32 = redis::cmd("ZCARD").arg(key).query(&mut service.shards[shard].connect_admin()).expect("ZCARD");
        assert_eq!(count, POSTS_BEFORE + POSTS + 1, "the parked deliveries of {reader} are there");
    }

    // a flushed shard heals when it is read, and a rebuild warms the rest
    service.shards[usize::from(frozen.0)].run_admin(&["FLUSHALL"]);
    assert_eq!(
        service.read_all(Some(readers[0]), "/v1/timelines/home", 50).await,
        service.home_truth(readers[0]).await
    );
    let rebuilt = reconcile::rebuild_shard(&service.timelines, frozen.0, 1000.0).await.expect("the databases answer");
    assert!(rebuilt >= readers.iter().filter(|reader| is_frozen(**reader)).count() as u64);
    for reader in &readers {
        assert_eq!(service.read_all(Some(*reader), "/v1/timelines/home", 50).await, service.home_truth(*reader).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_of_servers_lose_nothing() {
    let mut service = Service::start_alone(Kind::PushRabbit, small_limits()).await;
    let users = service.create_users(6).await;
    for pair in users.windows(2) {
        service.follow(pair[0], pair[1]).await;
        service.follow(pair[1], users[0]).await;
    }
    for user in &users {
        service.read_all(Some(*user), "/v1/timelines/home", 7).await;
    }
    if let Some(memcached) = service.memcached.as_mut() {
        memcached.kill();
    }
    change_at_random(&service, &users, 31, 20).await;
    // the queue is down: posts go on. Not before its queues exist: one that is being created when RabbitMQ is killed
    // never gets a leader (3.10; docs/runbooks/queue-deep.md)
    service.settle().await;
    change_at_random(&service, &users, 36, 20).await;
    let rabbit = service.rabbit.clone().expect("RabbitMQ");
    rabbit.kill();
    // for a minute
    for seed in 500..520 {
        change_at_random(&service, &users, seed, 2).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    tokio::task::spawn_blocking(move || rabbit.run()).await.expect("RabbitMQ starts");
    change_at_random(&service, &users, 41, 20).await;
    // a shard is killed and comes back with what was acknowledged
    service.shards[0].kill_server();
    change_at_random(&service, &users, 43, 20).await;
    service.shards[0].restart_server();
    change_at_random(&service, &users, 47, 10).await;
    // a database is killed: requests fail meanwhile, and what was acknowledged stays
    let postgres = service.postgres.clone();
    let restart = tokio::task::spawn_blocking(move || postgres.kill_and_restart());
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        let key = format!("Authorization: Bearer {}\r\nIdempotency-Key: outage-{number}\r\n", service.token(users[1]));
        let body = json!({ "body": format!("outage {number}") });
        for _ in 0..600 {
            let (status, tweet) = service.ask_with(&key, "POST", "/v1/tweets", &body).await;
            if status == 201 {
                acknowledged.push(tweet["id"].as_i64().expect("an id"));
                break;
            }
            assert!(status == 503 || status == 401, "{status}: {tweet}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    restart.await.expect("Postgres starts");
    assert_eq!(acknowledged.len(), 20);
    check_all(&service, &users, 7).await;
    let tweets = service.author_truth(users[1]).await;
    assert!(acknowledged.iter().all(|id| tweets.contains(id)));
    let outages = tweets.iter().filter(|id| acknowledged.contains(id)).count();
    assert_eq!(outages, 20, "each key has one tweet");
    service.stop_worker().await;
}
