//! How long the plan for a large fleet takes: part of `script/bench planner`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for measurements: it stops at what is missing, and prints its figures"
)]
#![allow(missing_docs, dead_code)]

#[path = "../tests/planner/generate.rs"]
mod generate;

use std::time::Instant;

use dunlin::rebalance::plan::plan;
use generate::large;

fn main() {
    let fleet = large(16_384, 1_000);
    let before = peak_memory_mib();
    let start = Instant::now();
    let found = plan(&fleet.observation, &fleet.options).expect("the large fleet has a plan");
    let seconds = start.elapsed().as_secs_f64();
    println!("16384 shards on 1000 hosts: {} in {seconds:.2} s", found.summary_line());
    println!("peak memory {} MiB, {before} MiB of it before planning", peak_memory_mib());
    found.notes.iter().for_each(|note| println!("  {note}"));
    println!("big_s={seconds:.2}");
}

/// The most memory that this process has used, in MiB.
fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
