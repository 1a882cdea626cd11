//! `dunlin provision`.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::Common;
use super::confirm::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::locked::{lock, take};
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment, load_plays, new_compiler, select};
use super::run::fleet;
use crate::fleet::{Fleet, Session};
use crate::inventory::Diagnostics;
use crate::plan::{Counts, HostPlan};
use crate::playbook::{Playbook, Selection};
use crate::provision::{self, HostOutcome, Planned, Refused};
use crate::report::{Reporter, summary_line};
use crate::resources::redis_shard::REPLICA_OF;

/// Bring hosts to the state of a playbook: plan, show, confirm, apply
#[derive(Debug, Args)]
pub struct Provision {
    /// Which hosts: names, groups, globs; `redis:&zone_a:!redis-02`
    #[arg(value_name = "SELECTOR")]
    selector: Option<String>,
    #[command(flatten)]
    pub(super) how: How,
}

/// How a plan is made and applied.
#[derive(Clone, Debug, Default, Args)]
pub struct How {
    /// Another playbook than that of dunlin.toml
    #[arg(long, value_name = "FILE")]
    pub playbook: Option<PathBuf>,
    /// Only these of the selected hosts
    #[arg(long, value_name = "SELECTOR")]
    pub limit: Option<String>,
    /// Only steps with one of these tags
    #[arg(long, value_name = "TAGS", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Show the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: exit 2 where changes are pending
    #[arg(long, requires = "dry_run")]
    pub detailed_exitcode: bool,
    /// Save the plan
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Apply exactly that saved plan; refused where the world is another now
    #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "tags", "limit"])]
    pub plan: Option<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// A plan on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    format_version: u32,
    kind: String,
    tags: Vec<String>,
    hosts: Vec<HostPlan>,
}

impl Provision {
    /// resolve → plan → show → confirm → apply → summarise.
    ///
    /// # Errors
    /// Broken files, no such host, a stale plan, not confirmed.
    pub async fn run(self, common: &Common) -> Result<CommandOutcome, Failure> {
        provision(self.selector.as_deref(), &self.how, common).await
    }
}

/// Provisions the selected hosts.
///
/// # Errors
/// As the command.
pub async fn provision(selector: Option<&str>, how: &How, common: &Common) -> Result<CommandOutcome, Failure> {
    let project = find_project(common)?;
    let loaded = load_environment(&project, common)?;
    let plays = load_plays(&project, how.playbook.as_deref(), common)?;
    let saved = how.plan.as_deref().map(read_saved).transpose()?;
    let tags = saved.as_ref().map_or_else(|| how.tags.clone(), |saved| saved.tags.clone());
    let selection = Selection { tags, ..Selection::default() };
    let compiler = new_compiler(&project, &loaded, &plays, selection.clone(), common)?;
    let mut hosts = select(&loaded.inventory, selector, how.limit.as_deref())?;
    if let Some(saved) = &saved {
        hosts.retain(|host| saved.hosts.iter().any(|plan| plan.host == host.name));
    }
    // A host that no play names has nothing to be asked.
    let named: HashSet<&str> = (0..plays.playbook.plays.len()).flat_map(|play| compiler.hosts_of(play)).collect();
    hosts.retain(|host| named.contains(host.name.as_str()));
    let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
    let fleet = fleet(&loaded.inventory, &hosts, common)?;
    let (reporter, run) = (common.reporter(), common.run.to_string());

    let results = provision::plan(&fleet, &compiler, &names).await;
    let (planned, failed) = split(results, &reporter, common)?;
    if let Some(saved) = &saved {
        refuse_stale(saved, &planned)?;
    }
    let plans: Vec<HostPlan> = planned.iter().map(|host| host.plan.clone()).collect();
    for plan in &plans {
        reporter.plan(plan);
    }
    reporter.data(&summary_line(&plans));
    if let Some(file) = &how.out {
        let saved =
            Saved { format_version: 1, kind: "provision".to_owned(), tags: selection.tags, hosts: plans.clone() };
        let text = serde_json::to_vec_pretty(&saved).map_err(anyhow::Error::from)?;
        std::fs::write(file, text)
            .map_err(|error| Failure::say(Exit::Error, format!("{}: cannot be written: {error}", file.display())))?;
    }
    let counts = plans.iter().fold(Counts::default(), |mut sum, plan| {
        sum += plan.counts();
        sum
    });
    let end = |failed: usize, exit: Exit| Ok(CommandOutcome { exit, counts, failed });
    if how.dry_run || counts.is_empty() {
        let pending = how.detailed_exitcode && !counts.is_empty();
        return end(
            failed,
            match (failed, pending) {
                (0, false) => Exit::Done,
                (0, true) => Exit::Pending,
                _ => Exit::Partial,
            },
        );
    }
    if !how.yes {
        confirm("Apply this plan?", how.yes).map_err(|refused| refused.with_counts(counts, failed))?;
    }
    let sessions: Vec<&Session> = planned.iter().map(|host| &host.session).collect();
    let locked = lock(&fleet, &sessions, &take("provision", &run, false), &reporter).await;
    locked.map_err(|denied| denied.with_counts(counts, failed))?;
    if !how.yes {
        refuse_changed(&fleet, &planned).await.map_err(|stale| stale.with_counts(counts, failed))?;
    }
    let outcomes = apply(&fleet, &plays.playbook, &planned, &run, &reporter).await;
    let failed = failed + report(&outcomes, &reporter);
    if failed == 0 && makes_replicas(&plans) {
        reporter
            .say("replicas were made: dunlin shards status tells how they are, and whether their primaries need them");
    }
    let stopped = fleet.stop.is_cancelled();
    end(
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

/// Tells which hosts could not be planned; returns the others and the number of those.
///
/// A mistake in the files is none of the hosts': it is told once, and nothing is applied anywhere.
fn split(
    results: Vec<(String, Result<Planned, Refused>)>,
    reporter: &Reporter,
    common: &Common,
) -> Result<(Vec<Planned>, usize), Failure> {
    let (mut planned, mut failed) = (Vec::new(), 0);
    let (mut mistakes, mut where_found) = (Diagnostics::new(), Vec::new());
    for (host, result) in results {
        match result {
            Ok(plan) => {
                planned.push(plan);
                continue;
            }
            Err(Refused::Connect(error)) => reporter.failed(&host, &error.to_string(), Some(&error.hint())),
            Err(Refused::Compile(found)) => {
                mistakes.extend(found);
                where_found.push(host);
                continue;
            }
            Err(Refused::Host(error)) => reporter.failed(&host, &error, None),
        }
        failed += 1;
    }
    if where_found.is_empty() {
        return Ok((planned, failed));
    }
    mistakes.sort();
    let hint = format!("mend it and run this again; it came up for {}; no host was changed", where_found.join(", "));
    Err(Failure::findings(&mistakes, common.stderr_colour()).hint(hint))
}

async fn apply(
    fleet: &Fleet,
    playbook: &Playbook,
    planned: &[Planned],
    run: &str,
    reporter: &Reporter,
) -> BTreeMap<String, HostOutcome> {
    let show = |host: &str, event: &crate::wire::Event| reporter.event(host, event);
    provision::apply(fleet, playbook, planned, run, &show).await
}

/// Tells how hosts ended; returns the number of those that failed.
fn report(outcomes: &BTreeMap<String, HostOutcome>, reporter: &Reporter) -> usize {
    let mut failed = 0;
    let mut done = 0;
    for (host, outcome) in outcomes {
        done += outcome.done;
        for line in &outcome.unsettled {
            reporter.say(&format!("{host}: not settled: {line}"));
        }
        if let Some(error) = &outcome.failed {
            reporter.failed(host, error, Some("mend it and run the same command again: what is done stays done"));
            failed += 1;
        } else if outcome.skipped {
            reporter.say(&format!("{host}: not tried after the failure before it"));
        }
    }
    reporter.data(&format!("Done: {done} applied on {} hosts, {failed} failed", outcomes.len()));
    failed
}

/// Is there an instance of a shard that is new and follows another?
fn makes_replicas(plans: &[HostPlan]) -> bool {
    plans.iter().flat_map(HostPlan::pending).flat_map(|row| &row.changes).any(|change| change.what == REPLICA_OF)
}

fn read_saved(path: &std::path::Path) -> Result<Saved, Failure> {
    let no_plan =
        |text: String| Failure::say(Exit::Error, text).hint("dunlin provision --dry-run --out FILE saves a plan");
    let text = std::fs::read(path).map_err(|error| no_plan(format!("{}: cannot be read: {error}", path.display())))?;
    let saved: Saved = serde_json::from_slice(&text)
        .map_err(|error| no_plan(format!("{} is not a saved plan: {error}", path.display())))?;
    if saved.kind != "provision" || saved.format_version != 1 {
        return Err(no_plan(format!("{} is a plan of another kind", path.display())));
    }
    Ok(saved)
}

fn refuse_stale(saved: &Saved, planned: &[Planned]) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for shown in &saved.hosts {
        match planned.iter().find(|host| host.plan.host == shown.host) {
            Some(host) => lines.extend(provision::differences(shown, &host.plan)),
            None => lines.push(format!("{}: cannot be planned now", shown.host)),
        }
    }
    stale(lines)
}

/// Compares once more, since the person may have thought for long.
async fn refuse_changed(fleet: &Fleet, planned: &[Planned]) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for result in fleet.each(planned, |host| provision::replan(fleet, host, &host.plan)).await {
        match result {
            Ok(changed) => lines.extend(changed),
            Err(Refused::Host(error)) => lines.push(error),
            Err(_) => lines.push("a host is gone".to_owned()),
        }
    }
    stale(lines)
}

fn stale(lines: Vec<String>) -> Result<(), Failure> {
    if lines.is_empty() {
        return Ok(());
    }
    let text = format!("the world is not the plan's any more; nothing was changed\n  {}", lines.join("\n  "));
    Err(Failure::say(Exit::Refused, text).hint("make a new plan and look at it"))
}
