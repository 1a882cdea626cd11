//! Fleets from a seed: sizes, skews, zones, drains, pins and options that cannot be kept.

use dunlin::rebalance::observation::{HostLoad, Observation, ShardLoad};
use dunlin::rebalance::plan::{Balance, PlanOptions, TransferLimits};
use dunlin_shards::ShardId;

/// One mebibyte; sizes are multiples of it, so that the oracle's numbers stay small and exact.
pub const MIB: u64 = 1 << 20;

/// SplitMix64, as in its publication.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    pub fn fraction(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A fleet and what is asked of it.
pub struct Case {
    pub name: String,
    pub observation: Observation,
    pub options: PlanOptions,
}

pub fn host(name: usize, zone: Option<String>, capacity: u64) -> HostLoad {
    HostLoad {
        name: format!("redis-{:02}", name + 1),
        zone,
        capacity_bytes: capacity,
        weight: 1.0,
        drain: false,
        details: Default::default(),
    }
}

pub fn shard(id: usize, on: &[usize], bytes: u64, ops_per_s: f64) -> ShardLoad {
    let name = |host: &usize| format!("redis-{:02}", host + 1);
    ShardLoad {
        id: ShardId(u16::try_from(id).unwrap()),
        slots: None,
        host: name(&on[0]),
        replicas: on[1..].iter().map(name).collect(),
        bytes,
        ops_per_s,
        pinned: false,
        peak_bytes: None,
        details: Default::default(),
    }
}

/// The case of that number; the same number is the same case.
pub fn case(number: u64) -> Case {
    let mut dice = Dice(number * 7919 + 13);
    let sizes =
        [(64, 2), (64, 3), (64, 4), (64, 6), (64, 8), (128, 4), (128, 8), (64, 12), (128, 12), (256, 8), (256, 12)];
    let (shards, hosts) = sizes[dice.below(sizes.len() as u64) as usize];
    let used = hosts - dice.below(hosts as u64 / 2 + 1) as usize;
    let used = used.max(1);
    let zones = [0, 0, 2, 3][dice.below(4) as usize];
    let copies = if zones > 0 && hosts >= 4 && dice.below(2) == 0 { 2 } else { 1 };
    let shape = dice.below(4);
    let bytes: Vec<u64> = (0..shards).map(|_| MIB * size(&mut dice, shape)).collect();
    let homes = homes(&mut dice, shards, if copies == 2 { hosts } else { used });
    let total: u64 = bytes.iter().sum::<u64>() * copies;
    let capacity = (total as f64 / hosts as f64 * (2.2 + dice.fraction())) as u64 / MIB * MIB;
    let zone = |host: usize| (zones > 0).then(|| ["a", "b", "c"][host % zones].to_owned());
    let mut observation = Observation {
        format_version: 1,
        cluster: "generated".to_owned(),
        epoch: number,
        port_base: None,
        hosts: (0..hosts).map(|n| host(n, zone(n), capacity)).collect(),
        shards: Vec::new(),
    };
    for (id, home) in homes.into_iter().enumerate() {
        let mut on = vec![home];
        if copies == 2 {
            let others: Vec<usize> = (0..hosts).filter(|other| other % zones != home % zones).collect();
            on.push(others[dice.below(others.len() as u64) as usize]);
        }
        let ops = (bytes[id] / MIB) as f64 * (0.5 + dice.fraction());
        observation.shards.push(shard(id, &on, bytes[id], (ops * 10.0).round() / 10.0));
    }
    let mut options = twists(&mut dice, &mut observation);
    if shards / hosts < 16 {
        // With few shards on a host, finer is mostly out of reach.
        options.tolerance = options.tolerance.max(0.05);
    }
    Case {
        name: format!("case {number}: {shards}x{hosts}, copies {copies}, zones {zones}, shape {shape}"),
        observation,
        options,
    }
}

/// Sizes in MiB: even, uniform, long-tailed, or two classes.
fn size(dice: &mut Dice, shape: u64) -> u64 {
    match shape {
        0 => 900 + dice.below(200),
        1 => 100 + dice.below(1900),
        2 => (200.0 * (-(1.0 - dice.fraction()).ln()).exp().min(8.0)) as u64 + 50,
        _ => [300, 1200][dice.below(2) as usize] + dice.below(50),
    }
}

fn homes(dice: &mut Dice, shards: usize, used: usize) -> Vec<usize> {
    let skewed = dice.below(3) == 0;
    let mut homes = Vec::new();
    for id in 0..shards {
        let even = id % used;
        homes.push(if skewed && dice.below(3) == 0 { dice.below(used as u64 / 2 + 1) as usize } else { even });
    }
    homes
}

/// Tolerance, weights, drains, pins, targets, and now and then something impossible.
fn twists(dice: &mut Dice, observation: &mut Observation) -> PlanOptions {
    let hosts = observation.hosts.len();
    let mut options = PlanOptions {
        tolerance: [0.02, 0.05, 0.05, 0.1][dice.below(4) as usize],
        balance: if dice.below(3) == 0 { Balance::Both } else { Balance::Bytes },
        transfer: TransferLimits { buffer_bytes: MIB, ..TransferLimits::default() },
        ..PlanOptions::default()
    };
    if dice.below(4) == 0 {
        observation.hosts[0].weight = 2.0;
    }
    if hosts > 2 && dice.below(3) == 0 {
        options.drain.push(format!("redis-{:02}", dice.below(hosts as u64) + 1));
    }
    for at in 0..observation.shards.len() {
        let drained = options
            .drain
            .iter()
            .any(|name| observation.shards[at].host == *name || observation.shards[at].replicas.contains(name));
        observation.shards[at].pinned = !drained && dice.below(40) == 0;
    }
    match dice.below(16) {
        0 => observation.hosts.iter_mut().for_each(|host| host.capacity_bytes /= 3),
        1 => observation.shards[5].bytes = observation.hosts[0].capacity_bytes,
        2 if hosts > 2 => {
            let shard = &mut observation.shards[3];
            shard.pinned = true;
            options.drain = vec![shard.host.clone()];
        }
        3 => observation.hosts.iter_mut().for_each(|host| host.zone = Some("a".to_owned())),
        _ => {}
    }
    options
}

/// A fleet that was even until a tenth of its hosts was added, with sizes from 50 MiB to 150 MiB.
pub fn large(shards: usize, hosts: usize) -> Case {
    let mut dice = Dice(99);
    let used = hosts * 9 / 10;
    let zone = |host: usize| Some(["a", "b", "c"][host % 3].to_owned());
    let observation = Observation {
        format_version: 1,
        cluster: "large".to_owned(),
        epoch: 1,
        port_base: None,
        hosts: (0..hosts).map(|n| host(n, zone(n), 4096 * MIB)).collect(),
        shards: (0..shards)
            .map(|id| {
                let bytes = 50 * MIB + dice.below(100 * MIB);
                shard(id, &[id % used], bytes, (bytes / MIB) as f64)
            })
            .collect(),
    };
    let options = PlanOptions { balance: Balance::Bytes, ..PlanOptions::default() };
    Case { name: format!("large: {shards}x{hosts}"), observation, options }
}
