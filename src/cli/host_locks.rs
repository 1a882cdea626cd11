//! The hosts' locks as commands take them: all of them or exit 5, with who holds them.

use super::command_error::CommandError;
use super::exit::Exit;
use crate::fleet::{Fleet, LockError, Session};
use crate::protocol::lock::LockRequest;
use crate::report::Reporter;

/// Who runs this: `user@machine`.
pub fn operator_id() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{}", user.as_deref().unwrap_or("somebody"), host.trim())
}

/// What this run asks hosts for.
pub fn lock_request(command: &str, run: &str, shared: bool) -> LockRequest {
    LockRequest { operator: operator_id(), command: command.to_owned(), run: run.to_owned(), shared }
}

/// Takes the locks for as long as the sessions live.
///
/// # Errors
/// Others hold one: exit 5, who and since when, and how to break it. A host cannot be asked: exit 4.
pub async fn lock_hosts(
    fleet: &Fleet,
    sessions: &[&Session],
    request: &LockRequest,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    match fleet.lock_hosts(sessions, request).await {
        Ok(()) => Ok(()),
        Err(LockError::HeldByOthers(held)) => {
            for (host, holder) in &held {
                reporter.report_failure(host, &holder.describe_lock(), None);
            }
            let (host, holder) = &held[0];
            Err(CommandError::with_message(Exit::Locked, "locked by another run; nothing was changed")
                .with_hint("wait until it has ended; dunlin locks shows who holds what")
                .with_hint(format!(
                    "to break it: dunlin exec {host} -- kill {}, then dunlin shards status",
                    holder.pid
                )))
        }
        Err(LockError::RequestsFailed(failed)) => {
            for (host, error) in &failed {
                reporter.report_failure(host, error, None);
            }
            Err(CommandError::with_message(Exit::Partial, "not all hosts could be locked; nothing was changed"))
        }
    }
}
