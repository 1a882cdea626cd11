//! The moves that are not finished, and whether they can be finished now.

use anyhow::Result;

use super::cluster_files::UnreachableHost;
use super::resume::{LatestMoves, MoveStatus, move_status};
use super::run_error::{RunError, RunResult};
use super::{RebalanceContext, publish};
use crate::plan::format_count;
use crate::protocol::shard::MoveState;

/// A move that is not finished, with its status.
pub type OpenMove<'a> = (&'a MoveState, MoveStatus);

/// Returns the moves that are not finished, ascending by shard.
///
/// # Errors
/// Returns an error if the map cannot be read.
pub fn list_open_moves<'j>(context: &RebalanceContext<'_>, latest_moves: &'j LatestMoves) -> Result<Vec<OpenMove<'j>>> {
    let map = context.map_file.read()?;
    let statuses = latest_moves.values().map(|(_, state)| (state, move_status(context, &map, state)));
    Ok(statuses.filter(|(_, status)| *status != MoveStatus::Finished).collect())
}

/// Returns the error of a run that needs hosts that do not answer.
pub fn missing_hosts_error(unreachable: &[UnreachableHost], open_moves: &[OpenMove<'_>]) -> RunError {
    let hosts = format_count(unreachable.len(), "host");
    let text = match open_moves {
        [] => format!("{hosts} cannot be reached, and may have moves to finish; no changes were made"),
        _ => format!("{hosts} cannot be reached; no changes were made"),
    };
    let error = RunError::refused(text);
    match unreachable.first() {
        Some((first, _)) => error.with_hint(format!("if {first} is dead: dunlin shards failover {first} --dry-run")),
        None => error,
    }
}

/// Checks that every published placement is in this map or in the hosts' journals.
///
/// # Errors
/// Returns an error if a newer map is published, with placements that neither knows: nothing may be published over it.
pub async fn ensure_placements_are_known(context: &RebalanceContext<'_>, open_moves: &[OpenMove<'_>]) -> RunResult<()> {
    let map = context.map_file.read()?;
    let open: Vec<&MoveState> = open_moves.iter().map(|(state, _)| *state).collect();
    let unknown = publish::find_unaccounted_shards(context, &map, &open).await?;
    if unknown.is_empty() {
        return Ok(());
    }
    let shards: Vec<String> = unknown.iter().map(ToString::to_string).collect();
    let text = format!(
        "the published placements of shards {} are neither in the map (epoch {}) nor in the hosts' journals; nothing was \
         changed",
        shards.join(", "),
        map.epoch
    );
    Err(RunError::refused(text).with_hint("get the newer map, then run dunlin shards resume again"))
}
