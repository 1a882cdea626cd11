//! What all commands that reach hosts share: the runtime, the run's number, Ctrl-C, the fleet.

use std::future::Future;

use super::Common;
use super::exit::Exit;
use super::failure::Failure;
use super::targets::targets;
use crate::fleet::{Fleet, Stop};
use crate::inventory::{Host, Inventory};

/// Runs a command's future to its end.
///
/// # Errors
/// Those of the command.
pub fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(command)
}

/// A run's number: the time and the process, unique enough for a journal: `20261123T101500-4711`.
pub fn run_id() -> String {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S");
    format!("{now}-{}", std::process::id())
}

/// A fleet for these hosts. The first Ctrl-C asks every host to stop where nothing is half done; the second one ends
/// the program at once.
///
/// # Errors
/// See [`Fleet::new`].
pub fn fleet(inventory: &Inventory, hosts: &[&Host], common: &Common) -> Result<Fleet, Failure> {
    let stop = Stop::default();
    let fleet = Fleet::new(&targets(inventory, hosts), common.parallel, stop.clone())?;
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.ask();
            eprintln!("stopping where nothing is left half done; Ctrl-C again to leave at once");
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            leave();
        }
    });
    Ok(fleet)
}

/// Ends the program for good: hosts end or take back by themselves what they are at.
#[expect(clippy::exit, reason = "the person asked a second time")]
fn leave() {
    std::process::exit(i32::from(Exit::Interrupted.code()));
}
