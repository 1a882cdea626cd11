//! What all commands that reach hosts share: the runtime, Ctrl-C, the fleet.

use std::future::Future;

use tokio_util::sync::CancellationToken;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::exit::Exit;
use super::targets::resolve_targets;
use crate::fleet::Fleet;
use crate::inventory::{Inventory, InventoryHost};
use crate::report::{Reporter, RunSummary};

/// Runs a command's future to its end.
///
/// # Errors
/// Those of the command.
pub fn block_on<T>(command: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(command)
}

/// A fleet for these hosts. The first Ctrl-C asks every host to stop where nothing is half done; the second one ends
/// the program at once.
///
/// # Errors
/// See [`Fleet::new`].
pub fn build_fleet(
    inventory: &Inventory,
    hosts: &[&InventoryHost],
    connect: &ConnectArgs,
    common: &CommonArgs,
) -> Result<Fleet, CommandError> {
    let stop = CancellationToken::new();
    let fleet = Fleet::new(&resolve_targets(inventory, hosts), connect.parallel, stop.clone())?;
    let reporter = common.new_reporter();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
            reporter.warn("stopping at the next point where nothing is half done; press Ctrl-C again to exit at once");
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            exit_immediately(&reporter);
        }
    });
    Ok(fleet)
}

/// Ends the program for good: hosts end or take back by themselves what they are at.
#[expect(clippy::exit, reason = "the person asked a second time")]
fn exit_immediately(reporter: &Reporter) {
    reporter.report_summary(RunSummary { exit_code: Exit::Interrupted.code(), ..RunSummary::default() });
    std::process::exit(i32::from(Exit::Interrupted.code()));
}
