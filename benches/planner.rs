//! How near plans come to the optimum, and how long a large fleet takes: `script/bench planner`.
//!
//! The optimum is that of the tests' oracle (an integer programme, solved by cbc); fleets that it cannot finish in its
//! time are left out, and counted.
#![allow(missing_docs, dead_code)]

#[path = "../tests/planner/ask.rs"]
mod ask;
#[path = "../tests/planner/generate.rs"]
mod generate;
#[path = "../tests/planner/oracle.rs"]
mod oracle;

use std::time::Instant;

use dunlin::rebalance::plan::plan;
use generate::{MIB, case, large};
use oracle::Oracle;

/// Fleets that are compared with the optimum.
const CASES: u64 = 60;
/// Seconds of processor time that the oracle has for each.
const SECONDS: u64 = 5;
/// What was found is the optimum if nothing is lower by more than this fraction.
const PROVEN: f64 = 0.001;

fn main() {
    let fleet = large(16_384, 1_000);
    let before = peak_mib();
    let start = Instant::now();
    let found = plan(&fleet.observation, &fleet.wishes).expect("the large fleet has a plan");
    let seconds = start.elapsed().as_secs_f64();
    println!("16384 shards on 1000 hosts: {} in {seconds:.2} s", found.summary_line());
    println!("peak memory {} MiB, {before} MiB of it before planning", peak_mib());
    found.notes.iter().for_each(|note| println!("  {note}"));
    let (mut worst, mut compared, mut open) = (1.0f64, 0, 0);
    for number in 0..CASES {
        let case = case(number);
        let Ok(found) = plan(&case.observation, &case.wishes) else { continue };
        if found.notes.iter().any(|note| note.starts_with("planned as near") || note.starts_with("replicas move")) {
            continue;
        }
        let oracle = Oracle::new(&case.observation, &case.wishes);
        let known = oracle.least_moved(&oracle.bands()).ask(f64::INFINITY, SECONDS);
        match known.best {
            Some(best) if best - known.least <= PROVEN * best => {
                let moved = found.bytes_moved as f64 / MIB as f64;
                worst = worst.max(if best < 0.5 { 1.0 } else { moved / best });
                compared += 1;
            }
            _ => open += 1,
        }
    }
    println!("{compared} fleets compared with the optimum; of {open} more the oracle did not find it in {SECONDS} s");
    println!("bench planner: worst_vs_optimum={worst:.4} big_s={seconds:.2}");
}

/// The most memory that this process has used, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
