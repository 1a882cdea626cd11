//! Where the torture of the tests strikes: at a named step the process kills or stops itself.
//!
//! `DUNLIN_CRASH_AT=fence:before` kills (SIGKILL) once the step's intent is in the journal and nothing is done yet;
//! `fence:after` once it is done and the result not yet noted. `fence:after:stop` stops the process (SIGSTOP)
//! instead, so that a test can kill a server meanwhile. It strikes once in a process.
//! Without that variable nothing here has an effect.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, getpid, kill_process};

use super::diary::Step;

/// Which side of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Announced, not done.
    Before,
    /// Done, not noted.
    After,
}

/// Dies or stops here, if the environment says so.
pub fn point(step: Step, moment: Moment) {
    static AT: OnceLock<Option<String>> = OnceLock::new();
    let Some(at) = AT.get_or_init(|| std::env::var("DUNLIN_CRASH_AT").ok()) else { return };
    let here = format!("{}:{}", step.name(), if moment == Moment::Before { "before" } else { "after" });
    let signal = match at.strip_prefix(&here) {
        Some("") => Signal::KILL,
        Some(":stop") => Signal::STOP,
        _ => return,
    };
    static STRUCK: AtomicBool = AtomicBool::new(false);
    if STRUCK.swap(true, Ordering::Relaxed) {
        return;
    }
    // A process may signal itself; where that fails there is nothing to fall back to, and the test sees it live on.
    kill_process(getpid(), signal).ok();
}
