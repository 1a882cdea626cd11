//! A move that recovery cannot decide: the operator names the host whose instance keeps its writes.

use serde_json::Value as Json;

use crate::cluster::TestCluster;
use crate::hosts::lock_fleet;
use crate::output::CommandOutput;
use crate::timing::{KillMoment, RunningCommand};

const TARGET: &str = "redis-03";

/// Returns the status of the shard's open move as `shards status` reports it.
fn move_status(cluster: &TestCluster<'_>, shard: u16) -> Option<String> {
    let output = cluster.project.run_dunlin(&["shards", "status", "--json"]).assert_status(0);
    let events = output.stdout.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let mut moves = events.filter(|event| event["event"] == "move" && event["shard"] == shard);
    moves.next().map(|event| event["status"].as_str().unwrap().to_owned())
}

/// Interrupts a move after its copy, and returns its shard and source.
fn interrupt_move(cluster: &TestCluster<'_>) -> (u16, String) {
    for shard in 0..cluster.shards {
        let source = cluster.read_map().shards[usize::from(shard)].host.clone();
        if source == TARGET {
            continue;
        }
        let number = shard.to_string();
        let flags = ["--shard", &number, "--to", TARGET];
        RunningCommand::run_until(cluster, KillMoment::Noted("copy", "done"), &flags).kill_run();
        cluster.wait_for_agents_to_exit();
        if move_status(cluster, shard).as_deref() == Some("copying") {
            return (shard, source);
        }
        // It was killed too late: the agent had begun the cutover, and finished or rolled it back.
        cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    }
    panic!("no move was interrupted before its cutover");
}

/// Makes each instance a replica of the other one, as an operator may do by mistake.
fn make_undecided(cluster: &TestCluster<'_>, shard: u16, source: &str) {
    for (host, primary) in [(TARGET, source), (source, TARGET)] {
        let address = cluster.address(primary, shard);
        let (ip, port) = address.rsplit_once(':').unwrap();
        let mut admin = cluster.connect_admin(host, shard);
        redis::cmd("REPLICAOF").arg(ip).arg(port).exec(&mut admin).unwrap();
        redis::cmd("CONFIG").arg("REWRITE").exec(&mut admin).unwrap();
    }
}

#[test]
fn an_undecided_move_ends_on_the_host_that_the_operator_names() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.add_third_host();
    for keeps_target in [true, false] {
        let (shard, source) = interrupt_move(&cluster);
        make_undecided(&cluster, shard, &source);
        let (number, before) = (shard.to_string(), cluster.map_text());
        let chosen = if keeps_target { TARGET } else { &source };
        let resume = |host: &str, flags: &[&str]| {
            let keep = ["shards", "resume", "--shard", &number, "--keep", host];
            cluster.project.run_dunlin(&[&keep, flags].concat())
        };
        assert_eq!(move_status(&cluster, shard).as_deref(), Some("undecided"));
        let side = if keeps_target { "target" } else { "source" };
        let any_shard = |output: CommandOutput| {
            let output = output.with_placeholder(&format!("shard {shard}"), "shard [N]");
            let output = output.with_placeholder(&format!("shard-{shard}"), "shard-[N]");
            output.with_placeholder(&format!(":{}", 7000 + shard), ":[PORT]").with_placeholder(&source, "[SOURCE]")
        };
        if keeps_target {
            // Once: it waits for the roles to allow a decision.
            let refused = cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(4);
            any_shard(refused).assert_snapshot("fleet-undecided-move");
        }
        let elsewhere = resume("app-01", &["--dry-run"]).assert_status(3);
        any_shard(elsewhere).assert_snapshot(&format!("fleet-undecided-move-kept-elsewhere-{side}"));
        let shown = resume(chosen, &["--dry-run", "--detailed-exitcode"]).assert_status(2);
        any_shard(shown).assert_snapshot(&format!("fleet-undecided-move-keep-{side}"));
        assert_eq!(
            (cluster.map_text(), cluster.writable_hosts(shard)),
            (before, Vec::new()),
            "a dry run changes nothing"
        );

        let done = resume(chosen, &["--yes"]).assert_status(0);
        any_shard(done).assert_snapshot(&format!("fleet-undecided-move-kept-{side}"));
        cluster.project.run_dunlin(&["shards", "abort", "--yes"]).assert_status(0);
        assert_eq!(cluster.read_map().shards[usize::from(shard)].host, chosen);
        assert_eq!(move_status(&cluster, shard), None);
        cluster.assert_matches_map();
        let mut admin = cluster.connect_admin(chosen, shard);
        let size: u64 = redis::cmd("STRLEN").arg("fill:0").query(&mut admin).unwrap();
        assert_eq!(size, 64 << 10, "the data of {chosen}");
        cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    }
}
