//! The programs as they run on a host: settings from the environment, migrations, a graceful end, operators' commands.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use serde_json::{Value, json};
use timeline::auth::TokenKey;

use crate::{
    redis_server::{TestServer, free_port},
    servers::{Postgres, Process, publish_map},
    setup::KEY,
    support::{request, sql_rows, until},
};

pub const API: &str = env!("CARGO_BIN_EXE_timeline-api");
pub const WORKER: &str = env!("CARGO_BIN_EXE_timeline-worker");
const LOAD: &str = env!("CARGO_BIN_EXE_timeline-load");

pub fn run(program: &str, args: &[&str], environment: &[(String, String)]) -> Output {
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(environment.iter().cloned());
    command.output().expect("the program starts")
}

pub fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Two shards with their published map, a migrated database, and the variables of api and worker in push mode.
pub struct PushSetup {
    pub dir: tempfile::TempDir,
    pub shards: [TestServer; 2],
    pub environment: Vec<(String, String)>,
}

impl PushSetup {
    pub fn create(url: &str) -> PushSetup {
        let dir = tempfile::TempDir::new().expect("a temporary folder");
        let shards = [TestServer::start_server(&[]), TestServer::start_server(&[])];
        publish_map(dir.path(), 1, &shards.iter().map(TestServer::address).collect::<Vec<_>>());
        let environment = environment(dir.path(), url, "push");
        text(&run(API, &["migrate"], &environment));
        PushSetup { dir, shards, environment }
    }
}

fn environment(dir: &Path, url: &str, mode: &str) -> Vec<(String, String)> {
    let key = dir.join("token-key");
    fs::write(&key, KEY).expect("a temporary folder is writable");
    [
        ("TIMELINE_MODE", mode.to_owned()),
        ("TIMELINE_DATABASE", url.to_owned()),
        ("TIMELINE_TOKEN_KEY_FILE", key.display().to_string()),
        ("TIMELINE_SHARDS", dir.join("shards.toml").display().to_string()),
        ("TIMELINE_LISTEN", format!("127.0.0.1:{}", free_port())),
        ("TIMELINE_ADMIN_LISTEN", format!("127.0.0.1:{}", free_port())),
        ("TIMELINE_WORKER_ADMIN_LISTEN", format!("127.0.0.1:{}", free_port())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

pub fn address(environment: &[(String, String)], name: &str) -> std::net::SocketAddr {
    let found = environment.iter().find(|(other, _)| other == name);
    found.and_then(|(_, value)| value.parse().ok()).expect("an address")
}

pub fn start(program: &str, environment: &[(String, String)]) -> Process {
    Process::spawn(program, &[], |command| {
        command.env_clear().envs(environment.iter().cloned());
    })
}

pub async fn is_ready(address: std::net::SocketAddr) -> bool {
    match tokio::net::TcpStream::connect(address).await {
        Ok(_) => request(address, "", "GET", "/readyz", "").await.0 == 200,
        Err(_) => false,
    }
}

/// Creates a user and returns the id and the header of the user's token.
pub async fn create_user(service: std::net::SocketAddr, registrar: &str, name: &str) -> (i64, String) {
    let bearer = format!("Authorization: Bearer {registrar}\r\n");
    let (status, user) = request(service, &bearer, "POST", "/v1/users", &json!({ "name": name }).to_string()).await;
    assert_eq!(status, 201, "{user}");
    let user: Value = serde_json::from_str(&user).expect("JSON");
    let header = format!("Authorization: Bearer {}\r\n", user["token"].as_str().expect("a token"));
    (user["id"].as_i64().expect("an id"), header)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_made_once_and_other_versions_are_refused() {
    let postgres = Postgres::shared();
    let url = postgres.create_database();
    let dir = tempfile::TempDir::new().expect("a temporary folder");
    let environment = environment(dir.path(), &url, "pull");
    let output = run(API, &[], &environment);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("run `timeline-api migrate`"), "{message}");
    let two = std::thread::scope(|scope| {
        let migrations = [(); 2].map(|()| scope.spawn(|| text(&run(API, &["migrate"], &environment))));
        migrations.map(|migration| migration.join().expect("no panic"))
    });
    assert_eq!(two, ["schema version 2"; 2]);
    // a newer release has expanded the schema, and is rolled back
    sql_rows(&url, "update schema_version set version = 3").await;
    assert_eq!(text(&run(API, &["migrate"], &environment)), "schema version 3");
    let api = start(API, &environment);
    let operators = address(&environment, "TIMELINE_ADMIN_LISTEN");
    until("the older release serves", async || is_ready(operators).await).await;
    drop(api);
    // and one has contracted it
    sql_rows(&url, "insert into schema_version values ('users contracted', 3)").await;
    for args in [vec![], vec!["migrate"]] {
        let output = run(API, &args, &environment);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains("version 3"), "{message}");
    }
    assert_eq!(text(&run(API, &["--check-config"], &environment)), "");
    let document: Value = serde_json::from_str(&text(&run(API, &["openapi"], &environment))).expect("JSON");
    let cursor = document["paths"]["/v1/users"]["get"]["parameters"].as_array().expect("parameters");
    let cursor = cursor.iter().find(|parameter| parameter["name"] == "max_id").expect("the cursor");
    assert_eq!(cursor["schema"]["minimum"], json!(0), "{cursor}");
    assert!(document["paths"]["/v1/tweets"]["post"].is_object());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_and_worker_as_programs() {
    let postgres = Postgres::shared();
    let url = postgres.create_database();
    let PushSetup { dir: _dir, environment, shards: _shards } = PushSetup::create(&url);
    let (mut api, mut worker) = (start(API, &environment), start(WORKER, &environment));
    let (service, operators) =
        (address(&environment, "TIMELINE_LISTEN"), address(&environment, "TIMELINE_ADMIN_LISTEN"));
    let worker_operators = address(&environment, "TIMELINE_WORKER_ADMIN_LISTEN");
    until("both are ready", async || is_ready(operators).await && is_ready(worker_operators).await).await;
    assert_eq!(request(service, "", "GET", "/readyz", "").await, (200, "ready\n".to_owned()));
    let token = text(&run(API, &["token", "--user", "0"], &environment));
    assert_eq!(TokenKey::new(KEY).expect("a key").verify(&token), Ok(0));
    let create = async |name: &str| create_user(service, &token, name).await;
    let ((author, author_token), (_, reader_token)) = (create("author").await, create("reader").await);
    let path = format!("/v1/users/{author}/follow");
    assert_eq!(request(service, &reader_token, "PUT", &path, "").await.0, 204);
    assert_eq!(request(service, &reader_token, "GET", "/v1/timelines/home", "").await.0, 200);
    let headers = format!("{author_token}X-Request-Id: of-this-test\r\n");
    assert_eq!(request(service, &headers, "POST", "/v1/tweets", "{\"body\":\"x\"}").await.0, 201);
    until("the reader sees the tweet in the list", async || {
        let (_, page) = request(service, &reader_token, "GET", "/v1/timelines/home", "").await;
        let page: Value = serde_json::from_str(&page).expect("JSON");
        page["source"] == "cache" && page["tweets"][0]["body"] == "x"
    })
    .await;
    for name in ["tl_push_lag_seconds", "tl_deliveries_total{op=\"add\",result=\"ok\"}", "outbox_oldest_age_seconds"] {
        // a delivery is counted after readers can see it
        until(name, async || request(worker_operators, "", "GET", "/metrics", "").await.1.contains(name)).await;
    }
    let version: Value = serde_json::from_str(&request(operators, "", "GET", "/version", "").await.1).expect("JSON");
    assert_eq!((&version["map_epoch"], &version["schema"]), (&json!(1), &json!(2)));
    assert_eq!(version["lock_hash"].as_str().map(str::len), Some(64), "{version}");
    // `unknown` only where the sources are in no repository
    let git = Command::new("git").args(["rev-parse", "--verify", "HEAD"]).output();
    if git.is_ok_and(|output| output.status.success()) {
        assert!(version["git"].as_str().expect("a string").trim_end_matches("-dirty").len() >= 40, "{version}");
    }

    let summary: Value = serde_json::from_str(&text(&run(WORKER, &["reconcile"], &environment))).expect("JSON");
    assert_eq!((&summary["users"], &summary["wrong_counters"], &summary["missing"]), (&json!(2), &json!(0), &json!(0)));
    let rebuilt: Value =
        serde_json::from_str(&text(&run(WORKER, &["rebuild", "--shard", "0", "--rate", "100"], &environment)))
            .expect("JSON");
    assert!(rebuilt["timelines"].as_u64().expect("a number") <= 2);
    let output = run(WORKER, &["rebuild", "--shard", "2"], &environment);
    assert!(!output.status.success(), "there are two shards");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the shard map has no shard 2"), "{output:?}");
    let replayed: Value = serde_json::from_str(&text(&run(WORKER, &["replay"], &environment))).expect("JSON");
    assert_eq!(replayed, json!({ "replayed": 0, "unreadable": 0 }));
    for process in [&mut api, &mut worker] {
        process.signal("TERM");
        process.wait(Duration::from_secs(20));
    }
    assert!(tokio::net::TcpStream::connect(service).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_until_load_balancers_have_noticed_the_end() {
    let postgres = Postgres::shared();
    let url = postgres.create_database();
    let dir = tempfile::TempDir::new().expect("a temporary folder");
    let mut environment = environment(dir.path(), &url, "pull");
    // longer than the test
    environment.push(("TIMELINE_DRAIN_DELAY_MS".to_owned(), "600000".to_owned()));
    text(&run(API, &["migrate"], &environment));
    let mut api = start(API, &environment);
    let service = address(&environment, "TIMELINE_LISTEN");
    let operators = address(&environment, "TIMELINE_ADMIN_LISTEN");
    until("it is ready", async || is_ready(operators).await).await;
    api.signal("TERM");
    for port in [service, operators] {
        until("it asks for no more requests", async || request(port, "", "GET", "/readyz", "").await.0 == 503).await;
    }
    assert_eq!(request(operators, "", "GET", "/healthz", "").await.0, 200);
    assert_eq!(request(service, "", "GET", "/v1/timelines/public", "").await.0, 200);
    assert!(!api.has_ended());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_generator_counts_lost_tweets_and_missing_deliveries() {
    let postgres = Postgres::shared();
    let url = postgres.create_database();
    let PushSetup { dir, environment, shards: _shards } = PushSetup::create(&url);
    let (_api, _worker) = (start(API, &environment), start(WORKER, &environment));
    let operators = address(&environment, "TIMELINE_ADMIN_LISTEN");
    until("it is ready", async || is_ready(operators).await).await;
    let file = |name: &str| dir.path().join(name).display().to_string();
    let service = format!("http://{}", address(&environment, "TIMELINE_LISTEN"));
    let load = |args: &[&str]| run(LOAD, &[args, &["--url", &service, "--graph", &file("graph")]].concat(), &[]);
    let json = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).expect("JSON");

    fs::write(file("registrar"), text(&run(API, &["token", "--user", "0"], &environment))).expect("it is writable");
    let seed = ["seed", "--registrar-token-file", &file("registrar"), "--users", "20", "--follows", "5"];
    assert_eq!(json(&load(&seed))["follows"], json!(100));
    let (acks, rate) = (file("acks"), ["--rate", "200", "--writers", "4", "--seconds", "6"]);
    let written = json(&load(&[&["write", "--acks", &acks][..], &rate].concat()));
    assert_eq!((&written["errors"], &written["unacknowledged"]), (&json!(0), &json!(0)));
    let acked = written["acked"].as_u64().expect("a number");
    assert!(acked > 100, "{written}");
    let verified = load(&["verify", "--acks", &acks]);
    let found: Value = serde_json::from_str(&text(&verified)).expect("JSON");
    assert_eq!((&found["acked"], &found["lost"], &found["missing"]), (&json!(acked), &json!(0), &json!(0)));
    assert!(found["deliveries"].as_u64() > Some(acked) && found["from_cache"].as_u64() > Some(0), "{found}");

    // an acknowledgement without a tweet: lost, and missing for each follower of its author
    let noted = fs::read_to_string(&acks).expect("it is readable");
    let author = noted.split(' ').next().expect("an author");
    let followers = sql_rows(&url, &format!("select count(*) from follows where followee_id = {author}")).await;
    fs::write(&acks, format!("{noted}{author} 1\n")).expect("it is writable");
    let verified = load(&["verify", "--acks", &acks, "--wait", "1"]);
    assert!(!verified.status.success());
    let found = json(&verified);
    assert_eq!((found["lost"].to_string(), found["missing"].to_string()), ("1".to_owned(), followers[0][0].clone()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_alone_prunes_in_pull_mode() {
    let postgres = Postgres::shared();
    let url = postgres.create_database();
    let dir = tempfile::TempDir::new().expect("a temporary folder");
    let environment = environment(dir.path(), &url, "pull");
    text(&run(API, &["migrate"], &environment));
    sql_rows(&url, "insert into counter_applied values (1, 0)").await;
    sql_rows(&url, "insert into idempotency values ('old', '{}', now() - interval '2 days'), ('new', '{}', now())")
        .await;
    let api = start(API, &environment);
    let operators = address(&environment, "TIMELINE_ADMIN_LISTEN");
    until("it is ready", async || is_ready(operators).await).await;
    until("what is old is gone", async || {
        let events = sql_rows(&url, "select count(*) from counter_applied").await;
        let keys = sql_rows(&url, "select key from idempotency").await;
        events == [["0"]] && keys == [["new"]]
    })
    .await;
    let name = "outbox_oldest_age_seconds 0";
    until(name, async || request(operators, "", "GET", "/metrics", "").await.1.contains(name)).await;
    drop(api);
}
