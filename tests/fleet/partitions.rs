//! A host is cut off in the middle of a rebalance, and comes back: what was acknowledged is there, and `shards resume`
//! ends it.

use std::time::{Duration, Instant};

use crate::cluster::TestCluster;
use crate::crashes::assert_status_accurate;
use crate::hosts::lock_fleet;
use crate::timing::{KillMoment, RunningCommand};
use crate::writers::FleetWriters;

/// How long the host is away: longer than dunlin's ssh bears a silent link.
const PARTITION_TIME: Duration = Duration::from_secs(20);

#[test]
fn partitions_during_a_move_lose_no_write() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.add_third_host();
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    for (moment, flags) in [
        // As the target, then as the source.
        (KillMoment::Said("progress", "copy"), ["--targets", "redis-03"]),
        (KillMoment::Noted("demote_source", "intent"), ["--drain", "redis-03"]),
    ] {
        let begin = Instant::now();
        let mut running = RunningCommand::run_until(&cluster, moment, &flags);
        let cut = cluster.fleet.partition_host("redis-03");
        let ended_alone = running.exits_within(PARTITION_TIME);
        drop(cut);
        let (code, said) = running.wait_for_exit();
        assert!([0, 4].contains(&code), "{moment:?}: {code}\n{said}");
        // Each line of a next step has this label, whatever the step.
        assert!(
            code == 0 || said.lines().any(|line| line.starts_with("  next: ")),
            "{moment:?}: no next step in\n{said}"
        );
        cluster.wait_for_agents_to_exit();
        assert_status_accurate(&cluster);
        cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
        cluster.assert_matches_map();
        writers.wait_for_writes(100);
        let acked = writers.assert_no_acked_write_lost();
        let took = begin.elapsed().as_secs_f64();
        eprintln!("{moment:?} {flags:?}: {code}, alone {ended_alone}, {took:.1} s, {acked} acknowledged");
    }
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
}
