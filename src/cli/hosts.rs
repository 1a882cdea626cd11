//! `dunlin hosts`.

use clap::Args;
use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::exit::Exit;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment, select_hosts};
use super::runtime::build_fleet;
use crate::inventory::{Inventory, InventoryHost};

/// List hosts and their resolved settings
#[derive(Debug, Args)]
pub struct HostsCommand {
    /// Hosts to list: names, groups or globs, e.g. `redis:&zone_a:!redis-02` (default: all)
    #[arg(value_name = "SELECTOR")]
    selector: Option<String>,
    /// Connect to the hosts and print their facts
    #[arg(long)]
    facts: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl HostsCommand {
    /// Prints one line per host; with `-v` also its variables and their origins.
    ///
    /// # Errors
    /// Returns an error if files have mistakes, or the selector matches no host.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let project = find_project(&self.connect.inventory, common)?;
        let loaded = load_environment(&project, common)?;
        let hosts = select_hosts(&loaded.inventory, self.selector.as_deref(), None)?;
        let reporter = common.new_reporter();
        for host in &hosts {
            reporter.print_json("host", host_to_json(&loaded.inventory, host));
            reporter.print_data(&host_to_text(&loaded.inventory, host, common.verbose));
        }
        if !self.facts {
            return Ok(Exit::Done.into());
        }
        let fleet = build_fleet(&loaded.inventory, &hosts, &self.connect, common)?;
        let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
        let mut failed = 0;
        for (name, session) in names.iter().zip(fleet.connect_all(&names).await) {
            match session {
                Ok(session) => {
                    reporter.print_json("facts", json!({"host": name, "facts": session.hello.facts}));
                    let text = serde_json::to_string_pretty(&session.hello.facts).map_err(anyhow::Error::from)?;
                    // JSON escapes the ends of lines in what the host states.
                    reporter.print_block(&format!("{name} {text}"));
                }
                Err(error) => {
                    reporter.report_failure(name, &error.to_string(), Some(&error.hint()));
                    failed += 1;
                }
            }
        }
        Ok(CommandOutcome::of_hosts(failed, false))
    }
}

fn host_to_json(inventory: &Inventory, host: &InventoryHost) -> serde_json::Value {
    let vars: serde_json::Map<String, serde_json::Value> =
        inventory.merged_vars(&host.name).iter().map(|(name, var)| (name.clone(), var.value.to_json())).collect();
    json!({
        "host": host.name, "address": host.address, "port": host.port, "user": host.user,
        "become": host.become_root, "zone": host.zone, "memory": host.memory.map(|bytes| bytes.0),
        "groups": inventory.groups_of(&host.name), "vars": vars,
    })
}

fn host_to_text(inventory: &Inventory, host: &InventoryHost, verbose: bool) -> String {
    let user = host.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
    let port = host.port.map(|port| format!(":{port}")).unwrap_or_default();
    let zone = host.zone.as_deref().unwrap_or("-");
    let memory = host.memory.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
    let groups = inventory.groups_of(&host.name).join(",");
    let mut text =
        format!("{:<16} {user}{}{port}  zone={zone} memory={memory} groups={groups}", host.name, host.address);
    if verbose {
        for (name, var) in inventory.merged_vars(&host.name) {
            text.push_str(&format!("\n    {name} = {}  ({})", var.value.to_json(), var.origin));
        }
    }
    text
}
