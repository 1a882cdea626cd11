//! `dunlin locks`.

use clap::Args;
use serde_json::json;

use super::Common;
use super::failure::Failure;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment, select};
use super::run::fleet;
use crate::fleet::Fleet;
use crate::report::Reporter;
use crate::wire::lock::Holder;

/// Who is changing which host now
#[derive(Debug, Args)]
pub struct Locks {
    /// Which hosts: names, groups, globs; all where none is given
    #[arg(value_name = "SELECTOR")]
    selector: Option<String>,
}

impl Locks {
    /// Asks each host; exit 4 where one cannot be asked.
    ///
    /// # Errors
    /// Broken files, no such host.
    pub async fn run(self, common: &Common) -> Result<CommandOutcome, Failure> {
        let project = find_project(common)?;
        let loaded = load_environment(&project, common)?;
        let hosts = select(&loaded.inventory, self.selector.as_deref(), None)?;
        let fleet = fleet(&loaded.inventory, &hosts, common)?;
        let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
        let reporter = common.reporter();
        let answers = fleet.each(&names, |host| ask(&fleet, host, &reporter)).await;
        let held: usize = answers.iter().flatten().map(Vec::len).sum();
        for (host, holders) in names.iter().zip(&answers) {
            for holder in holders.iter().flatten() {
                reporter.data(&line(host, holder));
                reporter.line("lock", json!({"host": host, "holder": holder}));
            }
        }
        if held == 0 {
            reporter.data("nobody holds a lock");
        }
        let silent = answers.iter().filter(|answer| answer.is_none()).count();
        Ok(CommandOutcome::of_hosts(silent, false))
    }
}

fn line(host: &str, holder: &Holder) -> String {
    let how = if holder.shared { "shared" } else { "alone" };
    format!("{host:<16} {how:<7} run {}: {}", holder.run, holder.told())
}

async fn ask(fleet: &Fleet, host: &str, reporter: &Reporter) -> Option<Vec<Holder>> {
    let answer = match fleet.connect(host).await {
        Ok(session) => fleet.holders(&session).await,
        Err(error) => {
            reporter.failed(host, &error.to_string(), Some(&error.hint()));
            return None;
        }
    };
    answer.map_err(|error| reporter.failed(host, &error, None)).ok()
}
