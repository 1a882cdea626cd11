//! The command line, one file per command. Flags and prompts are known in this module only.

mod check;
mod command_error;
mod completions;
mod confirm;
mod connect_args;
mod deploy;
mod exec;
mod exit;
mod history;
mod host_locks;
mod hosts;
mod locks;
mod maintenance;
mod outcome;
mod output_file;
mod package;
mod plan_args;
mod project;
mod provision;
mod provision_new_host;
mod recipe;
mod releases;
mod rollback;
mod rollout;
mod runs;
mod runtime;
mod service_change;
mod service_status;
mod shard_apply;
mod shard_files;
mod shard_rebalance;
mod shards;
mod sign_key;
mod targets;
mod throttle_args;
mod undeploy;

use std::process::ExitCode;

use clap::{Args, ColorChoice, Parser, Subcommand};

pub use exit::Exit;

use crate::report::{Reporter, RunId, RunSummary, Style};
use command_error::CommandError;
use outcome::CommandOutcome;

/// Provision hosts, deploy releases, and move Redis shards while they are written to.
#[derive(Debug, Parser)]
#[command(name = "dunlin", version, max_term_width = 100, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done or nothing to do, 1 error, 2 changes pending (--detailed-exitcode), 3 refused, \
    4 some hosts failed, 5 locked, 64 usage, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: CliCommand,
}

/// The flags of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct CommonArgs {
    /// Print one JSON event per line instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Only print results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Also show unchanged resources and full file contents
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Control the use of color in output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// The ID of this run
    #[arg(skip)]
    pub run: RunId,
}

impl CommonArgs {
    /// Returns whether a stream gets colors: by `--color`, else by NO_COLOR, CLICOLOR_FORCE, CLICOLOR, TERM and whether
    /// it is a terminal. The only place that decides this.
    fn has_colors(&self, stream: &impl anstream::stream::RawStream) -> bool {
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never,
        }
    }

    /// Returns whether stdout gets colors.
    pub fn stdout_color(&self) -> bool {
        self.has_colors(&std::io::stdout())
    }

    /// Returns whether stderr gets colors.
    pub fn stderr_color(&self) -> bool {
        self.has_colors(&std::io::stderr())
    }

    /// Returns the reporter for plans and events.
    pub fn new_reporter(&self) -> Reporter {
        let style = Style { color: self.stdout_color(), verbose: self.verbose, quiet: self.quiet };
        Reporter { json: self.json, style, stderr_color: self.stderr_color(), run: self.run }
    }
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    Check(check::CheckCommand),
    Hosts(hosts::HostsCommand),
    Provision(provision::ProvisionCommand),
    ProvisionNewHost(provision_new_host::ProvisionNewHostCommand),
    Package(package::PackageCommand),
    Deploy(deploy::DeployCommand),
    Rollback(rollback::RollbackCommand),
    Maintenance(maintenance::MaintenanceCommand),
    Undeploy(undeploy::UndeployCommand),
    Releases(releases::ReleasesCommand),
    History(history::HistoryCommand),
    Exec(exec::ExecCommand),
    ShardRebalance(shard_rebalance::ShardRebalance),
    Shards(shards::ShardsArgs),
    Locks(locks::LocksCommand),
    Runs(runs::RunsCommand),
    Completions(completions::CompletionsCommand),
    Man(completions::ManCommand),
    /// Serve a controller on standard input and output (started by dunlin on hosts)
    #[command(hide = true)]
    Agent {
        /// The binary was just uploaded under a temporary name
        #[arg(long)]
        arrived: bool,
    },
}

/// Parses the command line, runs the command, and prints its error.
pub fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let helper = crate::agent::run_guard(&args).or_else(|| crate::agent::run_copy_watch(&args));
    if let Some(exit_code) = helper {
        return exit_code;
    }
    crate::agent::enable_guards("/proc/self/exe");
    let cli = match Cli::try_parse_from(connect_args::move_leading_flags(args)) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            // A closed pipe (`--help | head`) is not an error.
            let is_lost = error.print().is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe);
            let exit = if is_lost && exit == Exit::Done { Exit::Error } else { exit };
            return ExitCode::from(exit.code());
        }
    };
    run_command(cli)
}

/// Runs a command between the first and the last JSON event, and prints its error.
fn run_command(cli: Cli) -> ExitCode {
    let reporter = cli.common.new_reporter();
    let name = cli.command.name();
    if let Some(name) = name {
        reporter.report_start(name, cli.command.limit());
    }
    let outcome = match dispatch_command(cli) {
        Ok(outcome) => outcome,
        Err(failure) => {
            failure.print_to_stderr(&reporter);
            failure.outcome()
        }
    };
    let CommandOutcome { exit, counts, failed } = outcome;
    if name.is_some() {
        reporter.report_summary(RunSummary { counts, failed_hosts: failed, exit_code: exit.code() });
    }
    ExitCode::from(fail_on_lost_output(exit, &reporter).code())
}

/// Returns the exit code of a run whose output may have been lost, because the disk of its file is full for example.
fn fail_on_lost_output(exit: Exit, reporter: &Reporter) -> Exit {
    let Some(error) = crate::report::stdout_error() else { return exit };
    reporter.report_error(&format!("output was lost: cannot write to standard output: {error}"), &[]);
    if matches!(exit, Exit::Done | Exit::Pending) { Exit::Error } else { exit }
}

impl CliCommand {
    /// Returns the command's name; `None` for commands that have no events.
    fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Check(_) => "check",
            Self::Hosts(_) => "hosts",
            Self::Provision(_) => "provision",
            Self::ProvisionNewHost(_) => "provision-new-host",
            Self::Package(_) => "package",
            Self::Deploy(_) => "deploy",
            Self::Rollback(_) => "rollback",
            Self::Maintenance(_) => "maintenance",
            Self::Undeploy(_) => "undeploy",
            Self::Releases(_) => "releases",
            Self::History(_) => "history",
            Self::Exec(_) => "exec",
            Self::ShardRebalance(_) => "shard-rebalance",
            Self::Shards(command) => command.name(),
            Self::Locks(_) => "locks",
            Self::Runs(_) => "runs",
            Self::Completions(_) | Self::Man(_) | Self::Agent { .. } => return None,
        })
    }
}

impl CliCommand {
    /// Returns the `--limit` of a command that may change hosts: hosts that it excludes have no entry of the run.
    fn limit(&self) -> Option<&str> {
        match self {
            Self::Provision(command) => command.args.limit.as_deref(),
            Self::Deploy(command) => command.args.limit.as_deref(),
            Self::Rollback(command) => command.args.limit.as_deref(),
            Self::Maintenance(command) => command.args.limit.as_deref(),
            Self::Undeploy(command) => command.args.limit.as_deref(),
            _ => None,
        }
    }
}

fn dispatch_command(cli: Cli) -> Result<CommandOutcome, CommandError> {
    let common = &cli.common;
    match cli.command {
        CliCommand::Check(command) => command.run(common).map(Into::into),
        CliCommand::Hosts(command) => runtime::block_on(command.run(common)),
        CliCommand::Provision(command) => runtime::block_on(command.run(common)),
        CliCommand::ProvisionNewHost(command) => runtime::block_on(command.run(common)),
        CliCommand::Package(command) => command.run(common).map(Into::into),
        CliCommand::Deploy(command) => runtime::block_on(command.run(common)),
        CliCommand::Rollback(command) => runtime::block_on(command.run(common)),
        CliCommand::Maintenance(command) => runtime::block_on(command.run(common)),
        CliCommand::Undeploy(command) => runtime::block_on(command.run(common)),
        CliCommand::Releases(command) => runtime::block_on(command.run(common)),
        CliCommand::History(command) => runtime::block_on(command.run(common)),
        CliCommand::Exec(command) => runtime::block_on(command.run(common)),
        CliCommand::ShardRebalance(command) => runtime::block_on(command.run(common)),
        CliCommand::Shards(command) => runtime::block_on(command.run(common)),
        CliCommand::Locks(command) => runtime::block_on(command.run(common)),
        CliCommand::Runs(command) => command.run(common).map(Into::into),
        CliCommand::Completions(command) => Ok(command.run(&common.new_reporter()).into()),
        CliCommand::Man(command) => command.run(&common.new_reporter()).map(Into::into),
        CliCommand::Agent { arrived } => {
            crate::agent::serve_controller(arrived)?;
            Ok(Exit::Done.into())
        }
    }
}
