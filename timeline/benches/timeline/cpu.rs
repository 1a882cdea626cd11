//! The processor time of the parts of a site: what bounds a figure on two cores, whatever else runs on the machine.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs,
};

/// What the kernel counts in; 100 on every Linux that this runs on.
const TICKS_PER_S: f64 = 100.0;

/// Seconds of processor time by part.
#[derive(Debug, Clone, Default)]
pub struct CpuTimes(BTreeMap<&'static str, f64>);

impl CpuTimes {
    /// Reads the times of this process and of all that it has started.
    pub fn read() -> CpuTimes {
        let mut stats = HashMap::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // it can have ended
            if let Some(stat) = fs::read_to_string(entry.path().join("stat")).ok().and_then(|text| Stat::parse(&text)) {
                stats.insert(id, stat);
            }
        }
        let is_ours = |mut id: u32| {
            while id != std::process::id() {
                match stats.get(&id) {
                    Some(stat) => id = stat.parent,
                    None => return false,
                }
            }
            true
        };
        let mut times = CpuTimes::default();
        for (id, stat) in &stats {
            if is_ours(*id) {
                *times.0.entry(part_of(*id, &stat.program)).or_default() += stat.seconds;
            }
        }
        times
    }

    /// Returns the times since an earlier look.
    pub fn since(&self, before: &CpuTimes) -> CpuTimes {
        let times = self.0.iter().map(|(part, time)| (*part, time - before.0.get(part).unwrap_or(&0.0)));
        CpuTimes(times.collect())
    }

    /// Returns the sum without the load generator.
    pub fn of_service(&self) -> f64 {
        self.0.iter().filter(|(part, _)| **part != GENERATOR).map(|(_, time)| time).sum()
    }
}

impl fmt::Display for CpuTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut times: Vec<(&&str, &f64)> = self.0.iter().filter(|(_, time)| **time > 0.0).collect();
        times.sort_by(|a, b| b.1.total_cmp(a.1));
        let times: Vec<String> = times.iter().map(|(part, time)| format!("{part} {time:.2} s")).collect();
        f.write_str(&times.join(", "))
    }
}

const GENERATOR: &str = "load generator";

fn part_of(id: u32, program: &str) -> &'static str {
    match program {
        _ if id == std::process::id() => GENERATOR,
        "postgres" => "Postgres",
        "redis-server" => "Redis",
        "memcached" => "memcached",
        "timeline-api" => "API",
        "timeline-worker" => "worker",
        // its scheduler threads are one process
        "beam.smp" => "RabbitMQ",
        _ => "others",
    }
}

struct Stat {
    parent: u32,
    program: String,
    /// With that of children that have ended.
    seconds: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        let (head, rest) = text.rsplit_once(')')?;
        let program = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
        let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
        Some(Stat { parent: fields.get(1)?.parse().ok()?, program, seconds: ticks / TICKS_PER_S })
    }
}
