//! Instances around a failover: an old primary is stopped and later archived; a primary that lost its replica continues
//! without it.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::archive::{archive_files, write_archive_note};
use super::instance::parse_instance;
use super::move_journal::{JournalEntry, MoveJournal, entries_since_roll_back, is_finished};
use super::probe::history_branch;
use super::redis_client::{RedisClient, probe_role};
use crate::protocol::shard::failover::{ArchivedInstance, InstanceRef, LowerMinReplicasRequest};
use crate::protocol::shard::{MovePhase, ReplicationRole};

/// Stops an instance that does not answer, also for the next start of its host; its files stay where they are.
///
/// # Errors
/// Returns an error if the instance answers.
pub fn stop_old_primary(request: &InstanceRef) -> Result<()> {
    let instance = parse_instance(request.header.shard, &request.instance)?;
    let _lock = MoveJournal::open(&request.header)?;
    let refuse = |role| bail!("{} is alive ({role}); it was not stopped", request.address);
    match probe_role(&request.address, &request.header.credentials) {
        ReplicationRole::Unreachable => {}
        role => refuse(role)?,
    }
    instance.stop_and_disable()?;
    match probe_role(&request.address, &request.header.credentials) {
        ReplicationRole::Unreachable => Ok(()),
        role => refuse(role),
    }
}

/// Lets a primary accept writes with the remaining replicas, also after a restart.
///
/// # Errors
/// Returns an error if it is not a primary, or uses another configuration file.
pub fn lower_min_replicas(request: &LowerMinReplicasRequest) -> Result<()> {
    let LowerMinReplicasRequest { primary, replicas } = request;
    let instance = parse_instance(primary.header.shard, &primary.instance)?;
    let _lock = MoveJournal::open(&primary.header)?;
    let mut link = RedisClient::open(&primary.address, &primary.header.credentials)?;
    if !matches!(link.fetch_role()?, ReplicationRole::Primary { .. }) {
        bail!("{} is not a primary; nothing was changed", primary.address);
    }
    let config_file = link.fetch_info("server")?.text_field("config_file").to_owned();
    if instance.conf_path() != std::path::Path::new(&config_file) {
        bail!("{} uses {config_file}, not {}; nothing was changed", primary.address, instance.conf_path().display());
    }
    let file = instance.read_conf()?.and_then(|conf| conf.last_value("min-replicas-to-write")?.parse().ok());
    if file.is_some_and(|needs: u32| needs > *replicas) {
        instance.set_min_replicas(*replicas)?;
    }
    let memory: u32 = link.fetch_setting("min-replicas-to-write")?.parse().context("min-replicas-to-write")?;
    if memory > *replicas {
        link.run_command(&["CONFIG", "SET", "min-replicas-to-write", &replicas.to_string()])?;
    }
    Ok(())
}

/// Ends the journal of a move whose source is lost and which had only copied so far. The target stays as it is.
///
/// # Errors
/// Returns an error if the target may be the primary of the shard; no changes were made then.
pub fn discard_move(request: &InstanceRef) -> Result<()> {
    let mut journal = MoveJournal::open(&request.header)?;
    let Some(begun) =
        journal.move_record().filter(|begun| begun.to == request.address && !is_finished(journal.current_entries()))
    else {
        return Ok(());
    };
    let since = entries_since_roll_back(journal.current_entries());
    // A replica in the making is opened to readers only.
    let hands_over = |record: &JournalEntry| {
        matches!(record.phase, MovePhase::DemoteSource | MovePhase::Promote | MovePhase::OpenTarget)
    };
    let handed_over = !begun.operation.creates_replica() && since.iter().any(hands_over);
    if handed_over
        || matches!(probe_role(&request.address, &request.header.credentials), ReplicationRole::Primary { .. })
    {
        bail!("{} may be the primary of shard {}; its move was not discarded", request.address, request.header.shard);
    }
    journal.log_done(MovePhase::Abort, Value::Null)
}

/// Stops an instance that the map does not know, and keeps its files: it may hold writes that no other instance has.
///
/// # Errors
/// Returns an error if the shard's primary does not answer as one: the old instance may have the only data then.
pub fn archive_instance(request: &InstanceRef) -> Result<ArchivedInstance> {
    let instance = parse_instance(request.header.shard, &request.instance)?;
    let mut journal = MoveJournal::open(&request.header)?;
    if instance.read_conf()?.is_none() && !instance.is_running()? {
        return Ok(ArchivedInstance::default());
    }
    if let Some(later) =
        journal.move_record().filter(|begun| begun.to == request.address && begun.epoch > request.epoch)
    {
        let (map_epoch, recorded_epoch) = (request.epoch, later.epoch);
        bail!(
            "the map has epoch {map_epoch}; {} became the primary in epoch {recorded_epoch}, and was not stopped",
            request.address
        );
    }
    let mut primary = RedisClient::open(&request.primary, &request.header.credentials)
        .context("cannot connect to the shard's primary; nothing was stopped")?;
    if request.primary == request.address || !matches!(primary.fetch_role()?, ReplicationRole::Primary { .. }) {
        bail!("{} is not a primary; {} was not stopped", request.primary, request.address);
    }
    let bytes_ahead = RedisClient::open(&request.address, &request.header.credentials)
        .and_then(|mut old| count_bytes_ahead(&mut old, &mut primary))
        .ok();
    let ahead = bytes_ahead.flatten();
    journal.log_intent(MovePhase::Retire, json!({ "owner": request.primary, "ahead": ahead }))?;
    instance.stop_and_disable()?;
    let archive_dir = archive_files(&instance, "replaced")?;
    if let Some(kept) = &archive_dir {
        let difference = ahead.map_or("its extra writes are unknown".to_owned(), |n| format!("{n} bytes ahead"));
        let note = format!("shard {} is at {}; {difference}\n", request.header.shard, request.primary);
        write_archive_note(&instance, kept, "REPLACED-BY", &note)?;
    }
    journal.log_done(MovePhase::Retire, Value::Null)?;
    Ok(ArchivedInstance { archive_dir, bytes_ahead: ahead })
}

/// Returns the bytes that the old primary wrote after the new one's history branched off.
fn count_bytes_ahead(old_primary: &mut RedisClient, primary: &mut RedisClient) -> Result<Option<u64>> {
    let (old, owner) = (old_primary.fetch_info("replication")?, primary.fetch_info("replication")?);
    let branch = history_branch(&owner).filter(|(history, _)| history == old.text_field("master_replid"));
    Ok(branch.map(|(_, end)| old.number_field("master_repl_offset").saturating_sub(end)))
}
