//! Pages are exact, nothing is lost, nothing is doubled: while everything changes, and in whatever order it is
//! delivered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join_all};
use timeline::{
    database::Range,
    lists::{List, ListOptions, Listing},
    queue::{Outgoing, Queue, QueueError, QueueName},
    worker::{WorkerOptions, reconcile, replay},
};

use crate::{
    setup::{Kind, Limits, Service, thresholds},
    support::{Intercept, Intercepted, sql_rows, until},
};

/// A generator of numbers that is the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Publishes each message three times, in random order.
#[derive(Debug, Default)]
struct Chaos(AtomicU64);

impl Intercept for Chaos {
    fn publish<'a>(&'a self, queue: &'a dyn Queue, messages: Vec<Outgoing>) -> BoxFuture<'a, Result<(), QueueError>> {
        let mut random = Random(self.0.fetch_add(1, Ordering::Relaxed) * 2 + 3);
        // plans and their continuations would grow with each step; once is enough for them to be planned three times
        let times = |message: &Outgoing| if message.queue == QueueName::PlanBulk { 1 } else { 3 };
        let mut all: Vec<Outgoing> =
            messages.iter().flat_map(|message| std::iter::repeat_n(message.clone(), times(message))).collect();
        for place in (1..all.len()).rev() {
            all.swap(place, random.below(place + 1));
        }
        queue.publish(all)
    }
}

/// Small limits, so that few users and tweets reach all of them: the cap, several ranges, the bulk lane, merging on
/// read.
pub fn small_limits() -> Limits {
    Limits {
        lists: ListOptions { cap: 20, ..ListOptions::default() },
        worker: WorkerOptions {
            chunk: 3,
            fast_followers: 6,
            thresholds: thresholds(9, 7),
            claim_lease: Duration::from_secs(2),
            ..WorkerOptions::default()
        },
        ..Limits::default()
    }
}

/// Posts, deletes, follows and unfollows at random.
pub async fn change_at_random(service: &Service, users: &[i64], seed: u64, changes: usize) {
    let mut random = Random(seed);
    let mut posted = Vec::new();
    for number in 0..changes {
        let (user, other) = (users[random.below(users.len())], users[random.below(users.len())]);
        match random.below(10) {
            0 | 1 if user != other => service.follow(user, other).await,
            2 if user != other => service.unfollow(user, other).await,
            3 if !posted.is_empty() => {
                let (author, tweet) = posted.swap_remove(random.below(posted.len()));
                service.delete(author, tweet).await;
            }
            _ => posted.push((user, service.post(user, &format!("{seed} {number}")).await)),
        }
    }
}

/// Compares everything with the database. RabbitMQ can report a queue as empty that is not, so what differs is looked
/// at again for a while; an entry that is lost does not come back by itself.
pub async fn check_all(service: &Service, users: &[i64], limit: usize) {
    service.settle().await;
    let end = Instant::now() + Duration::from_secs(30);
    while let Some(difference) = find_difference(service, users, limit).await {
        assert!(Instant::now() < end, "{difference}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn find_difference(service: &Service, users: &[i64], limit: usize) -> Option<String> {
    for user in users {
        let home = service.read_all(Some(*user), "/v1/timelines/home", limit).await;
        let truth = service.home_truth(*user).await;
        if home != truth {
            let list = service.describe_list(*user).await;
            return Some(format!("home of {user}: {home:?}\nnot {truth:?}\n{list}"));
        }
        let tweets = service.read_all(None, &format!("/v1/users/{user}/tweets"), limit).await;
        let truth = service.author_truth(*user).await;
        if tweets != truth {
            return Some(format!("tweets of {user}: {tweets:?}\nnot {truth:?}"));
        }
    }
    let public = service.read_all(None, "/v1/timelines/public", limit).await;
    let truth = service.public_truth().await;
    if public != truth {
        return Some(format!("public: {public:?}\nnot {truth:?}"));
    }
    service.find_wrong_counters().await
}

/// Adds tweets whose ids have the same millisecond, each with its event, and returns their ids, the newest first.
async fn post_in_one_millisecond(service: &Service, author: i64, count: usize) -> Vec<i64> {
    let text = format!(
        "with base as (select next_id() / 4096 * 4096 - 4096 as id), \
         tweet as (insert into tweets (id, author_id, body) select base.id + n, {author}, 'same' \
         from base, generate_series(1, {count}) n returning id), \
         event as (insert into outbox (kind, payload) select 'tweet_added', \
         json_build_object('tweet_id', id, 'author_id', {author}, 'request_id', 'same')::text from tweet) \
         select id from tweet order by id desc"
    );
    let ids: Vec<i64> =
        sql_rows(&service.tweets_url, &text).await.concat().iter().map(|id| id.parse().expect("a number")).collect();
    assert_eq!((ids.len(), ids[0] >> 12), (count, ids[count - 1] >> 12));
    ids
}

/// Reads pages while everything changes: ids must fall, and of the tweets that do not change each is there.
async fn page_until(service: &Service, user: i64, unchanged: &[i64], stop: &AtomicBool) -> usize {
    let mut pages = 0;
    while !stop.load(Ordering::Relaxed) {
        let ids = service.read_all(Some(user), "/v1/timelines/home", 7).await;
        assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{ids:?}");
        let found: Vec<i64> = ids.iter().copied().filter(|id| unchanged.contains(id)).collect();
        assert_eq!(found, unchanged, "of {ids:?}");
        pages += 1;
    }
    pages
}

async fn random_changes(kind: Kind, wrap: impl FnOnce(Arc<dyn Queue>) -> Arc<dyn Queue>) {
    let mut service = Service::start_with(kind, small_limits(), wrap).await;
    let users = service.create_users(12).await;
    // the first author passes the threshold at once
    for user in &users[1..] {
        service.follow(*user, users[0]).await;
    }
    // more than a list holds, of an author who does nothing else
    let quiet = service.create_users(1).await[0];
    service.follow(users[3], quiet).await;
    let unchanged = post_in_one_millisecond(&service, quiet, 25).await;
    // warm timelines, so that pushes count
    for user in &users {
        service.read_all(Some(*user), "/v1/timelines/home", 7).await;
    }
    let stop = AtomicBool::new(false);
    let changes = async {
        join_all((1..=3).map(|seed| change_at_random(&service, &users, seed * 7919, 70))).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (pages, ()) = tokio::join!(page_until(&service, users[3], &unchanged, &stop), changes);
    assert!(pages > 0);
    check_all(&service, &users, 7).await;
    if kind == Kind::Pull {
        return;
    }
    // the worker ends in the middle of what it does, and events are committed while there is none
    change_at_random(&service, &users, 104_729, 30).await;
    service.abort_worker().await;
    change_at_random(&service, &users, 1_299_709, 20).await;
    service.start_worker();
    check_all(&service, &users, 7).await;
    // the first author falls below the threshold, and is pushed again
    for user in &users[1..=6] {
        service.unfollow(*user, users[0]).await;
    }
    service.settle().await;
    tokio::time::sleep(service.limits.pull_grace).await;
    let summary =
        reconcile::reconcile(&service.timelines, service.queue.as_deref(), true).await.expect("the databases answer");
    assert_eq!((summary.wrong_counters, summary.missing), (0, 0), "{summary:?}");
    change_at_random(&service, &users, 15_485_863, 20).await;
    check_all(&service, &users, 7).await;
    service.stop_worker().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_exact_in_pull_mode() {
    random_changes(Kind::Pull, |queue| queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_exact_with_each_message_three_times_in_random_order() {
    random_changes(Kind::PushPostgres, |queue| Arc::new(Intercepted { queue, with: Chaos::default() })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_exact_with_rabbitmq_and_each_message_three_times() {
    random_changes(Kind::PushRabbit, |queue| Arc::new(Intercepted { queue, with: Chaos::default() })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_go_on_below_a_full_timeline() {
    let service = Service::start(Kind::PushRabbit).await;
    let users = service.create_users(3).await;
    for author in &users[1..] {
        service.follow(users[0], *author).await;
    }
    assert!(service.read_all(Some(users[0]), "/v1/timelines/home", 50).await.is_empty());
    service.settle().await;
    // pushed into a list that is there, until it is full
    let cap = service.limits.lists.cap;
    for author in &users[1..] {
        post_in_one_millisecond(&service, *author, cap * 3 / 5).await;
    }
    check_all(&service, &users, 97).await;
    let lists = service.timelines.lists().expect("push mode");
    let listing = lists.read(List::Home(users[0]), Range::newest(cap * 2)).await.expect("the shard answers");
    let Listing::Entries { floor, ids } = listing else { panic!("{listing:?}") };
    assert!(floor > 0 && ids.len() == cap, "{} entries above {floor}", ids.len());
    // the same after it was built from the database
    lists.forget(&[List::Home(users[0])]).await.expect("the shard answers");
    let home = service.read_all(Some(users[0]), "/v1/timelines/home", 97).await;
    assert_eq!((home.len(), &home), (cap * 6 / 5, &service.home_truth(users[0]).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_timeline_is_built_once_for_five_thousand_readers() {
    // a busy machine must not look like a shard that does not answer
    let lists = ListOptions { call_timeout: Duration::from_secs(30), ..ListOptions::default() };
    let limits = Limits { lists, ..Limits::default() };
    let service = Service::start_with(Kind::PushPostgres, limits, |queue| queue).await;
    let users = service.create_users(3).await;
    let (reader, author) = (users[0], users[1]);
    service.follow(reader, author).await;
    for number in 0..30 {
        service.post(author, &format!("before {number}")).await;
    }
    service.settle().await;
    let shard = usize::from(service.timelines.lists().expect("push mode").shard_of(List::Home(reader)).0);
    let server = &service.shards[shard];
    server.run_admin(&["CONFIG", "SET", "slowlog-max-len", "100000", "slowlog-log-slower-than", "0"]);
    // as the programs do before they listen
    service.databases.open_connections().await.expect("the databases answer");
    let reads = (0..5000).map(|_| {
        let timelines = service.timelines.clone();
        tokio::spawn(async move { timelines.home_page(reader, Range::newest(200)).await })
    });
    let reads: Vec<_> = reads.collect();
    let posts = async {
        for number in 0..50 {
            service.post(author, &format!("during {number}")).await;
        }
    };
    let (pages, ()) = tokio::join!(join_all(reads), posts);
    for page in pages {
        let page = page.expect("no panic").expect("the databases answer");
        assert!(page.tweets.len() >= 30, "a page has {} tweets", page.tweets.len());
    }
    service.settle().await;
    let home = service.read_all(Some(reader), "/v1/timelines/home", 200).await;
    assert_eq!((home.len(), &home), (80, &service.home_truth(reader).await));
    let key = format!("tl:{reader}");
    let calls: Vec<redis::Value> =
        redis::cmd("SLOWLOG").arg("GET").arg(-1).query(&mut server.connect_admin()).expect("SLOWLOG");
    let of_key: Vec<String> = calls.iter().map(|call| format!("{call:?}")).filter(|call| call.contains(&key)).collect();
    let count = |function: &str| of_key.iter().filter(|call| call.contains(function)).count();
    let (begun, committed) = (count("tl_v2_rebuild_begin"), count("tl_v2_rebuild_commit"));
    // on a busy machine the reply to the first can come too late; without coalescing each reader would begin one
    assert!((1..=3).contains(&begun) && committed == 1, "{begun} rebuilds begun, {committed} committed");
    let count: usize = redis::cmd("ZCARD").arg(key).query(&mut server.connect_admin()).expect("ZCARD");
    assert_eq!(count, 81, "80 tweets and the floor");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_replayed() {
    let mut service = Service::start(Kind::PushPostgres).await;
    let users = service.create_users(2).await;
    service.follow(users[0], users[1]).await;
    assert!(service.read_all(Some(users[0]), "/v1/timelines/home", 5).await.is_empty());
    service.settle().await;
    service.stop_worker().await;
    // a message that is delivered again and again without an end is set aside
    let tweet = service.post(users[1], "late").await;
    let queue = service.queue.clone().expect("push mode");
    queue.publish(vec![Outgoing { queue: QueueName::Counter, payload: "{".to_owned() }]).await.expect("a queue");
    service.start_worker();
    until("the unreadable message is set aside", async || queue.depth(QueueName::Dead).await.expect("a queue") == 1)
        .await;
    service.settle().await;
    assert_eq!(service.read_all(Some(users[0]), "/v1/timelines/home", 5).await, [tweet]);
    let sql = |text: &str| service.postgres.sql(&service.tweets_url, text);
    let payload = format!(
        "{{\"request_id\":\"r\",\"committed_ms\":1,\"task\":\"plan\",\"action\":\"add\",\"tweet_id\":{tweet},\"author_id\":{},\"after\":0}}",
        users[1]
    );
    sql(&format!("insert into queue (queue, payload, attempts) values ('plan', '{payload}', 20)"));
    until("poison is set aside", async || queue.depth(QueueName::Dead).await.expect("a queue") == 2).await;
    let summary = replay::replay(queue.as_ref(), 100).await.expect("a queue");
    assert_eq!((summary.replayed, summary.unreadable), (1, 1));
    service.settle().await;
    assert_eq!(sql("select count(*) from queue where queue <> 'dead'"), "0");
    assert_eq!(service.read_all(Some(users[0]), "/v1/timelines/home", 5).await, [tweet]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_overtakes_its_tweet_wins() {
    let mut service = Service::start(Kind::PushPostgres).await;
    let users = service.create_users(2).await;
    service.follow(users[0], users[1]).await;
    assert!(service.read_all(Some(users[0]), "/v1/timelines/home", 5).await.is_empty());
    assert!(service.read_all(None, &format!("/v1/users/{}/tweets", users[1]), 5).await.is_empty());
    service.settle().await;
    service.stop_worker().await;
    let (kept, deleted) = (service.post(users[1], "kept").await, service.post(users[1], "deleted").await);
    service.delete(users[1], deleted).await;
    let sql = |text: &str| service.postgres.sql(&service.tweets_url, text);
    let of_tweet = format!("kind = 'tweet_added' and (payload::json->>'tweet_id')::bigint = {deleted}");
    sql(&format!("create table late as select * from outbox where {of_tweet}; delete from outbox where {of_tweet}"));
    assert_eq!(sql("select count(*) from outbox"), "2");
    service.start_worker();
    service.settle().await;
    service.postgres.sql(&service.tweets_url, "insert into outbox select * from late");
    service.settle().await;
    for list in [List::Home(users[0]), List::Author(users[1])] {
        let range = Range::newest(10);
        let listing = service.timelines.lists().expect("push mode").read(list, range).await.expect("the shard answers");
        assert_eq!(listing, Listing::Entries { floor: 0, ids: vec![kept] }, "{list:?}");
    }
    assert_eq!(service.find_wrong_counters().await, None);
    service.stop_worker().await;
}
