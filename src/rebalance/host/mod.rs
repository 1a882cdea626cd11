//! The agent side of a shard move. It runs on the target's host, except `RequireReplicas` and `Retire`, which run on
//! the source's host.
//!
//! A request runs in the thread that calls [`handle_request`], with blocking connections; several moves run in
//! parallel, each under its shard's lock. The shard's journal records the intent and the result of each step. Once
//! the source is prepared, a cutover completes or rolls back by its own timeouts, even if the controller disconnects.

mod abort;
mod archive;
mod assessment;
mod boot_id;
mod chosen_instance;
mod client_access;
mod consumers;
mod copy;
mod copy_lease;
mod cutover;
mod disk_space;
mod failover;
pub mod failpoint;
mod finish_cutover;
mod instance;
mod instance_state;
mod min_replicas;
mod modules;
mod move_journal;
mod move_status;
mod observe;
mod preflight;
mod probe;
mod rate_limiter;
mod recover;
mod redis_client;
mod reencoding;
mod remove_copy;
mod repl_timeout;
mod replica;
mod replication_progress;
mod replication_proxy;
mod retire;
mod roll_back;
mod run_generation;
mod source_monitor;
mod stale_primary;
mod start_replica;
mod throttled_sync;
pub mod verify;
mod write_hold;

pub use copy_lease::run_copy_watch;

use anyhow::Result;

use crate::protocol::ProgressSink;
use crate::protocol::shard::{ShardReply, ShardRequest};
use crate::resources::BlobSource;

/// Handles one request.
///
/// # Errors
/// Returns the error that stopped the request, with its instance. The journal records the progress; sending the
/// request again resumes it.
pub fn handle_request(request: ShardRequest, blobs: &dyn BlobSource, sink: &dyn ProgressSink) -> Result<ShardReply> {
    Ok(match request {
        ShardRequest::Observe(what) => ShardReply::Observe(observe::observe_instances(&what)),
        ShardRequest::ObserveConsumers(consumers) => {
            ShardReply::ObserveConsumers(consumers::observe_consumers(&consumers))
        }
        ShardRequest::StartRun(what) => {
            ShardReply::StartRun(run_generation::take_next_generation(&what.journal_dir, &what.run)?)
        }
        ShardRequest::ListPendingChanges(what) => ShardReply::ListPendingChanges(
            instance::parse_instance(what.header.shard, &what.instance)?.list_pending_changes()?,
        ),
        ShardRequest::Preflight(request) => ShardReply::Preflight(preflight::check_move(&request, blobs, sink)),
        ShardRequest::Copy(spec) => ShardReply::Copy(copy::copy_shard(&spec, blobs, sink)?),
        ShardRequest::RequireReplicas(what) => {
            ShardReply::RequireReplicas(min_replicas::require_replicas_in_file(&what)?)
        }
        ShardRequest::CutOver(spec) => ShardReply::CutOver(cutover::run_cutover(&spec, sink)?),
        ShardRequest::CreateReplica(spec) => ShardReply::CreateReplica(replica::create_replica(&spec, blobs, sink)?),
        ShardRequest::CommitReplica(spec) => ShardReply::CommitReplica(replica::commit_replica(&spec)?),
        ShardRequest::SetMinReplicas(what) => ShardReply::SetMinReplicas(min_replicas::set_min_replicas(&what)?),
        ShardRequest::Verify(spec) => ShardReply::Verify(verify::verify_copy(&spec, sink)?),
        ShardRequest::Retire(what) => ShardReply::Retire(retire::retire_instance(&what)?),
        ShardRequest::ListMoves(what) => ShardReply::ListMoves(move_status::list_moves(&what)?),
        ShardRequest::ListMoveHistory(what) => ShardReply::ListMoveHistory(move_status::list_history(&what)?),
        ShardRequest::Recover(spec) => ShardReply::Recover(recover::recover_move(&spec)?),
        ShardRequest::AssessChoice(choice) => ShardReply::AssessChoice(chosen_instance::assess_choice(&choice)?),
        ShardRequest::ChooseInstance(choice) => ShardReply::ChooseInstance(chosen_instance::choose_instance(&choice)?),
        ShardRequest::DiscardInstance(what) => ShardReply::DiscardInstance(chosen_instance::discard_instance(&what)?),
        ShardRequest::OpenChosenInstance(choice) => {
            ShardReply::OpenChosenInstance(chosen_instance::open_chosen_instance(&choice)?)
        }
        ShardRequest::Abort(spec) => ShardReply::Abort(abort::abort_move(&spec)?),
        ShardRequest::ProbeReplicas(what) => ShardReply::ProbeReplicas(probe::probe_replicas(&what)),
        ShardRequest::StopOldPrimary(what) => ShardReply::StopOldPrimary(stale_primary::stop_old_primary(&what)?),
        ShardRequest::Promote(what) => ShardReply::Promote(failover::promote_replica(&what, sink)?),
        ShardRequest::RevertFailover(what) => ShardReply::RevertFailover(failover::revert_failover(&what)?),
        ShardRequest::DiscardMove(what) => ShardReply::DiscardMove(stale_primary::discard_move(&what)?),
        ShardRequest::LowerMinReplicas(what) => ShardReply::LowerMinReplicas(stale_primary::lower_min_replicas(&what)?),
        ShardRequest::ArchiveInstance(what) => ShardReply::ArchiveInstance(stale_primary::archive_instance(&what)?),
    })
}
