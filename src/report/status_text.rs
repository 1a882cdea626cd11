//! The status of a cluster: its hosts, the health of its instances, its moves and the next step.

use serde_json::json;

use super::Reporter;
use super::open_moves_text::report_open_moves;
use super::repair_text::report_replica_health;
use crate::inventory::ByteSize;
use crate::plan::format_count;
use crate::rebalance::cluster_status::{ClusterStatus, DurabilityRisk, HostShards, StatusAdvice, WriteRefusal};

/// Prints the map and the shards of each host.
pub fn report_status_hosts(status: &ClusterStatus<'_>, reporter: &Reporter) {
    let map = status.map;
    let shards = format_count(map.shards.len(), "shard");
    reporter.print_data(&format!("{} at epoch {}: {shards}", map.cluster, map.epoch.0));
    for HostShards { host, shards, bytes, replicas, is_reachable } in &status.hosts {
        let size = if *is_reachable { ByteSize(*bytes).to_human().to_string() } else { "no answer".to_owned() };
        let mut line = format!("  {host:<16} {shards:>3} shards {size:>10}");
        if !status.health.replicas.is_empty() {
            line += &format!(" {replicas:>4} replicas");
        }
        reporter.print_data(&line);
        reporter.print_json(
            "host_shards",
            json!({
                "host": host, "shards": shards, "bytes": bytes, "replicas": replicas, "reachable": is_reachable,
            }),
        );
    }
}

/// Prints what is wrong with the instances, the moves, and the next step.
pub fn report_status_details(status: &ClusterStatus<'_>, reporter: &Reporter) {
    report_write_refusals(&status.write_refusals(), reporter);
    report_durability_risks(&status.durability_risks(), reporter);
    report_replica_health(&status.health, reporter);
    report_missing_replicas(status, reporter);
    let open_moves = status.open_moves();
    report_open_moves(&open_moves, reporter);
    if status.not_started > 0 {
        reporter.print_data(&format!("  pending: {} of the plan", format_count(status.not_started, "move")));
    }
    report_advice(status, reporter);
    let replicas = &status.health.replicas;
    reporter.print_json(
        "status",
        json!({
            "epoch": status.map.epoch.0, "open": open_moves.len(), "pending": status.not_started,
            "replicas": replicas.len(),
            "replicas_in_sync": replicas.iter().filter(|replica| replica.state.is_in_sync()).count(),
        }),
    );
}

fn report_advice(status: &ClusterStatus<'_>, reporter: &Reporter) {
    let advice = status.advice();
    if matches!(advice, StatusAdvice::Nothing | StatusAdvice::Repair) {
        let scope = if status.all_hosts_answer { "" } else { " on the hosts that answer" };
        reporter.print_data(&format!("  no moves in progress{scope}"));
    }
    match advice {
        StatusAdvice::Nothing => {}
        StatusAdvice::Repair => reporter.print_status("next: dunlin shards repair"),
        StatusAdvice::RetireOrMoveBack => reporter.print_status(
            "next: dunlin shards resume retires the old instances, dunlin shards move-back returns to them",
        ),
        StatusAdvice::ResumeOrAbort => reporter.print_status("next: dunlin shards resume, or dunlin shards abort"),
    }
}

fn report_write_refusals(refusals: &[WriteRefusal<'_>], reporter: &Reporter) {
    for WriteRefusal { shard, host, good_replicas: good, required_replicas: required } in refusals {
        reporter.print_json(
            "writes_refused",
            json!({"shard": shard, "host": host, "good_replicas": good, "required_replicas": required}),
        );
        reporter.print_data(&format!(
            "  shard {shard}: the primary on {host} refuses writes with NOREPLICAS: {good} of {required} required \
             replicas follow it"
        ));
    }
}

fn report_durability_risks(risks: &[DurabilityRisk<'_>], reporter: &Reporter) {
    for DurabilityRisk { shard, host, instance, risk } in risks {
        let (durable, appendfsync) = (instance.durable, &instance.appendfsync);
        reporter.print_json(
            "durability_risk",
            json!({"shard": shard, "host": host, "append_only": durable, "appendfsync": appendfsync}),
        );
        reporter.print_data(&format!("  shard {shard}: the primary on {host} is not durable: {risk}"));
    }
}

fn report_missing_replicas(status: &ClusterStatus<'_>, reporter: &Reporter) {
    for entry in status.map.underreplicated_shards() {
        let (shard, has, expected) = (entry.id.0, entry.replicas.len(), status.map.replicas.unwrap_or(0));
        reporter.print_json("missing_replicas", json!({"shard": shard, "replicas": has, "expected": expected}));
        reporter.print_data(&format!("  shard {shard} has {has} of {expected} replicas"));
    }
}
