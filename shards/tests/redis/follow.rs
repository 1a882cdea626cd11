//! The connection set against shards that move, die, and maps that lie.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dunlin_shards::{AppliedState, ConnectionOptions, RetryPolicy, ShardConnections, ShardError, slot_for_key};
use redis::{Cmd, cmd};
use tempfile::TempDir;

use crate::server::{TestServer, free_port};

/// A published map in a folder of its own.
struct TestMapFile {
    dir: TempDir,
}

impl TestMapFile {
    fn new(epoch: u64, primaries: &[String]) -> TestMapFile {
        let published = TestMapFile { dir: TempDir::new().expect("a temporary folder") };
        published.publish_map("t", epoch, primaries);
        published
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("shards.toml")
    }

    fn publish_map(&self, cluster: &str, epoch: u64, primaries: &[String]) {
        let each = 16_384 / primaries.len();
        let mut text = format!("cluster = \"{cluster}\"\nepoch = {epoch}\nshard = [\n");
        for (id, primary) in primaries.iter().enumerate() {
            let last = if id + 1 == primaries.len() { 16_383 } else { (id + 1) * each - 1 };
            let slots = format!("{}-{last}", id * each);
            text += &format!("  {{ id = {id}, slots = \"{slots}\", primary = \"{primary}\", user = \"s{id:03}\" }},\n");
        }
        let next = self.dir.path().join("next");
        fs::write(&next, text + "]\n").expect("the folder is writable");
        fs::rename(next, self.path()).expect("a rename in one folder");
    }
}

fn test_options() -> ConnectionOptions {
    ConnectionOptions { poll_interval: Duration::from_millis(20), ..ConnectionOptions::default() }
}

fn incr_command(key: &str) -> Cmd {
    let mut incr = cmd("INCR");
    incr.arg(key);
    incr
}

fn zadd_command(key: &str, id: u64) -> Cmd {
    let mut zadd = cmd("ZADD");
    zadd.arg(key).arg(id).arg(id);
    zadd
}

async fn wait_until(what: &str, condition: impl AsyncFn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Makes `replica` a replica of `master` and waits for the link.
async fn start_replication(replica: &TestServer, master: &TestServer) {
    replica.run_admin(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
    wait_until("the replica is online", async || {
        let info: String = cmd("INFO").arg("replication").query(&mut replica.connect_admin()).expect("INFO");
        info.contains("master_link_status:up")
    })
    .await;
}

/// Moves a shard as dunlin does: pause, drain, fence, promote.
async fn switch_primary(from: &TestServer, to: &TestServer) {
    from.run_admin(&["CLIENT", "PAUSE", "5000", "WRITE"]);
    let offset = |server: &TestServer, field: &str| -> u64 {
        let info: String = cmd("INFO").arg("replication").query(&mut server.connect_admin()).expect("INFO");
        let line = info.lines().find_map(|line| line.strip_prefix(field)).expect("the offset is in it");
        line.parse().expect("an offset is a number")
    };
    let goal = offset(from, "master_repl_offset:");
    wait_until("the replica has everything", async || offset(to, "slave_repl_offset:") >= goal).await;
    let port = to.port.to_string();
    let mut fence = redis::pipe();
    fence.atomic().cmd("REPLICAOF").arg("127.0.0.1").arg(port).cmd("CLIENT").arg("UNPAUSE");
    fence.exec(&mut from.connect_admin()).expect("the fence");
    to.run_admin(&["REPLICAOF", "NO", "ONE"]);
}

/// Counters tell a lost write from one applied twice: exactly one INCR for each acknowledgement must be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switching_under_writes_applies_each_write_once() {
    let (a, b) = (TestServer::start_server(&[]), TestServer::start_server(&[]));
    start_replication(&b, &a).await;
    let published = TestMapFile::new(1, &[a.address()]);
    let shards = ShardConnections::open(published.path(), test_options()).await.expect("a connection set");
    let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (shards, stop, acked) = (shards.clone(), stop.clone(), acked.clone());
            tokio::spawn(async move {
                let (key, mut last) = (format!("n:{writer}"), 0);
                while !stop.load(Ordering::Relaxed) {
                    let now: u64 =
                        shards.query_shard(key.as_bytes(), &incr_command(&key), RetryPolicy::OnlyIfNotApplied).await?;
                    assert_eq!(now, last + 1, "each acknowledged write counts once");
                    last = now;
                    acked.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<u64, ShardError>(last)
            })
        })
        .collect();
    let more = async || {
        let goal = acked.load(Ordering::Relaxed) + 500;
        wait_until("writers go on", async || acked.load(Ordering::Relaxed) >= goal).await;
    };
    more().await;
    switch_primary(&a, &b).await;
    more().await;
    let learned = shards.stats();
    assert!(learned.redirects >= 1 && learned.epoch.0 == 1, "the new owner is learned from ROLE: {learned:?}");
    published.publish_map("t", 2, &[b.address()]);
    wait_until("the map is taken over", async || shards.epoch().0 == 2).await;
    switch_primary(&b, &a).await;
    more().await;
    stop.store(true, Ordering::Relaxed);
    for (writer, task) in writers.into_iter().enumerate() {
        let last = task.await.expect("the writer did not panic").expect("no write failed");
        let key = format!("n:{writer}");
        let stored: u64 = cmd("GET").arg(&key).query(&mut a.connect_admin()).expect("the counter");
        assert_eq!(stored, last, "{key}");
    }
}

/// The old owner's connections end with the epoch that named it: it can be stopped.
#[tokio::test]
async fn a_new_epoch_closes_connections_to_old_owners() {
    let (a, b) = (TestServer::start_server(&[]), TestServer::start_server(&[]));
    let published = TestMapFile::new(1, &[a.address()]);
    let shards = ShardConnections::open(published.path(), test_options()).await.expect("a connection set");
    shards.query_shard::<u64>(b"n", &incr_command("n"), RetryPolicy::OnlyIfNotApplied).await.expect("a write");
    let clients = || -> usize {
        let list: String = cmd("CLIENT").arg("LIST").query(&mut a.connect_admin()).expect("CLIENT LIST");
        list.lines().filter(|line| line.contains("cmd=incr")).count()
    };
    assert_eq!(clients(), 1);
    published.publish_map("t", 2, &[b.address()]);
    wait_until("the connection is closed", async || clients() == 0).await;
    assert_eq!(
        shards.query_shard::<u64>(b"n", &incr_command("n"), RetryPolicy::OnlyIfNotApplied).await.expect("a write"),
        1
    );
}

/// The target's user is off until it is open: the fenced source and the closed target are both asked until one accepts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabled_targets_are_retried_and_reverted_switches_followed() {
    let (a, b) = (TestServer::start_server(&[]), TestServer::start_server(&[]));
    start_replication(&b, &a).await;
    let user = ["ACL", "SETUSER", "s000", "on", ">secret", "~*", "+@read", "+@write", "+role", "+ping"];
    a.run_admin(&user);
    b.run_admin(&["ACL", "SETUSER", "s000", "off", ">secret", "~*", "+@read", "+@write", "+role", "+ping"]);
    let published = TestMapFile::new(1, &[a.address()]);
    let password = Some("secret".to_owned());
    let shards = ShardConnections::open(published.path(), ConnectionOptions { password, ..test_options() })
        .await
        .expect("a connection set");
    let write = async || shards.query_shard::<u64>(b"n", &incr_command("n"), RetryPolicy::OnlyIfNotApplied).await;
    assert_eq!(write().await.expect("the first"), 1);

    switch_primary(&a, &b).await;
    let waiting = tokio::spawn({
        let shards = shards.clone();
        async move { shards.query_shard::<u64>(b"n", &incr_command("n"), RetryPolicy::OnlyIfNotApplied).await }
    });
    wait_until("it is tried again", async || shards.stats().retries > 3).await;
    assert!(!waiting.is_finished());
    b.run_admin(&user);
    assert_eq!(waiting.await.expect("no panic").expect("the second"), 2);

    // the target goes back to being a replica, closed, and the source is the master again, at the same epoch
    b.run_admin(&["ACL", "SETUSER", "s000", "off"]);
    b.run_admin(&["CLIENT", "KILL", "USER", "s000"]);
    switch_primary(&b, &a).await;
    let mut read = cmd("GET");
    read.arg("n");
    assert_eq!(shards.query_shard::<u64>(b"n", &read, RetryPolicy::Idempotent).await.expect("a read"), 2);
    assert_eq!(write().await.expect("the third"), 3);
}

#[tokio::test]
async fn lower_epochs_other_clusters_and_changed_content_are_rejected() {
    let (a, b) = (TestServer::start_server(&[]), TestServer::start_server(&[]));
    let published = TestMapFile::new(5, &[a.address()]);
    let shards = ShardConnections::open(published.path(), test_options()).await.expect("a connection set");
    for (count, (cluster, epoch, why)) in
        [("t", 4, "lower than 5"), ("t", 5, "other content"), ("other", 9, "cluster")].into_iter().enumerate()
    {
        published.publish_map(cluster, epoch, &[b.address()]);
        wait_until("it is refused", async || shards.stats().maps_rejected == count as u64 + 1).await;
        assert!(shards.stats().last_rejected.is_some_and(|reason| reason.contains(why)), "{:?}", shards.stats());
        assert_eq!(shards.routing().shards[0].primary, a.address());
    }
    fs::write(published.path(), "half a ma").expect("the file is writable");
    wait_until("it is refused", async || shards.stats().maps_rejected == 4).await;
    published.publish_map("t", 6, &[b.address()]);
    wait_until("a higher epoch is accepted", async || shards.epoch().0 == 6).await;
    assert_eq!((shards.stats().maps_accepted, shards.stats().maps_rejected), (1, 4));
}

#[tokio::test]
async fn one_shard_down_fails_only_its_requests() {
    let (up, mut down) = (TestServer::start_server(&[]), TestServer::start_server(&[]));
    let published = TestMapFile::new(1, &[up.address(), down.address()]);
    let retry_for = Duration::from_secs(1);
    let shards = ShardConnections::open(published.path(), ConnectionOptions { retry_for, ..test_options() })
        .await
        .expect("a connection set");
    let keys: Vec<String> = (0..40).map(|n| format!("tl:{n}")).collect();
    let items = || keys.iter().map(|key| (key.clone().into_bytes(), zadd_command(key, 1))).collect::<Vec<_>>();
    assert!(shards.query_batch(items(), RetryPolicy::Idempotent).await.iter().all(Result::is_ok));
    down.kill_server();
    let results = shards.query_batch(items(), RetryPolicy::Idempotent).await;
    for (key, result) in keys.iter().zip(&results) {
        assert_eq!(result.is_ok(), slot_for_key(key.as_bytes()).0 < 8192, "{key}: {result:?}");
    }
    // nothing was sent this time, as no connection could be opened: that is known
    let again = shards.query_batch(items(), RetryPolicy::OnlyIfNotApplied).await;
    let failed: Vec<&ShardError> = again.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.iter().all(|error| error.applied_state() == AppliedState::No), "{failed:?}");
    assert!(!failed.is_empty() && failed.len() < keys.len());
    let health = shards.check_health(Duration::from_secs(5)).await;
    assert_eq!(health.iter().map(|shard| shard.failure.is_some()).collect::<Vec<_>>(), [false, true]);
    down.restart_server();
    wait_until("it is used again", async || {
        shards.query_batch(items(), RetryPolicy::Idempotent).await.iter().all(Result::is_ok)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_leave_writes_unknown() {
    let server = TestServer::start_server(&[]);
    let published = TestMapFile::new(1, &[server.address()]);
    let shards = ShardConnections::open(published.path(), test_options()).await.expect("a connection set");
    shards.query_shard::<u64>(b"n", &incr_command("n"), RetryPolicy::OnlyIfNotApplied).await.expect("a write");
    for (retry, ok) in [(RetryPolicy::OnlyIfNotApplied, false), (RetryPolicy::Idempotent, true)] {
        // the write hangs in the pause until its connection is cut
        server.run_admin(&["CLIENT", "PAUSE", "60000", "WRITE"]);
        let hanging = tokio::spawn({
            let shards = shards.clone();
            async move { shards.query_shard::<u64>(b"m", &zadd_command("m", 1), retry).await }
        });
        wait_until("the write hangs", async || {
            let info: String = cmd("INFO").arg("clients").query(&mut server.connect_admin()).expect("INFO");
            info.contains("blocked_clients:1")
        })
        .await;
        server.run_admin(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        server.run_admin(&["CLIENT", "UNPAUSE"]);
        let result = hanging.await.expect("no panic");
        assert_eq!(result.is_ok(), ok, "{retry:?}: {result:?}");
        if let Err(error) = result {
            assert_eq!(error.applied_state(), AppliedState::Unknown);
        }
    }
    let wrong_type = shards
        .query_shard::<u64>(b"m", &incr_command("m"), RetryPolicy::Idempotent)
        .await
        .expect_err("m is a sorted set");
    assert!(matches!(wrong_type, ShardError::Refused { .. }), "{wrong_type:?}");
}

#[tokio::test]
async fn silent_nodes_time_out() {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let published = TestMapFile::new(1, &[address, format!("127.0.0.1:{}", free_port())]);
    let options = ConnectionOptions {
        password: Some("x".to_owned()),
        connect_timeout: Duration::from_millis(200),
        retry_for: Duration::from_millis(400),
        ..test_options()
    };
    let shards = ShardConnections::open(published.path(), options).await.expect("a connection set");
    let start = Instant::now();
    let key = (0..100).map(|n| format!("k{n}")).find(|key| slot_for_key(key.as_bytes()).0 < 8192).expect("a key");
    let error = shards
        .query_shard::<u64>(key.as_bytes(), &incr_command(&key), RetryPolicy::Idempotent)
        .await
        .expect_err("nobody answers");
    assert_eq!(error.applied_state(), AppliedState::No);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// The error that a command gets for good, and how long that took.
async fn fail_command(shards: &ShardConnections, command: &Cmd) -> (ShardError, Duration) {
    let begin = Instant::now();
    let result = shards.query_shard::<redis::Value>(b"k", command, RetryPolicy::OnlyIfNotApplied).await;
    (result.expect_err("the command fails"), begin.elapsed())
}

#[tokio::test]
async fn errors_that_no_retry_cures_are_returned_at_once() {
    let server = TestServer::start_server(&[]);
    let published = TestMapFile::new(1, &[server.address()]);
    let shards = ShardConnections::open(published.path(), test_options()).await.expect("a connection set");
    let mut script = cmd("EVAL");
    script.arg("redis.call('SET', KEYS[1], 'text'); return redis.call('INCR', KEYS[1])").arg(1).arg("k");
    let (error, _) = fail_command(&shards, &script).await;
    assert_eq!(error.applied_state(), AppliedState::Unknown, "the script wrote before it failed: {error:?}");
    server.run_admin(&["ACL", "SETUSER", "default", "-incr"]);
    let (error, time) = fail_command(&shards, &incr_command("k")).await;
    assert!(matches!(&error, ShardError::Refused { source, .. } if source.code() == Some("NOPERM")), "{error:?}");
    assert!(time < Duration::from_secs(1), "{time:?}");
    server.run_admin(&["CONFIG", "SET", "maxmemory", "1"]);
    let (error, time) = fail_command(&shards, &zadd_command("z", 1)).await;
    assert!(matches!(&error, ShardError::Refused { source, .. } if source.code() == Some("OOM")), "{error:?}");
    assert!(error.applied_state() == AppliedState::No && time < Duration::from_secs(1), "{time:?}");
    assert_eq!(shards.stats().retries, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_commands_and_subscribers_survive_a_switch() {
    let (a, b) = (TestServer::start_server(&[]), TestServer::start_server(&[]));
    start_replication(&b, &a).await;
    let published = TestMapFile::new(1, &[a.address()]);
    let options = ConnectionOptions { response_timeout: Duration::from_secs(30), ..test_options() };
    let shards = ShardConnections::open(published.path(), options).await.expect("a connection set");
    let waiting = shards.clone();
    let blocked = tokio::spawn(async move {
        let mut blpop = cmd("BLPOP");
        blpop.arg("list").arg(20);
        waiting.query_shard::<(String, String)>(b"list", &blpop, RetryPolicy::OnlyIfNotApplied).await
    });
    wait_until("the command is blocked", async || {
        let info: String = cmd("INFO").arg("clients").query(&mut a.connect_admin()).expect("INFO");
        info.contains("blocked_clients:1")
    })
    .await;
    let mut subscriber = a.connect_admin();
    let mut subscription = subscriber.as_pubsub();
    subscription.subscribe("news").expect("a subscription");
    subscription.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
    switch_primary(&a, &b).await;
    wait_until("the old primary follows the new one", async || {
        let info: String = cmd("INFO").arg("replication").query(&mut a.connect_admin()).expect("INFO");
        info.contains("master_link_status:up")
    })
    .await;
    b.run_admin(&["PUBLISH", "news", "from the new primary"]);
    let message: String = subscription.get_message().expect("a message").get_payload().expect("text");
    assert_eq!(message, "from the new primary");
    b.run_admin(&["RPUSH", "list", "one", "two"]);
    let popped = blocked.await.expect("no panic").expect("the command was sent again");
    assert_eq!(popped, ("list".to_owned(), "one".to_owned()));
    let left: u64 = cmd("LLEN").arg("list").query(&mut b.connect_admin()).expect("LLEN");
    assert_eq!(left, 1, "exactly one element was taken");
}
