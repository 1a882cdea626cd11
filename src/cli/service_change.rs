//! The change of a service by `maintenance` and `undeploy`: plan, show, confirm, apply, report.

use super::CommonArgs;
use super::command_error::CommandError;
use super::confirm::{require_confirmation, require_typed_text};
use super::exit::Exit;
use super::host_locks::{lock_hosts, lock_request, operator_id};
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment};
use super::recipe::{load_recipe, select_service_hosts};
use super::rollout::{RolloutArgs, show_plans};
use super::runtime::build_fleet;
use crate::deploy::rollout::{ChangePlan, Notifier, RolloutEvent, ServiceChangeRun};
use crate::fleet::Session;
use crate::plan::ChangeCounts;
use crate::playbook::SecretRedactor;
use crate::protocol::deploy::ServiceChange;
use crate::report::{ProgressBars, Reporter, report_change_outcome, report_plan_errors, report_rollout_event};

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
        let loaded = load_recipe(self.service, &project, common)?;
        let inventory = load_environment(&project, common)?.inventory;
        let hosts = select_service_hosts(&loaded, &inventory, args.limit.as_deref(), common)?.selected;
        let fleet = build_fleet(&inventory, &hosts, &args.connect, common)?;
        let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
        let secrets = &SecretRedactor::from_secrets(&inventory.secrets().expose_json());
        let scope = loaded.to_scope(operator_id(), common.run.to_string());
        let change = ServiceChangeRun { fleet: &fleet, scope: &scope, change: self.change, secrets };
        let plan = change.plan_change(&names).await;
        report_plan_errors(&plan.failed, &reporter);
        let counts = show_plans(&change.shown_plans(&plan), &reporter);
        let is_interrupted = || fleet.cancellation.is_cancelled();
        let ends_before =
            if is_interrupted() { Some(Exit::Interrupted) } else { self.precheck(&plan, counts, &reporter) };
        if let Some(exit) = ends_before {
            return Ok(CommandOutcome { exit, counts, failed: plan.failed.len() });
        }
        self.confirm().map_err(|refused| refused.with_counts(counts, 0))?;
        let run = common.run.to_string();
        let sessions: Vec<&Session> = plan.planned.iter().map(|host| &host.session).collect();
        let locked = lock_hosts(&fleet, &sessions, &lock_request(self.command, &run, true), &reporter).await;
        locked.map_err(|denied| denied.with_counts(counts, 0))?;
        let notifier = Notifier {
            commands: &loaded.recipe.notify,
            folder: project.root,
            command: self.change.action(),
            scope: &scope,
            run: &run,
            on_failure: &|text| reporter.warn(text),
        };
        notifier.notify_change_start(&plan.planned).await;
        let progress = ProgressBars::new(reporter.json, reporter.style.quiet);
        let report = |event: &RolloutEvent<'_>| report_rollout_event(event, &reporter, &progress);
        let outcome = change.apply_change(&plan.planned, &report).await;
        progress.clear_bars();
        report_change_outcome(&outcome, &reporter);
        let exit = Exit::of_run(outcome.result(), is_interrupted());
        notifier.notify_change_end(&plan.planned, &outcome, exit == Exit::Done).await;
        Ok(CommandOutcome { exit, counts, failed: outcome.failed.len() })
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
    fn precheck(&self, plan: &ChangePlan, counts: ChangeCounts, reporter: &Reporter) -> Option<Exit> {
        let worst = Exit::of_plan_errors(plan.failed.iter().map(|(_, error)| error));
        if self.args.dry_run {
            return Some(self.args.exit_of_dry_run(worst, counts));
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
