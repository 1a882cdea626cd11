//! The planner against the oracle on 500 generated fleets.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use dunlin::rebalance::check::check;
use dunlin::rebalance::plan::{RebalancePlan, Wishes, plan};

use crate::generate::{Case, MIB, case};
use crate::oracle::{Band, Oracle};
use crate::record::Record;

const CASES: u64 = 500;
/// A build without optimisation plans some twenty times slower: it takes these, which need a tenth of a second at most in a
/// release build. `script/bench planner` and `script/planner-optima` run all of them in one.
const UNOPTIMISED: &[u64] = &[0, 50, 53, 100, 103, 150, 250, 300, 303, 350, 353, 400, 403, 450, 453];
/// The most that a plan may move, relative to the fewest bytes that are possible.
const RATIO: f64 = 1.005;
/// How much further from the wished bands a plan may be than the nearest placement, in thousandths of a share.
const NEARER: f64 = 5.0;

/// How often each kind of case came up, and what was wrong.
#[derive(Default)]
struct Tally {
    within: u64,
    nearest: u64,
    infeasible: u64,
    by_count: u64,
    /// What is not as it should be, or not proven to be.
    wrong: Vec<String>,
}

#[test]
fn plans_are_minimal_legal_and_repeatable() {
    let (tally, record) = (Mutex::new(Tally::default()), Record::read());
    let next = AtomicU64::new(0);
    let only = std::env::var("PLANNER_CASES").ok();
    let only: Option<Vec<u64>> = only.map(|list| list.split(',').map(|number| number.parse().unwrap()).collect());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CASES {
                        break;
                    }
                    if cfg!(debug_assertions) && !UNOPTIMISED.contains(&number) {
                        continue;
                    }
                    if only.as_ref().is_none_or(|only| only.contains(&number)) {
                        one(number, &record, &tally);
                    }
                }
            });
        }
    });
    let (tally, used) = (tally.into_inner().unwrap(), record.finish());
    println!(
        "{} within tolerance ({} proven by counting), {} as near as possible, {} infeasible",
        tally.within, tally.by_count, tally.nearest, tally.infeasible
    );
    println!(
        "{} questions from the record, {} of them asked again, {} new",
        used.recorded, used.proven_again, used.live
    );
    let wrong: Vec<String> = tally.wrong.into_iter().chain(used.wrong).collect();
    let (count, lines) = (wrong.len(), wrong.join("\n"));
    assert!(wrong.is_empty(), "{count} wrong, or not proven yet (script/planner-optima):\n{lines}");
    println!("{} plans are proven to move at most {RATIO} times the fewest bytes", tally.within + tally.nearest);
    if only.is_none() && !cfg!(debug_assertions) {
        assert!(tally.within > 200 && tally.nearest > 20 && tally.infeasible > 40, "the cases are one-sided");
    }
}

/// What is known of one case.
struct Trial<'a> {
    number: u64,
    case: &'a Case,
    record: &'a Record,
    wrong: Vec<String>,
}

enum Kind {
    Within { counted: bool },
    Near,
    Infeasible,
}

fn one(number: u64, record: &Record, tally: &Mutex<Tally>) {
    let case = case(number);
    let mut trial = Trial { number, case: &case, record, wrong: Vec::new() };
    let first = plan(&case.observation, &case.wishes);
    if number.is_multiple_of(5) {
        let again = plan(&case.observation, &case.wishes);
        if serde_json::to_vec(&again).unwrap() != serde_json::to_vec(&first).unwrap() {
            trial.wrong.push("the same input gave another plan".to_owned());
        }
    }
    let kind = match first {
        Err(refused) => trial.impossible(&refused.to_string()),
        Ok(found) => trial.possible(&found),
    };
    let mut tally = tally.lock().unwrap();
    match kind {
        Kind::Within { counted } => {
            tally.within += 1;
            tally.by_count += u64::from(counted);
        }
        Kind::Near => tally.nearest += 1,
        Kind::Infeasible => tally.infeasible += 1,
    }
    tally.wrong.extend(trial.wrong.into_iter().map(|wrong| format!("{}: {wrong}", case.name)));
}

impl Trial<'_> {
    fn possible(&mut self, found: &RebalancePlan) -> Kind {
        let (observation, wishes) = (&self.case.observation, &self.case.wishes);
        self.wrong.extend(check(observation, wishes, found).iter().map(ToString::to_string));
        let freed = found.notes.iter().any(|note| note.starts_with("replicas move"));
        let wishes = Wishes { move_replicas: freed, ..wishes.clone() };
        let oracle = Oracle::new(observation, &wishes);
        let near = found.notes.iter().any(|note| note.starts_with("planned as near"));
        let bands = if near { self.nearest(&oracle, found) } else { oracle.bands() };
        let counted = self.few(&oracle, found, &bands);
        if near { Kind::Near } else { Kind::Within { counted } }
    }

    /// As few bytes as possible within the bands. Whether counting alone shows it.
    fn few(&mut self, oracle: &Oracle, found: &RebalancePlan, bands: &[Band]) -> bool {
        let (moved, bound) = (in_mib(found.bytes_moved), in_mib(found.lower_bound_bytes));
        let (added_up, counted) = (oracle.added_up(bands), oracle.counted(bands));
        if added_up > bound + bands.len() as f64 {
            self.wrong.push(format!("the plan's bound of {bound} MiB is below the sum of {added_up}"));
        }
        if counted > moved + 0.5 {
            self.wrong.push(format!("moves {moved} MiB, but {counted} have to"));
        }
        // Half a MiB is what the solver's tolerances make of sizes in whole MiB.
        let most = (moved - 0.5) / RATIO;
        if counted >= most {
            return true;
        }
        let known = self.record.answer((self.number, "moved"), &oracle.least_moved(bands), most);
        let best = known.best.unwrap_or(f64::MAX);
        if bound > best + 0.5 {
            self.wrong.push(format!("{best} MiB are possible, below the plan's bound of {bound}"));
        }
        if best < most {
            let gap = found.gap;
            let text = format!("moves {moved} MiB, {:.4} times {best} (gap {gap:.4})", moved / best);
            self.wrong.push(text);
        } else if known.least < most {
            let text = format!("moves {moved} MiB, proven is that {:.0} must move (bound {bound:.0})", known.least);
            self.wrong.push(text);
        }
        false
    }

    /// The plan missed the tolerance: the oracle must not come much nearer. The bands that the plan may use.
    fn nearest(&mut self, oracle: &Oracle, found: &RebalancePlan) -> Vec<Band> {
        let (bands, worst) = oracle.given_way(&oracle.after(found));
        // If the plan is nearly there, the question is whether the tolerance can be met after all.
        let most = (worst - NEARER).max(0.05f64.min(worst / 2.0));
        let known = self.record.answer((self.number, "outside"), &oracle.least_outside(), most);
        if let Some(best) = known.best.filter(|best| *best < most) {
            let text = format!("is {worst:.1} thousandths out, the oracle {best:.1}");
            self.wrong.push(text);
        } else if known.least < most {
            let text = format!("is {worst:.1} thousandths out, proven is that {:.1} must be", known.least);
            self.wrong.push(text);
        }
        bands
    }

    fn impossible(&mut self, message: &str) -> Kind {
        let freed = Wishes { move_replicas: true, ..self.case.wishes.clone() };
        let oracle = Oracle::new(&self.case.observation, &freed);
        let known = self.record.answer((self.number, "placed"), &oracle.least_moved(&oracle.walls()), f64::INFINITY);
        if known.best.is_some() {
            self.wrong.push(format!("the oracle finds a way, the planner says: {message}"));
        } else if known.least < f64::INFINITY {
            self.wrong.push(format!("nobody proved what the planner says: {message}"));
        }
        Kind::Infeasible
    }
}

fn in_mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}
