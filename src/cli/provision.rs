//! `dunlin provision`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::confirm::require_confirmation;
use super::connect_args::ConnectArgs;
use super::exit::Exit;
use super::host_locks::{lock_hosts, lock_request};
use super::outcome::CommandOutcome;
use super::output_file::{seal_error, write_output_file};
use super::project::{find_project, load_environment, load_plays, new_compiler, select_hosts};
use super::runtime::build_fleet;
use crate::fleet::{Fleet, Session};
use crate::playbook::{Playbook, StepSelection};
use crate::project::{Project, load_digest_key};
use crate::provision::{
    self, OutdatedPlanError, PlannedHosts, SavedPlanError, SavedProvisionPlan, ensure_tags_exist, keep_planned_hosts,
};
use crate::report::{report_host_outcomes, report_host_plans};
use crate::resources::redis_shard::REPLICA_OF_ATTRIBUTE;

/// Bring hosts to the state that a playbook describes
#[derive(Debug, Args)]
pub struct ProvisionCommand {
    /// Hosts to provision: names, groups or globs, e.g. `redis:&zone_a:!redis-02` (default: all)
    #[arg(value_name = "SELECTOR")]
    selector: Option<String>,
    #[command(flatten)]
    pub(super) args: ProvisionArgs,
}

/// The flags of `provision` and `provision-new-host`.
#[derive(Clone, Debug, Default, Args)]
pub struct ProvisionArgs {
    /// Playbook to apply (default: `playbook` in dunlin.toml)
    #[arg(long, value_name = "FILE")]
    pub playbook: Option<PathBuf>,
    /// Only change selected hosts that also match this selector
    #[arg(long, value_name = "SELECTOR")]
    pub limit: Option<String>,
    /// Only apply steps with one of these tags, comma-separated
    #[arg(long, value_name = "TAGS", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Show the plan without applying it
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run, exit with 2 if there are changes
    #[arg(long, requires = "dry_run")]
    pub detailed_exitcode: bool,
    /// Save the plan to a file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Apply a saved plan; fails if hosts have changed since it was made
    #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "tags", "limit"])]
    pub plan: Option<PathBuf>,
    /// Skip the confirmation prompt
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

impl ProvisionCommand {
    /// Plans the hosts, shows the plan, asks for confirmation, and applies the plan.
    ///
    /// # Errors
    /// Returns an error if files have mistakes, no host is selected, the saved plan is out of date, or the plan is not
    /// confirmed.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        provision_hosts(self.selector.as_deref(), &self.args, common).await
    }
}

/// Provisions the selected hosts.
///
/// # Errors
/// See [`ProvisionCommand::run`].
pub async fn provision_hosts(
    selector: Option<&str>,
    args: &ProvisionArgs,
    common: &CommonArgs,
) -> Result<CommandOutcome, CommandError> {
    let project = find_project(&args.connect.inventory, common)?;
    let loaded = load_environment(&project, common)?;
    let plays = load_plays(&project, args.playbook.as_deref(), common)?;
    let saved = args.plan.as_deref().map(|path| read_saved_plan(path, &project)).transpose()?;
    let tags = saved.as_ref().map_or_else(|| args.tags.clone(), |saved| saved.tags.clone());
    ensure_tags_exist(&plays.playbook, &args.tags).map_err(|unknown| {
        let hint = unknown.hint.clone();
        CommandError::new(Exit::Usage, unknown).with_hint(hint)
    })?;
    let selection = StepSelection { tags: tags.clone(), ..StepSelection::default() };
    let compiler = new_compiler(&project, &loaded, &plays, selection, common)?;
    let mut hosts = select_hosts(&loaded.inventory, selector, args.limit.as_deref())?;
    keep_planned_hosts(&mut hosts, saved.as_ref(), &compiler);
    let is_selected = selector.is_some() || args.limit.is_some();
    if hosts.is_empty() && is_selected && saved.is_none() {
        let text = format!("no play of {} applies to the selected hosts", plays.playbook.file.path().display());
        return Err(CommandError::with_message(Exit::Usage, text));
    }
    let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
    let fleet = build_fleet(&loaded.inventory, &hosts, &args.connect, common)?;
    let reporter = common.new_reporter();

    let result = provision::plan_hosts(&fleet, &compiler, &names).await;
    ensure_no_mistakes(&result, common)?;
    if let Some(saved) = &saved {
        saved.ensure_current(&result.planned).map_err(outdated_error)?;
    }
    report_host_plans(&result, &reporter);
    if let Some(file) = &args.out {
        let saved = SavedProvisionPlan::new(tags, result.plans().cloned().collect());
        let text = saved.to_sealed_text(&load_digest_key(&project)?).map_err(anyhow::Error::from)?;
        write_output_file(file, text.as_bytes())?;
    }
    let (counts, failed) = (result.count_changes(), result.failed.len());
    if args.dry_run || counts.is_empty() {
        let exit = match (failed, args.detailed_exitcode && !counts.is_empty()) {
            (0, false) => Exit::Done,
            (0, true) => Exit::Pending,
            _ => Exit::Partial,
        };
        return Ok(CommandOutcome { exit, counts, failed });
    }
    confirm_and_apply(args, &fleet, &plays.playbook, &result, common)
        .await
        .map_err(|refused| refused.with_counts(counts, failed))
}

/// Refuses to go on if files have mistakes; reports each mistake once for all hosts.
fn ensure_no_mistakes(result: &PlannedHosts, common: &CommonArgs) -> Result<(), CommandError> {
    if result.hosts_with_mistakes.is_empty() {
        return Ok(());
    }
    let hosts = result.hosts_with_mistakes.join(", ");
    let hint = format!("fix the files and run the command again; no changes were made (hosts: {hosts})");
    Err(CommandError::from_diagnostics(&result.mistakes, common.stderr_color()).with_hint(hint))
}

/// Asks for confirmation, locks the hosts, compares the plans again, and applies them.
async fn confirm_and_apply(
    args: &ProvisionArgs,
    fleet: &Fleet,
    playbook: &Playbook,
    result: &PlannedHosts,
    common: &CommonArgs,
) -> Result<CommandOutcome, CommandError> {
    let (reporter, run) = (common.new_reporter(), common.run.to_string());
    if !args.yes {
        require_confirmation("Apply this plan?", args.yes)?;
    }
    let sessions: Vec<&Session> = result.planned.iter().map(|host| &host.session).collect();
    lock_hosts(fleet, &sessions, &lock_request("provision", &run, false), &reporter).await?;
    // The hosts may have changed since the plan was shown.
    provision::ensure_unchanged_since_plan(fleet, &result.planned).await.map_err(outdated_error)?;
    let on_event = |host: &str, event: &_| reporter.report_event(host, event);
    let outcomes = provision::apply_plans(fleet, playbook, &result.planned, &run, &on_event).await;
    report_host_outcomes(&outcomes, &reporter);
    let failed = result.failed.len() + outcomes.values().filter(|outcome| outcome.failure.is_some()).count();
    if failed == 0 && result.plans().any(|plan| plan.changes_attribute(REPLICA_OF_ATTRIBUTE)) {
        reporter.print_status("replicas were created; next: dunlin shards status");
    }
    let outcome = CommandOutcome::of_hosts(failed, fleet.cancellation.is_cancelled());
    Ok(CommandOutcome { counts: result.count_changes(), ..outcome })
}

/// Reads a saved plan.
///
/// # Errors
/// Returns an error if the file cannot be read or is not a plan (exit 1), or it is not as it was saved (exit 3).
fn read_saved_plan(path: &Path, project: &Project) -> Result<SavedProvisionPlan, CommandError> {
    let invalid = |text: String| {
        CommandError::with_message(Exit::Error, text).with_hint("dunlin provision --dry-run --out FILE saves a plan")
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| invalid(format!("{}: cannot be read: {error}", path.display())))?;
    SavedProvisionPlan::parse(&text, &load_digest_key(project)?).map_err(|error| match error {
        SavedPlanError::Seal(error) => seal_error(path, error),
        error => invalid(format!("{}: {error}", path.display())),
    })
}

/// Returns the error of a plan that differs from what its hosts need now.
fn outdated_error(error: OutdatedPlanError) -> CommandError {
    CommandError::new(Exit::Refused, error).with_hint("make a new plan")
}
