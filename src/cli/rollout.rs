//! The rollout of `deploy` and `rollback`: plan, show, confirm, apply, report.

use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::confirm::require_confirmation;
use super::connect_args::ConnectArgs;
use super::exit::Exit;
use super::host_locks::{lock_hosts, lock_request, operator_id};
use super::outcome::CommandOutcome;
use super::recipe::select_service_hosts;
use super::runtime::build_fleet;
use crate::deploy::recipe_file::RecipeFile;
use crate::deploy::rollout::{Goal, Notifier, ReleaseSettings, RolloutEvent, RolloutPlan, ServiceRollout};
use crate::inventory::{Inventory, InventoryHost};
use crate::plan::{ChangeCounts, HostPlan};
use crate::playbook::SecretRedactor;
use crate::project::{Project, load_digest_key};
use crate::protocol::deploy::ServiceName;
use crate::report::{
    ProgressBars, Reporter, describe_holder, format_summary, report_maintenance, report_rollout_event,
    report_rollout_outcome, report_rollout_problems,
};

/// The flags of `deploy`, `rollback`, `maintenance` and `undeploy`.
#[derive(Clone, Debug, Default, Args)]
pub struct RolloutArgs {
    /// Only change hosts of the service that match this selector
    #[arg(long, value_name = "SELECTOR")]
    pub limit: Option<String>,
    /// Show the plan without applying it
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run, exit with 2 if there are changes
    #[arg(long, requires = "dry_run")]
    pub detailed_exitcode: bool,
    /// Skip the confirmation prompt
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// A command that switches the hosts of a service to a release.
pub struct RolloutCommand<'a> {
    /// Name of the command.
    pub command: &'a str,
    /// The project.
    pub project: &'a Project,
    /// The flags.
    pub args: &'a RolloutArgs,
    /// The flags of every command.
    pub common: &'a CommonArgs,
}

impl RolloutCommand<'_> {
    /// Selects the hosts of a service, without connecting to them.
    ///
    /// # Errors
    /// See [`select_service_hosts`].
    pub fn select_hosts<'r>(
        &self,
        loaded: &'r RecipeFile,
        inventory: &Inventory,
    ) -> Result<ServiceRollout<'r>, CommandError> {
        let hosts = select_service_hosts(loaded, inventory, self.args.limit.as_deref(), self.common)?;
        let all: Vec<&InventoryHost> = hosts.selected.iter().chain(&hosts.excluded).copied().collect();
        let names = |hosts: &[&InventoryHost]| hosts.iter().map(|host| host.name.clone()).collect();
        Ok(ServiceRollout {
            fleet: build_fleet(inventory, &all, &self.args.connect, self.common)?,
            recipe: &loaded.recipe,
            scope: loaded.to_scope(operator_id(), self.common.run.to_string()),
            hosts: names(&hosts.selected),
            excluded_hosts: names(&hosts.excluded),
            secrets: SecretRedactor::from_secrets(&inventory.secrets().expose_json()),
            digest_key: match inventory.secrets().is_empty() {
                true => None,
                false => Some(load_digest_key(self.project)?),
            },
        })
    }

    /// Plans the rollout, asks for confirmation, and applies it.
    ///
    /// # Errors
    /// Returns an error if the plan is refused, not confirmed, or hosts are locked: no changes were made.
    pub async fn run(
        &self,
        service: &ServiceRollout<'_>,
        goal: &Goal<'_>,
        new_release: Option<ReleaseSettings<'_>>,
    ) -> Result<CommandOutcome, CommandError> {
        let reporter = self.common.new_reporter();
        let plan = service.plan_rollout(goal, new_release.as_ref()).await;
        report_rollout_problems(&plan, &reporter);
        if matches!(goal, Goal::Stored(None)) {
            ensure_single_release(&plan, &service.scope.service)?;
        }
        let counts = show_plans(&service.shown_plans(&plan), &reporter);
        report_maintenance(&plan, &reporter);
        let is_interrupted = || service.fleet.cancellation.is_cancelled();
        let ends_before =
            if is_interrupted() { Some(Exit::Interrupted) } else { self.precheck(&plan, counts, &reporter) };
        if let Some(exit) = ends_before {
            return Ok(CommandOutcome { exit, counts, failed: plan.failure_count() });
        }
        let run = self.common.run.to_string();
        require_confirmation("Apply this plan?", self.args.yes).map_err(|refused| refused.with_counts(counts, 0))?;
        // Shared: several services of a host may be deployed at the same time, each with a lock of its own.
        let request = lock_request(self.command, &run, true);
        let locked = lock_hosts(&service.fleet, &plan.sessions(), &request, &reporter).await;
        locked.map_err(|denied| denied.with_counts(counts, 0))?;
        let notifier = Notifier {
            commands: &service.recipe.notify,
            folder: self.project.root.clone(),
            command: self.command,
            scope: &service.scope,
            run: &run,
            on_failure: &|text| reporter.warn(text),
        };
        notifier.notify_start(&plan.planned).await;
        let progress = ProgressBars::new(reporter.json, reporter.style.quiet);
        let report = |event: &RolloutEvent<'_>| report_rollout_event(event, &reporter, &progress);
        let outcome = service.apply_plan(&plan, new_release.as_ref(), &report).await;
        progress.clear_bars();
        report_rollout_outcome(&outcome, service.scope.service.as_str(), &reporter);
        let exit = Exit::of_run(outcome.result(), is_interrupted());
        notifier.notify_end(&plan.planned, &outcome, exit == Exit::Done).await;
        Ok(CommandOutcome { exit, counts, failed: outcome.failed.len() })
    }

    /// Returns the exit code if the run ends before the first change.
    fn precheck(&self, plan: &RolloutPlan, counts: ChangeCounts, reporter: &Reporter) -> Option<Exit> {
        let worst = Exit::of_plan_errors(plan.failed.iter().map(|(_, error)| error));
        let worst = match worst {
            Some(Exit::Error) => worst,
            _ if !plan.unknown_tasks.is_empty() => Some(Exit::Refused),
            _ => worst,
        };
        if self.args.dry_run {
            for (host, holder) in plan.locked_hosts() {
                reporter.print_status(&format!("{host}: {}", describe_holder(holder)));
            }
            return Some(self.args.exit_of_dry_run(worst, counts));
        }
        if let Some(worst) = worst {
            if counts.is_empty() || worst == Exit::Error {
                return Some(worst);
            }
            // Also with --quiet: the operator must know that the other hosts were not changed.
            let hint = "fix these hosts, or exclude them with --limit".to_owned();
            reporter.report_error("no changes were made, because not all hosts of the rollout can be planned", &[hint]);
            return Some(Exit::Refused);
        }
        if counts.is_empty() {
            return Some(Exit::Done);
        }
        let hint = Some("wait until that run ends, then run the command again");
        let locked = plan.locked_hosts();
        locked.iter().for_each(|(host, holder)| reporter.report_failure(host, &describe_holder(holder), hint));
        (!locked.is_empty()).then_some(Exit::Locked)
    }
}

impl RolloutArgs {
    /// Returns the exit code of a dry run; `worst` is that of the hosts without a plan.
    pub fn exit_of_dry_run(&self, worst: Option<Exit>, counts: ChangeCounts) -> Exit {
        let pending = self.detailed_exitcode && !counts.is_empty();
        worst.unwrap_or(if pending { Exit::Pending } else { Exit::Done })
    }
}

/// Prints plans and their summary; returns the number of changes.
pub fn show_plans(plans: &[HostPlan], reporter: &Reporter) -> ChangeCounts {
    let mut counts = ChangeCounts::default();
    for plan in plans {
        reporter.report_plan(plan);
        counts += plan.count_changes();
    }
    if !plans.is_empty() {
        reporter.print_data(&format_summary(plans));
    }
    counts
}

/// Checks that all hosts roll back to the same release. Without `--to` they may not, after a partial rollout.
///
/// # Errors
/// Returns an error with the release of each host if the hosts would roll back to different ones.
fn ensure_single_release(plan: &RolloutPlan, service: &ServiceName) -> Result<(), CommandError> {
    let releases = plan.releases();
    if releases.len() < 2 {
        return Ok(());
    }
    let lines: Vec<String> =
        releases.iter().map(|(version, hosts)| format!("\n  to {version}: {}", hosts.join(", "))).collect();
    let text = format!("the hosts would roll back to different releases; no changes were made{}", lines.concat());
    Err(CommandError::with_message(Exit::Refused, text)
        .with_hint(format!("dunlin rollback {service} --to VERSION, or select hosts with --limit")))
}
