//! The change of a service by `maintenance` and `undeploy`: plan, show, confirm, apply, report.

use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::confirm::{require_confirmation, require_typed_text};
use super::exit::Exit;
use super::host_locks::{lock_hosts, lock_request};
use super::notify::Notifier;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment};
use super::recipe::LoadedRecipe;
use super::rollout::RolloutArgs;
use super::rollout_secrets::redact_rollout_event;
use super::rollout_text::{describe_holder, report_plan_error, report_rollout_event};
use super::runtime::build_fleet;
use crate::deploy::rollout::{
    ChangeOutcome, DeployPlanError, HostFailure, PlannedChange, RolloutEvent, ServiceChangeRun,
};
use crate::fleet::Session;
use crate::plan::{ChangeCounts, HostPlan, format_count};
use crate::playbook::SecretRedactor;
use crate::protocol::deploy::ServiceChange;
use crate::report::{ProgressBars, Reporter, format_summary};

/// A command that changes a service.
pub struct ServiceChangeCommand<'a> {
    /// Name of the command.
    pub command: &'a str,
    /// The service.
    pub service: &'a str,
    /// The change.
    pub change: ServiceChange,
    /// The name that `--confirm` repeats.
    pub confirmed_name: Option<&'a str>,
    /// The flags.
    pub args: &'a RolloutArgs,
}

impl ServiceChangeCommand<'_> {
    /// Plans the change, asks for confirmation, and applies it on all hosts at the same time.
    ///
    /// # Errors
    /// Returns an error if files have mistakes, the plan is not confirmed, or hosts are locked: no changes were made.
    pub async fn run(&self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let (reporter, args) = (common.new_reporter(), self.args);
        let project = find_project(&args.connect.inventory, common)?;
        let loaded = LoadedRecipe::load_recipe(self.service, &project, common)?;
        let environment = load_environment(&project, common)?;
        let inventory = &environment.inventory;
        let (hosts, _) = loaded.select_service_hosts(inventory, args.limit.as_deref(), common)?;
        let fleet = build_fleet(inventory, &hosts, &args.connect, common)?;
        let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
        let secrets = SecretRedactor::from_secrets(&inventory.secrets().expose_json());
        let scope = loaded.to_scope();
        let run = ServiceChangeRun { fleet: &fleet, scope: &scope, change: self.change };
        let (planned, exits) = plan_hosts(&run, &names, &secrets, common).await;
        let plans: Vec<HostPlan> = planned.iter().map(|host| redact_plan(&host.plan, &secrets)).collect();
        plans.iter().for_each(|plan| reporter.report_plan(plan));
        if !plans.is_empty() {
            reporter.print_data(&format_summary(&plans));
        }
        let mut counts = ChangeCounts::default();
        plans.iter().for_each(|plan| counts += plan.count_changes());
        let finish = |failed: usize, exit: Exit| Ok(CommandOutcome { exit, counts, failed });
        if fleet.cancellation.is_cancelled() {
            return finish(exits.len(), Exit::Interrupted);
        }
        if let Some(exit) = self.precheck(&exits, counts, &reporter) {
            return finish(exits.len(), exit);
        }
        self.confirm().map_err(|refused| refused.with_counts(counts, 0))?;
        let sessions: Vec<&Session> = planned.iter().map(|host| &host.session).collect();
        let request = lock_request(self.command, &common.run.to_string(), true);
        let locked = lock_hosts(&fleet, &sessions, &request, &reporter).await;
        locked.map_err(|denied| denied.with_counts(counts, 0))?;
        let notifier = Notifier {
            commands: &loaded.recipe.notify,
            folder: project.root,
            command: self.change.action(),
            scope: &scope,
            run: &common.run.to_string(),
            secrets: &secrets,
            reporter: &reporter,
        };
        notifier.notify_change_start(&planned).await;
        let progress = ProgressBars::new(reporter.json, reporter.style.quiet);
        let report = |event: &RolloutEvent<'_>| report_rollout_event(event, &reporter, &progress);
        let outcome = run
            .apply_change(&planned, &|event: &RolloutEvent<'_>| redact_rollout_event(event, &secrets, &report))
            .await;
        progress.clear_bars();
        let exit = report_outcome(&outcome, &secrets, fleet.cancellation.is_cancelled(), &reporter);
        notifier.notify_change_end(&planned, &outcome, exit).await;
        finish(outcome.failed.len(), exit)
    }

    /// Asks for confirmation. The name of the service must be repeated where contents are deleted that no deploy
    /// restores.
    fn confirm(&self) -> Result<(), CommandError> {
        if !matches!(self.change, ServiceChange::Undeploy { delete_shared: true }) {
            return require_confirmation("Apply this plan?", self.args.yes);
        }
        let (danger, hint) = (
            "the shared files of the service are deleted",
            format!("run the command again with --yes --confirm={} to confirm", self.service),
        );
        match (self.confirmed_name, self.args.yes) {
            (Some(name), _) if name != self.service => {
                let text = format!("--confirm={name} does not match {}; no changes were made", self.service);
                Err(CommandError::with_message(Exit::Refused, text))
            }
            (Some(_), true) => Ok(()),
            (Some(_), false) => require_confirmation("Apply this plan?", false),
            (None, true) => {
                let text = format!("{danger}, which --yes does not confirm; no changes were made");
                Err(CommandError::with_message(Exit::Refused, text).with_hint(hint))
            }
            (None, false) => require_typed_text(danger, self.service, &hint),
        }
    }

    /// Returns the exit code if the run ends before the first change.
    fn precheck(&self, exits: &[Exit], counts: ChangeCounts, reporter: &Reporter) -> Option<Exit> {
        let worst = [Exit::Refused, Exit::Partial].into_iter().find(|exit| exits.contains(exit));
        if self.args.dry_run {
            let pending = self.args.detailed_exitcode && !counts.is_empty();
            return Some(worst.unwrap_or(if pending { Exit::Pending } else { Exit::Done }));
        }
        match worst {
            Some(worst) if counts.is_empty() => Some(worst),
            Some(_) => {
                let hint = "fix these hosts, or exclude them with --limit".to_owned();
                reporter.report_error("no changes were made, because not all hosts can be planned", &[hint]);
                Some(Exit::Refused)
            }
            None => counts.is_empty().then_some(Exit::Done),
        }
    }
}

/// Returns the plans, and the exit codes of the hosts that cannot be planned; prints their errors.
async fn plan_hosts(
    run: &ServiceChangeRun<'_>,
    hosts: &[String],
    secrets: &SecretRedactor,
    common: &CommonArgs,
) -> (Vec<PlannedChange>, Vec<Exit>) {
    let (mut planned, mut exits) = (Vec::new(), Vec::new());
    for (host, result) in run.plan_hosts(hosts).await {
        match result {
            Ok(host) => planned.push(host),
            Err(error) => {
                report_plan_error(&host, &error, secrets, common);
                exits.push(match error {
                    DeployPlanError::Impossible(_) | DeployPlanError::Idle(_) | DeployPlanError::Templates(_) => {
                        Exit::Refused
                    }
                    DeployPlanError::Connect(_) | DeployPlanError::Host(_) => Exit::Partial,
                });
            }
        }
    }
    (planned, exits)
}

fn redact_plan(plan: &HostPlan, secrets: &SecretRedactor) -> HostPlan {
    let mut plan = plan.clone();
    plan.rows.iter_mut().for_each(|row| secrets.redact_row(row));
    plan
}

/// Prints the outcome, and returns the exit code.
fn report_outcome(outcome: &ChangeOutcome, secrets: &SecretRedactor, interrupted: bool, reporter: &Reporter) -> Exit {
    for (host, failure) in &outcome.failed {
        match failure {
            HostFailure::Locked(holder) => reporter.report_failure(host, &describe_holder(holder), None),
            HostFailure::Refused(reason) => {
                let reason = secrets.redact_text(reason);
                reporter.report_failure(host, &reason, Some("run the command again to see a new plan"));
            }
            HostFailure::Failed(reason, log) => {
                reporter.report_failure(host, &secrets.redact_text(reason), None);
                let log = log.iter().map(|line| secrets.redact_text(line));
                log.for_each(|line| reporter.print_status(&format!("  {host} | {line}")));
            }
        }
    }
    for host in &outcome.changed {
        reporter.print_json("changed", json!({"host": host}));
    }
    if !outcome.skipped.is_empty() {
        reporter.print_json("skipped", json!({"hosts": outcome.skipped}));
        reporter.print_status(&format!("not changed: {}", outcome.skipped.join(", ")));
    }
    let (changed, failed) = (outcome.changed.len(), outcome.failed.len());
    reporter.print_data(&format!(
        "Done: {} changed, {failed} failed, {} skipped",
        format_count(changed, "host"),
        outcome.skipped.len()
    ));
    exit_for_outcome(outcome, interrupted)
}

fn exit_for_outcome(outcome: &ChangeOutcome, interrupted: bool) -> Exit {
    let has = |is: fn(&HostFailure) -> bool| outcome.failed.iter().any(|(_, failure)| is(failure));
    let has_changes = !outcome.changed.is_empty() || has(|failure| matches!(failure, HostFailure::Failed(..)));
    match (outcome.failed.is_empty(), has_changes) {
        _ if interrupted => Exit::Interrupted,
        (true, _) if outcome.skipped.is_empty() => Exit::Done,
        (true, _) | (false, true) => Exit::Partial,
        (false, false) if has(|failure| matches!(failure, HostFailure::Locked(_))) => Exit::Locked,
        (false, false) => Exit::Refused,
    }
}
