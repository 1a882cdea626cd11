//! The function library against a real server: cold and warm lists, floors, rebuilds, missing functions, dead shards.

use std::time::Duration;

use timeline::{
    database::Range,
    ids::MAX_ID,
    lists::{List, ListOptions, Listing, Lists, RebuildStart},
};

use crate::{redis_server::TestServer, servers::publish_map};

const HOME: List = List::Home(42);

struct Redis {
    servers: Vec<TestServer>,
    _dir: tempfile::TempDir,
    lists: Lists,
}

/// The rights of the service's user on a host, as dunlin provisions them.
const ACL_TEMPLATE: &str = include_str!("../../../templates/redis/users.acl");
const PASSWORD: &str = "app";

/// Gives a server the user of its shard, so that a command which the shipped rights refuse fails here too.
fn add_app_user(server: &TestServer, user: &str) {
    let line = ACL_TEMPLATE.lines().find_map(|line| line.strip_prefix("user {{ item.user }} on "));
    let rules = line.expect("the template has the user of the shard");
    let password = format!(">{PASSWORD}");
    let mut command = vec!["ACL", "SETUSER", user, "on", &password];
    // the password is the first rule of the line, as a digest
    command.extend(rules[rules.find('~').expect("keys")..].split(' '));
    server.run_admin(&command);
}

async fn start(cap: usize) -> Redis {
    let servers = vec![TestServer::start_server(&[]), TestServer::start_server(&[])];
    for (id, server) in servers.iter().enumerate() {
        add_app_user(server, &format!("s{id:03}"));
    }
    let dir = tempfile::TempDir::new().expect("a temporary folder");
    publish_map(dir.path(), 1, &servers.iter().map(TestServer::address).collect::<Vec<_>>());
    let options = dunlin_shards::ConnectionOptions {
        password: Some(PASSWORD.to_owned()),
        retry_for: Duration::from_millis(300),
        ..Default::default()
    };
    let shards = dunlin_shards::ShardConnections::open(dir.path().join("shards.toml"), options).await.expect("a set");
    // ids of these tests are small: they were made in 2020
    let max_age = Duration::from_secs(100 * 365 * 24 * 3600);
    let call_timeout = Duration::from_millis(300);
    let rebuild_lease = Duration::from_millis(200);
    let lists = Lists::new(shards, ListOptions { cap, max_age, call_timeout, rebuild_lease, ..ListOptions::default() });
    Redis { servers, _dir: dir, lists }
}

impl Redis {
    async fn listing(&self) -> Listing {
        self.lists.read(HOME, Range::newest(100)).await.expect("the shard answers")
    }

    async fn push(&self, id: i64) -> u64 {
        let outcomes = self.lists.push(&[(HOME, id)]).await;
        outcomes.into_iter().map(|outcome| outcome.result.expect("the shard answers")).sum()
    }

    async fn rebuild(&self, floor: i64, ids: &[i64]) {
        let start = self.lists.begin_rebuild(HOME, "a", true).await.expect("the shard answers");
        assert_eq!(start, RebuildStart::Begun);
        assert!(self.lists.commit_rebuild(HOME, "a", floor, ids).await.expect("the shard answers"));
    }
}

fn entries(floor: i64, ids: &[i64]) -> Listing {
    Listing::Entries { floor, ids: ids.to_vec() }
}

#[tokio::test]
async fn a_list_has_everything_above_its_floor() {
    let redis = start(4).await;
    assert_eq!(redis.push(5).await, 0);
    assert_eq!(redis.listing().await, Listing::Cold, "an entry alone makes no list");
    redis.rebuild(0, &[]).await;
    assert_eq!(redis.listing().await, entries(0, &[]), "empty is not cold");
    for id in [10, 30, 20, 20, 40] {
        assert_eq!(redis.push(id).await, 1);
    }
    assert_eq!(redis.listing().await, entries(0, &[40, 30, 20, 10]));
    // the oldest entry makes room and becomes the floor
    assert_eq!(redis.push(50).await, 1);
    assert_eq!(redis.listing().await, entries(10, &[50, 40, 30, 20]));
    assert_eq!(redis.push(50).await, 1, "a second time changes nothing");
    // too old for a full list: the floor rises to it; below the floor nothing is added
    assert_eq!((redis.push(15).await, redis.push(12).await), (0, 0));
    assert_eq!(redis.listing().await, entries(15, &[50, 40, 30, 20]));
    redis.lists.remove(&[(HOME, 40), (HOME, 99)]).await;
    assert_eq!(redis.push(14).await, 0, "what lies between is in the database only");
    redis.lists.merge(HOME, &[17, 16, 3]).await.expect("the shard answers");
    assert_eq!(redis.listing().await, entries(16, &[50, 30, 20, 17]));
    redis.lists.filter(HOME, &[50, 30, 20, 17]).await.expect("the shard answers");
    assert_eq!(redis.listing().await, entries(16, &[]));
    let last = Range { max_id: MAX_ID, since_id: 0, limit: 3 };
    redis.push(MAX_ID).await;
    redis.push(MAX_ID - 1).await;
    assert_eq!(redis.lists.read(HOME, last).await.expect("a list"), entries(16, &[MAX_ID, MAX_ID - 1]));
}

#[tokio::test]
async fn a_rebuild_keeps_what_happens_meanwhile() {
    let redis = start(5).await;
    let begin = async |token: &str, force| redis.lists.begin_rebuild(HOME, token, force).await.expect("an answer");
    assert_eq!(begin("a", false).await, RebuildStart::Begun);
    assert_eq!(begin("b", false).await, RebuildStart::Busy);
    assert_eq!(redis.listing().await, Listing::Rebuilding);
    assert_eq!((redis.push(70).await, redis.push(60).await), (1, 1));
    redis.lists.remove(&[(HOME, 20), (HOME, 60)]).await;
    assert!(redis.lists.commit_rebuild(HOME, "a", 5, &[40, 30, 20, 10]).await.expect("an answer"));
    assert_eq!(redis.listing().await, entries(5, &[70, 40, 30, 10]), "20 was removed after the read");
    assert_eq!(begin("c", false).await, RebuildStart::Warm);
    // one that takes too long is replaced, and then changes nothing
    assert_eq!(begin("d", true).await, RebuildStart::Begun);
    redis.push(80).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(begin("e", false).await, RebuildStart::Begun);
    assert!(!redis.lists.commit_rebuild(HOME, "d", 0, &[1]).await.expect("an answer"));
    assert!(redis.lists.commit_rebuild(HOME, "e", 0, &[70, 60, 50, 40, 30, 20]).await.expect("an answer"));
    assert_eq!(redis.listing().await, entries(30, &[80, 70, 60, 50, 40]), "more than fit: the floor rises");
}

#[tokio::test]
async fn old_entries_leave_when_the_list_is_read() {
    let mut redis = start(5).await;
    redis.rebuild(0, &[]).await;
    let young = timeline::ids::first_before_now(Duration::from_secs(60));
    for id in [100, 200, young] {
        redis.push(id).await;
    }
    let options = ListOptions { max_age: Duration::from_secs(3600), ..redis.lists.options().clone() };
    redis.lists = Lists::new(redis.lists.shards().clone(), options);
    assert_eq!(redis.listing().await, entries(200, &[young]));
    let ttl: i64 = {
        let shard = usize::from(redis.lists.shard_of(HOME).0);
        redis::cmd("TTL").arg("tl:42").query(&mut redis.servers[shard].connect_admin()).expect("TTL")
    };
    assert!(ttl > 3600, "unread lists expire: {ttl}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_shard_fails_its_own_lists_and_at_once() {
    let mut redis = start(5).await;
    let lists: Vec<List> = (1..=40).map(List::Home).collect();
    let pushes: Vec<(List, i64)> = lists.iter().map(|list| (*list, 7)).collect();
    assert!(redis.lists.push(&pushes).await.iter().all(|outcome| outcome.result.is_ok()));
    redis.servers[1].kill_server();
    let outcomes = redis.lists.push(&pushes).await;
    assert_eq!(outcomes.len(), 2);
    for outcome in &outcomes {
        assert_eq!(outcome.result.is_err(), outcome.shard.0 == 1, "{outcome:?}");
    }
    // later failures take no time; the shortest of eight, because other programs run on this machine
    let mut times = Vec::new();
    for _ in 0..8 {
        let start = std::time::Instant::now();
        assert!(redis.lists.push(&pushes).await.iter().any(|outcome| outcome.result.is_err()));
        times.push(start.elapsed());
    }
    assert!(times.iter().min().expect("eight tries") < &Duration::from_millis(150), "{times:?}");
    // it comes back without the functions, which are loaded again
    redis.servers[1].restart_server();
    add_app_user(&redis.servers[1], "s001");
    crate::support::until("the shard is used again", async || {
        redis.lists.push(&pushes).await.iter().all(|outcome| outcome.result.is_ok())
    })
    .await;
}

#[tokio::test]
async fn a_full_shard_can_be_read_and_emptied() {
    let redis = start(5).await;
    let server = &redis.servers[usize::from(redis.lists.shard_of(HOME).0)];
    redis.rebuild(0, &[30, 20, 10]).await;
    server.run_admin(&["CONFIG", "SET", "maxmemory", "1"]);
    let outcomes = redis.lists.push(&[(HOME, 40)]).await;
    assert!(outcomes.iter().all(|outcome| outcome.result.is_err()), "{outcomes:?}");
    assert_eq!(redis.listing().await, entries(0, &[30, 20, 10]), "a refused entry does not stop reads");
    let outcomes = redis.lists.remove(&[(HOME, 20)]).await;
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
    redis.lists.filter(HOME, &[10]).await.expect("the shard answers");
    assert_eq!(redis.listing().await, entries(0, &[30]));
    server.run_admin(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(redis.push(40).await, 1);
}
