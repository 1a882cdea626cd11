//! Where the torture of the tests strikes: at a named step the process kills or stops itself.
//!
//! `DUNLIN_CRASH_AT=fence:before` kills (SIGKILL) once the step's intent is in the journal and nothing is done yet;
//! `fence:last` after the last look around, right before it is done; `fence:after` once it is done and the result not
//! yet noted. `fence:after:stop` stops the process (SIGSTOP)
//! instead, so that a test can kill a server meanwhile. It strikes once in a process.
//! Without that variable nothing here has an effect.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use super::diary::Step;

/// Within which a process that was told to stop has stopped; from then on its clock does not matter.
const STOPPING: Duration = Duration::from_millis(50);

/// Which side of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Announced, not done.
    Before,
    /// Announced, and nothing is looked at any more before it is done.
    Last,
    /// Done, not noted.
    After,
}

/// Dies or stops here, if the environment says so.
pub fn point(step: Step, moment: Moment) {
    static AT: OnceLock<Option<String>> = OnceLock::new();
    let Some(at) = AT.get_or_init(|| std::env::var("DUNLIN_CRASH_AT").ok()) else { return };
    let when = match moment {
        Moment::Before => "before",
        Moment::Last => "last",
        Moment::After => "after",
    };
    let here = format!("{}:{when}", step.name());
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
    if signal == Signal::STOP {
        // The signal stops the process by way of any of its threads, and this one could run on for a moment.
        std::thread::sleep(STOPPING);
    }
}
