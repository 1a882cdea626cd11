//! The memory and disk space that the moves of a run need at the same time, per host. Pure: figures in, reasons out.
//!
//! Each host checks a move by itself. Moves that run at the same time share what is free, and what an earlier wave
//! copied to a host stays there.

use std::collections::BTreeMap;

use crate::inventory::ByteSize;
use crate::protocol::shard::MoveNeeds;

/// A move with what it needs at its target.
#[derive(Clone, Copy, Debug)]
pub struct MoveDemand<'a> {
    /// Host that the shard leaves.
    pub from: &'a str,
    /// Host of the target.
    pub to: &'a str,
    /// Wave of the move.
    pub wave: usize,
    /// Needs of the move, and what is free at the target.
    pub needs: MoveNeeds,
}

/// Options of the run that decide which moves need their resources at the same time.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemandOptions {
    /// Maximum number of concurrent moves; 0: all of a wave.
    pub max_concurrent: usize,
    /// True if the old instances keep running.
    pub keep_source: bool,
}

/// Moves that together need more of a resource than a host has free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The host.
    pub host: String,
    /// Description of the shortage: the bytes needed and free.
    pub reason: String,
}

/// Returns a shortage for each host, wave and resource where several moves together need more than is free.
pub fn find_shortages(moves: &[MoveDemand<'_>], options: DemandOptions) -> Vec<Shortage> {
    let waves = moves.iter().map(|one| one.wave + 1).max().unwrap_or(0);
    let mut hosts: BTreeMap<&str, Vec<MoveDemand<'_>>> = BTreeMap::new();
    for one in moves {
        hosts.entry(one.to).or_default().push(*one);
    }
    let mut shortages = Vec::new();
    for (host, arriving) in hosts {
        let leaving: Vec<MoveDemand<'_>> = moves.iter().filter(|one| one.from == host).copied().collect();
        for wave in 0..waves {
            let here: Vec<MoveDemand<'_>> = arriving.iter().filter(|one| one.wave <= wave).copied().collect();
            if here.len() < 2 || !here.iter().any(|one| one.wave == wave) {
                continue;
            }
            let freed = leaving.iter().filter(|one| one.wave < wave && !options.keep_source);
            let freed_bytes = freed.map(|one| one.needs.data_bytes).sum();
            let memory = memory_shortage(host, wave, &here, freed_bytes, options);
            let reasons = memory.into_iter().chain(disk_shortages(host, wave, &here, options));
            shortages.extend(reasons.map(|reason| Shortage { host: host.to_owned(), reason }));
        }
    }
    shortages
}

fn memory_shortage(
    host: &str,
    wave: usize,
    here: &[MoveDemand<'_>],
    freed_bytes: u64,
    options: DemandOptions,
) -> Option<String> {
    let needed = peak_bytes(wave, here, |needs| needs.memory_bytes, options).saturating_sub(freed_bytes);
    let free = here.iter().map(|one| one.needs.available_memory_bytes).min()?;
    (needed > free).then(|| describe_shortage(host, wave, "memory", needed, free))
}

/// Returns the shortages of the file systems of a host. What left the host frees none of them: its files are archived.
fn disk_shortages(host: &str, wave: usize, here: &[MoveDemand<'_>], options: DemandOptions) -> Vec<String> {
    let mut file_systems: BTreeMap<u64, Vec<MoveDemand<'_>>> = BTreeMap::new();
    for one in here {
        file_systems.entry(one.needs.file_system).or_default().push(*one);
    }
    let shortage = |here: Vec<MoveDemand<'_>>| {
        let needed = peak_bytes(wave, &here, |needs| needs.disk_bytes, options);
        let free = here.iter().map(|one| one.needs.free_disk_bytes).min()?;
        (here.len() > 1 && needed > free).then(|| describe_shortage(host, wave, "disk space", needed, free))
    };
    file_systems.into_values().filter_map(shortage).collect()
}

/// Returns the bytes in use at the peak of a wave: all data that arrived, and what the largest moves need beyond that
/// while they run.
fn peak_bytes(wave: usize, here: &[MoveDemand<'_>], in_flight: fn(&MoveNeeds) -> u64, options: DemandOptions) -> u64 {
    let data: u64 = here.iter().map(|one| one.needs.data_bytes).sum();
    let running = here.iter().filter(|one| one.wave == wave);
    let mut extra: Vec<u64> = running.map(|one| in_flight(&one.needs).saturating_sub(one.needs.data_bytes)).collect();
    extra.sort_unstable_by(|a, b| b.cmp(a));
    let concurrent = if options.max_concurrent == 0 { extra.len() } else { options.max_concurrent };
    data + extra.iter().take(concurrent).sum::<u64>()
}

fn describe_shortage(host: &str, wave: usize, resource: &str, needed: u64, free: u64) -> String {
    let [needed, free] = [needed, free].map(|bytes| ByteSize(bytes).to_human());
    format!("{host}: the copies up to wave {} need {needed} of {resource} at the same time, {free} are free", wave + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A move of 4 GiB to a host with 16 GiB of memory and 20 GiB of disk space.
    fn demand<'a>(from: &'a str, to: &'a str, wave: usize) -> MoveDemand<'a> {
        let needs = MoveNeeds {
            data_bytes: 4 * GIB,
            memory_bytes: 6 * GIB,
            available_memory_bytes: 16 * GIB,
            disk_bytes: 8 * GIB,
            free_disk_bytes: 20 * GIB,
            file_system: 1,
        };
        MoveDemand { from, to, wave, needs }
    }

    fn shortages(moves: &[MoveDemand<'_>], options: DemandOptions) -> Vec<String> {
        find_shortages(moves, options).into_iter().map(|shortage| shortage.reason).collect()
    }

    #[test]
    fn moves_of_one_wave_share_what_is_free() {
        let two = [demand("a", "c", 0), demand("b", "c", 0)];
        assert_eq!(shortages(&two, DemandOptions::default()), Vec::<String>::new(), "12 of 16, 16 of 20");
        let three = [two[0], two[1], demand("a", "c", 0)];
        let found = shortages(&three, DemandOptions::default());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("c: the copies up to wave 1 need 18") && found[0].contains("memory"), "{found:?}");
        assert!(found[1].contains("24") && found[1].contains("disk space"), "{found:?}");
        // One after the other, each needs its own peak beside the data of the others: 14 of 16, 16 of 20.
        let options = DemandOptions { max_concurrent: 1, keep_source: false };
        assert_eq!(shortages(&three, options), Vec::<String>::new());
    }

    #[test]
    fn what_earlier_waves_brought_stays_and_what_they_took_is_free_again() {
        let arrived = [demand("a", "c", 0), demand("a", "c", 1), demand("a", "c", 2), demand("a", "c", 3)];
        let found = shortages(&arrived, DemandOptions::default());
        assert_eq!(found.len(), 1, "18 of 16 GiB of memory in the last wave, 20 of 20 GiB of disk space: {found:?}");
        assert!(found[0].contains("wave 4"), "{found:?}");
        let with_leaving = [&arrived[..], &[demand("c", "a", 0)]].concat();
        assert_eq!(shortages(&with_leaving, DemandOptions::default()), Vec::<String>::new());
        let options = DemandOptions { keep_source: true, max_concurrent: 0 };
        assert_eq!(shortages(&with_leaving, options).len(), 1, "the old instance still runs");
    }

    #[test]
    fn hosts_and_file_systems_are_counted_by_themselves() {
        let apart = [demand("a", "b", 0), demand("a", "c", 0), demand("a", "d", 0)];
        assert_eq!(shortages(&apart, DemandOptions::default()), Vec::<String>::new());
        let mut three = [demand("a", "c", 0), demand("b", "c", 0), demand("a", "c", 0)];
        three[2].needs.file_system = 2;
        let found = shortages(&three, DemandOptions::default());
        assert!(found.len() == 1 && found[0].contains("memory"), "{found:?}");
        // A single move is checked by its host.
        let mut alone = demand("a", "c", 0);
        alone.needs.memory_bytes = 40 * GIB;
        assert_eq!(shortages(&[alone], DemandOptions::default()), Vec::<String>::new());
    }
}
