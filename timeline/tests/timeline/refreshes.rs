//! A shard that is down for long: deliveries to it are dropped, and its timelines are rebuilt when it is back.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use timeline::{
    lists::List,
    queue::{Outgoing, Queue, QueueError},
    worker::{WorkerOptions, reconcile},
};

use crate::{
    pages::{change_at_random, check_all, small_limits},
    setup::{Kind, Limits, Service},
    support::{Intercept, Intercepted, sql_rows, until},
};

/// Counts the messages that are parked; refuses them while the queues for them are full.
#[derive(Debug, Default)]
struct Parking {
    count: AtomicU64,
    is_full: AtomicBool,
}

impl Intercept for Arc<Parking> {
    fn publish<'a>(&'a self, queue: &'a dyn Queue, messages: Vec<Outgoing>) -> BoxFuture<'a, Result<(), QueueError>> {
        let parked = messages.iter().filter(|message| message.queue.delay().is_some()).count();
        if parked > 0 && self.is_full.load(Ordering::Relaxed) {
            return Box::pin(async { Err(QueueError::Full) });
        }
        self.count.fetch_add(parked as u64, Ordering::Relaxed);
        queue.publish(messages)
    }
}

async fn start(kind: Kind, max_parked: usize) -> (Service, Arc<Parking>) {
    let parking = Arc::new(Parking::default());
    let with = parking.clone();
    let wrap = |queue| -> Arc<dyn Queue> { Arc::new(Intercepted { queue, with }) };
    let worker = WorkerOptions { max_parked, refresh_lease: Duration::from_secs(2), ..small_limits().worker };
    (Service::start_with(kind, Limits { worker, ..small_limits() }, wrap).await, parking)
}

/// Creates users who follow each other, and reads all lists, so that they are in Redis.
async fn create_readers(service: &Service) -> Vec<i64> {
    let users = service.create_users(8).await;
    for (number, user) in users.iter().enumerate() {
        for step in 1..=3 {
            service.follow(*user, users[(number + step) % users.len()]).await;
        }
    }
    for user in &users {
        service.read_all(Some(*user), "/v1/timelines/home", 7).await;
        service.read_all(None, &format!("/v1/users/{user}/tweets"), 7).await;
    }
    service.read_all(None, "/v1/timelines/public", 7).await;
    service.settle().await;
    users
}

fn shard_of(service: &Service, user: i64) -> u16 {
    service.timelines.lists().expect("push mode").shard_of(List::Home(user)).0
}

/// The shards whose refresh is requested, each with whether one has begun.
async fn requested(service: &Service) -> Vec<Vec<String>> {
    sql_rows(&service.users_url, "select shard, begun_by is not null from shard_refreshes order by shard").await
}

/// Runs through an outage of a shard with a bound that is reached at once.
async fn survive_a_long_outage(kind: Kind) {
    let (mut service, parking) = start(kind, 3).await;
    let users = create_readers(&service).await;
    change_at_random(&service, &users, 17, 40).await;
    service.settle().await;
    let shard = shard_of(&service, users[0]);
    service.shards[usize::from(shard)].kill_server();
    change_at_random(&service, &users, 19, 60).await;
    until("the refresh is requested", async || requested(&service).await == [[shard.to_string(), "f".to_owned()]])
        .await;
    // while the shard is down, no message waits for it, and no more are parked
    service.settle().await;
    let parked = parking.count.load(Ordering::Relaxed);
    assert!(parked > 0, "the first deliveries are parked");
    change_at_random(&service, &users, 23, 30).await;
    service.settle().await;
    assert_eq!(parking.count.load(Ordering::Relaxed), parked);

    // the worker is killed in the middle of the refresh: it has removed the public lists, and waits for the users
    let (client, connection) =
        tokio_postgres::connect(&service.users_url, tokio_postgres::NoTls).await.expect("Postgres accepts");
    let driver = tokio::spawn(connection);
    client.batch_execute("begin; lock table users in access exclusive mode").await.expect("a lock");
    service.shards[usize::from(shard)].restart_server();
    until("the refresh has begun", async || requested(&service).await == [[shard.to_string(), "t".to_owned()]]).await;
    service.abort_worker().await;
    client.batch_execute("rollback").await.expect("the lock ends");
    drop(client);
    drop(driver.await);
    assert_eq!(requested(&service).await.len(), 1, "the request is still there");
    // deliveries come before the refresh, during it, and after it
    change_at_random(&service, &users, 29, 20).await;
    service.start_worker();
    while !requested(&service).await.is_empty() {
        change_at_random(&service, &users, 31, 3).await;
    }
    change_at_random(&service, &users, 37, 20).await;
    check_all(&service, &users, 7).await;
    let summary = reconcile::reconcile(&service.timelines, None, false).await.expect("the databases answer");
    assert_eq!((summary.missing, summary.extra), (0, 0), "{summary:?}");
    service.stop_worker().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_down_for_long_is_rebuilt() {
    survive_a_long_outage(Kind::PushPostgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_down_for_long_does_not_fill_rabbitmq() {
    survive_a_long_outage(Kind::PushRabbit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_go_on_when_no_more_can_be_parked() {
    let (mut service, parking) = start(Kind::PushPostgres, 1_000_000).await;
    let users = create_readers(&service).await;
    let shard = shard_of(&service, users[0]);
    service.shards[usize::from(shard)].kill_server();
    parking.is_full.store(true, Ordering::Relaxed);
    change_at_random(&service, &users, 41, 40).await;
    service.settle().await;
    assert_eq!(requested(&service).await, [[shard.to_string(), "f".to_owned()]]);
    service.shards[usize::from(shard)].restart_server();
    until("the shard is refreshed", async || requested(&service).await.is_empty()).await;
    check_all(&service, &users, 7).await;
    service.stop_worker().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timelines_of_a_refreshed_shard_are_built_before_they_are_read() {
    let (mut service, _) = start(Kind::PushPostgres, 3).await;
    let users = create_readers(&service).await;
    let shard = shard_of(&service, users[0]);
    let server = usize::from(shard);
    service.shards[server].kill_server();
    change_at_random(&service, &users, 43, 60).await;
    until("the refresh is requested", async || !requested(&service).await.is_empty()).await;
    service.shards[server].restart_server();
    let here = users.iter().filter(|user| shard_of(&service, **user) == shard);
    let keys: Vec<String> = here.map(|user| format!("tl:{user}")).collect();
    until("the timelines are rebuilt", async || {
        let mut exists = redis::cmd("EXISTS");
        let count: usize = exists.arg(&keys).query(&mut service.shards[server].connect_admin()).expect("EXISTS");
        requested(&service).await.is_empty() && count == keys.len()
    })
    .await;
    check_all(&service, &users, 7).await;
    service.stop_worker().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_covers_only_what_was_dropped_before_it_began() {
    let service = Service::start(Kind::Pull).await;
    let (database, lease) = (&service.databases.users, Duration::from_secs(3600));
    let one = BTreeSet::from([1]);
    let listed = async || database.requested_refreshes().await.expect("it answers");
    let request = async |shards: &BTreeSet<u16>| database.request_refresh(shards).await.expect("it answers");
    let begin = async |token: &str, lease| database.begin_refresh(1, token, lease).await.expect("it answers");
    let extend = async |token: &str| database.extend_refresh(1, token, lease).await.expect("it answers");
    let end = async |token: &str| database.end_refresh(1, token).await.expect("it answers");
    assert!(!begin("a", lease).await, "nothing is requested");
    request(&BTreeSet::from([2, 1])).await;
    request(&one).await;
    assert!(begin("a", lease).await && extend("a").await && !begin("b", lease).await);
    // a delivery is dropped meanwhile
    request(&one).await;
    assert!(!extend("a").await && !end("a").await);
    assert_eq!(listed().await, BTreeSet::from([1, 2]));
    // one that does not go on is replaced; if it goes on after all, it ends nothing
    assert!(begin("b", Duration::ZERO).await && begin("c", lease).await);
    assert!(!extend("b").await && !end("b").await && end("c").await);
    assert_eq!(listed().await, BTreeSet::from([2]));
    request(&one).await;
    assert!(!end("c").await && listed().await.contains(&1));
}
