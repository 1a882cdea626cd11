//! `dunlin shards history`.

use dunlin_shards::{InstanceAddress, ShardId};
use serde_json::json;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::exit::Exit;
use crate::rebalance::resume::list_move_history;

impl ShardsContext<'_> {
    /// Prints the moves in the journals of all hosts, oldest first.
    ///
    /// # Errors
    /// Returns an error if a host does not answer, or a shard is neither in the map nor in a journal.
    pub async fn show_history(&self, shards: &[ShardId]) -> Result<Exit, CommandError> {
        let fleet = self.files.build_fleet(self.common)?;
        let context = self.files.connect_all(&fleet, self.common).await?;
        let mut moves = list_move_history(&context).await?;
        moves.retain(|entry| shards.is_empty() || shards.contains(&entry.shard));
        // A shard that was removed from the map may have a history.
        let without_history: Vec<ShardId> =
            shards.iter().copied().filter(|shard| moves.iter().all(|entry| entry.shard != *shard)).collect();
        self.files.cluster.ensure_shards_exist(&without_history)?;
        for entry in &moves {
            let name = |address: &InstanceAddress| {
                context.hosts.host_at_address(address).map_or_else(|| address.to_string(), str::to_owned)
            };
            let (from, to) = (name(&entry.from), name(&entry.to));
            self.reporter.print_data(&format!(
                "{:.19}Z  shard {:<4} {from} → {to}  {:<12} epoch {:<4} by {}  run {}",
                entry.started_at, entry.shard, entry.outcome, entry.epoch, entry.operator, entry.run
            ));
            self.reporter.print_json(
                "history_entry",
                json!({
                    "shard": entry.shard, "from": from, "to": to, "started_at": entry.started_at,
                    "last_recorded_at": entry.last_recorded_at, "outcome": entry.outcome, "epoch": entry.epoch,
                    "operator": entry.operator, "move_run": entry.run,
                }),
            );
        }
        if moves.is_empty() {
            self.reporter.print_data("no moves in the hosts' journals");
        }
        Ok(Exit::Done)
    }
}
