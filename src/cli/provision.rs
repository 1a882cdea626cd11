//! `dunlin provision`.

use std::collections::{BTreeMap, BTreeSet};
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
use super::project::{PlaybookFiles, find_project, load_environment, load_plays, new_compiler, select_hosts};
use super::runtime::build_fleet;
use crate::fleet::{Fleet, Session};
use crate::inventory::{Inventory, InventoryHost, nearest_words};
use crate::plan::{HostPlan, format_count};
use crate::playbook::{Compiler, Playbook, StepSelection};
use crate::project::{Project, load_digest_key};
use crate::provision::{
    self, HostOutcome, PlanHostError, PlannedHost, PlannedHosts, SavedPlanError, SavedProvisionPlan,
};
use crate::report::{Reporter, format_summary};
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

/// Checks that the playbook has each of the tags. An unknown tag would select nothing, which looks like success.
fn ensure_tags_exist(tags: &[String], plays: &PlaybookFiles) -> Result<(), CommandError> {
    let plays = &plays.playbook.plays;
    let steps = plays.iter().flat_map(|play| play.steps.iter().flat_map(|step| &step.tags));
    let known: BTreeSet<&str> = plays.iter().flat_map(|play| &play.tags).chain(steps).map(String::as_str).collect();
    let Some(unknown) = tags.iter().find(|tag| !known.contains(tag.as_str())) else { return Ok(()) };
    let error = CommandError::with_message(Exit::Usage, format!("no step has the tag `{unknown}`"));
    Err(match nearest_words(unknown, known.iter().copied()).first() {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None if known.is_empty() => error.with_hint("the playbook has no tags"),
        None => error.with_hint(format!("known tags: {}", known.into_iter().collect::<Vec<_>>().join(", "))),
    })
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
    ensure_tags_exist(&args.tags, &plays)?;
    let selection = StepSelection { tags: tags.clone(), ..StepSelection::default() };
    let compiler = new_compiler(&project, &loaded, &plays, selection, common)?;
    let hosts = select_planned_hosts(&loaded.inventory, selector, args.limit.as_deref(), saved.as_ref(), &compiler)?;
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
        ensure_plan_is_current(saved, &result.planned)?;
    }
    report_plans(&result, &reporter);
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

/// Selects the hosts to contact: those of the selector and the limit that a play applies to and that a saved plan has.
fn select_planned_hosts<'i>(
    inventory: &'i Inventory,
    selector: Option<&str>,
    limit: Option<&str>,
    saved: Option<&SavedProvisionPlan>,
    compiler: &Compiler<'_>,
) -> Result<Vec<&'i InventoryHost>, CommandError> {
    let mut hosts = select_hosts(inventory, selector, limit)?;
    if let Some(saved) = saved {
        hosts.retain(|host| saved.hosts.iter().any(|plan| plan.host == host.name));
    }
    hosts.retain(|host| compiler.applies_to(&host.name));
    Ok(hosts)
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

/// Prints the plan of each host, and the hosts that have none.
fn report_plans(result: &PlannedHosts, reporter: &Reporter) {
    for (host, error) in &result.failed {
        match error {
            PlanHostError::Connect(error) => reporter.report_failure(host, &error.to_string(), Some(&error.hint())),
            PlanHostError::Agent(error) => reporter.report_failure(host, error, None),
        }
    }
    for plan in result.plans() {
        reporter.report_plan(plan);
    }
    // Without any plan, nothing is known about the hosts.
    if result.failed.is_empty() || !result.planned.is_empty() {
        reporter.print_data(&format_summary(result.plans()));
    }
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
    ensure_no_differences(provision::find_changes_since_plan(fleet, &result.planned).await)?;
    let outcomes = apply_plans(fleet, playbook, &result.planned, &run, &reporter).await;
    let failed = result.failed.len() + report_outcomes(&outcomes, &reporter);
    if failed == 0 && result.plans().any(|plan| plan.changes_attribute(REPLICA_OF_ATTRIBUTE)) {
        reporter.print_status("replicas were created; next: dunlin shards status");
    }
    let exit = match failed {
        _ if fleet.cancellation.is_cancelled() => Exit::Interrupted,
        0 => Exit::Done,
        _ => Exit::Partial,
    };
    Ok(CommandOutcome { exit, counts: result.count_changes(), failed })
}

async fn apply_plans(
    fleet: &Fleet,
    playbook: &Playbook,
    planned: &[PlannedHost],
    run: &str,
    reporter: &Reporter,
) -> BTreeMap<String, HostOutcome> {
    let show = |host: &str, event: &crate::protocol::Event| reporter.report_event(host, event);
    provision::apply_plans(fleet, playbook, planned, run, &show).await
}

/// Prints the outcome of each host, and returns the number of hosts that failed.
fn report_outcomes(outcomes: &BTreeMap<String, HostOutcome>, reporter: &Reporter) -> usize {
    let mut failed = 0;
    let mut done = 0;
    for (host, outcome) in outcomes {
        done += outcome.applied_count;
        for line in &outcome.remaining {
            reporter.print_status(&format!("{host}: still differs: {line}"));
        }
        if let Some(error) = &outcome.failure {
            reporter.report_failure(
                host,
                error,
                Some("fix the error and run the command again; completed steps are not repeated"),
            );
            failed += 1;
        } else if outcome.is_skipped {
            reporter.print_status(&format!("{host}: skipped, because an earlier host failed"));
        }
    }
    reporter.print_data(&format!("Done: {done} applied on {}, {failed} failed", format_count(outcomes.len(), "host")));
    failed
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

fn ensure_plan_is_current(saved: &SavedProvisionPlan, planned: &[PlannedHost]) -> Result<(), CommandError> {
    let plans: Vec<&HostPlan> = planned.iter().map(|host| &host.plan).collect();
    ensure_no_differences(saved.differences(&plans))
}

fn ensure_no_differences(differences: Vec<String>) -> Result<(), CommandError> {
    if differences.is_empty() {
        return Ok(());
    }
    let text = format!("the plan is out of date; no changes were made\n  {}", differences.join("\n  "));
    Err(CommandError::with_message(Exit::Refused, text).with_hint("make a new plan"))
}
