//! Notifications of a rollout, or of another change of a service: commands of the recipe on the controller, with facts as
//! JSON on standard input.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ChangeOutcome, HostFailure, PlannedChange, PlannedDeploy, RolloutOutcome};
use crate::deploy::recipe::NotifyCommands;
use crate::deploy::signature::SIGN_PASSWORD;
use crate::process::Program;
use crate::protocol::deploy::{ReleaseManifest, ServiceRef};

/// Notifies the recipe's commands of one run.
pub struct Notifier<'a> {
    /// The commands.
    pub commands: &'a NotifyCommands,
    /// Folder in which they run.
    pub folder: PathBuf,
    /// `deploy`, `rollback`, `start_maintenance`, `end_maintenance` or `undeploy`.
    pub command: &'a str,
    /// The service and its operator.
    pub scope: &'a ServiceRef,
    /// The run.
    pub run: &'a str,
    /// Receives the failures of the commands.
    pub on_failure: &'a (dyn Fn(&str) + Sync),
}

impl Notifier<'_> {
    /// Notifies of the start of the rollout, before the first change.
    pub async fn notify_start(&self, planned: &[PlannedDeploy]) {
        let hosts = planned.iter().map(|host| host_facts(host, None)).collect();
        self.run_commands("started", find_manifest(planned), hosts).await;
    }

    /// Notifies of the end of the rollout.
    pub async fn notify_end(&self, planned: &[PlannedDeploy], outcome: &RolloutOutcome, is_complete: bool) {
        let hosts = planned.iter().map(|host| host_facts(host, Some(outcome))).collect();
        self.run_commands(end_event(is_complete), find_manifest(planned), hosts).await;
    }

    /// Notifies of the start of a change of the service, before the first host is changed.
    pub async fn notify_change_start(&self, planned: &[PlannedChange]) {
        let hosts = planned.iter().map(|host| json!({"host": host.session.host})).collect();
        self.run_commands("started", None, hosts).await;
    }

    /// Notifies of the end of a change of the service.
    pub async fn notify_change_end(&self, planned: &[PlannedChange], outcome: &ChangeOutcome, is_complete: bool) {
        let hosts = planned.iter().map(|host| changed_host_facts(&host.session.host, outcome)).collect();
        self.run_commands(end_event(is_complete), None, hosts).await;
    }

    /// Runs the commands of an event one after another. A failure is a warning: it does not change the outcome of the run.
    async fn run_commands(&self, event: &str, manifest: Option<&ReleaseManifest>, hosts: Vec<Value>) {
        let commands = match event {
            "started" => &self.commands.started,
            "finished" => &self.commands.finished,
            _ => &self.commands.failed,
        };
        let facts = json!({
            "event": event,
            "command": self.command,
            "service": self.scope.service,
            "release": manifest.map(|manifest| &manifest.version),
            "revision": manifest.and_then(|manifest| manifest.origin.as_ref()?.revision.as_ref()),
            "operator": self.scope.operator,
            "run": self.run,
            "hosts": hosts,
        });
        for argv in commands {
            let (argv_owned, folder, input) = (argv.clone(), self.folder.clone(), facts.to_string());
            let timeout = Duration::from_millis(self.commands.timeout_ms);
            let task = tokio::task::spawn_blocking(move || run_command(&argv_owned, folder, input, timeout));
            let result = task.await.context("the command was not run").flatten();
            if let Err(error) = result {
                (self.on_failure)(&format!("the command for `{event}` in [notify] failed: {error:#}"));
            }
        }
    }
}

fn run_command(argv: &[String], folder: PathBuf, input: String, timeout: Duration) -> Result<()> {
    let (program, args) = argv.split_first().context("a command without a program")?;
    let program = Program::with_own_environment(program).args(args).folder(&folder).input(input.into_bytes());
    let completed = program.without_env(SIGN_PASSWORD).timeout(timeout).complete()?;
    ensure!(completed.is_success(), "`{}` {}", argv.join(" "), completed.describe());
    Ok(())
}

/// Returns the release that the host served before, and the result on the host after the end of the rollout.
fn host_facts(host: &PlannedDeploy, outcome: Option<&RolloutOutcome>) -> Value {
    let name = &host.session.host;
    let previous = host.observation.confirmed.as_ref().map(|target| &target.version);
    let mut facts = json!({"host": name, "previous": previous});
    let Some(outcome) = outcome else { return facts };
    let has_changes = host.plan.pending_rows().next().is_some();
    let (result, failure) = find_host_outcome(name, has_changes, outcome);
    facts["outcome"] = json!(result);
    add_error(&mut facts, failure);
    facts
}

fn changed_host_facts(host: &str, outcome: &ChangeOutcome) -> Value {
    let failure = outcome.failed.iter().find(|(failed, _)| failed == host).map(|(_, failure)| failure);
    let has = |hosts: &[String]| hosts.iter().any(|name| name == host);
    let result = match failure {
        Some(_) => "failed",
        None if has(&outcome.changed) => "changed",
        None if has(&outcome.skipped) => "skipped",
        None => "unchanged",
    };
    let mut facts = json!({"host": host, "outcome": result});
    add_error(&mut facts, failure);
    facts
}

fn add_error(facts: &mut Value, failure: Option<&HostFailure>) {
    if let Some(failure) = failure {
        facts["error"] = json!(describe_failure(failure));
    }
}

fn find_manifest(planned: &[PlannedDeploy]) -> Option<&ReleaseManifest> {
    planned.first().map(|host| &host.desired.manifest)
}

fn end_event(is_complete: bool) -> &'static str {
    if is_complete { "finished" } else { "failed" }
}

fn describe_failure(failure: &HostFailure) -> String {
    match failure {
        HostFailure::Locked(holder) => format!("the service is locked by {}", holder.operator),
        HostFailure::Refused(reason) | HostFailure::Failed(reason, _) => reason.clone(),
    }
}

/// Returns the result of a rollout on a host, and its failure.
fn find_host_outcome<'o>(
    host: &str,
    has_changes: bool,
    outcome: &'o RolloutOutcome,
) -> (&'static str, Option<&'o HostFailure>) {
    if let Some((_, failure)) = outcome.failed.iter().find(|(failed, _)| failed == host) {
        return ("failed", Some(failure));
    }
    let result = if outcome.returned.iter().any(|(returned, _)| returned == host) {
        "returned"
    } else if outcome.stopped.iter().any(|stopped| stopped == host) {
        "stopped"
    } else if outcome.switched.iter().any(|switched| switched == host) {
        "switched"
    } else if has_changes {
        "skipped"
    } else {
        "unchanged"
    };
    (result, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::deploy::ReleaseVersion;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn run_shell(line: &str, folder: &std::path::Path) -> Result<()> {
        let argv = ["/bin/sh", "-c", line].map(str::to_owned);
        run_command(&argv, folder.to_owned(), "{\"event\":\"started\"}".to_owned(), TIMEOUT)
    }

    #[test]
    fn a_command_gets_the_facts_in_the_folder_of_the_project() {
        let folder = tempfile::tempdir().unwrap();
        run_shell("cat >facts", folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("facts")).unwrap(), "{\"event\":\"started\"}");
        // One that does not read is no failure.
        run_shell("true", folder.path()).unwrap();
        let error = run_shell("echo no webhook >&2; exit 3", folder.path()).unwrap_err().to_string();
        assert!(error.contains("exit status: 3: no webhook"), "{error}");
    }

    #[test]
    fn each_host_has_its_outcome() {
        let failure = HostFailure::Failed("release 2 failed".to_owned(), Vec::new());
        let outcome = RolloutOutcome {
            switched: vec!["a".to_owned()],
            returned: vec![("b".to_owned(), ReleaseVersion::adopted())],
            failed: vec![("c".to_owned(), failure.clone())],
            ..RolloutOutcome::default()
        };
        let result = |host: &str, has_changes: bool| find_host_outcome(host, has_changes, &outcome);
        assert_eq!(result("a", true), ("switched", None));
        assert_eq!(result("b", true), ("returned", None));
        assert_eq!(result("c", true), ("failed", Some(&failure)));
        assert_eq!((result("d", true), result("d", false)), (("skipped", None), ("unchanged", None)));
    }
}
