//! Failpoints: a test names a step of a move at which the process kills or stops itself.
//!
//! `DUNLIN_CRASH_AT=demote_source:before` kills (SIGKILL) once the step's intent is in the journal and nothing is done
//! yet; `demote_source:last` after the last check, right before the step; `demote_source:after` once it is done and the
//! result is not yet in the journal. `demote_source:after:stop` stops the process (SIGSTOP) instead, so that a test can
//! kill a server meanwhile. A process does so once.
//!
//! Only builds with the feature `failpoints` have them, which are those of tests (`Cargo.toml`): an agent that runs as
//! root must not kill itself in the middle of a cutover because of a variable in its environment.

use crate::protocol::shard::MovePhase;

/// A position within a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailpointPosition {
    /// After the intent is logged, before the step.
    Before,
    /// Announced, and nothing is checked any more before it is done.
    AfterLastCheck,
    /// Done, not noted.
    After,
}

/// Kills or stops the process here, if the environment names this step; does nothing without the feature `failpoints`.
#[cfg_attr(not(feature = "failpoints"), inline(always), expect(unused_variables, reason = "nothing to do"))]
pub fn hit_failpoint(step: MovePhase, position: FailpointPosition) {
    #[cfg(feature = "failpoints")]
    signal::send_once_at(step, position);
}

#[cfg(feature = "failpoints")]
mod signal {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::{FailpointPosition, MovePhase};

    /// Time that a process may continue to run after SIGSTOP, which takes effect through any of its threads.
    const STOP_DELAY: Duration = Duration::from_millis(50);

    /// Sends the process the signal that the environment asks for at this position.
    pub fn send_once_at(step: MovePhase, moment: FailpointPosition) {
        static POSITION: OnceLock<Option<String>> = OnceLock::new();
        static WAS_SENT: AtomicBool = AtomicBool::new(false);
        let Some(position) = POSITION.get_or_init(|| std::env::var("DUNLIN_CRASH_AT").ok()) else { return };
        let moment = match moment {
            FailpointPosition::Before => "before",
            FailpointPosition::AfterLastCheck => "last",
            FailpointPosition::After => "after",
        };
        let signal = match position.strip_prefix(&format!("{}:{moment}", step.as_str())) {
            Some("") => Signal::KILL,
            Some(":stop") => Signal::STOP,
            _ => return,
        };
        if WAS_SENT.swap(true, Ordering::Relaxed) {
            return;
        }
        // A process may signal itself; where that fails there is nothing to fall back to, and the test sees it live on.
        kill_process(getpid(), signal).ok();
        if signal == Signal::STOP {
            std::thread::sleep(STOP_DELAY);
        }
    }
}
