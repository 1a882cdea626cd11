//! `dunlin shards log`.

use serde_json::json;

use super::Work;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::rebalance::resume::logged;

impl Work<'_> {
    /// Tells what was moved, when and by whom, oldest first: from the journals of all hosts.
    ///
    /// # Errors
    /// A host does not answer.
    pub async fn log(&self, shards: &[u32]) -> Result<Exit, Failure> {
        let fleet = self.files.fleet(self.common)?;
        let ground = self.files.ground(&fleet, self.common).await?;
        let mut moves = logged(&ground).await?;
        moves.retain(|entry| shards.is_empty() || shards.contains(&entry.shard));
        for entry in &moves {
            let name = |address: &str| ground.host_at(address).unwrap_or(address).to_owned();
            let (from, to) = (name(&entry.from), name(&entry.to));
            self.reporter.data(&format!(
                "{:.19}Z  shard {:<4} {from} → {to}  {:<12} epoch {:<4} by {}  run {}",
                entry.begun, entry.shard, entry.end, entry.epoch, entry.by, entry.run
            ));
            self.reporter.line(
                "logged",
                json!({
                    "shard": entry.shard, "from": from, "to": to, "begun": entry.begun,
                    "ended": entry.ended, "end": entry.end, "epoch": entry.epoch, "by": entry.by, "move_run": entry.run,
                }),
            );
        }
        if moves.is_empty() {
            self.reporter.data("no moves in the hosts' journals");
        }
        Ok(Exit::Done)
    }
}
