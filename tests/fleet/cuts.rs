//! A host is cut off in the middle of a rebalance, and comes back: what was acknowledged is there, and `shards resume`
//! ends it.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::hosts::fleet;
use crate::kills::status_tells_the_truth;
use crate::moments::{Moment, Running};
use crate::writers::Writers;

/// How long the host is away: longer than dunlin's ssh bears a silent link.
const AWAY: Duration = Duration::from_secs(20);

#[test]
fn a_host_that_is_cut_off_in_a_move_costs_time_and_no_write() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::new(&fleet);
    cluster.grow();
    let writers = Writers::start(&cluster.published());
    for (moment, wish) in [
        // As the target, then as the source.
        (Moment::Said("progress", "copy"), ["--to", "redis-03"]),
        (Moment::Noted("fence", "intent"), ["--drain", "redis-03"]),
    ] {
        let begin = Instant::now();
        let mut running = Running::until(&cluster, moment, &wish);
        let cut = cluster.fleet.cut("redis-03");
        let ended_alone = running.ends_within(AWAY);
        drop(cut);
        let (code, said) = running.ended();
        assert!([0, 4].contains(&code), "{moment:?}: {code}\n{said}");
        assert!(code == 0 || said.contains("next: "), "{moment:?}: no next step in\n{said}");
        cluster.without_agents();
        status_tells_the_truth(&cluster);
        cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
        cluster.is_as_the_map_says();
        writers.write_on(100);
        let acked = writers.lost_nothing_acknowledged();
        let took = begin.elapsed().as_secs_f64();
        eprintln!("{moment:?} {wish:?}: {code}, alone {ended_alone}, {took:.1} s, {acked} acknowledged");
    }
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
}
