//! The hosts' locks as commands take them: all of them or exit 5, with who holds them.

use super::exit::Exit;
use super::failure::Failure;
use crate::fleet::{Denied, Fleet, Session};
use crate::report::Reporter;
use crate::wire::lock::Take;

/// Who runs this: `user@machine`.
pub fn who() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{}", user.as_deref().unwrap_or("somebody"), host.trim())
}

/// What this run asks hosts for.
pub fn take(command: &str, run: &str, shared: bool) -> Take {
    Take { by: who(), command: command.to_owned(), run: run.to_owned(), shared }
}

/// Takes the locks for as long as the sessions live.
///
/// # Errors
/// Others hold one: exit 5, who and since when, and how to break it. A host cannot be asked: exit 4.
pub async fn lock(fleet: &Fleet, sessions: &[&Session], take: &Take, reporter: &Reporter) -> Result<(), Failure> {
    match fleet.lock(sessions, take).await {
        Ok(()) => Ok(()),
        Err(Denied::Held(held)) => {
            for (host, holder) in &held {
                reporter.failed(host, &holder.told(), None);
            }
            let (host, holder) = &held[0];
            Err(Failure::say(Exit::Locked, "locked by another run; nothing was changed")
                .hint("wait until it has ended; dunlin locks shows who holds what")
                .hint(format!("to break it: dunlin exec {host} -- kill {}, then dunlin shards status", holder.pid)))
        }
        Err(Denied::Failed(failed)) => {
            for (host, error) in &failed {
                reporter.failed(host, error, None);
            }
            Err(Failure::say(Exit::Partial, "not all hosts could be locked; nothing was changed"))
        }
    }
}
