//! `dunlin provision`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::confirm::require_confirmation;
use super::connect_args::ConnectArgs;
use super::digest_key::load_digest_key;
use super::exit::Exit;
use super::host_locks::{lock_hosts, lock_request};
use super::outcome::CommandOutcome;
use super::output_file::{seal_error, write_output_file};
use super::project::{PlaybookFiles, find_project, load_environment, load_plays, new_compiler, select_hosts};
use super::runtime::build_fleet;
use crate::fleet::{Fleet, Session};
use crate::inventory::{Diagnostics, nearest_words};
use crate::plan::{ChangeCounts, HostPlan};
use crate::playbook::{Playbook, StepSelection};
use crate::project::Project;
use crate::provision::{self, HostOutcome, PlanHostError, PlannedHost, SavedPlanError, SavedProvisionPlan};
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
    /// Files have mistakes, no host is selected, the saved plan is out of date, or the plan is not confirmed.
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
    let selection = StepSelection { tags, ..StepSelection::default() };
    let compiler = new_compiler(&project, &loaded, &plays, selection.clone(), common)?;
    let mut hosts = select_hosts(&loaded.inventory, selector, args.limit.as_deref())?;
    if let Some(saved) = &saved {
        hosts.retain(|host| saved.hosts.iter().any(|plan| plan.host == host.name));
    }
    // A host that no play selects is not contacted.
    let named: HashSet<&str> = (0..plays.playbook.plays.len()).flat_map(|play| compiler.hosts_in_play(play)).collect();
    hosts.retain(|host| named.contains(host.name.as_str()));
    let is_selected = selector.is_some() || args.limit.is_some();
    if hosts.is_empty() && is_selected && saved.is_none() {
        let text = format!("no play of {} applies to the selected hosts", plays.playbook.file.path().display());
        return Err(CommandError::with_message(Exit::Usage, text));
    }
    let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
    let fleet = build_fleet(&loaded.inventory, &hosts, &args.connect, common)?;
    let (reporter, run) = (common.new_reporter(), common.run.to_string());

    let results = provision::plan_hosts(&fleet, &compiler, &names).await;
    let (planned, failed) = collect_planned(results, &reporter, common)?;
    if let Some(saved) = &saved {
        ensure_plan_is_current(saved, &planned)?;
    }
    let plans: Vec<HostPlan> = planned.iter().map(|host| host.plan.clone()).collect();
    for plan in &plans {
        reporter.report_plan(plan);
    }
    // Without any plan, nothing is known about the hosts.
    if failed == 0 || !plans.is_empty() {
        reporter.print_data(&format_summary(&plans));
    }
    if let Some(file) = &args.out {
        let saved = SavedProvisionPlan::new(selection.tags, plans.clone());
        let text = saved.to_sealed_text(&load_digest_key(&project)?).map_err(anyhow::Error::from)?;
        write_output_file(file, text.as_bytes())?;
    }
    let counts = plans.iter().fold(ChangeCounts::default(), |mut sum, plan| {
        sum += plan.count_changes();
        sum
    });
    let finish_run = |failed: usize, exit: Exit| Ok(CommandOutcome { exit, counts, failed });
    if args.dry_run || counts.is_empty() {
        let pending = args.detailed_exitcode && !counts.is_empty();
        return finish_run(
            failed,
            match (failed, pending) {
                (0, false) => Exit::Done,
                (0, true) => Exit::Pending,
                _ => Exit::Partial,
            },
        );
    }
    if !args.yes {
        require_confirmation("Apply this plan?", args.yes).map_err(|refused| refused.with_counts(counts, failed))?;
    }
    let sessions: Vec<&Session> = planned.iter().map(|host| &host.session).collect();
    let locked = lock_hosts(&fleet, &sessions, &lock_request("provision", &run, false), &reporter).await;
    locked.map_err(|denied| denied.with_counts(counts, failed))?;
    ensure_unchanged(&fleet, &planned).await.map_err(|stale| stale.with_counts(counts, failed))?;
    let outcomes = apply_plans(&fleet, &plays.playbook, &planned, &run, &reporter).await;
    let failed = failed + report_outcomes(&outcomes, &reporter);
    if failed == 0 && creates_replicas(&plans) {
        reporter.print_status("replicas were created; next: dunlin shards status");
    }
    let stopped = fleet.cancellation.is_cancelled();
    finish_run(
        failed,
        if stopped {
            Exit::Interrupted
        } else if failed > 0 {
            Exit::Partial
        } else {
            Exit::Done
        },
    )
}

/// Reports the hosts that cannot be planned. Returns the others, and the number of those.
///
/// # Errors
/// Files have mistakes. They are reported once for all hosts, and nothing is applied.
fn collect_planned(
    results: Vec<(String, Result<PlannedHost, PlanHostError>)>,
    reporter: &Reporter,
    common: &CommonArgs,
) -> Result<(Vec<PlannedHost>, usize), CommandError> {
    let (mut planned, mut failed) = (Vec::new(), 0);
    let (mut diagnostics, mut affected_hosts) = (Diagnostics::new(), Vec::new());
    for (host, result) in results {
        match result {
            Ok(plan) => {
                planned.push(plan);
                continue;
            }
            Err(PlanHostError::Connect(error)) => {
                reporter.report_failure(&host, &error.to_string(), Some(&error.hint()))
            }
            Err(PlanHostError::Compile(found)) => {
                diagnostics.extend(found);
                affected_hosts.push(host);
                continue;
            }
            Err(PlanHostError::Agent(error)) => reporter.report_failure(&host, &error, None),
        }
        failed += 1;
    }
    if affected_hosts.is_empty() {
        return Ok((planned, failed));
    }
    diagnostics.sort();
    let hint =
        format!("fix the files and run the command again; no changes were made (hosts: {})", affected_hosts.join(", "));
    Err(CommandError::from_diagnostics(&diagnostics, common.stderr_colour()).with_hint(hint))
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
    reporter.print_data(&format!("Done: {done} applied on {} hosts, {failed} failed", outcomes.len()));
    failed
}

/// Returns whether a plan creates a replica.
fn creates_replicas(plans: &[HostPlan]) -> bool {
    plans
        .iter()
        .flat_map(HostPlan::pending_rows)
        .flat_map(|row| &row.changes)
        .any(|change| change.attribute == REPLICA_OF_ATTRIBUTE)
}

/// Reads a saved plan.
///
/// # Errors
/// The file cannot be read or is not a plan (exit 1), or it is not as it was saved (exit 3).
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

/// Plans the hosts again under their locks: they may have changed since the plan was shown.
async fn ensure_unchanged(fleet: &Fleet, planned: &[PlannedHost]) -> Result<(), CommandError> {
    let mut lines = Vec::new();
    for result in fleet.map_parallel(planned, |host| provision::replan_host(fleet, host, &host.plan)).await {
        match result {
            Ok(changed) => lines.extend(changed),
            Err(PlanHostError::Agent(error)) => lines.push(error),
            Err(_) => lines.push("a host cannot be planned again".to_owned()),
        }
    }
    ensure_no_differences(lines)
}

fn ensure_no_differences(differences: Vec<String>) -> Result<(), CommandError> {
    if differences.is_empty() {
        return Ok(());
    }
    let text = format!("the plan is out of date; no changes were made\n  {}", differences.join("\n  "));
    Err(CommandError::with_message(Exit::Refused, text).with_hint("make a new plan"))
}
