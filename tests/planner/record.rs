//! What branch and price and CP-SAT said, kept in `tests/cases/planner/optima.txt`, so that it need not be found anew
//! each time.
//!
//! An entry holds for one question only, which it names by its digest: a fleet, a rule or a band that is no longer the
//! same finds no entry and is put to `cbc`. Some entries are put to it in every run all the same.
//! `script/planner-optima` writes the file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::oracle::{Known, Question};

/// Seconds for a question without an entry.
const SECONDS: u64 = 5;
/// Seconds for the proof that an entry still holds.
const AGAIN: u64 = 2;
/// One entry out of so many is proven again.
const EVERY: u64 = 16;
/// The solver's figures are the same within this, in MiB or thousandths.
const PRINTED: f64 = 0.01;

/// Answers by the digest of their question, and what became of them in this run.
pub struct Record {
    entries: BTreeMap<u64, Known>,
    writes: Option<Writing>,
    used: Mutex<Used>,
}

/// How the file is written anew: the Python that has the solver, and its seconds for each question that the entries do
/// not decide. One question is put to it at a time.
struct Writing {
    python: PathBuf,
    seconds: u64,
    turn: Mutex<()>,
}

impl Writing {
    /// As `PLANNER_RECORD=PYTHON:SECONDS` says.
    fn wished() -> Option<Self> {
        let wish = std::env::var("PLANNER_RECORD").ok()?;
        let (python, seconds) = wish.split_once(':').expect("PYTHON:SECONDS");
        Some(Self { python: python.into(), seconds: seconds.parse().unwrap(), turn: Mutex::new(()) })
    }

    fn prove(&self, question: &Question, most: f64) -> Known {
        let _turn = self.turn.lock().unwrap();
        question.prove(&self.python, most, self.seconds)
    }
}

/// What a run asked for.
#[derive(Default)]
pub struct Used {
    /// Lines of the file by case and question.
    lines: BTreeMap<(u64, String), String>,
    pub recorded: usize,
    pub live: usize,
    pub proven_again: usize,
    pub wrong: Vec<String>,
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases/planner/optima.txt")
}

impl Record {
    /// Reads the file.
    pub fn read() -> Self {
        let text = std::fs::read_to_string(file()).unwrap_or_default();
        let (mut entries, mut used) = (BTreeMap::new(), Used::default());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let key = u64::from_str_radix(words[2], 16).unwrap();
            entries.insert(key, Known { least: words[3].parse().unwrap(), best: words[4].parse().ok() });
            used.lines.insert((words[0].parse().unwrap(), words[1].to_owned()), format!("{line}\n"));
        }
        Self { entries, writes: Writing::wished(), used: Mutex::new(used) }
    }

    /// What is known of the minimum, enough to tell whether anything is below `most`, or as much as time allows.
    pub fn answer(&self, (case, name): (u64, &'static str), question: &Question, most: f64) -> Known {
        let key = question.key();
        let entry = self.entries.get(&key).copied();
        let decided = entry.filter(|entry| entry.decides(most) || self.writes.is_none());
        let known = decided.unwrap_or_else(|| {
            let known = match &self.writes {
                Some(writing) => writing.prove(question, most),
                None => question.ask(most, SECONDS),
            };
            entry.map_or(known, |entry| entry.and(known))
        });
        let again = decided.is_some() && self.writes.is_none() && key.is_multiple_of(EVERY);
        let again = again.then(|| question.ask(known.least, AGAIN));
        let mut used = self.used.lock().unwrap();
        if decided.is_some() {
            used.recorded += 1
        } else {
            used.live += 1
        }
        if let Some(again) = again {
            used.proven_again += 1;
            if again.best.is_some_and(|best| best + PRINTED < known.least) {
                used.wrong.push(format!("case {case}, {name}: the record says {known:?}, the solver {again:?}"));
            }
        }
        let best = known.best.map_or("-".to_owned(), |best| best.to_string());
        let line = format!("{case} {name} {key:016x} {} {best}\n", known.least);
        used.lines.insert((case, name.to_owned()), line);
        if self.writes.is_some() && decided.is_none() {
            write(&used);
        }
        known
    }

    /// What was asked for.
    pub fn finish(self) -> Used {
        let used = self.used.into_inner().unwrap();
        if self.writes.is_some() {
            write(&used);
        }
        used
    }
}

fn write(used: &Used) {
    let head = "# What branch and price, column generation alone or CP-SAT said, or cbc before them.\n\
                # Case, question, digest of the question, what nothing is below, the best that was found.\n\
                # In MiB (moved, placed) or thousandths of a share (outside); inf: nothing keeps the rules.\n\
                # Written by script/planner-optima.\n";
    let lines: String = used.lines.values().cloned().collect();
    std::fs::create_dir_all(file().parent().unwrap()).unwrap();
    std::fs::write(file(), head.to_owned() + &lines).unwrap();
}

impl Known {
    /// What two answers to the same question tell together.
    fn and(self, other: Self) -> Self {
        let best = [self.best, other.best].into_iter().flatten().reduce(f64::min);
        Self { least: self.least.max(other.least), best }
    }
}
