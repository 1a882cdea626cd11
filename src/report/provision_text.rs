//! Plans and outcomes of `provision`.

use std::collections::BTreeMap;

use super::{Reporter, format_summary};
use crate::inventory::ByteSize;
use crate::plan::format_count;
use crate::protocol::HostFacts;
use crate::provision::{HostOutcome, PlanHostError, PlannedHosts};

/// Prints the plan of each host, and the hosts that have none.
pub fn report_host_plans(result: &PlannedHosts, reporter: &Reporter) {
    for (host, error) in &result.failed {
        match error {
            PlanHostError::Connect(error) => reporter.report_failure(host, &error.to_string(), Some(&error.hint())),
            PlanHostError::Agent(error) => reporter.report_failure(host, error, None),
        }
    }
    for plan in result.plans() {
        reporter.report_plan(plan);
    }
    // Without any plan, nothing is known about the hosts.
    if result.failed.is_empty() || !result.planned.is_empty() {
        reporter.print_data(&format_summary(result.plans()));
    }
}

/// Prints the outcome of each host.
pub fn report_host_outcomes(outcomes: &BTreeMap<String, HostOutcome>, reporter: &Reporter) {
    let next = "fix the error and run the command again; completed steps are not repeated";
    for (host, outcome) in outcomes {
        for line in &outcome.remaining {
            reporter.print_status(&format!("{host}: still differs: {line}"));
        }
        if let Some(error) = &outcome.failure {
            reporter.report_failure(host, error, Some(next));
        } else if outcome.is_skipped {
            reporter.print_status(&format!("{host}: skipped, because an earlier host failed"));
        }
    }
    let done: usize = outcomes.values().map(|outcome| outcome.applied_count).sum();
    let failed = outcomes.values().filter(|outcome| outcome.failure.is_some()).count();
    reporter.print_data(&format!("Done: {done} applied on {}, {failed} failed", format_count(outcomes.len(), "host")));
}

/// Prints the facts of a new host.
pub fn report_host_facts(host: &str, facts: &HostFacts, reporter: &Reporter) {
    let (os, memory) = (&facts.os, ByteSize(facts.memory_bytes).to_human());
    reporter.print_status(&format!("{host}: {} {}, {} CPUs, {memory} memory", os.id, os.version, facts.cpus));
}
