//! The rollout of `deploy` and `rollback`: observe, plan, show, confirm, apply, summarise.

use clap::Args;
use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::confirm::require_confirmation;
use super::connect_args::ConnectArgs;
use super::digest_key::load_digest_key;
use super::exit::Exit;
use super::host_locks::{lock_hosts, lock_request};
use super::outcome::CommandOutcome;
use super::project::find_project;
use super::recipe::LoadedRecipe;
use super::rollout_secrets::redact_rollout_event;
use super::rollout_text::{describe_holder, ensure_single_target, report_plan_error, report_rollout_event};
use super::runtime::build_fleet;
use crate::deploy::plan::hide_sensitive_digests;
use crate::deploy::rollout::{
    DeployPlanError, Goal, HostFailure, NewRelease, PlannedDeploy, Rollout, RolloutEvent, RolloutOutcome,
    observe_hosts, observe_service, plan_hosts,
};
use crate::fleet::{Fleet, Session};
use crate::inventory::{Inventory, InventoryHost};
use crate::plan::{ChangeCounts, DigestKey, HostPlan};
use crate::playbook::SecretRedactor;
use crate::protocol::deploy::{ReleaseTask, ReleaseVersion, ServiceRef};
use crate::report::{Reporter, format_summary};

/// The flags of `deploy` and `rollback`.
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

/// A service on the hosts of a run.
pub struct ServiceRollout<'a> {
    loaded: &'a LoadedRecipe,
    args: &'a RolloutArgs,
    common: &'a CommonArgs,
    fleet: Fleet,
    host_names: Vec<String>,
    scope: ServiceRef,
    /// Words to cut out of what hosts send.
    secrets: SecretRedactor,
    /// The key under which digests of sensitive files are shown.
    digest_key: Option<DigestKey>,
    /// Hosts of the service that `--limit` excludes.
    pub excluded_hosts: Vec<String>,
}

impl<'a> ServiceRollout<'a> {
    /// Selects the hosts, without connecting to them.
    ///
    /// # Errors
    /// See [`LoadedRecipe::select_service_hosts`].
    pub fn new(
        loaded: &'a LoadedRecipe,
        inventory: &Inventory,
        args: &'a RolloutArgs,
        common: &'a CommonArgs,
    ) -> Result<Self, CommandError> {
        let (hosts, excluded) = loaded.select_service_hosts(inventory, args.limit.as_deref(), common)?;
        let all: Vec<&InventoryHost> = hosts.iter().chain(&excluded).copied().collect();
        let fleet = build_fleet(inventory, &all, &args.connect, common)?;
        let names = |hosts: &[&InventoryHost]| hosts.iter().map(|host| host.name.clone()).collect();
        let (names, left_out) = (names(&hosts), names(&excluded));
        let digest_key = match inventory.secrets().is_empty() {
            true => None,
            false => Some(load_digest_key(&find_project(&args.connect.inventory, common)?)?),
        };
        let secrets = SecretRedactor::from_secrets(&inventory.secrets().expose_json());
        let scope = loaded.to_scope();
        Ok(Self {
            loaded,
            args,
            common,
            fleet,
            host_names: names,
            scope,
            secrets,
            digest_key,
            excluded_hosts: left_out,
        })
    }

    /// Returns the plan of a host without digests that could be guessed, and without secrets in its diffs.
    fn shown_plan(&self, host: &PlannedDeploy) -> HostPlan {
        let mut plan = host.plan.clone();
        hide_sensitive_digests(&mut plan, &host.desired, &host.observation, self.digest_key.as_ref());
        plan.rows.iter_mut().for_each(|row| self.secrets.redact_row(row));
        plan
    }

    /// Returns the tasks that no host excluded by `--limit` has run for this release: a migration must not run twice. Warns
    /// of hosts that do not answer.
    pub async fn pending_tasks(&self, tasks: &[ReleaseTask], version: &ReleaseVersion) -> Vec<ReleaseTask> {
        if tasks.is_empty() {
            return Vec::new();
        }
        let observations =
            self.fleet.map_parallel(&self.excluded_hosts, |host| observe_service(&self.fleet, host, &self.scope)).await;
        let mut done = Vec::new();
        for (host, observation) in self.excluded_hosts.iter().zip(observations) {
            match observation {
                Ok(observation) => done.extend(observation.completed_tasks),
                Err(_) => self.common.new_reporter().warn(&format!(
                    "{host} does not answer: it is unknown whether it ran the tasks of release {version}"
                )),
            }
        }
        let is_done = |step: &&ReleaseTask| done.iter().any(|(name, of)| *name == step.name && of == version);
        tasks.iter().filter(|step| !is_done(step)).cloned().collect()
    }

    /// Plans the rollout, asks for confirmation, and applies it.
    ///
    /// # Errors
    /// The plan is refused, not confirmed, or hosts are locked: no changes were made.
    pub async fn run_rollout(
        &self,
        command: &str,
        goal: &Goal<'_>,
        new_release: Option<NewRelease<'_>>,
    ) -> Result<CommandOutcome, CommandError> {
        let (reporter, args) = (self.common.new_reporter(), self.args);
        let run = self.common.run.to_string();
        let tasks = new_release.as_ref().map(|release| release.tasks).unwrap_or_default();
        let (planned, refused) = self.plan_service(goal, tasks).await;
        if matches!(goal, Goal::Stored(None)) {
            ensure_single_target(&planned, &self.loaded.recipe.service)?;
        }
        let plans: Vec<HostPlan> = planned.iter().map(|host| self.shown_plan(host)).collect();
        plans.iter().for_each(|plan| reporter.report_plan(plan));
        if !plans.is_empty() {
            reporter.print_data(&format_summary(&plans));
        }
        let mut counts = ChangeCounts::default();
        plans.iter().for_each(|plan| counts += plan.count_changes());
        let finish_run = |failed: usize, exit: Exit| Ok(CommandOutcome { exit, counts, failed });
        if self.fleet.cancellation.is_cancelled() {
            return finish_run(refused.len(), Exit::Interrupted);
        }
        if let Some(exit) = self.precheck(&planned, &refused, counts, &reporter) {
            return finish_run(refused.len(), exit);
        }
        if !args.yes {
            require_confirmation("Apply this plan?", args.yes).map_err(|refused| refused.with_counts(counts, 0))?;
        }
        // Shared: several services of a host may be deployed at the same time, each with a lock of its own.
        let sessions: Vec<&Session> = planned.iter().map(|host| &host.session).collect();
        let locked = lock_hosts(&self.fleet, &sessions, &lock_request(command, &run, true), &reporter).await;
        locked.map_err(|denied| denied.with_counts(counts, 0))?;
        let report = |event: &RolloutEvent<'_>| report_rollout_event(event, &reporter);
        let event_sink = |event: &RolloutEvent<'_>| redact_rollout_event(event, &self.secrets, &report);
        let batches = &self.loaded.recipe.batches;
        let rollout = Rollout { fleet: &self.fleet, scope: &self.scope, batches, new_release, event_sink: &event_sink };
        let outcome = rollout.run_rollout(&planned).await;
        let exit = self.report_outcome(&outcome, &reporter);
        finish_run(outcome.failed.len(), exit)
    }

    /// Returns the plans, and the exit codes of the hosts that cannot be planned.
    async fn plan_service(&self, goal: &Goal<'_>, tasks: &[ReleaseTask]) -> (Vec<PlannedDeploy>, Vec<Exit>) {
        let (mut seen, mut exits) = (Vec::new(), Vec::new());
        let mut record_error = |host: &str, error: &DeployPlanError| {
            report_plan_error(host, error, self.common);
            exits.push(match error {
                DeployPlanError::Templates(_) => Exit::Error,
                DeployPlanError::Impossible(_) => Exit::Refused,
                DeployPlanError::Connect(_) | DeployPlanError::Host(_) => Exit::Partial,
            });
        };
        for (host, result) in observe_hosts(&self.fleet, &self.host_names, &self.scope, goal).await {
            match result {
                Ok(host) => seen.push(host),
                Err(error) => record_error(&host, &error),
            }
        }
        let mut planned = Vec::new();
        for (host, result) in plan_hosts(seen, tasks) {
            match result {
                Ok(host) => planned.push(host),
                Err(error) => record_error(&host, &error),
            }
        }
        (planned, exits)
    }

    /// Returns the exit code if the run ends before the first change.
    fn precheck(
        &self,
        planned: &[PlannedDeploy],
        exits: &[Exit],
        counts: ChangeCounts,
        reporter: &Reporter,
    ) -> Option<Exit> {
        let locked =
            planned.iter().filter_map(|host| Some((&host.session.host, host.observation.lock_holder.as_ref()?)));
        let locked: Vec<_> = locked.collect();
        let worst = [Exit::Error, Exit::Refused, Exit::Partial].into_iter().find(|exit| exits.contains(exit));
        if self.args.dry_run {
            locked
                .iter()
                .for_each(|(host, holder)| reporter.print_status(&format!("{host}: {}", describe_holder(holder))));
            let pending = self.args.detailed_exitcode && !counts.is_empty();
            return Some(worst.unwrap_or(if pending { Exit::Pending } else { Exit::Done }));
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
        for (host, holder) in &locked {
            reporter.report_failure(
                host,
                &describe_holder(holder),
                Some("wait until that run ends, then run the command again"),
            );
        }
        (!locked.is_empty()).then_some(Exit::Locked)
    }

    /// Prints the outcome, and returns the exit code.
    fn report_outcome(&self, outcome: &RolloutOutcome, reporter: &Reporter) -> Exit {
        for (host, failure) in &outcome.failed {
            match failure {
                HostFailure::Locked(holder) => reporter.report_failure(host, &describe_holder(holder), None),
                HostFailure::Refused(reason) => {
                    reporter.report_failure(host, reason, Some("run the command again to see a new plan"))
                }
                // A hook or a service may print what its configuration has.
                HostFailure::Failed(reason, log) => {
                    reporter.report_failure(host, &self.secrets.redact_text(reason), None);
                    let log = log.iter().map(|line| self.secrets.redact_text(line));
                    log.for_each(|line| reporter.print_status(&format!("  {host} | {line}")));
                }
            }
        }
        if !outcome.skipped.is_empty() {
            reporter.print_json("skipped", json!({"hosts": outcome.skipped}));
            reporter.print_status(&format!("not switched: {}", outcome.skipped.join(", ")));
        }
        let (switched, failed) = (outcome.switched.len(), outcome.failed.len());
        reporter.print_data(&format!(
            "Done: {switched} hosts switched, {failed} failed, {} skipped",
            outcome.skipped.len()
        ));
        if (failed > 0 || !outcome.skipped.is_empty()) && switched > 0 {
            let (service, hosts) = (&self.loaded.recipe.service, outcome.switched.join(":"));
            reporter.print_status(&format!(
                "  next: run the command again to continue, or dunlin rollback {service} --limit '{hosts}'"
            ));
        }
        exit_for_outcome(outcome, self.fleet.cancellation.is_cancelled())
    }
}

fn exit_for_outcome(outcome: &RolloutOutcome, interrupted: bool) -> Exit {
    let is_locked = outcome.failed.iter().any(|(_, failure)| matches!(failure, HostFailure::Locked(_)));
    match (outcome.failed.is_empty(), outcome.has_side_effects) {
        _ if interrupted => Exit::Interrupted,
        (true, _) if outcome.skipped.is_empty() => Exit::Done,
        (true, _) | (false, true) => Exit::Partial,
        (false, false) if is_locked => Exit::Locked,
        (false, false) => Exit::Refused,
    }
}
