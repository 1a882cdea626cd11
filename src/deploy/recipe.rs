//! `playbooks/deploy-<service>.toml`: what a release of a service consists of, and how it is rolled out.
//!
//! Everything that can be wrong is refused here, all of it at once and with its place, before an artifact is built or
//! a host is reached.

mod freeze;
mod notify;
mod part_selector;
mod ports;
mod reader;
mod shared;

use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;

use self::freeze::FreezeTable;
pub use self::freeze::FreezeWindow;
pub use self::notify::NotifyCommands;
use self::notify::NotifyTable;
pub use self::part_selector::PartSelector;
use self::reader::RecipeReader;
use super::batches::{DurationMs, plain_mode};
use crate::playbook::BatchSize;
use crate::protocol::deploy::{
    FileOwner, HealthCheck, HealthProbe, ReleasePath, ReleaseTask, ServiceName, SharedPath, SwitchHooks, TaskPhase,
};
use crate::resources::mode::FileMode;

/// Releases that stay on a host where the recipe does not say.
const DEFAULT_KEEP_RELEASES: usize = 5;
/// Default time limit of a task, in milliseconds.
const DEFAULT_TASK_TIMEOUT_MS: u64 = 600_000;
/// Default time for a release to become healthy, in milliseconds.
const DEFAULT_HEALTH_TIMEOUT_MS: u64 = 30_000;
/// Default time for which a release must stay healthy before its batch counts, in milliseconds.
const DEFAULT_STEADY_MS: u64 = 5_000;
/// Default batches: one host, then up to a quarter of the hosts at a time.
const DEFAULT_BATCHES: [BatchSize; 5] = [
    BatchSize::Count(1),
    BatchSize::Percent(25),
    BatchSize::Percent(50),
    BatchSize::Percent(75),
    BatchSize::Percent(100),
];
/// Default interval between two health checks, in milliseconds.
const DEFAULT_HEALTH_INTERVAL_MS: u64 = 250;

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
    /// The artifact's files.
    pub files: Vec<FileEntry>,
    /// Unit templates.
    pub units: Vec<UnitEntry>,
    /// Templates of configuration files.
    pub configs: Vec<ConfigEntry>,
    /// The health check.
    pub health: HealthCheck,
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

/// `[[file]]`: a file of the artifact, or a folder whose files all go in.
#[derive(Clone, Debug, PartialEq)]
pub struct FileEntry {
    /// The file, relative to the folder that is packaged.
    pub source: PathBuf,
    /// Its path in the release; for a folder that of the folder.
    pub dest: ReleasePath,
    /// Permission bits; without them 0755 where the source is executable, else 0644.
    pub mode: Option<u32>,
    /// Owner of the files and empty folders, if it is not the agent's account.
    pub owner: Option<FileOwner>,
    /// Byte offset of the entry in the recipe.
    pub span: Range<usize>,
}

/// `[[unit]]`: a unit file, rendered for each host.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitEntry {
    /// The unit's name with suffix.
    pub name: String,
    /// The template, relative to the templates folder.
    pub src: PathBuf,
    /// Starts the unit at boot if set.
    pub enable: bool,
    /// Restarts the unit on a switch if set.
    pub restart: bool,
    /// Reloads the unit where a restart is not needed, if set.
    pub reload: bool,
    /// Hosts that have the unit, if not all.
    pub hosts: Option<PartSelector>,
    /// Byte offset of the entry in the recipe.
    pub span: Range<usize>,
}

/// `[[config]]`: a configuration file outside of the release, rendered for each host.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigEntry {
    /// The template, relative to the templates folder.
    pub src: PathBuf,
    /// Path on the host.
    pub dest: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// The owning user.
    pub owner: String,
    /// The owning group.
    pub group: String,
    /// Shows only digest and length, never the text, if set.
    pub sensitive: bool,
    /// Hosts that have the file, if not all.
    pub hosts: Option<PartSelector>,
    /// Byte offset of the entry in the recipe.
    pub span: Range<usize>,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTable {
    source: PathBuf,
    dest: ReleasePath,
    #[serde(default, deserialize_with = "plain_mode")]
    mode: Option<FileMode>,
    owner: Option<String>,
    group: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitTable {
    name: String,
    src: PathBuf,
    #[serde(default = "default_true")]
    enable: bool,
    restart: Option<bool>,
    #[serde(default)]
    reload: bool,
    hosts: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigTable {
    src: PathBuf,
    dest: PathBuf,
    #[serde(default, deserialize_with = "plain_mode")]
    mode: Option<FileMode>,
    owner: Option<String>,
    group: Option<String>,
    #[serde(default)]
    sensitive: bool,
    hosts: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthTable {
    http: Option<String>,
    status: Option<u16>,
    tcp: Option<String>,
    command: Option<Vec<String>>,
    timeout: Option<DurationMs>,
    interval: Option<DurationMs>,
    steady: Option<SteadyTable>,
    hosts: Option<String>,
}

/// `steady` of a health check: a duration, or `"0s"`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct SteadyTable(u64);

impl TryFrom<String> for SteadyTable {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "0s" { Ok(Self(0)) } else { DurationMs::parse_duration(&text).map(|duration| Self(duration.0)) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskTable {
    name: String,
    command: Vec<String>,
    #[serde(default = "default_task_phase")]
    run: TaskPhase,
    timeout: Option<DurationMs>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HooksTable {
    #[serde(default)]
    before_switch: Vec<HookCommand>,
    #[serde(default)]
    after_switch: Vec<HookCommand>,
    timeout: Option<DurationMs>,
}

/// A command of the recipe: `["program", "argument"]`, or one string that a shell reads.
#[derive(Deserialize)]
#[serde(untagged)]
enum HookCommand {
    Argv(Vec<String>),
    Shell(String),
}

fn default_true() -> bool {
    true
}

fn default_task_phase() -> TaskPhase {
    TaskPhase::BeforeSwitch
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
            health: reader.read_health(health),
            tasks: reader.read_tasks(tasks),
            hooks: reader.read_hooks(hooks),
            keep_releases: keep_releases.map_or(DEFAULT_KEEP_RELEASES, |(_, count)| count),
            batches: batches.map_or_else(|| DEFAULT_BATCHES.to_vec(), |(_, batches)| batches),
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

/// Returns the owner that two keys name; a group without a user is that of a file of root.
fn read_owner(owner: Option<String>, group: Option<String>) -> Option<FileOwner> {
    let user = owner.clone().or_else(|| group.is_some().then(|| "root".to_owned()))?;
    Some(FileOwner { group: group.or(owner)?, user })
}

impl RecipeReader<'_> {
    fn read_files(&mut self, tables: Vec<(Range<usize>, FileTable)>) -> Vec<FileEntry> {
        let mut seen = std::collections::BTreeSet::new();
        for (span, table) in &tables {
            if table.source.is_absolute() {
                self.add_error(span, "source must be relative to the folder that is packaged", None);
            }
            if !seen.insert(&table.dest) {
                self.add_error(span, format!("two files go to {}", table.dest), None);
            }
            for (key, name) in [("owner", &table.owner), ("group", &table.group)] {
                name.iter().for_each(|name| self.check_account_name(span, key, name));
            }
        }
        let entry = |(span, table): (Range<usize>, FileTable)| FileEntry {
            source: table.source,
            dest: table.dest,
            mode: table.mode.map(|mode| mode.0),
            owner: read_owner(table.owner, table.group),
            span,
        };
        tables.into_iter().map(entry).collect()
    }

    fn read_units(&mut self, tables: Vec<(Range<usize>, UnitTable)>) -> Vec<UnitEntry> {
        let mut seen = std::collections::BTreeSet::new();
        for (span, table) in &tables {
            self.check_unit_name(span, &table.name);
            self.check_template_path(span, &table.src);
            if table.reload && (!table.name.ends_with(".service") || table.restart == Some(false)) {
                self.add_error(span, "`reload` goes with a service that a switch restarts", None);
            }
            if !seen.insert(&table.name) {
                self.add_error(span, format!("two units have the name {}", table.name), None);
            }
        }
        let entry = |(span, table): (Range<usize>, UnitTable)| UnitEntry {
            hosts: PartSelector::from_table(table.hosts, &span),
            reload: table.reload,
            restart: table.restart.unwrap_or_else(|| table.name.ends_with(".service")),
            name: table.name,
            src: table.src,
            enable: table.enable,
            span,
        };
        tables.into_iter().map(entry).collect()
    }

    fn read_configs(&mut self, tables: Vec<(Range<usize>, ConfigTable)>) -> Vec<ConfigEntry> {
        let mut entries: Vec<ConfigEntry> = Vec::new();
        for (span, table) in tables {
            self.check_absolute_path(&span, "dest", &table.dest);
            self.check_template_path(&span, &table.src);
            if entries.iter().any(|other| other.dest == table.dest) {
                self.add_error(&span, format!("two files go to {}", table.dest.display()), None);
            }
            let owner = table.owner.unwrap_or_else(|| "root".to_owned());
            let group = table.group.unwrap_or_else(|| owner.clone());
            self.check_account_name(&span, "owner", &owner);
            self.check_account_name(&span, "group", &group);
            let (src, dest, sensitive) = (table.src, table.dest, table.sensitive);
            let mode = table.mode.map_or(if sensitive { 0o640 } else { 0o644 }, |mode| mode.0);
            let hosts = PartSelector::from_table(table.hosts, &span);
            entries.push(ConfigEntry { src, dest, mode, owner, group, sensitive, hosts, span });
        }
        entries
    }

    fn read_health(&mut self, table: Option<(Range<usize>, HealthTable)>) -> HealthCheck {
        let Some((span, table)) = table else {
            return HealthCheck {
                probe: None,
                timeout_ms: DEFAULT_HEALTH_TIMEOUT_MS,
                interval_ms: DEFAULT_HEALTH_INTERVAL_MS,
                steady_ms: DEFAULT_STEADY_MS,
            };
        };
        if table.status.is_some() && table.http.is_none() {
            self.add_error(&span, "`status` goes with `http`", None);
        }
        if let Some(url) = &table.http {
            self.check_url(&span, url);
        }
        if let Some(address) = &table.tcp {
            self.check_address(&span, address);
        }
        if let Some(argv) = &table.command {
            self.check_argv(&span, argv);
        }
        let probe = match (table.http, table.tcp, table.command) {
            (Some(url), None, None) => Some(HealthProbe::Http { url, status: table.status.unwrap_or(200) }),
            (None, Some(address), None) => Some(HealthProbe::Tcp { address }),
            (None, None, Some(argv)) => Some(HealthProbe::Command { argv }),
            (None, None, None) => None,
            _ => {
                self.add_error(&span, "a health check is one of `http`, `tcp` and `command`", None);
                None
            }
        };
        let timeout_ms = table.timeout.map_or(DEFAULT_HEALTH_TIMEOUT_MS, |span| span.0);
        let interval_ms = table.interval.map_or(DEFAULT_HEALTH_INTERVAL_MS, |span| span.0);
        if interval_ms > timeout_ms {
            self.add_error(&span, "`interval` is longer than `timeout`", None);
        }
        let steady_ms = table.steady.map_or(DEFAULT_STEADY_MS, |steady| steady.0);
        HealthCheck { probe, timeout_ms, interval_ms, steady_ms }
    }

    fn read_tasks(&mut self, tables: Vec<(Range<usize>, TaskTable)>) -> Vec<ReleaseTask> {
        let mut tasks: Vec<ReleaseTask> = Vec::new();
        for (span, table) in tables {
            self.check_argv(&span, &table.command);
            if tasks.iter().any(|other| other.name == table.name) {
                self.add_error(&span, format!("two tasks have the name {}", table.name), None);
            }
            let timeout_ms = table.timeout.map_or(DEFAULT_TASK_TIMEOUT_MS, |span| span.0);
            tasks.push(ReleaseTask { name: table.name, argv: table.command, phase: table.run, timeout_ms });
        }
        tasks
    }

    fn read_command(&mut self, span: &Range<usize>, command: HookCommand) -> Vec<String> {
        let argv = match command {
            HookCommand::Argv(argv) => argv,
            HookCommand::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
        };
        self.check_argv(span, &argv);
        argv
    }

    fn read_hooks(&mut self, table: Option<(Range<usize>, HooksTable)>) -> SwitchHooks {
        let Some((span, table)) = table else { return SwitchHooks::default() };
        let mut hooks = |hooks: Vec<HookCommand>| -> Vec<Vec<String>> {
            hooks.into_iter().map(|hook| self.read_command(&span, hook)).collect()
        };
        let timeout_ms = table.timeout.map_or(SwitchHooks::DEFAULT_TIMEOUT_MS, |timeout| timeout.0);
        SwitchHooks { before: hooks(table.before_switch), after: hooks(table.after_switch), timeout_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID_RECIPE: &str = r#"
service = "timeline"
hosts   = "app"
root    = "/srv/timeline"
keep_releases = 3
batches = ["1", "25%", "100%"]
user    = "timeline"

[[file]]
source = "target/release/timeline-api"
dest = "bin/timeline-api"
mode = "0755"

[[file]]
source = "keys"
dest = "keys"
mode = "0600"
owner = "timeline"

[[unit]]
name = "timeline-api.service"
src = "timeline/timeline-api.service"

[[unit]]
name = "timeline-api.socket"
src = "timeline/timeline-api.socket"

[[config]]
src = "timeline/timeline.env"
dest = "/etc/timeline/timeline.env"
owner = "timeline"
sensitive = true

[health]
http = "http://127.0.0.1:8080/readyz"
timeout = "10s"

[[task]]
name = "migrate"
command = ["bin/timeline-api", "migrate"]
run = "before_switch"

[hooks]
before_switch = ["systemctl stop lb-check", ["sleep", "1"]]
"#;

    #[test]
    fn a_recipe_is_parsed_with_defaults() {
        let recipe = Recipe::parse(VALID_RECIPE).unwrap();
        assert_eq!((recipe.service.as_str(), recipe.keep_releases), ("timeline", 3));
        assert_eq!(&VALID_RECIPE[recipe.host_selector_span.clone()], "\"app\"");
        assert_eq!(recipe.batches, [BatchSize::Count(1), BatchSize::Percent(25), BatchSize::Percent(100)]);
        assert_eq!(recipe.units.iter().map(|unit| unit.restart).collect::<Vec<_>>(), [true, false]);
        let owners: Vec<_> =
            recipe.files.iter().map(|file| file.owner.as_ref().map(|owner| (&*owner.user, &*owner.group))).collect();
        assert_eq!(owners, [None, Some(("timeline", "timeline"))]);
        let config = &recipe.configs[0];
        assert_eq!((config.mode, config.group.as_str()), (0o640, "timeline"));
        assert_eq!((recipe.health.timeout_ms, recipe.health.interval_ms), (10_000, DEFAULT_HEALTH_INTERVAL_MS));
        assert_eq!(recipe.tasks[0].phase, TaskPhase::BeforeSwitch);
        assert_eq!(recipe.hooks.before[0], ["/bin/sh", "-c", "systemctl stop lb-check"]);
    }

    #[test]
    fn all_errors_are_reported_at_once_with_positions() {
        let text = VALID_RECIPE
            .replace("\"/srv/timeline\"", "\"srv/../timeline\"")
            .replace("keep_releases = 3", "keep_releases = 0\nhostz = 1")
            .replace("mode = \"0755\"", "mode = 755")
            .replace("timeline-api.socket\"\nsrc", "../x.service\"\nsrc")
            .replace("http://127", "https://127")
            .replace("dest = \"/etc/timeline", "dest = \"etc/timeline");
        let errors = Recipe::parse(&text).unwrap_err();
        assert_eq!(errors.len(), 7, "{errors:#?}");
        let shown = errors.iter().map(|error| {
            let place = text.get(error.span.clone()).unwrap();
            (
                place,
                [Some(error.message.as_str()), error.help.as_deref()]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join("\nhelp: "),
            )
        });
        crate::messages::check("recipe-mistakes", shown);
    }

    #[test]
    fn missing_keys_are_named() {
        let errors = Recipe::parse("keep_releases = 1").unwrap_err();
        assert_eq!(errors.len(), 3, "{errors:?}");
        crate::messages::check("recipe-missing-keys", errors.iter().map(|error| ("missing", &error.message)));
    }

    #[test]
    fn a_toml_syntax_error_has_a_position() {
        let errors = Recipe::parse("service = \n").unwrap_err();
        assert!(!errors.is_empty() && errors[0].span.start <= 11, "{errors:?}");
    }
}
