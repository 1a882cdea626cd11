//! The last steps of a move: the map is published, the old instance retired.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dunlin_shards::{InstanceAddress, ShardId, ShardMap};
use tokio::sync::Mutex;

use super::connected_hosts::ProgressFn;
use super::map_file::placement_after_move;
use super::{RebalanceContext, publish};
use crate::poll::retry_until_async;
use crate::protocol::Event;
use crate::protocol::call;
use crate::protocol::shard::{MoveSpec, RetireInstance};

/// Retention of a retired instance's files, in hours.
const RETENTION_HOURS: u64 = 72;
/// Time limit for clients to leave a source once the new map is published.
const CLIENT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two attempts to retire an instance that has clients.
const RETIRE_RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// The result of a move.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MoveResult {
    /// Bytes of the copy.
    pub bytes: u64,
    /// Longest time that a client waited for the move, in microseconds: in the cutover, a pause or a request of the
    /// comparison, or the fork for the copy.
    pub gap_us: u64,
    /// Seconds from start to end, including the retirement.
    pub seconds: f64,
    /// Follow-ups that the host reported.
    pub follow_ups: Vec<String>,
    /// Reason why the old instance was not retired; it is a replica of the new one.
    pub retire_blocked: Option<String>,
}

/// Options of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct ApplyOptions {
    /// Keep the old instances as replicas: `shards move-back` returns to them without a copy.
    pub keep_source: bool,
    /// Retire an old instance although a service does not report its epoch.
    pub ignore_unknown_epochs: bool,
    /// Maximum number of concurrent moves; 0: all of a wave.
    pub max_concurrent: usize,
}

/// Shared state of the last steps of all moves of a run.
pub struct FinishContext<'a> {
    /// Held while the map is published: one epoch after the other.
    pub publish_lock: &'a Mutex<()>,
    /// Options of the run.
    pub options: ApplyOptions,
    /// Receives progress.
    pub on_progress: ProgressFn<'a>,
}

/// The hosts of a move.
#[derive(Clone, Copy, Debug)]
pub struct MoveHosts<'a> {
    /// Host of the source.
    pub from: &'a str,
    /// Host of the target.
    pub to: &'a str,
}

/// Publishes the map after a cutover, and retires the source once its clients have left. Returns the reason if the
/// source cannot be retired yet; it is a live replica then, and `shards resume` retires it.
///
/// # Errors
/// Returns an error if the map cannot be published to a consumer, or the source does not follow the target.
pub async fn finish_move(
    context: &RebalanceContext<'_>,
    map_before: &ShardMap,
    spec: &MoveSpec,
    hosts: MoveHosts<'_>,
    finish: &FinishContext<'_>,
) -> Result<Option<String>> {
    let FinishContext { publish_lock, options, on_progress } = finish;
    let MoveHosts { from, to } = hosts;
    report_phase(spec, to, "publish", on_progress);
    let map = {
        let _turn = publish_lock.lock().await;
        let now = context.map_file.read()?;
        publish::publish_map(context, &[placement_after_move(&now, spec.header.shard, to)?]).await?
    };
    if options.keep_source {
        report_phase(spec, to, "source_kept", on_progress);
        return Ok(None);
    }
    if context.hosts.unreachable.contains(from) {
        return Ok(Some(format!("{from} does not answer")));
    }
    report_phase(spec, to, "retire", on_progress);
    let instance = context.desired_instance(map_before, spec.header.shard, from)?;
    let retirement = Retirement {
        run: &spec.header.run,
        shard: spec.header.shard,
        host: from,
        primary: spec.record.to.clone(),
        instance,
    };
    let retire_blocked = retire_instance(context, &map, &retirement, *options).await?;
    if retire_blocked.is_none() {
        report_phase(spec, to, "done", on_progress);
    }
    Ok(retire_blocked)
}

/// An instance to retire.
pub struct Retirement<'a> {
    /// The run.
    pub run: &'a str,
    /// Its shard.
    pub shard: ShardId,
    /// Its host.
    pub host: &'a str,
    /// The shard's primary, which it follows.
    pub primary: InstanceAddress,
    /// Its `redis_shard` step as it was provisioned.
    pub instance: serde_json::Value,
}

/// Stops an instance once its clients have left, and archives its files. Returns the reason if that has to wait.
///
/// # Errors
/// Returns an error if the consumers do not answer.
pub async fn retire_instance(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    retirement: &Retirement<'_>,
    options: ApplyOptions,
) -> Result<Option<String>> {
    let Retirement { run, shard, host, primary, instance } = retirement;
    let entry = map.find_shard(*shard).with_context(|| format!("there is no shard {shard}"))?;
    let outdated = publish::wait_for_consumers(context, map, !options.ignore_unknown_epochs).await?;
    if !outdated.is_empty() {
        return Ok(Some(format!("not all consumers are on epoch {}: {}", map.epoch.0, outdated.join("; "))));
    }
    let retire = RetireInstance {
        header: context.hosts.step_header(host, *shard, run),
        address: context.hosts.instance_address(map, *shard, host)?,
        primary: primary.clone(),
        epoch: map.epoch.0,
        app_user: entry.id.acl_user(),
        instance: instance.clone(),
        retention_hours: RETENTION_HOURS,
    };
    // Services look at their map a few times a second and then close what they do not need.
    let retired = retry_until_async(
        Instant::now() + CLIENT_DRAIN_TIMEOUT,
        RETIRE_RETRY_INTERVAL,
        async || context.hosts.call_host(host, call::Retire(retire.clone()), &|_, _| {}).await,
        |result| result.is_ok() || context.hosts.fleet.cancellation.is_cancelled(),
    );
    Ok(retired.await.err().map(|error| format!("{error:#}")))
}

/// Reports a phase that runs on the controller.
pub fn report_phase(spec: &MoveSpec, host: &str, phase: &str, on_progress: ProgressFn<'_>) {
    on_progress(host, &Event::shard_progress(spec.header.shard, phase, 0, 1));
}
