//! What operators look at: the metrics and the logs of both programs.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};
use timeline::telemetry::METRICS;

use crate::{
    programs::{API, PushSetup, WORKER, address, create_user, is_ready, run, text},
    servers::{Memcached, Postgres, Process},
    support::{request, until},
};

/// The metrics that dashboards and alerts rely on, with their labels.
const PROMISED: &[(&str, &[&str])] = &[
    ("build_info", &["git", "version"]),
    ("cache_hits_total", &["cache"]),
    ("db_queries_total", &["op"]),
    ("outbox_oldest_age_seconds", &[]),
    ("queue_depth", &["queue"]),
    ("shard_map_epoch", &[]),
    ("shard_redirects_total", &[]),
    ("shard_state", &["shard"]),
    ("tl_deliveries_total", &["op", "result"]),
    ("tl_parked_messages", &["shard"]),
    ("tl_push_lag_seconds", &[]),
    ("tl_read_seconds", &["source"]),
    ("tl_rebuild_coalesced_total", &[]),
    ("tl_rebuild_total", &["reason"]),
];

/// Returns the metrics of a text in Prometheus' format, each with the names of its labels.
fn metrics_of(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, value) = line.rsplit_once(' ').expect("a series and its value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let mut labels: Vec<String> = labels
            .trim_end_matches('}')
            .split(',')
            .filter_map(|label| label.split_once('=').map(|(label, _)| label.to_owned()))
            .filter(|label| label != "le")
            .collect();
        labels.sort();
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        found.insert(name.to_owned(), labels);
    }
    found
}

/// Starts a program that writes its log to a file.
fn start_with_log(program: &str, environment: &[(String, String)], log: &Path) -> Process {
    Process::spawn(program, &[], |command| {
        let file = fs::File::create(log).expect("a temporary folder is writable");
        command.env_clear().envs(environment.iter().cloned()).stderr(file);
    })
}

fn log_lines(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).expect("a log");
    // the last line can be incomplete
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    complete.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_logs_are_as_documented() {
    let postgres = Postgres::shared();
    let memcached = Memcached::start();
    let PushSetup { dir, mut environment, shards: _shards } = PushSetup::create(&postgres.create_database());
    environment.push(("TIMELINE_MEMCACHED".to_owned(), memcached.address()));
    environment.push(("TIMELINE_LOG".to_owned(), "info,timeline=debug".to_owned()));
    let logs = [dir.path().join("api.log"), dir.path().join("worker.log")];
    let _programs = [start_with_log(API, &environment, &logs[0]), start_with_log(WORKER, &environment, &logs[1])];
    let service = address(&environment, "TIMELINE_LISTEN");
    let operators =
        [address(&environment, "TIMELINE_ADMIN_LISTEN"), address(&environment, "TIMELINE_WORKER_ADMIN_LISTEN")];
    until("both are ready", async || is_ready(operators[0]).await && is_ready(operators[1]).await).await;
    let registrar = text(&run(API, &["token", "--user", "0"], &environment));
    let (author, author_token) = create_user(service, &registrar, "author").await;
    let (_, reader_token) = create_user(service, &registrar, "reader").await;
    let follow = format!("{reader_token}X-Request-Id: the-follow\r\n");
    assert_eq!(request(service, &follow, "PUT", &format!("/v1/users/{author}/follow"), "").await.0, 204);
    assert_eq!(request(service, &reader_token, "GET", "/v1/timelines/home", "").await.0, 200);
    let post = format!("{author_token}X-Request-Id: the-post\r\n");
    assert_eq!(request(service, &post, "POST", "/v1/tweets", &json!({ "body": "x" }).to_string()).await.0, 201);
    until("the reader sees the tweet in the list", async || {
        let (_, page) = request(service, &reader_token, "GET", "/v1/timelines/home", "").await;
        let page: Value = serde_json::from_str(&page).expect("JSON");
        page["source"] == "cache" && page["tweets"][0]["body"] == "x"
    })
    .await;

    // the gauges are set every two seconds
    until("all metrics are there", async || {
        let found = find_metrics(operators).await;
        PROMISED.iter().all(|(name, labels)| found.get(*name).is_some_and(|found| found == labels))
    })
    .await;
    let (_, text) = request(operators[1], "", "GET", "/metrics", "").await;
    for statement in ["MARK_EVENTS", "ADD_TO_COUNTERS", "FLAG_AUTHORS", "UNFLAG_AUTHORS", "FOLLOWER_RANGES"] {
        let series = format!("db_queries_total{{op=\"{statement}\"}}");
        assert!(text.contains(&series), "{series} is missing");
    }
    let documented = include_str!("../../../docs/timeline.md");
    for (name, labels) in find_metrics(operators).await {
        let metric = METRICS.iter().find(|metric| metric.name == name);
        assert_eq!(
            metric.map(|metric| metric.labels.to_vec()),
            Some(labels.iter().map(String::as_str).collect()),
            "{name}"
        );
    }
    for metric in METRICS {
        let labels = if metric.labels.is_empty() { String::new() } else { format!("{{{}}}", metric.labels.join(",")) };
        assert!(
            documented.contains(&format!("`{}{labels}`", metric.name)),
            "docs/timeline.md lacks {}{labels}",
            metric.name
        );
    }

    until("the logs tell of the requests", async || {
        let tasks = |id: &str, part: &str| {
            let lines = log_lines(&logs[1]);
            let of_id = lines.iter().filter(|line| line["request_id"] == id);
            of_id.filter_map(|line| line["task"].as_str()).any(|task| task.starts_with(part))
        };
        tasks("the-follow", "Follow") && ["Plan", "Deliver", "Count"].iter().all(|part| tasks("the-post", part))
    })
    .await;
    let lines = log_lines(&logs[0]);
    let post = lines.iter().find(|line| line["request_id"] == "the-post").expect("the request is logged");
    assert_eq!((&post["status"], &post["path"], &post["level"]), (&json!(201), &json!("/v1/tweets"), &json!("DEBUG")));
    assert!(post["timestamp"].is_string() && post["message"].is_string(), "{post}");
}

async fn find_metrics(operators: [std::net::SocketAddr; 2]) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for address in operators {
        let (status, text) = request(address, "", "GET", "/metrics", "").await;
        assert_eq!(status, 200, "{text}");
        found.extend(metrics_of(&text));
    }
    found
}
