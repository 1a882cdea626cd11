//! The service under load, all of it on this machine: `script/bench timeline`.
//!
//! Open loop: requests begin at their time, whatever became of those before; a late start counts as waiting.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

#[path = "../../../shards/tests/redis/server.rs"]
mod redis_server;
#[path = "../../tests/timeline/servers.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod servers;

mod cpu;
mod http;
mod site;

use std::time::{Duration, Instant};

use cpu::CpuTimes;
use site::{Deliveries, Mode, Site, Sizes};

/// The users who read, their shards, and the deliveries of the first part, at scale 1.
const USERS: i64 = 5000;
const SHARDS: usize = 16;
const FOLLOWERS: i64 = 50;
/// What a timeline takes in Redis: an entry of a listpack (id and score), and the key with its list's head.
const BYTES_PER_ENTRY: f64 = 20.5;
const BYTES_PER_LIST: f64 = 150.0;
const READS_PER_S: f64 = 1000.0;
const POSTS_PER_S: f64 = 20.0;

fn number(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` only asks whether it runs
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let seconds = Duration::from_secs_f64(number("TIMELINE_BENCH_SECONDS", 15.0));
    let reads = number("TIMELINE_BENCH_READS", READS_PER_S);
    let scale = number("TIMELINE_BENCH_SCALE", 4.0) as i64;
    let (mut site, one) = measure(1, seconds, reads).await;
    let post = site.post_latency_of_large_author(100_000, 20).await;
    println!("posts of an author with 100,000 followers: {post}");
    let pull = site.pull_baseline(seconds.min(Duration::from_secs(10)), reads / 10.0).await;
    println!("pull mode of the same service, {} reads/s: {pull}", reads / 10.0);
    drop(site);
    let large = if scale > 1 { measure(scale, seconds, reads).await.1.read.p99 } else { 0.0 };
    println!(
        "bench timeline: deliveries_per_s={:.0} read_p99_ms={:.1} push_lag_p99_ms={:.0} bytes_per_user={:.0} \
         post_p99_100k_ms={:.1} x{scale}_read_p99={large:.1}",
        one.deliveries_per_s, one.read.p99, one.push_lag_p99_ms, one.bytes_per_user, post.p99
    );
}

/// The figures of one size.
struct Figures {
    deliveries_per_s: f64,
    read: http::Latencies,
    push_lag_p99_ms: f64,
    bytes_per_user: f64,
}

/// Prints what the service could do with two cores of its own: the load generator and other programs use some of them.
fn print_bound(what: &str, count: f64, cpu: &CpuTimes) {
    let each = cpu.of_service() / count.max(1.0);
    println!("{:.1} µs of CPU time per {what}: at most {:.0}/s on two cores", each * 1e6, 2.0 / each);
}

async fn measure(scale: i64, seconds: Duration, reads: f64) -> (Site, Figures) {
    let deliveries = number("TIMELINE_BENCH_DELIVERIES", 400_000.0) as i64;
    let sizes = Sizes { users: USERS * scale, followers: FOLLOWERS * scale.min(4), shards: SHARDS * scale as usize };
    println!("{sizes:?}");
    let start = Instant::now();
    let site = Site::start(sizes).await;
    println!("servers, schema and graph after {:.1} s", start.elapsed().as_secs_f64());
    let before = site.redis_bytes();
    let warm = site.read_all_once().await;
    println!("each timeline built once: {warm}");
    let cpu = CpuTimes::read();
    let Deliveries { count, per_second: deliveries_per_s } = site.delivery_rate(deliveries).await;
    let cpu = CpuTimes::read().since(&cpu);
    println!("deliveries: {deliveries_per_s:.0}/s; CPU time: {cpu}");
    print_bound("delivery", count, &cpu);
    let bytes_per_user = (site.redis_bytes() - before) as f64 / sizes.users as f64;
    let entries = site.mean_entries();
    let model = entries * BYTES_PER_ENTRY + BYTES_PER_LIST;
    println!("{bytes_per_user:.0} bytes per user, {entries:.0} entries each; the model says {model:.0}");
    let lag_before = site.push_lag_buckets().await;
    let cpu = CpuTimes::read();
    let (read, post) = site.steady_load(Mode::Push, seconds, reads, POSTS_PER_S).await;
    let cpu = CpuTimes::read().since(&cpu);
    let push_lag_p99_ms = site.push_lag_p99(&lag_before).await;
    println!("reads: {read}\nposts: {post}\npush lag p99: {push_lag_p99_ms:.0} ms\nCPU time: {cpu}");
    print_bound("read, with the posts meanwhile", read.count as f64, &cpu);
    (site, Figures { deliveries_per_s, read, push_lag_p99_ms, bytes_per_user })
}
