//! Planning on the controller: connect, compile with the host's facts, let the host compare.

use crate::fleet::{Fleet, Session};
use crate::inventory::Diagnostics;
use crate::plan::{ChangeCounts, HostPlan};
use crate::playbook::{CompiledHost, Compiler, SecretRedactor};
use crate::protocol::provision::Catalog;

use crate::transport::ConnectError;

/// A host that was planned, still connected.
pub struct PlannedHost {
    /// The connection.
    pub session: Session,
    /// Catalog that the host received.
    pub catalog: Catalog,
    /// Plan of the host.
    pub plan: HostPlan,
    /// Words to cut out of what the host sends.
    pub secrets: SecretRedactor,
}

/// Reason why a host has no plan.
#[derive(Debug)]
pub enum PlanHostError {
    /// The host could not be reached.
    Connect(ConnectError),
    /// The agent could not compute the plan; with its error.
    Agent(String),
}

/// Reason why a host has no plan: of the host, or in the files of the project.
enum PlanningError {
    Host(PlanHostError),
    Files(Diagnostics),
}

impl From<PlanHostError> for PlanningError {
    fn from(error: PlanHostError) -> Self {
        Self::Host(error)
    }
}

/// The hosts of a run after planning, in the order of their names.
#[derive(Default)]
pub struct PlannedHosts {
    /// Hosts with a plan.
    pub planned: Vec<PlannedHost>,
    /// Hosts without one, each with its error: unreachable, or its agent could not plan.
    pub failed: Vec<(String, PlanHostError)>,
    /// Mistakes in files that only a host's facts reveal, sorted; nothing may be applied then.
    pub mistakes: Diagnostics,
    /// Hosts whose catalogs have these mistakes.
    pub hosts_with_mistakes: Vec<String>,
}

impl PlannedHosts {
    /// Returns the plan of each host that has one.
    pub fn plans(&self) -> impl Iterator<Item = &HostPlan> {
        self.planned.iter().map(|host| &host.plan)
    }

    /// Counts the changes of all plans.
    pub fn count_changes(&self) -> ChangeCounts {
        ChangeCounts::count_rows(self.plans().flat_map(|plan| &plan.rows))
    }
}

/// Plans hosts in parallel; each fails by itself.
pub async fn plan_hosts(fleet: &Fleet, compiler: &Compiler<'_>, hosts: &[String]) -> PlannedHosts {
    let results = fleet.map_parallel(hosts, |host| plan_host(fleet, compiler, host)).await;
    let mut sorted = PlannedHosts::default();
    for (host, result) in hosts.iter().zip(results) {
        match result {
            Ok(planned) => sorted.planned.push(planned),
            Err(PlanningError::Files(found)) => {
                sorted.mistakes.extend(found);
                sorted.hosts_with_mistakes.push(host.clone());
            }
            Err(PlanningError::Host(error)) => sorted.failed.push((host.clone(), error)),
        }
    }
    sorted.mistakes.sort();
    sorted
}

async fn plan_host(fleet: &Fleet, compiler: &Compiler<'_>, host: &str) -> Result<PlannedHost, PlanningError> {
    let session = fleet.connect(host).await.map_err(PlanHostError::Connect)?;
    let CompiledHost { catalog, contents, .. } =
        compiler.compile_host(host, &session.hello.facts).map_err(PlanningError::Files)?;
    session.add_blobs(&contents);
    let secrets = compiler.secret_redactor().clone();
    let plan = request_plan(fleet, &session, &catalog, &secrets).await.map_err(PlanHostError::Agent)?;
    Ok(PlannedHost { session, catalog, plan, secrets })
}

/// A plan that differs from what its hosts need now.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan is out of date; no changes were made\n  {}", .differences.join("\n  "))]
pub struct OutdatedPlanError {
    /// One line for each row that differs.
    pub differences: Vec<String>,
}

impl OutdatedPlanError {
    /// Returns the error if there are differences.
    pub(super) fn check(differences: Vec<String>) -> Result<(), Self> {
        if differences.is_empty() { Ok(()) } else { Err(Self { differences }) }
    }
}

/// Plans the hosts again, and checks that each of their plans is the one that was shown.
///
/// # Errors
/// Returns an error if a row differs, or a host cannot be planned any more.
pub async fn ensure_unchanged_since_plan(fleet: &Fleet, planned: &[PlannedHost]) -> Result<(), OutdatedPlanError> {
    let lines = fleet.map_parallel(planned, |host| find_host_changes(fleet, host)).await;
    OutdatedPlanError::check(lines.into_iter().flatten().collect())
}

async fn find_host_changes(fleet: &Fleet, planned: &PlannedHost) -> Vec<String> {
    match request_plan(fleet, &planned.session, &planned.catalog, &planned.secrets).await {
        Ok(now) => diff_plans(&planned.plan, &now),
        Err(error) => vec![format!("{}: {error}", planned.plan.host)],
    }
}

async fn request_plan(
    fleet: &Fleet,
    session: &Session,
    catalog: &Catalog,
    secrets: &SecretRedactor,
) -> Result<HostPlan, String> {
    let planned = session.call(catalog.clone(), &|_| {}, &fleet.cancellation).await;
    let planned = planned.map_err(|error| secrets.redact_text(&error.message))?;
    let mut rows = planned.changes;
    rows.iter_mut().for_each(|row| secrets.redact_row(row));
    Ok(HostPlan { host: session.host.clone(), rows })
}

/// Compares two plans of a host, with one line per row that differs.
pub fn diff_plans(shown: &HostPlan, now: &HostPlan) -> Vec<String> {
    let mut lines = Vec::new();
    for row in &now.rows {
        match shown.rows.iter().find(|old| old.resource == row.resource && old.step == row.step) {
            Some(old) if old == row => {}
            Some(old) => lines.push(format!(
                "{}: {} was {}{}, now {}{}",
                now.host,
                row.resource,
                old.action,
                old.describe_from().map(|from| format!(" ({from})")).unwrap_or_default(),
                row.action,
                row.describe_from().map(|from| format!(" ({from})")).unwrap_or_default(),
            )),
            None => lines.push(format!("{}: {} was not in the plan", now.host, row.resource)),
        }
    }
    let is_removed = |old: &&crate::plan::ResourceChange| {
        !now.rows.iter().any(|row| old.resource == row.resource && old.step == row.step)
    };
    lines.extend(
        shown.rows.iter().filter(is_removed).map(|old| format!("{}: {} is no longer needed", now.host, old.resource)),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Action, AttributeChange, ResourceChange, StepRef, digest_json};

    fn sample_row(from: &str) -> ResourceChange {
        ResourceChange {
            step: StepRef { play: 0, step: 0 },
            name: None,
            resource: "file /etc/motd".to_owned(),
            action: Action::Change,
            changes: vec![AttributeChange::new("mode", from, "0644")],
            reason: None,
            fingerprint: digest_json(&from),
        }
    }

    #[test]
    fn changed_rows_are_listed() {
        let plan = |rows| HostPlan { host: "a".to_owned(), rows };
        assert!(diff_plans(&plan(vec![sample_row("0600")]), &plan(vec![sample_row("0600")])).is_empty());
        let lines = diff_plans(&plan(vec![sample_row("0600")]), &plan(vec![sample_row("0640")]));
        assert_eq!(lines, ["a: file /etc/motd was change (mode=0600), now change (mode=0640)"]);
    }
}
