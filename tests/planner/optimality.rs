//! The planner on 500 generated fleets, compared with their recorded optima.
//!
//! A plan within the tolerance may move 1.01 times the bytes of the optimum. Where no placement is within the
//! tolerance, a plan may be 5 thousandths of a share further from it than the recorded bound, which no placement beats,
//! and may move 1.01 times the bytes of the recorded plan. That plan was up to 5 thousandths from the bound: a plan
//! that comes closer has to move more, so the two are not always comparable. The few fleets above these limits are in
//! `exceptions.txt`, each with its present figures, which it must not exceed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use dunlin::rebalance::check::check_plan;
use dunlin::rebalance::plan::{PlanOptions, RebalancePlan, plan};

use crate::deviation::Reference;
use crate::generate::{Case, MIB, case};

/// A build without optimisation plans some twenty times slower: it takes only these fleets, which need a tenth of a
/// second at most in a release build. `script/bench planner` takes all of them.
const DEBUG_SAMPLE: &[u64] = &[0, 33, 49, 50, 53, 54, 61, 78, 101, 103, 150, 250, 303, 353, 403, 453];
/// The most that a plan may move, relative to the optimum.
const MAX_RATIO: f64 = 1.01;
/// How much further from the tolerance a plan may be than the closest placement, in thousandths of a share.
const MAX_DEVIATION: f64 = 5.0;
/// Sizes are whole MiB, and the optima are rounded to tenths of one.
const ROUNDING_MIB: f64 = 0.6;

/// What is recorded of a fleet.
#[derive(Clone, Copy)]
enum Optimum {
    Within { mib: f64 },
    Near { deviation: f64, mib: Option<f64> },
    Infeasible,
}

/// The present figures of a fleet that is above the limits.
#[derive(Clone, Copy)]
struct Exception {
    deviation: f64,
    mib: f64,
}

fn read_exceptions() -> BTreeMap<u64, Exception> {
    let parse = |line: &str| {
        let words: Vec<f64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        (words[0] as u64, Exception { deviation: words[1], mib: words[2] })
    };
    read_case_lines("exceptions.txt").iter().map(|line| parse(line)).collect()
}

/// Returns the lines of a file in `tests/cases/planner` that are not comments.
fn read_case_lines(name: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/planner").join(name);
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn read_optima() -> BTreeMap<u64, Optimum> {
    let parse = |line: &String| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).map(|word| word.parse::<f64>().unwrap());
        let optimum = match words[1] {
            "within" => Optimum::Within { mib: number(2).unwrap() },
            "near" => Optimum::Near { deviation: number(2).unwrap(), mib: number(3) },
            "infeasible" => Optimum::Infeasible,
            other => panic!("`{other}` in the recorded optima"),
        };
        (words[0].parse().unwrap(), optimum)
    };
    read_case_lines("optima.txt").iter().map(parse).collect()
}

/// What one plan came to.
struct Trial {
    name: String,
    /// Bytes moved, relative to the optimum; 1 where nothing is recorded.
    ratio: f64,
    seconds: f64,
    exception: Option<Exception>,
    problems: Vec<String>,
}

#[test]
fn plans_are_close_to_the_optimum_legal_and_repeatable() {
    let (optima, exceptions) = (read_optima(), read_exceptions());
    let wanted = |number: &u64| match std::env::var("PLANNER_CASES") {
        Ok(list) => list.split(',').any(|one| one.parse() == Ok(*number)),
        Err(_) => !cfg!(debug_assertions) || DEBUG_SAMPLE.contains(number),
    };
    let numbers: Vec<u64> = optima.keys().copied().filter(wanted).collect();
    let (next, trials) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let trial = try_case(*number, optima[number], exceptions.get(number).copied());
                    if std::env::var("PLANNER_VERBOSE").is_ok() {
                        println!("{:.5} {:.2} {} {:?}", trial.ratio, trial.seconds, trial.name, trial.problems);
                    }
                    trials.lock().unwrap().push(trial);
                }
            });
        }
    });
    let trials = trials.into_inner().unwrap();
    let problems: Vec<String> = trials
        .iter()
        .flat_map(|trial| trial.problems.iter().map(|problem| format!("{}: {problem}", trial.name)))
        .collect();
    let listed = trials.iter().filter(|trial| trial.exception.is_some());
    let worst_listed = listed.clone().map(|trial| trial.ratio).fold(1.0, f64::max);
    println!("exceptions: {} fleets, at most {worst_listed:.4} times the recorded bytes", listed.count());
    let regular = || trials.iter().filter(|trial| trial.exception.is_none());
    let farthest = regular().max_by(|a, b| a.ratio.total_cmp(&b.ratio)).unwrap();
    let slowest = trials.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds)).unwrap();
    println!("{} fleets; the slowest took {:.2} s: {}", trials.len(), slowest.seconds, slowest.name);
    println!("worst_vs_optimum={:.4} {}", farthest.ratio, farthest.name);
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

fn try_case(number: u64, optimum: Optimum, exception: Option<Exception>) -> Trial {
    let case = case(number);
    let start = cpu();
    let first = plan(&case.observation, &case.options);
    let seconds = cpu() - start;
    let mut trial = Trial { name: case.name.clone(), ratio: 1.0, seconds, exception, problems: Vec::new() };
    if number.is_multiple_of(5) {
        let again = plan(&case.observation, &case.options);
        if serde_json::to_vec(&again).unwrap() != serde_json::to_vec(&first).unwrap() {
            trial.problems.push("the same input gave another plan".to_owned());
        }
    }
    match (first, optimum) {
        (Err(_), Optimum::Infeasible) => {}
        (Ok(found), Optimum::Within { mib }) => {
            trial.compare_bytes(&found, mib);
            trial.problems.extend(check_plan(&case.observation, &case.options, &found).iter().map(ToString::to_string));
            if found.notes.iter().any(|note| note.starts_with("outside the tolerance")) {
                trial.problems.push("misses a tolerance that can be met".to_owned());
            }
        }
        (Ok(found), Optimum::Near { deviation, mib }) => {
            trial.problems.extend(check_plan(&case.observation, &case.options, &found).iter().map(ToString::to_string));
            trial.compare_deviation(&case, &found, deviation);
            if let Some(mib) = mib {
                trial.compare_bytes(&found, mib);
            }
        }
        (Err(refused), _) => trial.problems.push(format!("there is a placement, but: {refused}")),
        (Ok(_), Optimum::Infeasible) => trial.problems.push("a plan where no placement keeps the rules".to_owned()),
    }
    trial
}

impl Trial {
    fn compare_bytes(&mut self, found: &RebalancePlan, mib: f64) {
        let moved = found.bytes_moved as f64 / MIB as f64;
        let bound = found.lower_bound_bytes as f64 / MIB as f64;
        self.ratio = if mib > 0.0 { (moved / mib).max(1.0) } else { 1.0 + moved };
        let limit = self.exception.map_or(MAX_RATIO * mib, |exception| exception.mib);
        if moved > limit + ROUNDING_MIB {
            self.problems.push(format!("moves {moved} MiB, {:.4} times the optimum {mib}", self.ratio));
        }
        if bound > moved {
            self.problems.push(format!("the bound of {bound:.1} MiB is above the {moved} that move"));
        }
    }

    fn compare_deviation(&mut self, case: &Case, found: &RebalancePlan, least: f64) {
        let freed = found.notes.iter().any(|note| note.starts_with("replicas move"));
        let options = PlanOptions { move_replicas: freed, ..case.options.clone() };
        let reference = Reference::new(&case.observation, &options);
        let deviation = reference.worst_deviation(&reference.hosts_after(found));
        let limit = self.exception.map_or(least + MAX_DEVIATION, |exception| exception.deviation);
        if deviation > limit + 0.05 {
            self.problems.push(format!("{deviation:.1} thousandths from the tolerance; {least:.1} are possible"));
        }
    }
}

fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}
