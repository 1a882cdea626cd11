//! The rollout of `deploy` and `rollback`: observe, plan, show, confirm, apply, summarize.

use clap::Args;
use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::confirm::require_confirmation;
use super::connect_args::ConnectArgs;
use super::digest_key::load_digest_key;
use super::exit::Exit;
use super::host_locks::{lock_hosts, lock_request};
use super::notify::Notifier;
use super::outcome::CommandOutcome;
use super::project::find_project;
use super::recipe::LoadedRecipe;
use super::rollout_secrets::redact_rollout_event;
use super::rollout_text::{
    describe_holder, describe_maintenance, ensure_single_target, report_plan_error, report_rollout_event,
    report_unknown_tasks,
};
use super::runtime::build_fleet;
use crate::deploy::plan::hide_sensitive_digests;
use crate::deploy::rollout::{
    DeployPlanError, DueTasks, Goal, HostFailure, HostRecords, NewRelease, OtherHost, PlannedDeploy, Rollout,
    RolloutEvent, RolloutOutcome, TaskSelection, connect_other_hosts, observe_hosts, plan_hosts,
};
use crate::fleet::{Fleet, Session};
use crate::inventory::{Inventory, InventoryHost};
use crate::plan::{ChangeCounts, DigestKey, HostPlan, format_count};
use crate::playbook::SecretRedactor;
use crate::protocol::deploy::ServiceRef;
use crate::report::{ProgressBars, Reporter, format_summary};

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

/// Settings of a rollout of a new release.
pub struct ReleaseSettings<'a> {
    /// The tasks of the release.
    pub selection: TaskSelection<'a>,
    /// Number of releases kept per host.
    pub keep_releases: usize,
    /// Keeps a service that dunlin did not deploy as a release to return to.
    pub adopt: bool,
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

    /// Plans the rollout, asks for confirmation, and applies it.
    ///
    /// # Errors
    /// Returns an error if the plan is refused, not confirmed, or hosts are locked: no changes were made.
    pub async fn run_rollout(
        &self,
        command: &str,
        goal: &Goal<'_>,
        new_release: Option<ReleaseSettings<'_>>,
    ) -> Result<CommandOutcome, CommandError> {
        let (reporter, args) = (self.common.new_reporter(), self.args);
        let run = self.common.run.to_string();
        let others = connect_other_hosts(&self.fleet, &self.excluded_hosts, &self.scope).await;
        let (planned, due_tasks, refused) = self.plan_service(goal, new_release.as_ref(), &others).await;
        if matches!(goal, Goal::Stored(None)) {
            ensure_single_target(&planned, &self.loaded.recipe.service)?;
        }
        let plans: Vec<HostPlan> = planned.iter().map(|host| self.shown_plan(host)).collect();
        plans.iter().for_each(|plan| reporter.report_plan(plan));
        if !plans.is_empty() {
            reporter.print_data(&format_summary(&plans));
        }
        for (host, record) in planned.iter().filter_map(|host| Some((host, host.observation.maintenance.as_ref()?))) {
            let (name, state) = (&host.session.host, describe_maintenance(record));
            reporter.print_status(&format!("{name}: {state}; it stays out of rotation after a switch"));
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
        let progress = ProgressBars::new(reporter.json, reporter.style.quiet);
        let report = |event: &RolloutEvent<'_>| report_rollout_event(event, &reporter, &progress);
        let event_sink = |event: &RolloutEvent<'_>| redact_rollout_event(event, &self.secrets, &report);
        let other_sessions: Vec<&Session> =
            others.iter().filter_map(|other| Some(&other.connection.as_ref().ok()?.0)).collect();
        let new_release = new_release.as_ref().map(|release| NewRelease {
            selection: &release.selection,
            due_tasks,
            has_all_hosts: self.excluded_hosts.is_empty(),
            keep_releases: release.keep_releases,
        });
        let recipe = &self.loaded.recipe;
        let rollout = Rollout {
            fleet: &self.fleet,
            scope: &self.scope,
            other_sessions: &other_sessions,
            // A rollback is urgent, and goes to a release that was healthy on each host.
            batches: if new_release.is_some() { &recipe.batches } else { &recipe.rollback_batches },
            new_release,
            event_sink: &event_sink,
        };
        let notifier = Notifier {
            commands: &self.loaded.recipe.notify,
            folder: find_project(&args.connect.inventory, self.common)?.root,
            command,
            scope: &self.scope,
            run: &run,
            secrets: &self.secrets,
            reporter: &reporter,
        };
        notifier.notify_start(&planned).await;
        let outcome = rollout.run_rollout(&planned).await;
        progress.clear_bars();
        let exit = self.report_outcome(&outcome, &reporter);
        notifier.notify_end(&planned, &outcome, exit).await;
        finish_run(outcome.failed.len(), exit)
    }

    /// Returns the plans, the tasks that they run, and the exit codes of the hosts that cannot be planned.
    async fn plan_service(
        &self,
        goal: &Goal<'_>,
        new_release: Option<&ReleaseSettings<'_>>,
        others: &[OtherHost],
    ) -> (Vec<PlannedDeploy>, DueTasks, Vec<Exit>) {
        let (mut seen, mut exits) = (Vec::new(), Vec::new());
        let mut record_error = |host: &str, error: &DeployPlanError| {
            report_plan_error(host, error, &self.secrets, self.common);
            exits.push(match error {
                DeployPlanError::Templates(_) => Exit::Error,
                DeployPlanError::Impossible(_) | DeployPlanError::Idle(_) => Exit::Refused,
                DeployPlanError::Connect(_) | DeployPlanError::Host(_) => Exit::Partial,
            });
        };
        let mut idle_hosts = Vec::new();
        let mut records: Vec<HostRecords> = others.iter().map(OtherHost::to_records).collect();
        for (host, result) in observe_hosts(&self.fleet, &self.host_names, &self.scope, goal).await {
            match result {
                Ok(host) => {
                    records.push(host.to_records());
                    seen.push(host);
                }
                Err(error @ DeployPlanError::Idle(_)) => idle_hosts.push((host, error)),
                Err(error) => {
                    record_error(&host, &error);
                    records.push(HostRecords { host, records: Err(error.describe()) });
                }
            }
        }
        // A host that serves nothing does not stop the others from going back.
        for (host, error) in &idle_hosts {
            match seen.is_empty() {
                true => record_error(host, error),
                false => {
                    let text = format!("{host}: no release is active; it is left as it is");
                    self.common.new_reporter().print_status(&text);
                }
            }
        }
        let has_all_hosts = self.excluded_hosts.is_empty();
        let selected = new_release.map(|release| release.selection.select_due(&records, has_all_hosts));
        let (due_tasks, unknown) = match selected {
            Some(Err(unknown)) => (DueTasks::default(), unknown),
            Some(Ok(selected)) => (selected, Vec::new()),
            None => (DueTasks::default(), Vec::new()),
        };
        let mut planned = Vec::new();
        for (host, result) in plan_hosts(seen, &due_tasks.due, new_release.is_some_and(|release| release.adopt)) {
            match result {
                Ok(host) => planned.push(host),
                Err(error) => record_error(&host, &error),
            }
        }
        report_unknown_tasks(&unknown, &self.secrets, &self.common.new_reporter());
        exits.extend(unknown.iter().map(|_| Exit::Refused));
        (planned, due_tasks, exits)
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
                    let reason = self.secrets.redact_text(reason);
                    reporter.report_failure(host, &reason, Some("run the command again to see a new plan"));
                }
                // A hook or a service may print what its configuration has.
                HostFailure::Failed(reason, log) => {
                    reporter.report_failure(host, &self.secrets.redact_text(reason), None);
                    let log = log.iter().map(|line| self.secrets.redact_text(line));
                    log.for_each(|line| reporter.print_status(&format!("  {host} | {line}")));
                }
            }
        }
        if !outcome.returned.is_empty() {
            let hosts: Vec<_> =
                outcome.returned.iter().map(|(host, version)| json!({"host": host, "version": version})).collect();
            reporter.print_json("returned", json!({"hosts": hosts}));
            let texts: Vec<String> =
                outcome.returned.iter().map(|(host, version)| format!("{host} ({version})")).collect();
            reporter.print_status(&format!("returned to the previous release: {}", texts.join(", ")));
        }
        if !outcome.stopped.is_empty() {
            reporter.print_json("stopped", json!({"hosts": outcome.stopped}));
            let hosts = outcome.stopped.join(", ");
            reporter.print_status(&format!("stopped, since no release served there before: {hosts}"));
        }
        if !outcome.skipped.is_empty() {
            reporter.print_json("skipped", json!({"hosts": outcome.skipped}));
            reporter.print_status(&format!("not switched: {}", outcome.skipped.join(", ")));
        }
        let (switched, failed) = (outcome.switched.len(), outcome.failed.len());
        reporter.print_data(&format!(
            "Done: {} switched, {failed} failed, {} returned, {} skipped",
            format_count(switched, "host"),
            outcome.returned.len() + outcome.stopped.len(),
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
