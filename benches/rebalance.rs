//! Moving shards, measured beside what Redis offers: `cargo bench --bench rebalance`, or `script/bench.d/rebalance`.
#![allow(missing_docs, dead_code, clippy::cast_precision_loss)]

#[path = "rebalance/client.rs"]
mod client;
#[path = "rebalance/gap.rs"]
mod gap;
#[path = "../tests/mover/places.rs"]
mod places;

fn main() {
    let number =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let appendfsync = std::env::var("DUNLIN_BENCH_APPENDFSYNC").is_ok_and(|value| value == "always");
    let gaps = gap::measure(
        number("DUNLIN_BENCH_MOVES", 100),
        number("DUNLIN_BENCH_FAILOVERS", 20),
        if appendfsync { "always" } else { "everysec" },
    );
    gap::told("gap as the writers see it", &gaps.client);
    gap::told("slowest write", &gaps.slowest);
    gap::told("gap as the host sees it", &gaps.host);
    gap::told("FAILOVER TO as the writers see it", &gaps.failover);
}
