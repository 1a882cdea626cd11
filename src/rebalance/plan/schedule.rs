//! The order of moves: waves that keep the concurrency limits of hosts and links and never exceed a host's memory.
//!
//! Longest first. All moves of a wave run concurrently; the memory at a source counts as free after its wave. Where
//! moves block each other, one of them goes through an intermediate host.

use std::cmp::Reverse;

use dunlin_shards::ShardId;

use super::assignment::Assignment;
use super::infeasible::{Infeasible, Rule, shard_list};
use super::model::Model;
use super::options::TransferLimits;
use super::resource::HostResource::Bytes;

/// A transfer of one copy over one link, in one wave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ScheduledMove {
    pub item: usize,
    pub from: usize,
    pub to: usize,
    pub wave: usize,
    /// True if `to` is only an intermediate host.
    pub detour: bool,
    /// Duration in seconds, given the other moves of its wave.
    pub seconds: f64,
}

/// The moves in the order in which they start, with durations and memory.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub steps: Vec<ScheduledMove>,
    /// Duration of each wave in seconds.
    pub waves: Vec<f64>,
    /// Peak memory of each host in bytes.
    pub peak: Vec<i64>,
    /// Notes, one per detour.
    pub notes: Vec<String>,
}

/// A move that has not started.
#[derive(Debug, Clone, Copy)]
struct Pending {
    item: usize,
    to: usize,
}

/// Orders the moves from everything at home to `target`.
pub(crate) fn schedule_moves(
    model: &Model,
    target: &Assignment,
    transfer: &TransferLimits,
) -> Result<Schedule, Infeasible> {
    let mut pending: Vec<Pending> = (0..model.items.len())
        .filter(|item| target.host_of[*item] != model.items[*item].home)
        .map(|item| Pending { item, to: target.host_of[item] })
        .collect();
    pending.sort_by_key(|p| (Reverse(model.items[p.item].weight[Bytes]), model.shard_of(p.item).id, p.item));
    let now = Assignment::new(model);
    let peak = now.load.iter().map(|load| model.data_bytes(load[Bytes])).collect();
    let done = Schedule { steps: Vec::new(), waves: Vec::new(), peak, notes: Vec::new() };
    let mut scheduler = Scheduler { model, transfer, now, done };
    while !pending.is_empty() {
        let mut wave = scheduler.next_wave(&mut pending, true);
        if wave.is_empty() {
            wave = scheduler.next_wave(&mut pending, false);
        }
        if wave.is_empty() {
            wave.push(scheduler.plan_detour(&pending)?);
        }
        scheduler.finish_wave(wave);
    }
    Ok(scheduler.done)
}

struct Scheduler<'m> {
    model: &'m Model<'m>,
    transfer: &'m TransferLimits,
    /// The assignment before the next wave.
    now: Assignment,
    done: Schedule,
}

/// Concurrency and memory that the moves of one wave use per host.
struct WaveUsage {
    leaving: Vec<usize>,
    arriving: Vec<usize>,
    bytes: Vec<i64>,
    links: Vec<(usize, usize)>,
    shards: Vec<usize>,
}

impl WaveUsage {
    fn new(hosts: usize) -> Self {
        let none = || vec![0; hosts];
        Self { leaving: none(), arriving: none(), bytes: vec![0; hosts], links: Vec::new(), shards: Vec::new() }
    }

    fn add(&mut self, step: &ScheduledMove, shard: usize, bytes: i64) {
        self.leaving[step.from] += 1;
        self.arriving[step.to] += 1;
        self.bytes[step.to] += bytes;
        self.links.push((step.from, step.to));
        self.shards.push(shard);
    }
}

impl Scheduler<'_> {
    /// Removes from `pending` the moves that can run concurrently. `strict`: no two copies share a zone meanwhile.
    fn next_wave(&self, pending: &mut Vec<Pending>, strict: bool) -> Vec<ScheduledMove> {
        let mut taken = WaveUsage::new(self.model.hosts.len());
        let mut wave = Vec::new();
        pending.retain(|p| {
            let step = self.to_move(p);
            let fits = self.has_slot(&step, &taken)
                && self.fits_memory(&step, &taken)
                && self.keeps_copies_apart(&step, strict);
            if fits {
                taken.add(&step, self.model.items[p.item].shard, self.memory_needed(p.item));
                wave.push(step);
            }
            !fits
        });
        wave
    }

    fn to_move(&self, p: &Pending) -> ScheduledMove {
        ScheduledMove {
            item: p.item,
            from: self.now.host_of[p.item],
            to: p.to,
            wave: self.done.waves.len(),
            detour: false,
            seconds: 0.0,
        }
    }

    /// Returns the memory that a move uses at its target while it runs.
    fn memory_needed(&self, item: usize) -> i64 {
        self.model.data_bytes(self.model.items[item].weight[Bytes]).saturating_add(self.transfer.buffer_bytes as i64)
    }

    fn has_slot(&self, step: &ScheduledMove, taken: &WaveUsage) -> bool {
        let links = taken.links.iter().filter(|link| **link == (step.from, step.to)).count();
        taken.leaving[step.from] < self.transfer.max_outgoing.max(1)
            && taken.arriving[step.to] < self.transfer.max_incoming.max(1)
            && links < self.transfer.max_per_link.max(1)
            && !taken.shards.contains(&self.model.items[step.item].shard)
    }

    fn fits_memory(&self, step: &ScheduledMove, taken: &WaveUsage) -> bool {
        let used = self.used_bytes(step.to) + taken.bytes[step.to];
        used + self.memory_needed(step.item) <= self.capacity_of(step.to)
    }

    fn used_bytes(&self, host: usize) -> i64 {
        self.model.data_bytes(self.now.load[host][Bytes])
    }

    fn capacity_of(&self, host: usize) -> i64 {
        self.model.observation.hosts[host].capacity_bytes as i64
    }

    /// Returns whether no other copy is on the target host, or if `strict` in its zone, unless this move makes that no
    /// worse.
    fn keeps_copies_apart(&self, step: &ScheduledMove, strict: bool) -> bool {
        self.model.items[step.item].siblings.iter().all(|sibling| {
            let other = self.now.host_of[*sibling];
            let clashes = self.model.clashes(step.to, other) && !self.model.clashes(step.from, other);
            other != step.to && !(strict && clashes)
        })
    }

    /// Plans the smallest pending move through the host with the most free memory.
    fn plan_detour(&mut self, pending: &[Pending]) -> Result<ScheduledMove, Infeasible> {
        let taken = WaveUsage::new(self.model.hosts.len());
        for p in pending.iter().rev().filter(|p| self.now.host_of[p.item] == self.model.items[p.item].home) {
            let free = |host: usize| self.capacity_of(host) - self.used_bytes(host);
            let stop = |host: &usize| {
                let step = ScheduledMove { to: *host, detour: true, ..self.to_move(p) };
                let data = &self.model.hosts[*host];
                *host != p.to
                    && *host != step.from
                    && !data.drained
                    && self.keeps_copies_apart(&step, true)
                    && self.fits_memory(&step, &taken)
            };
            let via = (0..self.model.hosts.len()).filter(stop).max_by_key(|host| (free(*host), Reverse(*host)));
            if let Some(via) = via {
                let name = |host: usize| self.model.host_name(host);
                let note = format!(
                    "moves block each other for lack of memory: shard {} goes to {} through {} and is copied twice",
                    self.model.shard_of(p.item).id,
                    name(p.to),
                    name(via)
                );
                let step = ScheduledMove { to: via, detour: true, ..self.to_move(p) };
                self.done.notes.push(note);
                return Ok(step);
            }
        }
        Err(self.deadlock_error(pending))
    }

    fn deadlock_error(&self, pending: &[Pending]) -> Infeasible {
        let mut shards: Vec<ShardId> = pending.iter().map(|p| self.model.shard_of(p.item).id).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut hosts: Vec<usize> = pending.iter().map(|p| p.to).collect();
        hosts.sort_unstable();
        hosts.dedup();
        Infeasible {
            rule: Rule::Capacity,
            message: format!(
                "moves of {} block each other, and no host has memory for an intermediate stop",
                shard_list(&shards)
            ),
            shards,
            hosts: hosts.into_iter().map(|host| self.model.host_name(host).to_owned()).collect(),
            hint: "add a host temporarily, or raise the tolerance".to_owned(),
        }
    }

    fn finish_wave(&mut self, mut wave: Vec<ScheduledMove>) {
        let mut used: Vec<i64> = (0..self.model.hosts.len()).map(|host| self.used_bytes(host)).collect();
        let mut busy = vec![[0usize; 2]; used.len()];
        for step in &wave {
            used[step.to] += self.memory_needed(step.item);
            busy[step.from][0] += 1;
            busy[step.to][1] += 1;
        }
        for (peak, used) in self.done.peak.iter_mut().zip(&used) {
            *peak = (*peak).max(*used);
        }
        let max_concurrent = if self.transfer.max_concurrent == 0 { wave.len() } else { self.transfer.max_concurrent };
        let seconds = |step: &ScheduledMove| {
            let crowd = busy[step.from][0].max(busy[step.to][1]).min(max_concurrent) as f64;
            let rate = (self.transfer.move_rate as f64).min(self.transfer.host_rate as f64 / crowd).max(1.0);
            self.transfer.fixed_seconds + self.model.data_bytes(self.model.items[step.item].weight[Bytes]) as f64 / rate
        };
        for step in &mut wave {
            step.seconds = seconds(step);
        }
        self.done.waves.push(wave_duration(&wave, max_concurrent));
        for step in &wave {
            self.now.reassign(self.model, step.item, step.to);
        }
        self.done.steps.extend(wave);
    }
}

/// Returns the seconds until all moves of a wave are done if up to `max_concurrent` run at a time.
fn wave_duration(wave: &[ScheduledMove], max_concurrent: usize) -> f64 {
    let mut lanes = vec![0.0f64; max_concurrent.clamp(1, wave.len().max(1))];
    for step in wave {
        if let Some(first) = lanes.iter_mut().min_by(|a, b| a.total_cmp(b)) {
            *first += step.seconds;
        }
    }
    lanes.into_iter().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_takes_longer_where_fewer_run_at_a_time() {
        let step = |seconds| ScheduledMove { item: 0, from: 0, to: 1, wave: 0, detour: false, seconds };
        let wave = [step(4.0), step(3.0), step(2.0), step(1.0)];
        for (max_concurrent, seconds) in [(1, 10.0), (2, 5.0), (3, 4.0), (4, 4.0), (9, 4.0)] {
            assert!(
                (wave_duration(&wave, max_concurrent) - seconds).abs() < 1e-9,
                "{max_concurrent}: {}",
                wave_duration(&wave, max_concurrent)
            );
        }
        assert!(wave_duration(&[], 2) < 1e-9);
    }
}
