//! Planning on the controller: connect, compile with the host's facts, let the host compare.

use crate::fleet::{Fleet, Session};
use crate::inventory::Diagnostics;
use crate::plan::HostPlan;
use crate::playbook::{CompiledHost, Compiler, SecretRedactor};
use crate::protocol::provision::Catalog;

use crate::transport::ConnectError;

/// A host that was planned, still connected.
pub struct PlannedHost {
    /// The connection.
    pub session: Session,
    /// Catalog that the host received.
    pub catalogue: Catalog,
    /// Plan of the host.
    pub plan: HostPlan,
    /// Words to cut out of what the host sends.
    pub secrets: SecretRedactor,
}

/// A host that was not planned.
#[derive(Debug)]
pub enum PlanHostError {
    /// The host could not be reached.
    Connect(ConnectError),
    /// Its catalog has mistakes, which its facts brought to light.
    Compile(Diagnostics),
    /// The agent could not compute the plan; with its error.
    Agent(String),
}

/// Plans hosts; each fails by itself. Results in the order of the names.
pub async fn plan_hosts(
    fleet: &Fleet,
    compiler: &Compiler<'_>,
    hosts: &[String],
) -> Vec<(String, Result<PlannedHost, PlanHostError>)> {
    let results = fleet.map_parallel(hosts, |host| plan_host(fleet, compiler, host)).await;
    hosts.iter().cloned().zip(results).collect()
}

async fn plan_host(fleet: &Fleet, compiler: &Compiler<'_>, host: &str) -> Result<PlannedHost, PlanHostError> {
    let session = fleet.connect(host).await.map_err(PlanHostError::Connect)?;
    let CompiledHost { catalogue, contents, .. } =
        compiler.compile_host(host, &session.hello.facts).map_err(PlanHostError::Compile)?;
    session.add_blobs(&contents);
    let secrets = compiler.secret_redactor().clone();
    let plan = request_plan(fleet, &session, &catalogue, &secrets).await?;
    Ok(PlannedHost { session, catalogue, plan, secrets })
}

/// Plans again and returns the rows that differ from the plan because the host has changed since.
///
/// # Errors
/// Returns an error if the host cannot compute the plan.
pub async fn replan_host(fleet: &Fleet, planned: &PlannedHost, shown: &HostPlan) -> Result<Vec<String>, PlanHostError> {
    let now = request_plan(fleet, &planned.session, &planned.catalogue, &planned.secrets).await?;
    Ok(diff_plans(shown, &now))
}

async fn request_plan(
    fleet: &Fleet,
    session: &Session,
    catalogue: &Catalog,
    secrets: &SecretRedactor,
) -> Result<HostPlan, PlanHostError> {
    let planned = session.call(catalogue.clone(), &|_| {}, &fleet.cancellation).await;
    let planned = planned.map_err(|error| PlanHostError::Agent(secrets.redact_text(&error.message)))?;
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
        shown
            .rows
            .iter()
            .filter(is_removed)
            .map(|old| format!("{}: {} is not wanted any more", now.host, old.resource)),
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
