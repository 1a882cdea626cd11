//! `playbooks/deploy-<service>.toml`: what a release of a service consists of, and how it is rolled out.
//!
//! Everything that can be wrong is refused here, all of it at once and with its place, before an artifact is built or
//! a host is reached.

mod commands;
mod configs;
mod files;
mod freeze;
mod health;
mod notify;
mod part_selector;
mod ports;
mod reader;
mod shared;
mod units;

use std::ops::Range;
use std::path::PathBuf;

use self::commands::{HookCommand, HooksTable};
pub use self::configs::ConfigEntry;
pub use self::files::FileEntry;
use self::freeze::FreezeTable;
pub use self::freeze::FreezeWindow;
use self::health::HealthTable;
pub use self::notify::NotifyCommands;
use self::notify::NotifyTable;
pub use self::part_selector::PartSelector;
use self::reader::RecipeReader;
pub use self::units::{InstanceList, UnitEntry};
use crate::playbook::BatchSize;
use crate::protocol::deploy::{HealthCheck, ReleaseTask, ServiceName, SharedPath, SwitchHooks};

/// Releases that stay on a host where the recipe does not say.
const DEFAULT_KEEP_RELEASES: usize = 5;
/// Default batches: one host, then up to a quarter of the hosts at a time.
const DEFAULT_BATCHES: [BatchSize; 5] = [
    BatchSize::Count(1),
    BatchSize::Percent(25),
    BatchSize::Percent(50),
    BatchSize::Percent(75),
    BatchSize::Percent(100),
];
/// A service's recipe.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// The service's name.
    pub service: ServiceName,
    /// The selector of its hosts, as written.
    pub host_selector: String,
    /// Byte offset of the selector in the file, for error messages.
    pub host_selector_span: Range<usize>,
    /// The service's folder on its hosts.
    pub root: PathBuf,
    /// Number of releases kept per host.
    pub keep_releases: usize,
    /// The rollout's batches, by default one host and then up to a quarter at a time; empty: all hosts at once.
    pub batches: Vec<BatchSize>,
    /// Batches of a rollback; empty, the default: all hosts at once.
    pub rollback_batches: Vec<BatchSize>,
    /// The artifact's files.
    pub files: Vec<FileEntry>,
    /// Unit templates.
    pub units: Vec<UnitEntry>,
    /// Templates of configuration files.
    pub configs: Vec<ConfigEntry>,
    /// The health check.
    pub health: HealthCheck,
    /// The position of the health check in the recipe.
    pub health_span: Range<usize>,
    /// Hosts that the health check asks, if not all; on the others the units only have to be active.
    pub health_hosts: Option<PartSelector>,
    /// Commands that run on one host of the rollout.
    pub tasks: Vec<ReleaseTask>,
    /// Hooks around the switch on each host.
    pub hooks: SwitchHooks,
    /// TCP ports on which the service's units listen; without them that of the health check.
    pub ports: Option<Vec<u16>>,
    /// The account that commands run as.
    pub user: Option<String>,
    /// Program and arguments that build the sources, run in the project's folder before they are packaged.
    pub build: Option<Vec<String>>,
    /// Public keys of minisign; the hosts refuse a release that is not signed with one of them. Empty: any release.
    pub public_keys: Vec<String>,
    /// Files and folders that all releases share.
    pub shared: Vec<SharedPath>,
    /// Times in which no release is deployed.
    pub freezes: Vec<FreezeWindow>,
    /// Commands on the controller that learn of a rollout.
    pub notify: NotifyCommands,
}

/// Something wrong in a recipe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RecipeError {
    /// Byte range in the file.
    pub span: Range<usize>,
    /// Error message, in one line.
    pub message: String,
    /// Hint that says what is valid.
    pub help: Option<String>,
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// Returns all errors of the recipe, at least one.
    pub fn parse(text: &str) -> Result<Self, Vec<RecipeError>> {
        let mut reader = RecipeReader::new(text)?;
        let service = reader.take_required("service", "the service's name");
        let hosts = reader.take_required::<String>("hosts", "a selector such as \"app\"");
        let root = reader.take_required::<PathBuf>("root", "the service's folder on its hosts, such as \"/srv/app\"");
        let keep_releases = reader.take_optional::<usize>("keep_releases");
        let batches = reader.take_optional("batches");
        let rollback_batches = reader.take_optional("rollback_batches");
        let user = reader.take_optional::<String>("user");
        let ports = reader.take_optional::<Vec<u16>>("ports");
        let build = reader.take_optional::<HookCommand>("build");
        let public_keys = reader.take_optional::<Vec<String>>("public_keys");
        let shared = reader.take_optional::<Vec<String>>("shared");
        let files = reader.take_tables("file");
        let units = reader.take_tables("unit");
        let configs = reader.take_tables("config");
        let health = reader.take_optional::<HealthTable>("health");
        let tasks = reader.take_tables("task");
        let hooks = reader.take_optional::<HooksTable>("hooks");
        let freezes = reader.take_tables::<FreezeTable>("freeze");
        let notify = reader.take_optional::<NotifyTable>("notify");
        reader.reject_unknown_keys();

        if let Some((span, root)) = &root {
            reader.check_absolute_path(span, "root", root);
        }
        if let Some((span, 0)) = &keep_releases {
            reader.add_error(span, "keep_releases must be at least 1", Some("the active release is always kept"));
        }
        if let Some((span, user)) = &user {
            reader.check_account_name(span, "user", user);
        }
        if let Some((span, keys)) = &public_keys {
            reader.check_public_keys(span, keys);
        }
        let health_hosts =
            health.as_ref().and_then(|(span, health)| PartSelector::from_table(health.hosts.clone(), span));
        let recipe = Self {
            health_hosts,
            shared: reader.read_shared(shared),
            freezes: reader.read_freezes(freezes),
            notify: reader.read_notify(notify),
            files: reader.read_files(files),
            units: reader.read_units(units),
            configs: reader.read_configs(configs),
            health_span: health.as_ref().map_or(0..0, |(span, _)| span.clone()),
            health: reader.read_health(health),
            tasks: reader.read_tasks(tasks),
            hooks: reader.read_hooks(hooks),
            keep_releases: keep_releases.map_or(DEFAULT_KEEP_RELEASES, |(_, count)| count),
            batches: batches.map_or_else(|| DEFAULT_BATCHES.to_vec(), |(_, batches)| batches),
            rollback_batches: rollback_batches.map(|(_, batches)| batches).unwrap_or_default(),
            ports: ports.map(|(_, ports)| ports),
            user: user.map(|(_, user)| user),
            public_keys: public_keys.map(|(_, keys)| keys).unwrap_or_default(),
            build: build.map(|(span, command)| reader.read_command(&span, command)),
            service: service.map_or_else(placeholder_service, |(_, service)| service),
            host_selector_span: hosts.as_ref().map(|(span, _)| span.clone()).unwrap_or_default(),
            host_selector: hosts.map(|(_, hosts)| hosts).unwrap_or_default(),
            root: root.map(|(_, root)| root).unwrap_or_default(),
        };
        reader.finish_recipe(recipe)
    }
}

/// Stands for a name that was refused; the recipe is refused with it.
fn placeholder_service() -> ServiceName {
    ServiceName::new("unnamed").expect("a plain word is a service's name")
}

#[cfg(test)]
mod tests;
