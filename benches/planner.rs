//! How near plans come to the optimum, and how long a large fleet takes: `cargo bench --bench planner`.
//!
//! The optimum is the oracle's of the tests (an integer programme); fleets that it cannot finish in its time are left out.
#![allow(missing_docs, dead_code)]

#[path = "../tests/planner/generate.rs"]
mod generate;
#[path = "../tests/planner/oracle.rs"]
mod oracle;

use std::time::Instant;

use dunlin::rebalance::plan::plan;
use generate::{case, large};
use oracle::{Answer, Oracle};

/// Fleets that are compared with the optimum.
const CASES: u64 = 60;

fn main() {
    let (mut worst, mut compared) = (0.0f64, 0);
    for number in 0..CASES {
        let case = case(number);
        let Ok(found) = plan(&case.observation, &case.wishes) else { continue };
        if found.notes.iter().any(|note| note.starts_with("planned as near") || note.starts_with("replicas move")) {
            continue;
        }
        let oracle = Oracle::new(&case.observation, &case.wishes);
        if let (Answer::Yes(optimum), true) = oracle.optimum() {
            worst = worst.max(if optimum == 0 { 1.0 } else { found.bytes_moved as f64 / optimum as f64 });
            compared += 1;
        }
    }
    let fleet = large(16_384, 1_000);
    let start = Instant::now();
    let found = plan(&fleet.observation, &fleet.wishes).expect("the large fleet has a plan");
    let seconds = start.elapsed().as_secs_f64();
    println!("{compared} fleets compared; 16384 shards on 1000 hosts: {}", found.summary_line());
    found.notes.iter().for_each(|note| println!("  {note}"));
    println!("bench planner: worst_vs_optimum={worst:.4} big_s={seconds:.2}");
}
