//! The whole service on four real shards: posting, reading, paging, a dead shard, a new epoch, and load through a
//! switch.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

#[path = "../../shards/tests/redis/server.rs"]
mod server;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use dunlin_shards::{ConnectionOptions, ShardConnections, slot_for_key};
use redis::cmd;
use serde_json::{Value, json};
use server::TestServer;
use tempfile::TempDir;
use timeline::{
    entries as api,
    entries::store::Store,
    lifecycle::serve,
    load::{Base, verify, write},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

struct Service {
    shards: Vec<TestServer>,
    dir: TempDir,
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    async fn start() -> Service {
        Service::trying_for(Duration::from_secs(2)).await
    }

    /// One that tries a write for so long.
    async fn trying_for(retry_for: Duration) -> Service {
        let shards: Vec<TestServer> = (0..4).map(|_| TestServer::start_server(&[])).collect();
        let dir = TempDir::new().expect("a temporary folder");
        publish(dir.path(), 1, &shards.iter().map(TestServer::address).collect::<Vec<_>>());
        let options =
            ConnectionOptions { retry_for, poll_interval: Duration::from_millis(20), ..ConnectionOptions::default() };
        let open = ShardConnections::open(dir.path().join("shards.toml"), options).await.expect("a connection set");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (end, ended) = oneshot::channel();
        let ended = async { drop(ended.await) };
        let running = tokio::spawn(serve(listener, api::router(Store::new(open)), ended, Duration::from_millis(300)));
        Service { shards, dir, address, end: Some(end), running }
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.text(method, path, &body.to_string()).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}")))
    }

    async fn text(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("the service listens");
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.expect("the request is sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("the response is text");
        let (head, body) = response.split_once("\r\n\r\n").expect("head and body");
        (head[9..12].parse().expect("a status"), body.to_owned())
    }

    fn base(&self) -> Vec<Base> {
        vec![format!("http://{}", self.address).parse().expect("a URL")]
    }

    fn acks(&self) -> PathBuf {
        self.dir.path().join("acks")
    }
}

fn publish(dir: &Path, epoch: u64, primaries: &[String]) {
    let mut text = format!("cluster = \"timeline\"\nepoch = {epoch}\nshard = [\n");
    for (id, primary) in primaries.iter().enumerate() {
        let slots = format!("{}-{}", id * 4096, id * 4096 + 4095);
        text += &format!("  {{ id = {id}, slots = \"{slots}\", primary = \"{primary}\", user = \"s{id:03}\" }},\n");
    }
    fs::write(dir.join("next"), text + "]\n").expect("the folder is writable");
    fs::rename(dir.join("next"), dir.join("shards.toml")).expect("a rename in one folder");
}

fn shard_of(uid: u64) -> u16 {
    slot_for_key(format!("tl:{uid}").as_bytes()).0 / 4096
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn info(server: &TestServer, field: &str) -> String {
    let text: String = cmd("INFO").query(&mut server.connect_admin()).expect("INFO");
    text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posting_reading_and_paging() {
    let service = Service::start().await;
    for id in [3u64, 1, 9_007_199_254_740_991, 2, 2, 9_007_199_254_740_990] {
        let (status, body) = service.ask("POST", "/v1/timelines/42/entries", &json!({ "id": id })).await;
        assert_eq!((status, body), (201, json!({ "id": id, "shard": shard_of(42) })));
    }
    let read = async |query: &str| service.ask("GET", &format!("/v1/timelines/42{query}"), &Value::Null).await.1;
    let all = [9_007_199_254_740_991u64, 9_007_199_254_740_990, 3, 2, 1];
    assert_eq!(read("").await, json!({ "entries": all, "next_max_id": 0 }));
    assert_eq!(read("?limit=1").await, json!({ "entries": all[..1], "next_max_id": all[0] - 1 }));
    assert_eq!(read(&format!("?limit=2&max_id={}", all[0] - 1)).await["entries"], json!(all[1..3]));
    assert_eq!(read("?since_id=2").await["entries"], json!(all[..3]));
    assert_eq!(read("?max_id=3&since_id=1").await["entries"], json!([3, 2]));
    assert_eq!(read("?max_id=0").await, json!({ "entries": [], "next_max_id": null }));

    let (status, body) = service.ask("POST", "/v1/timelines/read", &json!({ "users": [42, 7], "limit": 1 })).await;
    let wanted = json!([
        { "uid": 42, "entries": all[..1], "next_max_id": all[0] - 1 },
        { "uid": 7, "entries": [], "next_max_id": null },
    ]);
    assert_eq!((status, &body["timelines"]), (200, &wanted));

    for (method, path, body, wanted) in [
        ("POST", "/v1/timelines/42/entries", json!({ "id": 9_007_199_254_740_992u64 }), 400),
        ("POST", "/v1/timelines/42/entries", json!({ "id": "x" }), 422),
        ("POST", "/v1/timelines/x/entries", json!({ "id": 1 }), 400),
        ("GET", "/v1/timelines/42?limit=0", Value::Null, 400),
        ("GET", "/v1/timelines/42?max_id=-1", Value::Null, 400),
        ("GET", "/v2", Value::Null, 404),
    ] {
        let (status, body) = service.ask(method, path, &body).await;
        assert!(status == wanted && body["error"].is_string(), "{method} {path}: {status} {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeline_keeps_the_newest_thousand() {
    let service = Service::start().await;
    let server = &service.shards[usize::from(shard_of(42))];
    let mut fill = redis::pipe();
    for id in 1..=1000 {
        fill.cmd("ZADD").arg("tl:42").arg(-id).arg(id);
    }
    fill.exec(&mut server.connect_admin()).expect("a full timeline");
    assert_eq!(service.ask("POST", "/v1/timelines/42/entries", &json!({ "id": 1001 })).await.0, 201);
    let (_, body) = service.ask("GET", "/v1/timelines/42?limit=1000", &Value::Null).await;
    assert_eq!(body["entries"], json!((2..=1001).rev().collect::<Vec<u64>>()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_shard_fails_only_its_own_users() {
    let mut service = Service::start().await;
    let dead = shard_of(42);
    let alive = (1..).find(|uid| shard_of(*uid) != dead).expect("a user elsewhere");
    service.shards[usize::from(dead)].kill_server();
    let (status, body) = service.ask("POST", "/v1/timelines/42/entries", &json!({ "id": 1 })).await;
    assert_eq!((status, &body["applied"], &body["shard"]), (503, &json!("no"), &json!(dead)), "{body}");
    assert_eq!(service.ask("POST", &format!("/v1/timelines/{alive}/entries"), &json!({ "id": 1 })).await.0, 201);
    let (status, body) = service.ask("POST", "/v1/timelines/read", &json!({ "users": [42, alive] })).await;
    assert_eq!((status, &body["timelines"][1]["entries"]), (200, &json!([1])));
    assert!(body["timelines"][0]["error"].is_string(), "{body}");
    let (status, body) = service.ask("GET", "/readyz", &Value::Null).await;
    assert_eq!((status, &body["ready"], &body["dead"][0]["shard"]), (200, &json!(true), &json!(dead)));
    let (_, metrics) = service.text("GET", "/metrics", "").await;
    assert!(metrics.contains("\ntimeline_errors_total 1\n"), "{metrics}");
    service.shards.iter_mut().for_each(TestServer::kill_server);
    assert_eq!(service.ask("GET", "/readyz", &Value::Null).await.0, 503);
    assert_eq!(service.text("GET", "/healthz", "").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_through_a_switch_loses_nothing_and_the_new_epoch_is_reported() {
    let service = Service::trying_for(Duration::from_secs(10)).await;
    let target = TestServer::start_server(&[]);
    let source = &service.shards[2];
    target.run_admin(&["REPLICAOF", "127.0.0.1", &source.port.to_string()]);
    until("the replica is online", async || info(&target, "master_link_status:") == "up").await;

    let options = write::Options {
        bases: service.base(),
        target: write::Target::Entries(20),
        writers: 8,
        rate: 2000.0,
        acks: service.acks(),
        progress: false,
    };
    let (end, ended) = oneshot::channel::<()>();
    let writing = tokio::spawn(write::write(options, async { drop(ended.await) }));
    let noted = || fs::read_to_string(service.acks()).map_or(0, |text| text.lines().count());
    until("writes are acknowledged", async || noted() > 500).await;
    source.run_admin(&["CLIENT", "PAUSE", "5000", "WRITE"]);
    let goal: u64 = info(source, "master_repl_offset:").parse().expect("an offset");
    let offset = || info(&target, "slave_repl_offset:").parse::<u64>().expect("an offset");
    until("the replica has everything", async || offset() >= goal).await;
    let mut fence = redis::pipe();
    fence.atomic().cmd("REPLICAOF").arg("127.0.0.1").arg(target.port).cmd("CLIENT").arg("UNPAUSE");
    fence.exec(&mut source.connect_admin()).expect("the fence");
    target.run_admin(&["REPLICAOF", "NO", "ONE"]);
    let before = noted();
    until("writes go on", async || noted() > before + 500).await;

    let mut primaries: Vec<String> = service.shards.iter().map(TestServer::address).collect();
    primaries[2] = target.address();
    publish(service.dir.path(), 2, &primaries);
    let version = async || service.ask("GET", "/version", &Value::Null).await.1;
    until("the epoch is reported", async || version().await["map_epoch"] == 2).await;
    let before = noted();
    until("writes go on", async || noted() > before + 500).await;
    end.send(()).expect("the writers are there");
    let written = writing.await.expect("no panic").expect("a summary");
    assert_eq!((written.unacknowledged, written.errors), (0, 0), "{written:?}");
    assert_eq!(noted() as u64, written.acked);

    let found = verify::verify(service.base(), &service.acks()).await.expect("everything can be read");
    assert_eq!((found.acked, found.lost, found.extra), (written.acked, 0, 0));
    // the proof can fail: take one acknowledged entry away
    let text = fs::read_to_string(service.acks()).expect("the acknowledgements");
    let (uid, id) = text.lines().last().and_then(|line| line.split_once(' ')).expect("a line");
    let shard = usize::from(shard_of(uid.parse().expect("a user")));
    let holder = if shard == 2 { &target } else { &service.shards[shard] };
    holder.run_admin(&["ZREM", &format!("tl:{uid}"), id]);
    let found = verify::verify(service.base(), &service.acks()).await.expect("everything can be read");
    assert_eq!(found.lost, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_waits_for_requests_but_not_forever() {
    let mut service = Service::start().await;
    let server = &service.shards[usize::from(shard_of(42))];
    server.run_admin(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let mut stream = TcpStream::connect(service.address).await.expect("the service listens");
    let body = "{\"id\":1}";
    let head = "POST /v1/timelines/42/entries HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    until("the request hangs", async || info(server, "blocked_clients:") == "1").await;
    let start = Instant::now();
    service.end.take().expect("it has not ended").send(()).expect("it runs");
    let ended = tokio::time::timeout(Duration::from_secs(20), &mut service.running).await;
    ended.expect("in time").expect("no panic").expect("no error");
    assert!(start.elapsed() >= Duration::from_millis(300), "the request had its time");
}
