//! Puts the oracle's questions to solvers: to `cbc` (package coinor-cbc) in every run, and for the record to branch and
//! price and CP-SAT, which decide much more, but are Python (`tests/planner/proof/solve.py`).

use std::path::Path;
use std::process::Command;

use crate::oracle::{Known, Question};

/// A solver stops once what it found is so near to its bound, as a fraction.
const ENOUGH: &str = "0.0005";

impl Question {
    /// What cbc answers after at most so many seconds of processor time. With `most` it only looks for something below
    /// that, which is refuted much sooner than an optimum is found.
    pub fn ask(&self, most: f64, seconds: u64) -> Known {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("question.lp");
        std::fs::write(&file, self.text(most)).unwrap();
        let mut cbc = Command::new("cbc");
        cbc.arg(&file).args(["-seconds", &seconds.to_string(), "-timeMode", "cpu", "-ratioGap", ENOUGH, "-solve"]);
        let output = cbc.output().expect("cbc runs (package coinor-cbc, see script/bootstrap)");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("Total time"), "cbc did not finish:\n{said}");
        known(&said, most)
    }

    /// What branch and price and CP-SAT answer after at most so many seconds each. `python` has their packages.
    pub fn prove(&self, python: &Path, most: f64, seconds: u64) -> Known {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("question.lp");
        std::fs::write(&file, self.text(f64::INFINITY)).unwrap();
        let mut solver = Command::new(python);
        solver.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/planner/proof/solve.py"));
        let output = solver.arg(&file).args([most.to_string(), seconds.to_string()]).output().expect("python runs");
        assert!(output.status.success(), "solve.py did not finish:\n{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout);
        let (least, best) = said.trim().lines().last().unwrap_or_default().split_once(' ').expect("two numbers");
        Known { least: least.parse().unwrap(), best: best.parse().ok() }
    }
}

/// Reads what cbc says at its end.
fn known(said: &str, most: f64) -> Known {
    let number = |name: &str| {
        let line = said.lines().rev().find_map(|line| line.trim().strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let result = said.lines().rev().find_map(|line| line.trim().strip_prefix("Result - "));
    if result.map_or(said.contains("infeasible"), |result| result.contains("infeasible")) {
        return Known { least: most, best: None };
    }
    let best = number("Objective value:").filter(|_| !said.contains("No feasible solution found"));
    let optimal = result.is_some_and(|result| result.starts_with("Optimal"));
    let proven = number("Lower bound:").or(best.filter(|_| optimal));
    let least = proven.or_else(|| number("Continuous objective value is")).unwrap_or(0.0);
    Known { least: least.clamp(0.0, most), best }
}
