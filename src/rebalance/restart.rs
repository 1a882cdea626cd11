//! A restart of a primary without an interruption: the shard moves to another host and back.
//!
//! A move starts a new instance at its target, with the current files and the current server program, and retires the
//! old one. So the instance that serves after the second move has all changed settings, and a restart has the locks,
//! the throttle, the journal and the recovery of moves.

use dunlin_shards::{Shard, ShardId};

use super::apply::PlannedMove;
use super::cluster_files::ClusterFiles;
use super::observation::Observation;
use super::plan::{Infeasible, PlanOptions, Role, ShardSelection, TransferLimits, plan};
use super::run_error::{RunError, RunResult};

/// The shards to restart, and how.
#[derive(Clone, Debug, Default)]
pub struct RestartOptions {
    /// The shards, ascending.
    pub shards: Vec<ShardId>,
    /// The host that they move through; `None`: the least loaded one that may receive the shard.
    pub via: Option<String>,
    /// Leave the shards there.
    pub stay: bool,
    /// Number of shards that are restarted at the same time, at least 1.
    pub concurrency: usize,
}

impl RestartOptions {
    /// Selects the primaries on a host, or else the shards, which are to be in the map.
    ///
    /// # Errors
    /// Returns an error if the cluster has no such host, or the shard is on the host that it would move through.
    pub fn select_shards(&mut self, cluster: &ClusterFiles, host: Option<&String>) -> RunResult<()> {
        cluster.ensure_shards_exist(&self.shards)?;
        let hosts = cluster.shard_hosts()?;
        if let Some(unknown) =
            host.into_iter().chain(&self.via).find(|name| hosts.iter().all(|host| host.name != **name))
        {
            return Err(RunError::invalid_request(format!("{unknown} is not a host of shards"))
                .with_hint("dunlin shards status lists the hosts of shards"));
        }
        let is_selected = |entry: &&Shard| match host {
            Some(host) => entry.host == *host,
            None => self.shards.contains(&entry.id),
        };
        let selected: Vec<&Shard> = cluster.map.shards.iter().filter(is_selected).collect();
        if let Some(entry) = selected.iter().find(|entry| self.via.as_ref() == Some(&entry.host)) {
            let text = format!("shard {} is on {}; --via must name another host", entry.id, entry.host);
            return Err(RunError::invalid_request(text));
        }
        self.shards = selected.iter().map(|entry| entry.id).collect();
        self.shards.sort_unstable();
        Ok(())
    }
}

/// Plans the moves of a restart, or returns the error with the next step.
///
/// # Errors
/// Returns an error if no host may receive a shard.
pub fn plan_restart_moves(observation: &Observation, options: &RestartOptions) -> RunResult<Vec<PlannedMove>> {
    plan_restart(observation, options).map_err(|infeasible| {
        RunError::refused(format!("no plan is possible ({}): {}", infeasible.rule, infeasible.message))
            .with_hint("name a host with --via, or add one: dunlin provision-new-host")
    })
}

/// Plans the moves of a restart: of each group of shards, those to other hosts, then those back.
///
/// # Errors
/// Returns the violated rule if no host may receive a shard.
fn plan_restart(observation: &Observation, options: &RestartOptions) -> Result<Vec<PlannedMove>, Infeasible> {
    if options.stay {
        return plan_departure(observation, options, &options.shards, true);
    }
    let mut movable = observation.clone();
    // A pinned shard is on its own host again afterwards.
    movable.shards.iter_mut().for_each(|shard| shard.pinned = false);
    let mut moves = Vec::new();
    for group in options.shards.chunks(options.concurrency.max(1)) {
        match plan_round_trip(&movable, options, group) {
            Ok(trip) => append_waves(&mut moves, trip),
            // One after the other needs less memory.
            Err(_) => {
                for shard in group {
                    append_waves(&mut moves, plan_round_trip(&movable, options, &[*shard])?);
                }
            }
        }
    }
    Ok(moves)
}

/// Plans moves of these shards to other hosts and back. Another zone than that of the replicas is preferred, and not
/// required for the time of a restart.
fn plan_round_trip(
    observation: &Observation,
    options: &RestartOptions,
    shards: &[ShardId],
) -> Result<Vec<PlannedMove>, Infeasible> {
    let mut moves = plan_departure(observation, options, shards, true)
        .or_else(|error| plan_departure(observation, options, shards, false).map_err(|_| error))?;
    let last_wave = next_wave(&moves);
    for shard in shards {
        let steps = || moves.iter().filter(|step| step.shard == *shard);
        let (first, last) = (steps().min_by_key(|step| step.wave), steps().max_by_key(|step| step.wave));
        let Some((first, last)) = first.zip(last) else { continue };
        let back = PlannedMove { from: last.to.clone(), to: first.from.clone(), wave: last_wave, ..first.clone() };
        moves.push(back);
    }
    Ok(moves)
}

fn plan_departure(
    observation: &Observation,
    options: &RestartOptions,
    shards: &[ShardId],
    separate_zones: bool,
) -> Result<Vec<PlannedMove>, Infeasible> {
    let slots = options.concurrency.max(1);
    let plan_options = PlanOptions {
        shards: ShardSelection::Named(shards.to_vec()),
        targets: options.via.clone().map(|via| vec![via]),
        separate_zones,
        transfer: TransferLimits {
            max_outgoing: slots,
            max_incoming: slots,
            max_per_link: slots,
            ..TransferLimits::default()
        },
        ..PlanOptions::default()
    };
    let mut moves = super::apply::planned_moves(&plan(observation, &plan_options)?);
    moves.retain(|step| step.role == Role::Primary);
    Ok(moves)
}

/// Appends moves that start when the previous ones are done.
fn append_waves(moves: &mut Vec<PlannedMove>, next: Vec<PlannedMove>) {
    let offset = next_wave(moves);
    moves.extend(next.into_iter().map(|step| PlannedMove { wave: step.wave + offset, ..step }));
}

fn next_wave(moves: &[PlannedMove]) -> usize {
    moves.iter().map(|step| step.wave + 1).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rebalance::observation::{FORMAT_VERSION, HostLoad, ShardLoad};

    const GIB: u64 = 1 << 30;

    fn observation(hosts: &[(&str, &str, u64)], shards: &[(&str, &[&str])]) -> Observation {
        let host = |(name, zone, capacity): &(&str, &str, u64)| HostLoad {
            name: (*name).to_owned(),
            zone: Some((*zone).to_owned()),
            capacity_bytes: capacity * GIB,
            weight: 1.0,
            drain: false,
            details: BTreeMap::new(),
        };
        let shard = |(id, (host, replicas)): (usize, &(&str, &[&str]))| ShardLoad {
            id: ShardId(id as u16),
            slots: None,
            host: (*host).to_owned(),
            replicas: replicas.iter().map(|name| (*name).to_owned()).collect(),
            bytes: GIB,
            ops_per_s: 0.0,
            pinned: false,
            peak_bytes: None,
            details: BTreeMap::new(),
        };
        Observation {
            format_version: FORMAT_VERSION,
            cluster: "test".to_owned(),
            epoch: 1,
            port_base: None,
            hosts: hosts.iter().map(host).collect(),
            shards: shards.iter().enumerate().map(shard).collect(),
        }
    }

    fn describe(moves: &[PlannedMove]) -> Vec<String> {
        moves.iter().map(|m| format!("{} {}-{} in {}", m.shard, m.from, m.to, m.wave)).collect()
    }

    fn options(shards: &[u16], concurrency: usize) -> RestartOptions {
        let shards = shards.iter().map(|id| ShardId(*id)).collect();
        RestartOptions { shards, concurrency, ..RestartOptions::default() }
    }

    #[test]
    fn shards_move_away_and_back_group_by_group() {
        let fleet = [("a", "1", 8), ("b", "2", 8)];
        let mut seen = observation(&fleet, &[("a", &[]), ("b", &[]), ("a", &[]), ("a", &[])]);
        seen.shards[0].pinned = true;
        let moves = plan_restart(&seen, &options(&[0, 2, 3], 2)).unwrap();
        assert_eq!(
            describe(&moves),
            ["0 a-b in 0", "2 a-b in 0", "0 b-a in 1", "2 b-a in 1", "3 a-b in 2", "3 b-a in 3"]
        );
    }

    #[test]
    fn a_host_with_memory_for_one_takes_one_at_a_time() {
        let seen = observation(&[("a", "1", 8), ("b", "2", 2)], &[("a", &[]), ("a", &[])]);
        let moves = plan_restart(&seen, &options(&[0, 1], 2)).unwrap();
        assert_eq!(describe(&moves), ["0 a-b in 0", "0 b-a in 1", "1 a-b in 2", "1 b-a in 3"]);
    }

    #[test]
    fn a_round_trip_may_use_the_zone_of_a_replica_and_not_its_host() {
        let fleet = [("a", "1", 8), ("b", "2", 8), ("c", "2", 8)];
        let seen = observation(&fleet, &[("a", &["b"])]);
        assert_eq!(describe(&plan_restart(&seen, &options(&[0], 2)).unwrap()), ["0 a-c in 0", "0 c-a in 1"]);
        let stay = RestartOptions { stay: true, ..options(&[0], 2) };
        assert!(plan_restart(&seen, &stay).is_err());
        let via = RestartOptions { via: Some("b".to_owned()), ..options(&[0], 2) };
        assert!(plan_restart(&seen, &via).is_err());
    }

    #[test]
    fn shards_that_stay_are_moved_once() {
        let seen = observation(&[("a", "1", 8), ("b", "2", 8)], &[("a", &[]), ("a", &[])]);
        let stay = RestartOptions { stay: true, ..options(&[0, 1], 2) };
        assert_eq!(describe(&plan_restart(&seen, &stay).unwrap()), ["0 a-b in 0", "1 a-b in 0"]);
    }
}
