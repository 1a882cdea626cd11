//! What `deploy` and `rollback` share: look → plan → show → confirm → carry out → sum up.

use clap::Args;
use serde_json::json;

use super::Common;
use super::confirm::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::locked::{lock, take};
use super::outcome::CommandOutcome;
use super::recipe::Loaded;
use super::run::fleet;
use super::told::{held, one_target, say_refused, tell};
use crate::deploy::rollout::{Ended, Fresh, Goal, Planned, Refused, Rollout, Told, Trouble, look, observe, plan};
use crate::fleet::{Fleet, Session};
use crate::inventory::{Host, Inventory};
use crate::plan::{Counts, HostPlan};
use crate::report::{Reporter, summary_line};
use crate::wire::deploy::{Once, Scope, Version};

/// How a rollout is planned and carried out.
#[derive(Clone, Debug, Default, Args)]
pub struct How {
    /// Only these of the service's hosts
    #[arg(long, value_name = "SELECTOR")]
    pub limit: Option<String>,
    /// Show the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: exit 2 where changes are pending
    #[arg(long, requires = "dry_run")]
    pub detailed_exitcode: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// A service on the hosts of a run.
pub struct Service<'a> {
    loaded: &'a Loaded,
    how: &'a How,
    common: &'a Common,
    fleet: Fleet,
    names: Vec<String>,
    scope: Scope,
    /// Hosts of the service that `--limit` leaves out.
    pub left_out: Vec<String>,
}

impl<'a> Service<'a> {
    /// Selects the hosts; connects to none.
    ///
    /// # Errors
    /// See [`Loaded::hosts`].
    pub fn new(loaded: &'a Loaded, inventory: &Inventory, how: &'a How, common: &'a Common) -> Result<Self, Failure> {
        let (hosts, left_out) = loaded.hosts(inventory, how.limit.as_deref(), common)?;
        let all: Vec<&Host> = hosts.iter().chain(&left_out).copied().collect();
        let fleet = fleet(inventory, &all, common)?;
        let names = |hosts: &[&Host]| hosts.iter().map(|host| host.name.clone()).collect();
        let (names, left_out) = (names(&hosts), names(&left_out));
        Ok(Self { loaded, how, common, fleet, names, scope: loaded.scope(), left_out })
    }

    /// Those of the once-steps that no host left out by `--limit` did for this release: a migration that ran there
    /// must not run again. A host that cannot tell is named.
    pub async fn undone(&self, once: &[Once], version: &Version) -> Vec<Once> {
        if once.is_empty() {
            return Vec::new();
        }
        let seen = self.fleet.each(&self.left_out, |host| look(&self.fleet, host, &self.scope)).await;
        let mut done = Vec::new();
        for (host, seen) in self.left_out.iter().zip(seen) {
            match seen {
                Ok(seen) => done.extend(seen.once),
                Err(_) => self.common.reporter().warn(&format!(
                    "{host} does not answer: it is unknown whether it ran the tasks of release {version}"
                )),
            }
        }
        let is_done = |step: &&Once| done.iter().any(|(name, of)| *name == step.name && of == version);
        once.iter().filter(|step| !is_done(step)).cloned().collect()
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// What is found before anything is changed.
    pub async fn run(
        &self,
        command: &str,
        goal: &Goal<'_>,
        fresh: Option<Fresh<'_>>,
    ) -> Result<CommandOutcome, Failure> {
        let (reporter, how) = (self.common.reporter(), self.how);
        let run = self.common.run.to_string();
        let once = fresh.as_ref().map(|fresh| fresh.once).unwrap_or_default();
        let (planned, refused) = self.planned(goal, once).await;
        if matches!(goal, Goal::Kept(None)) {
            one_target(&planned, &self.loaded.recipe.service)?;
        }
        let plans: Vec<HostPlan> = planned.iter().map(|host| host.plan.clone()).collect();
        plans.iter().for_each(|plan| reporter.plan(plan));
        if !plans.is_empty() {
            reporter.data(&summary_line(&plans));
        }
        let mut counts = Counts::default();
        plans.iter().for_each(|plan| counts += plan.counts());
        let end = |failed: usize, exit: Exit| Ok(CommandOutcome { exit, counts, failed });
        if self.fleet.stop.is_cancelled() {
            return end(refused.len(), Exit::Interrupted);
        }
        if let Some(exit) = self.before(&planned, &refused, counts, &reporter) {
            return end(refused.len(), exit);
        }
        if !how.yes {
            confirm("Carry this plan out?", how.yes).map_err(|refused| refused.with_counts(counts, 0))?;
        }
        // Shared: services of one host are deployed side by side, each under a lock of its own.
        let sessions: Vec<&Session> = planned.iter().map(|host| &host.session).collect();
        let locked = lock(&self.fleet, &sessions, &take(command, &run, true), &reporter).await;
        locked.map_err(|denied| denied.with_counts(counts, 0))?;
        let tell = |told: &Told<'_>| tell(told, &reporter);
        let batches = &self.loaded.recipe.batches;
        let rollout = Rollout { fleet: &self.fleet, scope: &self.scope, batches, fresh, tell: &tell };
        let ended = rollout.run(&planned).await;
        let exit = self.report(&ended, &reporter);
        end(ended.failed.len(), exit)
    }

    /// The plans, and the exit code of each host that has none.
    async fn planned(&self, goal: &Goal<'_>, once: &[Once]) -> (Vec<Planned>, Vec<Exit>) {
        let (mut seen, mut refused) = (Vec::new(), Vec::new());
        let mut note = |host: &str, why: &Refused| {
            say_refused(host, why, self.common);
            refused.push(match why {
                Refused::Files(_) => Exit::Error,
                Refused::Refused(_) => Exit::Refused,
                Refused::Connect(_) | Refused::Failed(_) => Exit::Partial,
            });
        };
        for (host, result) in observe(&self.fleet, &self.names, &self.scope, goal).await {
            match result {
                Ok(host) => seen.push(host),
                Err(why) => note(&host, &why),
            }
        }
        let mut planned = Vec::new();
        for (host, result) in plan(seen, once) {
            match result {
                Ok(host) => planned.push(host),
                Err(why) => note(&host, &why),
            }
        }
        (planned, refused)
    }

    /// What ends the run before anything is changed.
    fn before(&self, planned: &[Planned], refused: &[Exit], counts: Counts, reporter: &Reporter) -> Option<Exit> {
        let locked = planned.iter().filter_map(|host| Some((&host.session.host, host.seen.locked.as_ref()?)));
        let locked: Vec<_> = locked.collect();
        let worst = [Exit::Error, Exit::Refused, Exit::Partial].into_iter().find(|exit| refused.contains(exit));
        if self.how.dry_run {
            locked.iter().for_each(|(host, holder)| reporter.say(&format!("{host}: {}", held(holder))));
            let pending = self.how.detailed_exitcode && !counts.is_empty();
            return Some(worst.unwrap_or(if pending { Exit::Pending } else { Exit::Done }));
        }
        if let Some(worst) = worst {
            if counts.is_empty() || worst == Exit::Error {
                return Some(worst);
            }
            // Also with --quiet: without it nobody would know that the other hosts were left alone.
            let hint = "fix these hosts, or leave them out with --limit".to_owned();
            reporter.error("no changes were made: not all hosts of the rollout can take part", &[hint]);
            return Some(Exit::Refused);
        }
        if counts.is_empty() {
            return Some(Exit::Done);
        }
        for (host, holder) in &locked {
            reporter.failed(host, &held(holder), Some("wait until that run has ended, then run this again"));
        }
        (!locked.is_empty()).then_some(Exit::Locked)
    }

    /// Tells how it ended.
    fn report(&self, ended: &Ended, reporter: &Reporter) -> Exit {
        for (host, trouble) in &ended.failed {
            match trouble {
                Trouble::Locked(holder) => reporter.failed(host, &held(holder), None),
                Trouble::Refused(why) => reporter.failed(host, why, Some("make a new plan and look at it")),
                Trouble::Failed(why, log) => {
                    reporter.failed(host, why, None);
                    log.iter().for_each(|line| reporter.say(&format!("  {host} | {line}")));
                }
            }
        }
        if !ended.skipped.is_empty() {
            reporter.line("skipped", json!({"hosts": ended.skipped}));
            reporter.say(&format!("not switched: {}", ended.skipped.join(", ")));
        }
        let (switched, failed) = (ended.switched.len(), ended.failed.len());
        reporter.data(&format!("Done: {switched} hosts switched, {failed} failed, {} not tried", ended.skipped.len()));
        if (failed > 0 || !ended.skipped.is_empty()) && switched > 0 {
            let (service, hosts) = (&self.loaded.recipe.service, ended.switched.join(":"));
            reporter.say(&format!("  next: run it again to go on, or: dunlin rollback {service} --limit '{hosts}'"));
        }
        exit(ended, self.fleet.stop.is_cancelled())
    }
}

fn exit(ended: &Ended, stopped: bool) -> Exit {
    let is_locked = ended.failed.iter().any(|(_, trouble)| matches!(trouble, Trouble::Locked(_)));
    match (ended.failed.is_empty(), ended.touched) {
        _ if stopped => Exit::Interrupted,
        (true, _) if ended.skipped.is_empty() => Exit::Done,
        (true, _) | (false, true) => Exit::Partial,
        (false, false) if is_locked => Exit::Locked,
        (false, false) => Exit::Refused,
    }
}
