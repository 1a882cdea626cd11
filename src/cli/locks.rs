//! `dunlin locks`.

use clap::Args;
use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment, select_hosts};
use super::runtime::build_fleet;
use crate::fleet::Fleet;
use crate::protocol::lock::LockHolder;
use crate::report::{Reporter, escape_line};

/// Show which hosts are locked, and by whom
#[derive(Debug, Args)]
pub struct LocksCommand {
    /// Hosts to query: names, groups or globs (default: all)
    #[arg(value_name = "SELECTOR")]
    selector: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl LocksCommand {
    /// Lists the locks of each host; exits with 4 if a host does not answer.
    ///
    /// # Errors
    /// Returns an error if files have mistakes, or the selector matches no host.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let project = find_project(&self.connect.inventory, common)?;
        let loaded = load_environment(&project, common)?;
        let hosts = select_hosts(&loaded.inventory, self.selector.as_deref(), None)?;
        let fleet = build_fleet(&loaded.inventory, &hosts, &self.connect, common)?;
        let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
        let reporter = common.new_reporter();
        let answers = fleet.map_parallel(&names, |host| fetch_holders(&fleet, host, &reporter)).await;
        let lock_count: usize = answers.iter().flatten().map(Vec::len).sum();
        for (host, holders) in names.iter().zip(&answers) {
            for holder in holders.iter().flatten() {
                reporter.print_data(&escape_line(&format_holder(host, holder)));
                reporter.print_json("lock", json!({"host": host, "holder": holder}));
            }
        }
        let unreachable = answers.iter().filter(|answer| answer.is_none()).count();
        if lock_count == 0 && unreachable == 0 {
            reporter.print_data("no hosts are locked");
        } else if lock_count == 0 && unreachable < names.len() {
            reporter.print_data(&format!(
                "no locks on the hosts that answered ({} of {})",
                names.len() - unreachable,
                names.len()
            ));
        }
        Ok(CommandOutcome::of_hosts(unreachable, false))
    }
}

fn format_holder(host: &str, holder: &LockHolder) -> String {
    let mode = if holder.shared { "shared" } else { "exclusive" };
    format!("{host:<16} {mode:<9} run {}: {}", holder.run, holder.describe_lock())
}

async fn fetch_holders(fleet: &Fleet, host: &str, reporter: &Reporter) -> Option<Vec<LockHolder>> {
    let answer = match fleet.connect(host).await {
        Ok(session) => fleet.list_lock_holders(&session).await,
        Err(error) => {
            reporter.report_failure(host, &error.to_string(), Some(&error.hint()));
            return None;
        }
    };
    answer.map_err(|error| reporter.report_failure(host, &error, None)).ok()
}
