//! `dunlin shards resume`: whatever was cut short is brought to its end, wherever it was begun.

use clap::Args;

use super::Work;
use crate::cli::confirm::confirm;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::shard_run::{Tally, Task, begin, carry_out, checked, show, tell_kept};
use crate::cli::sparing::Spare;
use crate::rebalance::failover::Repair;
use crate::rebalance::ground::read_map;
use crate::rebalance::plan::Role;
use crate::rebalance::resume::{Stand, adopt, journals, resume};
use crate::rebalance::run::{self, Step};
use crate::rebalance::{Ground, publish};
use crate::report::Bars;
use crate::transport::ConnectError;
use crate::wire::shard::MoveState;

/// How to go on.
#[derive(Debug, Args)]
pub struct How {
    /// Move also where the target's listpack limits are others than the source's
    #[arg(long)]
    allow_reencoding: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    spare: Spare,
}

impl Work<'_> {
    /// First what the hosts' journals have open, then copies that are not as the map says, then replicas that are
    /// missing, and last the moves of the plan that were not begun.
    ///
    /// # Errors
    /// A host that is needed does not answer, a later map is out, a lock, or preflight refuses the moves that are left.
    pub async fn resume(&self, how: &How, tally: &mut Tally) -> Result<Exit, Failure> {
        // Both are read again under the locks; a file that cannot be used ends the command before any host is asked.
        self.files.state.load_pending_moves()?;
        self.files.state.load_throttle()?;
        let fleet = self.files.fleet(self.common)?;
        let (mut ground, missing) = self.files.living(&fleet).await?;
        let shown = self.agreed(&ground, &missing, how.yes).await?;
        begin(self.files, &mut ground, ("shards resume", &self.id), &self.reporter).await?;
        ground.sparing = how.spare.asked();
        ground.allow_reencoding = how.allow_reencoding;
        let found = journals(&ground).await?;
        let open = self.open(&ground, &found)?;
        self.tell(&open);
        let kept = self.files.state.load_pending_moves()?;
        self.accounted(&ground, &open).await?;
        let mut waiting = self.end_all(&ground, &open, tally).await?;
        let settled = self.mend_copies(&ground, (how, &shown), &mut waiting, tally).await?;
        self.tell_unreached(&ground)?;
        if open.is_empty() && kept.is_empty() && settled == 0 {
            self.reporter.data("nothing to resume");
            return Ok(Exit::Done);
        }
        let rest = not_there(kept, &read_map(&ground.map_file)?.0);
        self.files.state.save_pending_moves(&rest)?;
        let stopped = ground.fleet.stop.is_cancelled();
        if tally.failed > 0 || waiting || (stopped && !rest.is_empty()) {
            return Ok(if stopped { self.interrupted() } else { Exit::Partial });
        }
        if rest.is_empty() {
            return Ok(Exit::Done);
        }
        // They keep to what they were to keep to, as far as it was not told otherwise now.
        ground.sparing = ground.sparing.over(self.files.state.load_throttle()?).into();
        checked(&ground, &rest, (&self.id, &self.reporter)).await?;
        let run = run::How { concurrent: how.spare.concurrent(), ..run::How::default() };
        let task = Task { id: &self.id, steps: &rest, how: run, planned: None };
        carry_out(self.files, &ground, &task, (&self.reporter, tally)).await
    }

    /// Shows what is going to be ended, and asks. Returns the replicas that were shown.
    async fn agreed(
        &self,
        ground: &Ground<'_>,
        missing: &[(String, ConnectError)],
        yes: bool,
    ) -> Result<Vec<Repair>, Failure> {
        let found = journals(ground).await?;
        let open = self.open(ground, &found)?;
        self.may_go_without(ground, missing, &open)?;
        if yes {
            return Ok(Vec::new());
        }
        self.tell(&open);
        if let Some(copies) = self.copies_now(ground).await? {
            self.tell_copies(&copies);
        }
        let repairs = if open.is_empty() { self.lacking(ground).await?.0 } else { Vec::new() };
        confirm("Bring all this to its end?", yes)?;
        Ok(repairs)
    }

    /// A failover, a replica in the making, and a shard whose target serves it already, are ended without the hosts that
    /// do not answer; other moves need all.
    ///
    /// # Errors
    /// Some do not answer, and there is something that needs them.
    fn may_go_without(
        &self,
        ground: &Ground<'_>,
        missing: &[(String, ConnectError)],
        open: &[(&MoveState, Stand)],
    ) -> Result<(), Failure> {
        let is_here = |address: &String| ground.host_at(address).is_some_and(|host| !ground.absent.contains(host));
        let is_made = |(state, stand): &&(&MoveState, Stand)| {
            state.replica && state.others.is_empty() && (*stand == Stand::Joined || is_here(&state.from))
        };
        // Its source was fenced; the other hosts' journals are all that could know of a later move, and they are here.
        let is_served = |(state, stand): &&(&MoveState, Stand)| {
            let only_source = missing.iter().all(|(host, _)| ground.host_at(&state.from) == Some(host));
            !state.replica && only_source && matches!(stand, Stand::Switched | Stand::Elsewhere)
        };
        let goes = |open: &&(&MoveState, Stand)| open.0.failover.is_some() || is_made(open) || is_served(open);
        let needs_all = !open.iter().all(|open| goes(&open));
        let is_something = !open.is_empty() || read_map(&ground.map_file)?.0.lacking().next().is_some();
        let is_that = |state: &MoveState, step: &Step| {
            let (from, to) = (ground.host_at(&state.from), ground.host_at(&state.to));
            state.shard == step.shard && from == Some(&step.from) && to == Some(&step.to)
        };
        let is_begun = |step: &Step| open.iter().any(|(state, _)| is_that(state, step));
        if missing.is_empty()
            || (is_something && !needs_all && self.files.state.load_pending_moves()?.iter().all(is_begun))
        {
            return self.tell_missing(missing);
        }
        for (host, error) in missing {
            self.reporter.failed(host, &error.to_string(), Some(&error.hint()));
        }
        let text = format!("{} hosts cannot be reached; nothing was begun", missing.len());
        Err(Failure::say(Exit::Refused, text))
    }

    /// Retires what is left over, has primaries need their replicas, and makes those that are missing, which were shown or
    /// are asked for now. Returns how many of all these there were.
    async fn mend_copies(
        &self,
        ground: &Ground<'_>,
        (how, shown): (&How, &[Repair]),
        waiting: &mut bool,
        tally: &mut Tally,
    ) -> Result<usize, Failure> {
        if tally.failed > 0 || ground.fleet.stop.is_cancelled() {
            return Ok(0);
        }
        let settled = self.settle_copies(ground, waiting).await?;
        if ground.fleet.stop.is_cancelled() {
            return Ok(settled);
        }
        let (repairs, is_short) = self.lacking(ground).await?;
        if repairs.iter().any(|repair| !shown.contains(repair)) {
            confirm("Make these replicas?", how.yes)?;
        }
        self.repair(ground, (&repairs, how.spare.concurrent()), tally).await;
        *waiting |= is_short;
        tally.moves += repairs.len();
        Ok(settled + repairs.len() + usize::from(is_short))
    }

    /// What is published was either published from this map, or is known from the hosts' journals.
    ///
    /// # Errors
    /// A newer map is out, with places that nobody here knows of: nothing may be published over it.
    async fn accounted(&self, ground: &Ground<'_>, open: &[(&MoveState, Stand)]) -> Result<(), Failure> {
        let (map, _) = read_map(&ground.map_file)?;
        let open: Vec<&MoveState> = open.iter().map(|(state, _)| *state).collect();
        let unknown = publish::unaccounted(ground, &map, &open).await?;
        if unknown.is_empty() {
            return Ok(());
        }
        let shards: Vec<String> = unknown.iter().map(ToString::to_string).collect();
        let text = format!(
            "published are places of shards {} that neither the map (epoch {}) nor the hosts' journals know; nothing was \
             changed",
            shards.join(", "),
            map.epoch
        );
        Err(Failure::say(Exit::Refused, text).hint("take over the newer map, then resume again"))
    }

    /// Brings moves to their end, one after the other; says whether something had to be left: an old instance, or all that
    /// follows a Ctrl-C.
    ///
    /// # Errors
    /// A consumer did not take the map.
    pub async fn end_all(
        &self,
        ground: &Ground<'_>,
        open: &[(&MoveState, Stand)],
        tally: &mut Tally,
    ) -> Result<bool, Failure> {
        let reporter = &self.reporter;
        let elsewhere: Vec<&MoveState> =
            open.iter().filter(|(_, stand)| *stand == Stand::Elsewhere).map(|(state, _)| *state).collect();
        if !elsewhere.is_empty() {
            adopt(ground, &elsewhere).await?;
            reporter.say(&format!("the map knows now of {} moves that were made from elsewhere", elsewhere.len()));
        }
        self.end_failovers(ground, open, tally).await?;
        let bars = Bars::new(reporter.json, reporter.style.quiet);
        let mut waiting = false;
        let watch = |host: &str, event: &_| show(reporter, &bars, host, event);
        let is_move = |(state, stand): &&(&MoveState, Stand)| state.failover.is_none() && *stand != Stand::Elsewhere;
        for (state, _) in open.iter().filter(is_move) {
            if ground.fleet.stop.is_cancelled() {
                reporter.say(&format!("shard {} is left as it is", state.shard));
                waiting = true;
                continue;
            }
            match resume(ground, state, &watch).await {
                Ok(kept) => {
                    let what = if state.replica { "has a replica" } else { "serves" };
                    bars.line(&format!("  shard {} {what} at {}", state.shard, state.to));
                    waiting |= kept.is_some();
                    kept.iter().for_each(|why| tell_kept(state.shard, why, reporter));
                }
                Err(error) => {
                    tally.failed += 1;
                    reporter.failed(&format!("shard {}", state.shard), &format!("{error:#}"), None);
                }
            }
        }
        bars.finish();
        tally.moves += open.len();
        Ok(waiting)
    }
}

/// The steps that are still to be made: those whose copy is at their end, or further on its way, are not; nor are those
/// of a copy that is not where they begin, after a failover.
fn not_there(left: Vec<Step>, map: &dunlin_shards::ShardMap) -> Vec<Step> {
    let is_at = |step: &Step, host: &String| {
        map.shards.iter().filter(|entry| u32::from(entry.id.0) == step.shard).any(|entry| match step.role {
            Role::Primary => entry.host == *host,
            Role::Replica => entry.replicas.contains(host),
        })
    };
    let is_done = |step: &Step| is_at(step, &step.to) && (step.role == Role::Primary || !is_at(step, &step.from));
    let is_same = |a: &Step, b: &Step| (a.shard, a.role) == (b.shard, b.role);
    let done: Vec<Step> = left.iter().filter(|step| is_done(step)).cloned().collect();
    let ahead: Vec<Step> = left
        .into_iter()
        .filter(|step| !done.iter().any(|done| is_same(step, done) && done.wave >= step.wave))
        .collect();
    let begins = |step: &Step| {
        let before = ahead.iter().filter(|other| is_same(step, other) && other.wave < step.wave);
        is_at(step, before.min_by_key(|other| other.wave).map_or(&step.from, |first| &first.from))
    };
    ahead.iter().filter(|step| begins(step)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use dunlin_shards::ShardMap;

    use super::*;

    #[test]
    fn a_detour_goes_on_from_where_the_shard_is() {
        let step = |shard, from: &str, to: &str, wave| Step {
            shard,
            from: from.into(),
            to: to.into(),
            wave,
            role: Role::Primary,
        };
        let left = vec![step(0, "a", "c", 0), step(0, "c", "b", 1)];
        let map = |host| {
            let text = format!(
                "cluster=\"x\"\nepoch=1\nport_base=7000\n[[shard]]\nid=0\nslots=\"0-16383\"\nhost=\"{host}\"\n"
            );
            ShardMap::parse(&text).unwrap()
        };
        assert_eq!(not_there(left.clone(), &map("a")), left);
        assert_eq!(not_there(left.clone(), &map("c")), left[1..]);
        assert_eq!(not_there(left.clone(), &map("b")), []);
        // A failover has brought it somewhere else.
        assert_eq!(not_there(left, &map("d")), []);
    }
}
