//! What all commands that reach hosts share: the runtime, Ctrl-C, the fleet.

use std::future::Future;

use tokio_util::sync::CancellationToken;

use super::Common;
use super::exit::Exit;
use super::failure::Failure;
use super::targets::targets;
use crate::fleet::Fleet;
use crate::inventory::{Host, Inventory};
use crate::report::{Reporter, Summary};

/// Runs a command's future to its end.
///
/// # Errors
/// Those of the command.
pub fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(command)
}

/// A fleet for these hosts. The first Ctrl-C asks every host to stop where nothing is half done; the second one ends
/// the program at once.
///
/// # Errors
/// See [`Fleet::new`].
pub fn fleet(inventory: &Inventory, hosts: &[&Host], common: &Common) -> Result<Fleet, Failure> {
    let stop = CancellationToken::new();
    let fleet = Fleet::new(&targets(inventory, hosts), common.parallel, stop.clone())?;
    let reporter = common.reporter();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
            reporter.warn("stopping at the next point where nothing is half done; press Ctrl-C again to exit at once");
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            leave(&reporter);
        }
    });
    Ok(fleet)
}

/// Ends the program for good: hosts end or take back by themselves what they are at.
#[expect(clippy::exit, reason = "the person asked a second time")]
fn leave(reporter: &Reporter) {
    reporter.summary(Summary { exit: Exit::Interrupted.code(), ..Summary::default() });
    std::process::exit(i32::from(Exit::Interrupted.code()));
}
