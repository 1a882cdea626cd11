//! The client of memcached against a real server, and the caches while that server is slow.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::Value;
use timeline::cache::Memcached as MemcachedClient;

use crate::{
    servers::Memcached,
    setup::{Kind, Service},
    support::until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_finds_nothing_does_not_stop_the_use_of_the_server() {
    let server = Memcached::start();
    let client = MemcachedClient::new(&[server.address()]);
    let keys = ["t:1".to_owned(), "t:2".to_owned()];
    assert!(client.get_many(&keys).await.is_empty());
    client.set("t:2", "two").await;
    // a read that is slow on a busy machine stops reads for a second
    let expected = HashMap::from([("t:2".to_owned(), "two".to_owned())]);
    until("the entry is read", async || client.get_many(&keys).await == expected).await;
    client.delete("t:2").await;
    assert!(client.get_many(&keys).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_costs_reads_little_and_gets_changes() {
    let server = Memcached::start();
    let client = MemcachedClient::new(&[server.address()]);
    let keys = ["t:1".to_owned()];
    client.set("t:1", "one").await;
    until("the entry is read", async || !client.get_many(&keys).await.is_empty()).await;
    server.signal("STOP");
    let mut slowest = Vec::new();
    for _ in 0..4 {
        // eight at a time, as many as the loader sends
        let start = Instant::now();
        let reads = (0..8).map(|_| client.get_many(&keys));
        assert!(futures_util::future::join_all(reads).await.iter().all(HashMap::is_empty));
        slowest.push(start.elapsed());
        // the next read is the one that tries the server again
        tokio::time::sleep(Duration::from_millis(1050)).await;
    }
    // the shortest of four, because other programs run on this machine; changes have 150 ms
    let shortest = slowest.iter().min().expect("four rounds");
    assert!((Duration::from_millis(20)..Duration::from_millis(140)).contains(shortest), "{slowest:?}");
    assert!(client.get_many(&keys).await.is_empty());
    let start = Instant::now();
    for _ in 0..100 {
        assert!(client.get_many(&keys).await.is_empty());
    }
    println!("reads of a frozen memcached: {slowest:?}; 100 more: {:?}", start.elapsed());
    // 2 s or more if each of them waited
    assert!(start.elapsed() < Duration::from_millis(1900), "100 reads took {:?}", start.elapsed());
    // a deletion is sent although reads have just failed
    let setting = async { client.set("t:1", "-").await };
    let waking = async { server.signal("CONT") };
    tokio::join!(setting, waking);
    until("the server is read again", async || {
        client.get_many(&keys).await.get("t:1").is_some_and(|value| value == "-")
    })
    .await;
}

/// Prints how long Postgres takes for what memcached would have had: the reason for the limit of a read.
async fn print_database_times(service: &Service) {
    service.postgres.sql(
        &service.tweets_url,
        "insert into tweets (id, author_id, body) select n, 1, repeat('x', 140) from generate_series(1, 20000) n; \
         analyze tweets",
    );
    for count in [50i64, 500] {
        let mut times = Vec::new();
        for round in 0..200 {
            let ids: Vec<i64> = (0..count).map(|number| (number * 7919 + round * 104_729) % 20_000 + 1).collect();
            let start = Instant::now();
            let found = service.databases.tweets.tweets(&ids).await.expect("the database answers");
            times.push(start.elapsed());
            assert!(!found.is_empty());
        }
        times.sort_unstable();
        println!("{count} tweets of Postgres: p50 {:?}, p99 {:?}", times[100], times[198]);
    }
    service.postgres.sql(&service.tweets_url, "delete from tweets where author_id = 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_do_not_wait_for_a_frozen_memcached() {
    let service = Service::start(Kind::PushRabbit).await;
    print_database_times(&service).await;
    let users = service.create_users(2).await;
    service.follow(users[0], users[1]).await;
    let mut posted = Vec::new();
    for number in 0..50 {
        posted.push(service.post(users[1], &format!("tweet {number}")).await);
    }
    posted.reverse();
    service.settle().await;
    service.memcached.as_ref().expect("memcached").signal("STOP");
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let (status, page) = service.ask(Some(users[0]), "GET", "/v1/timelines/home?limit=50", &Value::Null).await;
        times.push(start.elapsed());
        assert_eq!((status, crate::support::ids_of(&page)), (200, posted.clone()));
        // the process forgets its tweets, and reads memcached again
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    println!("pages with a frozen memcached: {times:?}");
    // the profile and the tweets: two reads of 20 ms and two queries; with other programs on this machine
    assert!(times.iter().min().expect("five pages") < &Duration::from_millis(120), "{times:?}");
    service.memcached.as_ref().expect("memcached").signal("CONT");
}
