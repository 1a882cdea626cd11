//! Moving shards, measured beside what Redis offers: `cargo bench --bench rebalance`, or `script/bench.d/rebalance`.
//! What is varied comes by environment variables: `DUNLIN_BENCH_MOVES`, `…_FAILOVERS`, `…_KEYS`, `…_APPENDFSYNC`; 0
//! leaves a part out.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for measurements: it stops at what is missing, and prints its figures"
)]
#![allow(missing_docs, dead_code, clippy::cast_precision_loss)]

#[path = "rebalance/bulk.rs"]
mod bulk;
#[path = "rebalance/client.rs"]
mod client;
#[path = "../tests/migration/fixture.rs"]
mod fixture;
#[path = "rebalance/gap.rs"]
mod gap;
#[path = "rebalance/throttle.rs"]
mod throttle;

use gap::{percentile, print_percentiles};

fn main() {
    let number = |name: &str, default: usize| {
        std::env::var(format!("DUNLIN_BENCH_{name}")).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (moves, failovers, keys) = (number("MOVES", 100), number("FAILOVERS", 12), number("KEYS", 10_000));
    let always = std::env::var("DUNLIN_BENCH_APPENDFSYNC").is_ok_and(|value| value == "always");
    let [vs_redis_cli, copied, vs_full_sync, whole] = if keys == 0 { [f64::NAN; 4] } else { measure_throughput(keys) };
    let gaps = gap::measure_gaps(moves, failovers, if always { "always" } else { "everysec" });
    let [idle, free, guarded] = if keys == 0 { [f64::NAN; 3] } else { print_throttle(keys / 4) };
    print_percentiles("write gap of a move, as the writers see it", &gaps.client);
    print_percentiles("the same as the host sees it, from pause to opening", &gaps.host);
    print_percentiles("slowest write of a move", &gaps.slowest);
    print_percentiles("longest wait in as long a time without a move", &gaps.idle);
    print_percentiles("write gap of FAILOVER TO", &gaps.failover);
    eprintln!("{} acknowledged writes at {:.0} a second, {} attempts given up", gaps.acked, gaps.rate, gaps.retries);
    println!(
        "bench rebalance: vs_redis_cli={vs_redis_cli:.1} copied_vs_redis_cli={copied:.1} vs_full_sync={vs_full_sync:.2} gap_p50_ms={:.2} gap_p99_ms={:.2} failover_gap_p50_ms={:.0} host_gap_p50_ms={:.2} host_gap_p99_ms={:.2} whole_vs_full_sync={whole:.2} wait_p99_ms={idle:.2} wait_p99_copy_ms={free:.2} wait_p99_guarded_ms={guarded:.2}",
        percentile(&gaps.client, 0.5),
        percentile(&gaps.client, 0.99),
        percentile(&gaps.failover, 0.5),
        percentile(&gaps.host, 0.5),
        percentile(&gaps.host, 0.99),
    );
}

fn print_throttle(keys: usize) -> [f64; 3] {
    let throttle::ThrottleTimes { idle, unlimited: free, limited: guarded } = throttle::measure_throttle(keys);
    eprintln!(
        "99 of 100 writes wait {idle:.2} ms at most without a copy, {:.2} ms during one of {:.1} s, {:.2} ms during one \
         with --max-p99 {}ms, of {:.1} s",
        free.0,
        free.1,
        guarded.0,
        throttle::P99_LIMIT_MS,
        guarded.1
    );
    [idle, free.0, guarded.0]
}

fn measure_throughput(keys: usize) -> [f64; 4] {
    let (cli_bytes, cli_seconds) = bulk::time_cluster_rebalance(keys);
    let bulk = bulk::measure_bulk(keys);
    let rate = |bytes: u64, seconds: f64| bytes as f64 / seconds / 1e6;
    eprintln!(
        "redis-cli --cluster rebalance: {cli_bytes} bytes in {cli_seconds:.2} s, {:.0} MB/s",
        rate(cli_bytes, cli_seconds)
    );
    eprintln!(
        "bare full sync of 4 instances: {} bytes in {:.2} s, {:.0} MB/s",
        bulk.bytes,
        bulk.syncs,
        rate(bulk.bytes, bulk.syncs)
    );
    eprintln!(
        "moves of these, compared and switched: {:.2} s, {:.0} MB/s (the last copy had caught up after {:.2} s)",
        bulk.moves,
        rate(bulk.bytes, bulk.moves),
        bulk.copies
    );
    let vs_redis_cli = |seconds: f64| rate(bulk.bytes, seconds) / rate(cli_bytes, cli_seconds);
    [vs_redis_cli(bulk.moves), vs_redis_cli(bulk.copies), bulk.syncs / bulk.copies, bulk.syncs / bulk.moves]
}
