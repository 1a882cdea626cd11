//! `dunlin shards status`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dunlin_shards::{ShardId, ShardMap};
use serde_json::json;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::exit::Exit;
use crate::cli::output_file::write_output_file;
use crate::inventory::ByteSize;
use crate::plan::format_count;
use crate::protocol::shard::{MoveState, ObservedInstance};
use crate::rebalance::apply::PlannedMove;
use crate::rebalance::open_moves::list_open_moves;
use crate::rebalance::repair::check_health;
use crate::rebalance::replica_health::ReplicaHealth;
use crate::rebalance::resume::{MoveStatus, effective_map, list_latest_moves};
use crate::rebalance::{RebalanceContext, observe};
use crate::report::{report_missing_hosts, report_open_moves, report_replica_health};

impl ShardsContext<'_> {
    /// Prints placements, replica health, and moves in progress; if hosts do not answer, what is known without them.
    ///
    /// # Errors
    /// A primary does not answer.
    pub async fn show_status(&self, out: Option<PathBuf>) -> Result<Exit, CommandError> {
        let pending = self.files.cluster.state.load_pending_moves()?;
        let fleet = self.files.build_fleet(self.common)?;
        let (context, unreachable) = self.files.connect_reachable(&fleet).await?;
        let (reporter, map) = (&self.reporter, &self.files.cluster.map);
        report_missing_hosts(&unreachable, reporter);
        let latest_moves = list_latest_moves(&context).await?;
        let open_moves = list_open_moves(&context, &latest_moves)?;
        reporter.print_data(&format!(
            "{} at epoch {}: {}",
            map.cluster,
            map.epoch.0,
            format_count(map.shards.len(), "shard")
        ));
        let effective = effective_map(&context, map, &open_moves);
        let primaries = observe::observe_reachable_primaries(&context, &effective).await;
        let move_states: Vec<&MoveState> = open_moves.iter().map(|(state, _)| *state).collect();
        let health = check_health(&self.files.cluster, &context, &effective, &primaries.found, &move_states).await?;
        self.print_hosts(&context, &effective, &primaries.found, &health)?;
        let is_complete = primaries.errors.is_empty();
        if let Some(file) = out.filter(|_| is_complete) {
            let hosts = self.files.cluster.shard_hosts()?;
            let mut observation = observe::build_observation(&context, &effective, &hosts, &primaries.found);
            health.add_to_observation(&mut observation);
            write_output_file(&file, observation.to_json().as_bytes())?;
        }
        self.print_write_refusals(&effective, &primaries.found);
        self.print_durability_risks(&effective, &primaries.found);
        report_replica_health(&health, reporter);
        self.print_missing_replicas(map);
        report_open_moves(&open_moves, reporter);
        let is_started = |step: &&PlannedMove| open_moves.iter().any(|(state, _)| state.shard == step.shard);
        let not_started = pending.iter().filter(|step| !is_started(step)).count();
        if not_started > 0 {
            reporter.print_data(&format!("  pending: {} of the plan", format_count(not_started, "move")));
        }
        if open_moves.is_empty() && not_started == 0 {
            let scope = if unreachable.is_empty() { "" } else { " on the hosts that answer" };
            reporter.print_data(&format!("  no moves in progress{scope}"));
            let is_broken = health.needs_repair() || map.underreplicated_shards().next().is_some();
            if is_broken && unreachable.is_empty() {
                reporter.print_status("next: dunlin shards repair");
            }
        } else if not_started == 0 && open_moves.iter().all(|(_, status)| *status == MoveStatus::SourceKept) {
            reporter.print_status(
                "next: dunlin shards resume retires the old instances, dunlin shards move-back returns to them",
            );
        } else {
            reporter.print_status("next: dunlin shards resume, or dunlin shards abort");
        }
        reporter.print_json(
            "status",
            json!({
                "epoch": map.epoch.0, "open": open_moves.len(), "pending": not_started,
                "replicas": health.replicas.len(),
                "replicas_in_sync": health.replicas.iter().filter(|replica| replica.state.is_in_sync()).count(),
            }),
        );
        let next = match unreachable.first() {
            Some((host, _)) => format!("if {host} is dead: dunlin shards failover {host} --dry-run"),
            None if !open_moves.is_empty() => "dunlin shards resume".to_owned(),
            None => "start the instance (dunlin provision), or dunlin shards failover SHARD --dry-run".to_owned(),
        };
        match primaries.into_complete() {
            Ok(_) if unreachable.is_empty() => Ok(Exit::Done),
            Ok(_) => {
                reporter.print_status(&format!("next: {next}"));
                Ok(Exit::Partial)
            }
            Err(error) => Err(CommandError::new(Exit::Partial, error).with_hint(next)),
        }
    }

    /// Prints the primaries that refuse writes because too few replicas follow them.
    fn print_write_refusals(&self, map: &ShardMap, primaries: &BTreeMap<ShardId, ObservedInstance>) {
        for (shard, seen) in primaries.iter().filter(|(_, seen)| seen.good_replicas < seen.min_replicas) {
            let Some(host) = map.find_shard(*shard).map(|entry| entry.host.as_str()) else { continue };
            let (good, required) = (seen.good_replicas, seen.min_replicas);
            self.reporter.print_json(
                "writes_refused",
                json!({"shard": shard, "host": host, "good_replicas": good, "required_replicas": required}),
            );
            self.reporter.print_data(&format!(
                "  shard {shard}: the primary on {host} refuses writes with NOREPLICAS: {good} of {required} required \
                 replicas follow it"
            ));
        }
    }

    /// Prints the primaries whose acknowledged writes may not survive a crash.
    fn print_durability_risks(&self, map: &ShardMap, primaries: &BTreeMap<ShardId, ObservedInstance>) {
        for (shard, seen) in primaries {
            let Some(host) = map.find_shard(*shard).map(|entry| entry.host.as_str()) else { continue };
            let Some(risk) = seen.durability_risk() else { continue };
            self.reporter.print_json(
                "durability_risk",
                json!({"shard": shard, "host": host, "append_only": seen.durable, "appendfsync": seen.appendfsync}),
            );
            self.reporter.print_data(&format!("  shard {shard}: the primary on {host} is not durable: {risk}"));
        }
    }

    fn print_missing_replicas(&self, map: &ShardMap) {
        for entry in map.underreplicated_shards() {
            let (shard, has, expected) = (entry.id.0, entry.replicas.len(), map.replicas.unwrap_or(0));
            self.reporter
                .print_json("missing_replicas", json!({"shard": shard, "replicas": has, "expected": expected}));
            self.reporter.print_data(&format!("  shard {shard} has {has} of {expected} replicas"));
        }
    }

    fn print_hosts(
        &self,
        context: &RebalanceContext<'_>,
        effective: &ShardMap,
        primaries: &BTreeMap<ShardId, ObservedInstance>,
        health: &ReplicaHealth,
    ) -> Result<(), CommandError> {
        for host in self.files.cluster.shard_hosts()? {
            let shards: Vec<_> = effective.shards_on(&host.name).collect();
            let observed = shards.iter().filter_map(|entry| primaries.get(&entry.id));
            let bytes: u64 = observed.map(|seen| seen.bytes).sum();
            let (size, replicas) = (ByteSize(bytes).to_human(), health.count_on_host(&host.name));
            let is_unreachable = context.hosts.unreachable.contains(&host.name);
            let size = if is_unreachable { "no answer".to_owned() } else { size.to_string() };
            let mut line = format!("  {:<16} {:>3} shards {size:>10}", host.name, shards.len());
            if !health.replicas.is_empty() {
                line += &format!(" {replicas:>4} replicas");
            }
            self.reporter.print_data(&line);
            self.reporter.print_json(
                "host_shards",
                json!({
                    "host": host.name, "shards": shards.len(), "bytes": bytes, "replicas": replicas,
                    "reachable": !is_unreachable,
                }),
            );
        }
        Ok(())
    }
}
