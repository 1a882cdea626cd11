//! Locks the hosts of a command.

use serde_json::json;

use super::command_error::CommandError;
use super::connect_args::InventoryArgs;
use super::exit::Exit;
use super::project::find_project_into;
use super::runs::run_log_folder;
use crate::fleet::{Fleet, LockError, Session};
use crate::inventory::Diagnostics;
use crate::protocol::lock::LockRequest;
use crate::report::{Reporter, keep_run_log, record_event};

/// Returns the operator, `user@machine`.
pub fn operator_id() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host.trim())
}

/// Returns the lock request of this run.
pub fn lock_request(command: &str, run: &str, shared: bool) -> LockRequest {
    LockRequest { operator: operator_id(), command: command.to_owned(), run: run.to_owned(), shared }
}

/// Locks the hosts for as long as the sessions live.
///
/// # Errors
/// Returns an error if another run holds a lock (exit 5), which is named with the command that stops it, or a host does
/// not answer (exit 4).
pub async fn lock_hosts(
    fleet: &Fleet,
    sessions: &[&Session],
    request: &LockRequest,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    match fleet.lock_hosts(sessions, request).await {
        Ok(()) => {
            let hosts: Vec<&str> = sessions.iter().map(|session| session.host.as_str()).collect();
            begin_run_log(&hosts, reporter);
            Ok(())
        }
        Err(LockError::HeldByOthers(holders)) => {
            for (host, holder) in &holders {
                reporter.report_failure(host, &holder.describe_lock(), None);
            }
            let (host, holder) = &holders[0];
            Err(CommandError::with_message(Exit::Locked, "locked by another run; no changes were made")
                .with_hint("wait until it ends; dunlin locks shows the locked hosts")
                .with_hint(format!("to stop it: dunlin exec {host} -- kill {}, then dunlin shards status", holder.pid)))
        }
        Err(LockError::RequestsFailed(failed)) => {
            for (host, error) in &failed {
                reporter.report_failure(host, error, None);
            }
            Err(CommandError::with_message(Exit::Partial, "not all hosts could be locked; no changes were made"))
        }
    }
}

/// Begins the log of a run that is about to change hosts. A folder that cannot be written is no reason to stop: each
/// host has a log of its own.
pub fn begin_run_log(hosts: &[&str], reporter: &Reporter) {
    let project = find_project_into(&InventoryArgs::default(), &mut Diagnostics::new()).ok().flatten();
    let Some(project) = project else { return };
    let folder = run_log_folder(&project);
    match keep_run_log(&folder, reporter.run) {
        Ok(()) => {
            record_event("run_started", reporter.run, json!({ "operator": operator_id(), "hosts": hosts }));
        }
        Err(error) => reporter.warn(&format!("this run is not recorded in {}: {error}", folder.display())),
    }
}
