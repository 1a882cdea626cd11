//! The runtime, the fleet, and Ctrl-C of commands that connect to hosts.

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

/// Runs the future of a command.
///
/// # Errors
/// Those of the command.
pub fn block_on<T>(command: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(command)
}

/// Builds the fleet of these hosts. The first Ctrl-C stops each host at the next safe point; the second one exits
/// immediately.
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
            reporter.warn("stopping at the next safe point; press Ctrl-C again to exit immediately");
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            exit_immediately(&reporter);
        }
    });
    Ok(fleet)
}

/// Exits. The agents finish or roll back their current steps on their own.
#[expect(clippy::exit, reason = "the second Ctrl-C")]
fn exit_immediately(reporter: &Reporter) {
    reporter.report_summary(RunSummary { exit_code: Exit::Interrupted.code(), ..RunSummary::default() });
    std::process::exit(i32::from(Exit::Interrupted.code()));
}
