//! What the commands of shards print where hosts answer: `dunlin` itself, agents on this machine, real instances.

mod project;

use crate::program::snapshot;
use project::ShardProject;

const WITH_REPLICAS: [&str; 2] = ["replicas = [\"redis-02\"]", "replicas = [\"redis-01\"]"];

#[test]
fn a_shard_moves_to_another_host_and_back() {
    let project = ShardProject::provision(WITH_REPLICAS);
    let to_third = ["shard-rebalance", "--shard", "1", "--targets", "redis-03"];
    let with = |flags: &[&'static str]| [&to_third[..], flags].concat();
    let mut outputs = project.run_all(&[
        &["shards", "status"],
        &with(&["--dry-run"]),
        &with(&["--yes", "--keep-source"]),
        &["shards", "status"],
        &["shards", "resume", "--dry-run"],
        &["shards", "abort", "--dry-run"],
        &["shards", "repair", "--dry-run"],
        &with(&["--yes"]),
        &["shards", "move-back", "0", "--dry-run"],
        &["shards", "move-back", "1", "--dry-run", "--detailed-exitcode"],
        &["shards", "move-back", "1", "--yes"],
    ]);
    outputs.extend(project.run_all(&[&["shards", "resume", "--yes"], &["shards", "history"]]));
    snapshot("shards-moved", &outputs);
    let outputs = project.run_all(&[
        &with(&["--yes", "--keep-source", "--json"]),
        &["shards", "status", "--json"],
        &["shards", "resume", "--yes", "--json"],
        &["shards", "history", "1", "--json"],
    ]);
    snapshot("shards-moved-json", &outputs);
}

#[test]
fn shards_are_verified_and_measured() {
    let project = ShardProject::provision(WITH_REPLICAS);
    let outputs = project.run_all(&[
        &["shards", "verify"],
        &["shards", "verify", "1", "--json"],
        &["shards", "capacity"],
        &["shards", "capacity", "--growth", "1MiB"],
        &["shards", "capacity", "--growth", "1MiB", "--json"],
        &["shards", "history"],
        &["shards", "resume", "--yes"],
        &["shards", "abort", "--dry-run"],
        &["locks"],
    ]);
    snapshot("shards-verified", &outputs);
}

#[test]
fn pending_moves_are_shown_discarded_and_resumed() {
    let project = ShardProject::provision(WITH_REPLICAS);
    project.save_pending_move(1, "redis-02", "redis-03");
    let mut outputs = project.run_all(&[
        &["shards", "status"],
        &["shards", "resume", "--dry-run", "--detailed-exitcode"],
        &["shards", "resume", "--dry-run", "--json"],
        &["shards", "abort", "--dry-run", "--detailed-exitcode"],
        &["shards", "abort", "--dry-run", "--json"],
        &["shards", "abort", "--yes"],
    ]);
    project.save_pending_move(1, "redis-02", "redis-03");
    outputs.extend(project.run_all(&[&["shards", "resume", "--yes"], &["shards", "status"]]));
    snapshot("shards-pending", &outputs);
}

#[test]
fn a_primary_is_restarted_by_moves() {
    let project = ShardProject::provision(WITH_REPLICAS);
    let outputs = project.run_all(&[
        &["shards", "restart", "--shard", "1", "--via", "redis-03", "--dry-run"],
        &["shards", "restart", "redis-02", "--via", "redis-03", "--dry-run", "--json"],
        &["shards", "restart", "redis-03", "--yes"],
        &["shards", "restart", "--shard", "1", "--via", "redis-03", "--yes"],
        &["shards", "restart", "--shard", "1", "--via", "redis-03", "--stay", "--yes", "--json"],
    ]);
    snapshot("shards-restarted", &outputs);
}

#[test]
fn missing_replicas_are_created_and_orphans_retired() {
    let project = ShardProject::provision([WITH_REPLICAS[0], ""]);
    let mut outputs = project.run_all(&[
        &["shards", "status"],
        &["shards", "repair", "--dry-run", "--detailed-exitcode"],
        &["shards", "repair", "--dry-run", "--json"],
        &["shards", "repair", "--yes"],
        &["shards", "repair", "--dry-run"],
    ]);
    // Without the new replica in the map, its instance is an orphan.
    project.write_map(9, [WITH_REPLICAS[0], ""]);
    outputs.extend(project.run_all(&[
        &["shards", "status"],
        &["shards", "repair", "--dry-run"],
        &["shards", "repair", "--yes", "--json"],
    ]));
    snapshot("shards-repaired", &outputs);
}

#[test]
fn replicas_are_promoted() {
    let project = ShardProject::provision(WITH_REPLICAS);
    project.kill_instance("redis-01", 0);
    let mut outputs = project.run_all(&[
        &["shards", "status"],
        &["shards", "failover", "1", "--dry-run"],
        &["shards", "failover", "0", "--no-new-replicas", "--dry-run"],
        &["shards", "failover", "0", "--no-new-replicas", "--dry-run", "--json", "--detailed-exitcode"],
        &["shards", "failover", "0", "--no-new-replicas", "--accept-data-loss", "0"],
        &["shards", "status"],
    ]);
    project.lose_host("redis-02");
    outputs.extend(project.run_all(&[
        &["shards", "failover", "redis-02", "--dry-run"],
        &["shards", "failover", "redis-02", "--accept-data-loss", "redis-02", "--json"],
    ]));
    snapshot("shards-failed-over", &outputs);
}
