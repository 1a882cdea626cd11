//! The order of moves: waves that keep the slots of hosts and links and never fill a host's memory.
//!
//! Longest first. All moves of a wave run at once; a source's memory counts as free once its wave is over. A move that
//! nothing can make room for goes by way of the emptiest host.

use std::cmp::Reverse;

use super::infeasible::{Infeasible, Rule, ids};
use super::model::{BYTES, Model};
use super::state::State;
use super::wishes::Pace;

/// One copy of one shard over one link, in one wave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    pub item: usize,
    pub from: usize,
    pub to: usize,
    pub wave: usize,
    /// Whether `to` is only a stop on the way.
    pub detour: bool,
    /// How long it takes beside the others of its wave.
    pub seconds: f64,
}

/// Steps in the order in which they start, and what they take.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub steps: Vec<Step>,
    /// How long each wave takes, in seconds.
    pub waves: Vec<f64>,
    /// The most bytes that each host uses at any time.
    pub peak: Vec<i64>,
    /// One sentence for each detour.
    pub notes: Vec<String>,
}

/// A move that has not started.
#[derive(Debug, Clone, Copy)]
struct Pending {
    item: usize,
    to: usize,
}

/// Orders the moves from everything at home to `target`.
pub(crate) fn schedule(model: &Model, target: &State, pace: &Pace) -> Result<Schedule, Infeasible> {
    let mut pending: Vec<Pending> = (0..model.items.len())
        .filter(|item| target.at[*item] != model.items[*item].home)
        .map(|item| Pending { item, to: target.at[item] })
        .collect();
    pending.sort_by_key(|p| (Reverse(model.items[p.item].weight[BYTES]), model.shard(p.item).id, p.item));
    let now = State::new(model);
    let peak = now.load.iter().map(|load| load[BYTES]).collect();
    let done = Schedule { steps: Vec::new(), waves: Vec::new(), peak, notes: Vec::new() };
    let mut run = Run { model, pace, now, done };
    while !pending.is_empty() {
        let mut wave = run.wave(&mut pending, true);
        if wave.is_empty() {
            wave = run.wave(&mut pending, false);
        }
        if wave.is_empty() {
            wave.push(run.detour(&pending)?);
        }
        run.finish(wave);
    }
    Ok(run.done)
}

struct Run<'m> {
    model: &'m Model<'m>,
    pace: &'m Pace,
    /// Where everything is before the next wave.
    now: State,
    done: Schedule,
}

/// What the moves of one wave take on each host.
struct Taken {
    leaving: Vec<usize>,
    arriving: Vec<usize>,
    bytes: Vec<i64>,
    links: Vec<(usize, usize)>,
    shards: Vec<usize>,
}

impl Taken {
    fn new(hosts: usize) -> Self {
        let none = || vec![0; hosts];
        Self { leaving: none(), arriving: none(), bytes: vec![0; hosts], links: Vec::new(), shards: Vec::new() }
    }

    fn add(&mut self, step: &Step, shard: usize, bytes: i64) {
        self.leaving[step.from] += 1;
        self.arriving[step.to] += 1;
        self.bytes[step.to] += bytes;
        self.links.push((step.from, step.to));
        self.shards.push(shard);
    }
}

impl Run<'_> {
    /// Takes out of `pending` what can run at once. `strict`: no two copies share a zone meanwhile.
    fn wave(&self, pending: &mut Vec<Pending>, strict: bool) -> Vec<Step> {
        let mut taken = Taken::new(self.model.hosts.len());
        let mut wave = Vec::new();
        pending.retain(|p| {
            let step = self.step(p);
            let fits = self.has_slot(&step, &taken) && self.has_room(&step, &taken) && self.apart(&step, strict);
            if fits {
                taken.add(&step, self.model.items[p.item].shard, self.need(p.item));
                wave.push(step);
            }
            !fits
        });
        wave
    }

    fn step(&self, p: &Pending) -> Step {
        Step {
            item: p.item,
            from: self.now.at[p.item],
            to: p.to,
            wave: self.done.waves.len(),
            detour: false,
            seconds: 0.0,
        }
    }

    /// Memory that a move takes at its target while it runs.
    fn need(&self, item: usize) -> i64 {
        self.model.items[item].weight[BYTES].saturating_add(self.pace.buffer_bytes as i64)
    }

    fn has_slot(&self, step: &Step, taken: &Taken) -> bool {
        let links = taken.links.iter().filter(|link| **link == (step.from, step.to)).count();
        taken.leaving[step.from] < self.pace.slots_out.max(1)
            && taken.arriving[step.to] < self.pace.slots_in.max(1)
            && links < self.pace.slots_link.max(1)
            && !taken.shards.contains(&self.model.items[step.item].shard)
    }

    fn has_room(&self, step: &Step, taken: &Taken) -> bool {
        let used = self.now.load[step.to][BYTES] + taken.bytes[step.to];
        used + self.need(step.item) <= self.capacity(step.to)
    }

    fn capacity(&self, host: usize) -> i64 {
        self.model.observation.hosts[host].capacity_bytes as i64
    }

    /// Whether no other copy is in the way at the target: on the host itself, or if `strict` in its zone, unless this
    /// move makes that no worse.
    fn apart(&self, step: &Step, strict: bool) -> bool {
        self.model.items[step.item].mates.iter().all(|mate| {
            let other = self.now.at[*mate];
            let clashes = self.model.clash(step.to, other) && !self.model.clash(step.from, other);
            other != step.to && !(strict && clashes)
        })
    }

    /// The smallest pending move by way of the emptiest host.
    fn detour(&mut self, pending: &[Pending]) -> Result<Step, Infeasible> {
        let taken = Taken::new(self.model.hosts.len());
        for p in pending.iter().rev().filter(|p| self.now.at[p.item] == self.model.items[p.item].home) {
            let free = |host: usize| self.capacity(host) - self.now.load[host][BYTES];
            let stop = |host: &usize| {
                let step = Step { to: *host, detour: true, ..self.step(p) };
                let data = &self.model.hosts[*host];
                *host != p.to
                    && *host != step.from
                    && !data.drained
                    && self.apart(&step, true)
                    && self.has_room(&step, &taken)
            };
            let via = (0..self.model.hosts.len()).filter(stop).max_by_key(|host| (free(*host), Reverse(*host)));
            if let Some(via) = via {
                let name = |host: usize| self.model.host_name(host);
                let note = format!(
                    "no host has room to begin with: shard {} goes to {} by way of {}, the emptiest host, which moves it twice",
                    self.model.shard(p.item).id,
                    name(p.to),
                    name(via)
                );
                let step = Step { to: via, detour: true, ..self.step(p) };
                self.done.notes.push(note);
                return Ok(step);
            }
        }
        Err(self.stuck(pending))
    }

    fn stuck(&self, pending: &[Pending]) -> Infeasible {
        let mut shards: Vec<u32> = pending.iter().map(|p| self.model.shard(p.item).id).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut hosts: Vec<usize> = pending.iter().map(|p| p.to).collect();
        hosts.sort_unstable();
        hosts.dedup();
        Infeasible {
            rule: Rule::Capacity,
            message: format!("{} wait for each other's memory, and no host has room for a detour", ids(&shards)),
            shards,
            hosts: hosts.into_iter().map(|host| self.model.host_name(host).to_owned()).collect(),
            hint: "add a host for the time of the moves, or raise the tolerance".to_owned(),
        }
    }

    fn finish(&mut self, mut wave: Vec<Step>) {
        let mut used: Vec<i64> = self.now.load.iter().map(|load| load[BYTES]).collect();
        let mut busy = vec![[0usize; 2]; used.len()];
        for step in &wave {
            used[step.to] += self.need(step.item);
            busy[step.from][0] += 1;
            busy[step.to][1] += 1;
        }
        for (peak, used) in self.done.peak.iter_mut().zip(&used) {
            *peak = (*peak).max(*used);
        }
        let at_once = if self.pace.at_once == 0 { wave.len() } else { self.pace.at_once };
        let seconds = |step: &Step| {
            let crowd = busy[step.from][0].max(busy[step.to][1]).min(at_once) as f64;
            let rate = (self.pace.move_rate as f64).min(self.pace.host_rate as f64 / crowd).max(1.0);
            self.pace.fixed_seconds + self.model.items[step.item].weight[BYTES] as f64 / rate
        };
        for step in &mut wave {
            step.seconds = seconds(step);
        }
        self.done.waves.push(span(&wave, at_once));
        for step in &wave {
            self.now.put(self.model, step.item, step.to);
        }
        self.done.steps.extend(wave);
    }
}

/// Seconds until the last of the steps is over, of which so many run at a time and each begins as soon as one has ended.
fn span(wave: &[Step], at_once: usize) -> f64 {
    let mut lanes = vec![0.0f64; at_once.clamp(1, wave.len().max(1))];
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
        let step = |seconds| Step { item: 0, from: 0, to: 1, wave: 0, detour: false, seconds };
        let wave = [step(4.0), step(3.0), step(2.0), step(1.0)];
        for (at_once, seconds) in [(1, 10.0), (2, 5.0), (3, 4.0), (4, 4.0), (9, 4.0)] {
            assert!((span(&wave, at_once) - seconds).abs() < 1e-9, "{at_once}: {}", span(&wave, at_once));
        }
        assert!(span(&[], 2) < 1e-9);
    }
}
