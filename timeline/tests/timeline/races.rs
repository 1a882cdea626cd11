//! What falls between two looks of the worker: unfollows during rebuilds and merges, events during a reconciliation,
//! queues without room.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use timeline::{
    database::Range,
    lists::{List, Listing},
    queue::{Delivery, Outgoing, Queue, QueueError, QueueName},
    timelines::RebuildReason,
    worker::reconcile,
};

use crate::{
    pages::{check_all, small_limits},
    redis_server::TestServer,
    setup::{Kind, Service},
    support::{Intercept, Intercepted, sql_rows, until},
};

/// What a [`Valve`] does, and what it has seen.
#[derive(Debug, Default)]
struct Switches {
    /// The bulk lane is reported as deep.
    is_deep: AtomicBool,
    /// Number of times that its depth was asked for meanwhile.
    looks: AtomicU64,
    /// The queue of bulk plans has no room.
    is_full: AtomicBool,
    /// Number of messages that it has refused.
    refused: AtomicU64,
    /// Messages of these queues are not delivered.
    closed: Mutex<BTreeSet<QueueName>>,
    /// The queue of each message that was published.
    published: Mutex<Vec<QueueName>>,
}

impl Switches {
    fn count_published(&self, queue: QueueName) -> usize {
        self.published.lock().expect("no panic").iter().filter(|name| **name == queue).count()
    }
}

#[derive(Debug)]
struct Valve(Arc<Switches>);

impl Intercept for Valve {
    fn publish<'a>(&'a self, queue: &'a dyn Queue, messages: Vec<Outgoing>) -> BoxFuture<'a, Result<(), QueueError>> {
        let is_full = self.0.is_full.load(Ordering::Relaxed);
        let (refused, stored): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| is_full && message.queue == QueueName::PlanBulk);
        Box::pin(async move {
            let names: Vec<QueueName> = stored.iter().map(|message| message.queue).collect();
            queue.publish(stored).await?;
            self.0.published.lock().expect("no panic").extend(names);
            self.0.refused.fetch_add(refused.len() as u64, Ordering::Relaxed);
            // as RabbitMQ: the others are stored
            if refused.is_empty() { Ok(()) } else { Err(QueueError::Full) }
        })
    }

    fn receive<'a>(
        &'a self,
        queue: &'a dyn Queue,
        name: QueueName,
        max: usize,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Vec<Delivery>, QueueError>> {
        Box::pin(async move {
            if self.0.closed.lock().expect("no panic").contains(&name) {
                tokio::time::sleep(wait.min(Duration::from_millis(50))).await;
                return Ok(Vec::new());
            }
            queue.receive(name, max, wait).await
        })
    }

    fn depth<'a>(&'a self, queue: &'a dyn Queue, name: QueueName) -> BoxFuture<'a, Result<u64, QueueError>> {
        if name == QueueName::Bulk && self.0.is_deep.load(Ordering::Relaxed) {
            self.0.looks.fetch_add(1, Ordering::Relaxed);
            return Box::pin(async { Ok(1_000_000) });
        }
        queue.depth(name)
    }
}

async fn start_with_valve() -> (Service, Arc<Switches>) {
    let switches = Arc::new(Switches::default());
    let with = Valve(switches.clone());
    let wrap = |queue| -> Arc<dyn Queue> { Arc::new(Intercepted { queue, with }) };
    (Service::start_with(Kind::PushPostgres, small_limits(), wrap).await, switches)
}

/// Starts a service with nine users: the others follow the first, who has more followers than fit into the fast lane, and
/// the second one follows the third as well. Their timelines are in Redis.
async fn start_with_bulk_author() -> (Service, Arc<Switches>, Vec<i64>) {
    let (service, switches) = start_with_valve().await;
    let users = service.create_users(9).await;
    for reader in &users[1..] {
        service.follow(*reader, users[0]).await;
        service.read_all(Some(*reader), "/v1/timelines/home", 5).await;
    }
    service.follow(users[1], users[2]).await;
    service.settle().await;
    (service, switches, users)
}

fn server_of(service: &Service, user: i64) -> &TestServer {
    let shard = service.timelines.lists().expect("push mode").shard_of(List::Home(user));
    &service.shards[usize::from(shard.0)]
}

async fn listed(service: &Service, user: i64) -> Vec<i64> {
    let lists = service.timelines.lists().expect("push mode");
    match lists.read(List::Home(user), Range::newest(100)).await.expect("the shard answers") {
        Listing::Entries { ids, .. } => ids,
        listing => panic!("{listing:?}"),
    }
}

fn has_member(server: &TestServer, user: i64, member: &str) -> bool {
    let mut score = redis::cmd("ZSCORE");
    let score: Option<f64> =
        score.arg(format!("tl:{user}")).arg(member).query(&mut server.connect_admin()).expect("ZSCORE");
    score.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_leaves_out_an_author_who_is_unfollowed_meanwhile() {
    let service = Service::start(Kind::PushPostgres).await;
    let users = service.create_users(2).await;
    let (reader, author) = (users[0], users[1]);
    service.follow(reader, author).await;
    let before = service.post(author, "before the unfollow").await;
    service.settle().await;

    // the rebuild has read the followees, and waits for the flags
    let (client, connection) =
        tokio_postgres::connect(&service.users_url, tokio_postgres::NoTls).await.expect("Postgres accepts");
    let driver = tokio::spawn(connection);
    client.batch_execute("begin; lock table user_flags in access exclusive mode").await.expect("a lock");
    let timelines = service.timelines.clone();
    let rebuild = tokio::spawn(async move { timelines.rebuild(List::Home(reader), RebuildReason::Cold).await });
    until("the rebuild waits", async || {
        let waiting = "select 1 from pg_locks where not granted and relation = 'user_flags'::regclass";
        !sql_rows(&service.users_url, waiting).await.is_empty()
    })
    .await;
    // the worker handles the unfollow, then there is one more tweet
    service.unfollow(reader, author).await;
    until("the unfollow is handled", async || has_member(server_of(&service, reader), reader, &format!("x{before}")))
        .await;
    service.post(author, "after the unfollow").await;
    client.batch_execute("rollback").await.expect("the lock ends");
    drop(client);
    drop(driver.await);

    rebuild.await.expect("no panic").expect("the database answers");
    service.settle().await;
    assert_eq!(listed(&service, reader).await, [0_i64; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconcile_does_not_put_back_what_an_unfollow_removed() {
    let service = Service::start(Kind::PushPostgres).await;
    let author = service.create_users(1).await[0];
    let mut readers = service.create_users(20).await;
    let paused = readers.remove(0);
    let shard_of = |user| service.timelines.lists().expect("push mode").shard_of(List::Home(user));
    let other = *readers.iter().find(|reader| shard_of(**reader) != shard_of(paused)).expect("several shards");
    for reader in [paused, other] {
        service.follow(reader, author).await;
        assert!(service.read_all(Some(reader), "/v1/timelines/home", 5).await.is_empty());
    }
    let tweet = service.post(author, "pushed").await;
    service.settle().await;
    assert_eq!(listed(&service, other).await, [tweet]);
    // the author's tweets are pushed again; and a counter is wrong, so that there is a pause before the merge
    let flag = "insert into user_flags (user_id, pull_author, changed_at) values ($, false, now() - interval '1 hour')";
    service.postgres.sql(&service.users_url, &flag.replace('$', &author.to_string()));
    service.postgres.sql(&service.users_url, &format!("update users set tweets_count = 7 where id = {paused}"));
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let server = server_of(&service, paused);
    let calls = || {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut server.connect_admin()).expect("INFO");
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_fcall:calls=")).map(str::to_owned);
        calls.map_or(0, |calls| calls.split(',').next().and_then(|calls| calls.parse().ok()).unwrap_or(0_usize))
    };
    let checked = 1 + readers.iter().chain([&author]).filter(|user| shard_of(**user) == shard_of(paused)).count();
    let before = calls();
    let (timelines, queue) = (service.timelines.clone(), service.queue.clone());
    let run = tokio::spawn(async move { reconcile::reconcile(&timelines, queue.as_deref(), true).await });
    until("the timelines are checked", async || calls() >= before + checked).await;
    server.run_admin(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    until("the merge into the first timeline waits", async || {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut server.connect_admin()).expect("CLIENT LIST");
        clients.lines().any(|line| line.contains(" flags=b ") && line.contains(" cmd=fcall"))
    })
    .await;
    service.unfollow(other, author).await;
    let list = server_of(&service, other);
    until("the unfollow is handled", async || !has_member(list, other, &tweet.to_string())).await;
    server.run_admin(&["CLIENT", "UNPAUSE"]);
    run.await.expect("no panic").expect("the databases answer");
    service.settle().await;
    assert_eq!(listed(&service, other).await, [0_i64; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planning_stops_while_the_bulk_lane_is_deep() {
    let (service, switches, users) = start_with_bulk_author().await;
    switches.is_deep.store(true, Ordering::Relaxed);
    let bulk = switches.count_published(QueueName::Bulk);
    service.post(users[0], "to more than fit into the fast lane").await;
    let small = service.post(users[2], "fast").await;
    until("the depth is looked at again and again", async || switches.looks.load(Ordering::Relaxed) > 40).await;
    assert_eq!(switches.count_published(QueueName::Bulk) - bulk, 0);
    assert_eq!(listed(&service, users[1]).await, [small], "the fast lane goes on");
    switches.is_deep.store(false, Ordering::Relaxed);
    check_all(&service, &users, 7).await;
    assert!(switches.count_published(QueueName::Bulk) > bulk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_of_bulk_plans_does_not_hold_up_the_fast_lane() {
    let (mut service, switches, users) = start_with_bulk_author().await;
    service.stop_worker().await;
    switches.is_full.store(true, Ordering::Relaxed);
    let fast = switches.count_published(QueueName::Fast);
    service.post(users[0], "to more than fit into the fast lane").await;
    let small = service.post(users[2], "fast").await;
    // both are in one batch
    service.start_worker();
    until("the plan is refused again and again", async || switches.refused.load(Ordering::Relaxed) > 3).await;
    assert_eq!(switches.count_published(QueueName::Fast) - fast, 1, "the fast delivery is published once");
    assert_eq!(listed(&service, users[1]).await, [small]);
    switches.is_full.store(false, Ordering::Relaxed);
    check_all(&service, &users, 7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_was_parked_between_two_steps_goes_on() {
    let (service, switches) = start_with_valve().await;
    let users = service.create_users(9).await;
    for reader in &users[1..] {
        service.follow(*reader, users[0]).await;
    }
    let tweet = service.post(users[0], "to more than fit into the fast lane").await;
    service.settle().await;
    let queue = service.queue.clone().expect("push mode");
    let bulk = switches.count_published(QueueName::Bulk);
    let payload = format!(
        "{{\"request_id\":\"r\",\"committed_ms\":1,\"task\":\"plan\",\"action\":\"add\",\"tweet_id\":{tweet},\
         \"author_id\":{},\"after\":{}}}",
        users[0], users[4]
    );
    queue.publish(vec![Outgoing { queue: QueueName::Parked, payload }]).await.expect("a queue");
    until("it is planned", async || switches.count_published(QueueName::Bulk) > bulk).await;
    service.settle().await;
    // four followers are left, three in a range
    assert_eq!(switches.count_published(QueueName::Bulk) - bulk, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconcile_leaves_counters_alone_while_events_wait() {
    let (mut service, switches) = start_with_valve().await;
    let user = service.create_users(1).await[0];
    let queue = service.queue.clone().expect("push mode");
    service.settle().await;
    let run = async |service: &Service| {
        let summary = reconcile::reconcile(&service.timelines, Some(queue.as_ref()), true).await;
        summary.expect("the databases answer")
    };
    // not while the worker runs: it may be waiting for a message already
    service.stop_worker().await;
    switches.closed.lock().expect("no panic").insert(QueueName::Counter);
    service.start_worker();
    service.post(user, "its event waits in the queue").await;
    until("it is published", async || queue.depth(QueueName::Counter).await.expect("it answers") == 1).await;
    let summary = run(&service).await;
    assert_eq!((summary.wrong_counters, summary.counters_are_late, summary.fixed), (1, true, 0));
    switches.closed.lock().expect("no panic").clear();
    service.settle().await;
    assert_eq!(service.find_wrong_counters().await, None);

    service.stop_worker().await;
    service.post(user, "its event waits in the outbox").await;
    let summary = run(&service).await;
    assert_eq!((summary.wrong_counters, summary.counters_are_late, summary.fixed), (1, true, 0));
    service.start_worker();
    service.settle().await;
    assert_eq!(service.find_wrong_counters().await, None);

    service.postgres.sql(&service.users_url, &format!("update users set tweets_count = 9 where id = {user}"));
    let summary = run(&service).await;
    assert_eq!((summary.wrong_counters, summary.counters_are_late, summary.fixed), (1, false, 1));
    assert_eq!(service.find_wrong_counters().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_database_refuses_does_not_hold_up_its_batch() {
    let mut service = Service::start(Kind::PushPostgres).await;
    let users = service.create_users(3).await;
    for user in &users {
        service.post(*user, "first").await;
    }
    service.settle().await;
    service.stop_worker().await;
    // more than a counter can hold, in the middle of a batch
    let queue = service.queue.clone().expect("push mode");
    let count = |event: i64, user: i64, tweets: i64| Outgoing {
        queue: QueueName::Counter,
        payload: format!(
            "{{\"request_id\":\"r\",\"committed_ms\":1,\"task\":\"count\",\"event\":{event},\"source\":0,\
             \"changes\":[[{user},0,0,{tweets}]]}}"
        ),
    };
    let counts = [(1, users[1], 1), (2, users[1], -1), (3, users[0], i64::MAX), (4, users[1], 2), (5, users[1], -2)];
    let counts = counts.map(|(event, user, tweets)| count(event, user, tweets));
    queue.publish(counts.into()).await.expect("a queue");
    service.start_worker();
    service.post(users[2], "second").await;
    service.settle().await;
    assert_eq!(queue.depth(QueueName::Dead).await.expect("it answers"), 1);
    assert_eq!(service.find_wrong_counters().await, None);
}
