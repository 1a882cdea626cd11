//! The runtime, the fleet, and Ctrl-C of commands that connect to hosts.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::exit::Exit;
use super::targets::resolve_targets;
use crate::fleet::Fleet;
use crate::inventory::{Inventory, InventoryHost};
use crate::report::{Reporter, RunSummary};
use crate::transport::remove_control_dir;

/// Time limit for the last line of a command that exits immediately.
const SUMMARY_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the future of a command.
///
/// # Errors
/// Returns the error of the command.
pub fn block_on<T>(command: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(command)
}

/// Builds the fleet of these hosts. The first Ctrl-C (or SIGTERM, or SIGHUP) stops each host at the next safe point;
/// the second one ends the programs on the hosts and exits immediately.
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
    let reporter = common.new_reporter();
    let on_stderr = Arc::new(move |host: &str, line: &str| reporter.report_agent_stderr(host, line));
    let fleet = Fleet::new(&resolve_targets(inventory, hosts), connect.parallel, stop.clone(), on_stderr)?;
    let control_dir = fleet.control_dir().to_owned();
    let mut interrupts = Interrupts::listen()?;
    tokio::spawn(async move {
        interrupts.next().await;
        stop.cancel();
        // Apart: a terminal that was stopped must not hold up the second signal.
        std::thread::spawn(move || {
            reporter.warn("stopping at the next safe point; press Ctrl-C again to exit immediately")
        });
        interrupts.next().await;
        exit_immediately(reporter, &control_dir);
    });
    Ok(fleet)
}

/// The signals that end a command.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where SIGHUP is ignored, as nohup sets it.
    hangup: Option<Signal>,
}

impl Interrupts {
    fn listen() -> std::io::Result<Self> {
        let hangup = if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hangup })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Returns whether this process ignores SIGHUP, the first bit of the mask that the kernel shows.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Closes all connections and exits. The agents end the programs that were asked to stop, and finish or roll back all
/// other steps on their own.
#[expect(clippy::exit, reason = "the second Ctrl-C")]
fn exit_immediately(reporter: Reporter, control_dir: &Path) {
    remove_control_dir(control_dir);
    let (sender, is_reported) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        reporter.report_summary(RunSummary { exit_code: Exit::Interrupted.code(), ..RunSummary::default() });
        sender.send(()).ok();
    });
    // A terminal that was stopped does not take the summary.
    is_reported.recv_timeout(SUMMARY_TIMEOUT).ok();
    std::process::exit(i32::from(Exit::Interrupted.code()));
}
