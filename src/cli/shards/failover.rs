//! `dunlin shards failover`.

mod told;

use std::collections::BTreeSet;
use std::io::IsTerminal;

use clap::Args;

use super::Work;
use crate::cli::confirm::confirm;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::shard_run::{Tally, begin, show};
use crate::rebalance::failover::run::run;
use crate::rebalance::failover::{FailoverPlan, Refusal, Repair, Scope, Wishes, look, plan};
use crate::rebalance::ground::read_map;
use crate::rebalance::{Ground, publish};
use crate::report::Bars;

/// What is dead, and how to go on.
#[derive(Debug, Args)]
pub struct Failover {
    /// Hosts that are off, or shards whose instance does not come up
    #[arg(required = true, value_name = "HOST|SHARD")]
    what: Vec<String>,
    /// Make no new replicas in place of those that are missing then
    #[arg(long)]
    no_repair: bool,
    /// Promote also copies of which nobody knows how much they lack
    #[arg(long)]
    stale: bool,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: exit 2 where there is something to do
    #[arg(long, requires = "dry_run")]
    detailed_exitcode: bool,
    /// Acknowledged writes may be lost: say what is given up, as on the command line, with commas between
    #[arg(long, value_name = "NAMES")]
    confirm: Option<String>,
    /// Do not ask, where nothing can be lost
    #[arg(short, long)]
    yes: bool,
}

impl Work<'_> {
    /// look → plan → show → confirm → promote → publish → repair.
    ///
    /// # Errors
    /// What is given up lives, a copy cannot be asked, the map is behind, not confirmed, a lock.
    pub async fn failover(&self, how: &Failover, tally: &mut Tally) -> Result<Exit, Failure> {
        let fleet = self.files.fleet(self.common)?;
        let (mut ground, missing) = self.files.living(&fleet).await?;
        self.tell_missing(&missing)?;
        let scope = self.scope(how)?;
        let planned = self.plan_of(&ground, &scope, how).await?;
        tally.moves = planned.promotions.len() + planned.freed.len() + planned.repairs.len();
        self.show_plan(&planned)?;
        if planned.is_empty() {
            return nothing(&planned);
        }
        if how.dry_run {
            return Ok(if how.detailed_exitcode { Exit::Pending } else { Exit::Done });
        }
        how.confirmed(&planned)?;
        begin(self.files, &mut ground, ("shards failover", &self.id), &self.reporter).await?;
        // Under the lock nobody else changes roles: what was confirmed must be what is done.
        let again = self.plan_of(&ground, &scope, how).await?;
        if choices(&again) != choices(&planned) {
            let text = "meanwhile the copies are not what they were; nothing was changed";
            return Err(Failure::say(Exit::Refused, text).hint("run it again and look at the plan"));
        }
        if fleet.stop.is_cancelled() {
            return Err(Failure::say(Exit::Interrupted, "interrupted; nothing was changed"));
        }
        let whole = self.carry_out(&ground, &again, tally).await?;
        Ok(match (whole, fleet.stop.is_cancelled()) {
            (true, _) => Exit::Done,
            (false, true) => Exit::Interrupted,
            (false, false) => Exit::Partial,
        })
    }

    /// Promotes, publishes, repairs; says whether all of it was done. Once begun, a promotion goes on to its end.
    async fn carry_out(&self, ground: &Ground<'_>, again: &FailoverPlan, tally: &mut Tally) -> Result<bool, Failure> {
        let bars = Bars::new(self.reporter.json, self.reporter.style.quiet);
        let outcome = run(ground, again, &self.id, &|host, event| show(&self.reporter, &bars, host, event)).await?;
        bars.finish();
        self.tell_failover(ground, again, &outcome).await?;
        tally.failed = outcome.failed.len() + usize::from(outcome.unpublished.is_some());
        if outcome.unpublished.is_none() {
            let is_up = |repair: &&Repair| !outcome.failed.contains_key(&repair.shard);
            let repairs: Vec<Repair> = again.repairs.iter().filter(is_up).cloned().collect();
            self.repair(ground, (&repairs, 0), tally).await;
        }
        Ok(tally.failed == 0 && again.stranded.is_empty())
    }

    /// What is given up; a host or a shard must be one of ours.
    fn scope(&self, how: &Failover) -> Result<Scope, Failure> {
        let unknown =
            |name: &str| Failure::say(Exit::Usage, format!("{name} is neither a shard of the map nor a host"));
        let map = self.files.map()?;
        let numbers: Vec<Option<u32>> = how.what.iter().map(|name| name.parse().ok()).collect();
        if let Some(shards) = numbers.iter().copied().collect::<Option<Vec<u32>>>() {
            let is_there = |id: &u32| map.shards.iter().any(|entry| u32::from(entry.id.0) == *id);
            return match shards.iter().find(|id| !is_there(id)) {
                Some(id) => Err(unknown(&id.to_string())),
                None => Ok(Scope::Shards(shards)),
            };
        }
        if numbers.iter().any(Option::is_some) {
            return Err(Failure::say(Exit::Usage, "name either hosts or shards"));
        }
        match how.what.iter().find(|name| self.files.loaded.inventory.host(name).is_none()) {
            Some(name) => Err(unknown(name)),
            None => Ok(Scope::Hosts(how.what.clone())),
        }
    }

    async fn plan_of(&self, ground: &Ground<'_>, scope: &Scope, how: &Failover) -> Result<FailoverPlan, Failure> {
        let map = self.files.map()?;
        let hosts = self.files.shard_hosts()?;
        let sight = look::sight(ground, map, &hosts, scope).await?;
        let wishes = Wishes { repair: !how.no_repair, stale: how.stale };
        let planned = plan(&sight, scope, wishes).map_err(|refusals| refused(&refusals))?;
        self.refuse_old_map(ground).await?;
        Ok(planned)
    }

    /// The map is the one in the file, and the one that is published.
    async fn refuse_old_map(&self, ground: &Ground<'_>) -> Result<(), Failure> {
        let map = self.files.map()?;
        let published = publish::published(ground, map).await?.max(read_map(&ground.map_file)?.0.epoch.0);
        if published <= map.epoch.0 {
            return Ok(());
        }
        let text = format!("the map has epoch {}, published is {published}; nothing was changed", map.epoch.0);
        Err(Failure::say(Exit::Refused, text).hint("take over the newer map"))
    }
}

impl Failover {
    /// Where acknowledged writes may be lost, what is given up has to be named once more.
    fn confirmed(&self, planned: &FailoverPlan) -> Result<(), Failure> {
        let names = self.what.join(",");
        match &self.confirm {
            Some(said) if *said == names => return Ok(()),
            Some(said) => {
                return Err(Failure::say(Exit::Refused, format!("--confirm={said} is not what is given up: {names}")));
            }
            None if !planned.may_lose() => return confirm("Carry this plan out?", self.yes),
            None => {}
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(Failure::say(Exit::Refused, "acknowledged writes may be lost; nothing was changed")
                .hint(format!("say --confirm={names} if the plan is what you want, or --dry-run to see it")));
        }
        let asked =
            dialoguer::Input::<String>::new().with_prompt(format!("Type {names} to give it up")).interact_text();
        match asked {
            Ok(said) if said.trim() == names => Ok(()),
            _ => Err(Failure::say(Exit::Refused, "not confirmed; nothing was changed")),
        }
    }
}

fn refused(refusals: &[Refusal]) -> Failure {
    let why: Vec<&str> = refusals.iter().map(|refusal| refusal.why.as_str()).collect();
    let mut failure = Failure::say(Exit::Refused, format!("nothing was changed\n  {}", why.join("\n  ")));
    let next: BTreeSet<&str> = refusals.iter().map(|refusal| refusal.next.as_str()).collect();
    failure.hints.extend(next.into_iter().map(str::to_owned));
    failure
}

/// Nothing that can be done: because all is well, or because nothing helps.
fn nothing(planned: &FailoverPlan) -> Result<Exit, Failure> {
    if planned.stranded.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::say(Exit::Refused, "nothing can be promoted; nothing was changed"))
}

/// What is decided: the same on a second look, though seconds have gone by.
fn choices(planned: &FailoverPlan) -> Vec<(u32, &str, u64, bool)> {
    let promoted = planned.promotions.iter().map(|p| (p.shard, p.to.as_str(), p.offset, p.done));
    promoted.chain(planned.freed.iter().map(|freed| (freed.shard, freed.host.as_str(), 0, false))).collect()
}
