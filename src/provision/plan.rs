//! Planning on the controller: connect, compile with the host's facts, let the host compare.

use crate::fleet::{Fleet, Session};
use crate::inventory::Diagnostics;
use crate::plan::HostPlan;
use crate::playbook::{Compiled, Compiler};
use crate::transport::ConnectError;
use crate::wire::provision::Catalogue;
use crate::wire::{Reply, Request};

/// A host that was planned, still connected.
pub struct Planned {
    /// The connection.
    pub session: Session,
    /// What it was given.
    pub catalogue: Catalogue,
    /// What it would do.
    pub plan: HostPlan,
}

/// A host that was not planned.
#[derive(Debug)]
pub enum Refused {
    /// It could not be reached.
    Connect(ConnectError),
    /// Its catalogue has mistakes, which its facts brought to light.
    Compile(Diagnostics),
    /// It could not compare; what it said.
    Host(String),
}

/// Plans hosts; each fails by itself. Results in the order of the names.
pub async fn plan(fleet: &Fleet, compiler: &Compiler<'_>, hosts: &[String]) -> Vec<(String, Result<Planned, Refused>)> {
    let results = fleet.each(hosts, |host| one(fleet, compiler, host)).await;
    hosts.iter().cloned().zip(results).collect()
}

async fn one(fleet: &Fleet, compiler: &Compiler<'_>, host: &str) -> Result<Planned, Refused> {
    let session = fleet.connect(host).await.map_err(Refused::Connect)?;
    let Compiled { catalogue, contents, .. } =
        compiler.compile(host, &session.hello.facts).map_err(Refused::Compile)?;
    session.offer(&contents);
    let plan = ask(fleet, &session, &catalogue).await?;
    Ok(Planned { session, catalogue, plan })
}

/// Compares once more, and tells which rows are not what the plan says: what changed in the world since.
///
/// # Errors
/// The host could not compare.
pub async fn replan(fleet: &Fleet, planned: &Planned, shown: &HostPlan) -> Result<Vec<String>, Refused> {
    let now = ask(fleet, &planned.session, &planned.catalogue).await?;
    Ok(differences(shown, &now))
}

async fn ask(fleet: &Fleet, session: &Session, catalogue: &Catalogue) -> Result<HostPlan, Refused> {
    let reply = session.request(Request::Plan(catalogue.clone()), &|_| {}, &fleet.stop).await;
    match reply.map_err(|error| Refused::Host(error.error))? {
        Reply::Planned(planned) => Ok(HostPlan { host: session.host.clone(), rows: planned.rows }),
        _ => Err(Refused::Host("an answer that does not fit".to_owned())),
    }
}

/// One line for each row that was shown otherwise.
pub fn differences(shown: &HostPlan, now: &HostPlan) -> Vec<String> {
    let mut lines = Vec::new();
    for row in &now.rows {
        match shown.rows.iter().find(|old| old.resource == row.resource && old.at == row.at) {
            Some(old) if old == row => {}
            Some(old) => lines.push(format!(
                "{}: {} was {}{}, now {}{}",
                now.host,
                row.resource,
                old.action,
                old.from_text().map(|from| format!(" ({from})")).unwrap_or_default(),
                row.action,
                row.from_text().map(|from| format!(" ({from})")).unwrap_or_default(),
            )),
            None => lines.push(format!("{}: {} was not in the plan", now.host, row.resource)),
        }
    }
    let gone = |old: &&crate::plan::Row| !now.rows.iter().any(|row| old.resource == row.resource && old.at == row.at);
    lines.extend(
        shown.rows.iter().filter(gone).map(|old| format!("{}: {} is not wanted any more", now.host, old.resource)),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Action, Change, Row, StepRef, digest_of};

    fn row(from: &str) -> Row {
        Row {
            at: StepRef { play: 0, step: 0 },
            name: None,
            resource: "file /etc/motd".to_owned(),
            action: Action::Change,
            changes: vec![Change::new("mode", from, "0644")],
            reason: None,
            fingerprint: digest_of(&from),
        }
    }

    #[test]
    fn a_changed_world_is_named_by_row() {
        let plan = |rows| HostPlan { host: "a".to_owned(), rows };
        assert!(differences(&plan(vec![row("0600")]), &plan(vec![row("0600")])).is_empty());
        let lines = differences(&plan(vec![row("0600")]), &plan(vec![row("0640")]));
        assert_eq!(lines, ["a: file /etc/motd was change (mode=0600), now change (mode=0640)"]);
    }
}
