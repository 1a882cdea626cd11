//! The lost-write checker: a shard moves back and forth under writers while SIGKILL hits the agent, the source or the
//! target at every step of the journal. `DUNLIN_KILLS=n` asks for n kills; without it a short form runs.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use dunlin::wire::shard::{Recovered, Reply, Request};
use rustix::process::{Signal, kill_process};

use crate::child::{Agent, replies};
use crate::moves::retire;
use crate::places::Places;
use crate::writers::{Writers, stop_and_check};

/// The steps that a move passes through.
const STEPS: [&str; 11] =
    ["birth", "copy", "verify", "arm", "stand_by", "pause", "drain", "fence", "promote", "open", "settle"];

/// With `everysec`, what the shipped template says, a killed master can come back without its last acknowledged
/// writes, whether or not it is being moved: Redis puts off writing to the file while a sync runs. That is Redis' loss
/// and would hide the mover's, so the checker runs with `always`, and its line of figures says so.
const APPENDFSYNC: &str = "always";

/// Twice the longest pause.
const HELD_UP: Duration = Duration::from_millis(400);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Agent,
    Source,
    Target,
    /// The agent is only held up for longer than any pause.
    Stall,
    /// The target hangs for as long, and a little longer than the agent.
    Frozen,
}

fn cases() -> Vec<(String, Victim)> {
    let points = STEPS.iter().flat_map(|step| [format!("{step}:before"), format!("{step}:after")]);
    let victims = [Victim::Agent, Victim::Source, Victim::Target, Victim::Stall, Victim::Frozen];
    points.flat_map(|at| victims.map(|victim| (at.clone(), victim))).collect()
}

#[test]
fn nothing_is_lost_whoever_is_killed() {
    let all = cases();
    let asked = std::env::var("DUNLIN_KILLS").ok().and_then(|kills| kills.parse::<usize>().ok());
    // The short form takes each side of each step once, another victim each time.
    let short = |round: usize| round * 5 + (round / 5 + round) % 5;
    let kills = asked.unwrap_or(all.len() / 5);
    let mut torture = Torture::new();
    for round in 0..kills {
        let (at, victim) = &all[if asked.is_some() { round % all.len() } else { short(round) }];
        torture.round(round, at, *victim);
    }
    let (acked, gap) = (torture.writers.acked(), torture.longest_gap.as_millis());
    stop_and_check(&mut torture.writers, &torture.places, torture.owner);
    // Past the capture of the test harness: this line is for the reader of the torture.
    writeln!(
        std::io::stderr(),
        "torture: kills={kills} acked={acked} lost=0 longest_gap_ms={gap} appendfsync={APPENDFSYNC}"
    )
    .unwrap();
}

struct Torture {
    places: Places,
    writers: Writers,
    owner: u8,
    longest_gap: Duration,
    /// The append-only file of the source that was killed last, as it stood then.
    file: Vec<u8>,
}

impl Torture {
    fn new() -> Self {
        let mut places = Places::with(2, APPENDFSYNC);
        places.provision(0).unwrap();
        let writers = Writers::start(3, &places.address(0));
        writers.write_on(50);
        Self { places, writers, owner: 0, longest_gap: Duration::ZERO, file: Vec::new() }
    }

    fn round(&mut self, round: usize, at: &str, victim: Victim) {
        let (from, to) = (self.owner, 1 - self.owner);
        let what = format!("round {round}: {victim:?} at {at}, {from} to {to}");
        let spec = self.places.spec(from, to);
        let requests = [Request::Copy(spec.clone()), Request::Switch(spec.clone())];
        let crash = if victim == Victim::Agent { at.to_owned() } else { format!("{at}:stop") };
        let started = Instant::now();
        let mut agent = Agent::start(&self.places, &requests, Some(&crash));
        self.strike(&mut agent, victim);
        agent.wait();
        let first = replies(&self.places);

        // Another process, which knows nothing but the journal and the roles, ends it.
        let mut recovery = Agent::start(&self.places, &[Request::Recover(spec)], None);
        recovery.wait();
        let recovered = replies(&self.places);
        self.owner = match recovered.first() {
            Some(Ok(Reply::Recovered(Recovered::AtSource { .. }))) => from,
            Some(Ok(Reply::Recovered(Recovered::AtTarget { pending, .. }))) if pending.is_empty() => to,
            other => panic!("{what}: {other:?}, first {first:?}"),
        };
        if self.owner == from {
            let mut again = Agent::start(&self.places, &requests, None);
            again.wait();
            let resumed = replies(&self.places);
            assert!(resumed.len() == 2 && resumed[1].is_ok(), "{what}: {resumed:?}");
            self.owner = to;
        }
        self.writers.publish(&self.places.address(to));
        self.writers.write_on(20);
        self.longest_gap = self.longest_gap.max(self.writers.longest_gap());
        self.writers.forget_gaps();
        let lost = self.writers.lost(&self.places.address(to));
        assert!(lost.is_empty(), "{what}: {}; first {first:?}, then {recovered:?}", self.told(&lost));
        assert_eq!(self.places.writable(), [to], "{what}");
        retire(&mut self.places, from, to);
        eprintln!("{what}: ok after {} ms", started.elapsed().as_millis());
    }

    /// Whose loss it is: what the source's file lacked when it was killed, no move could have kept for it.
    fn told(&self, lost: &[String]) -> String {
        let has = |member: &&String| self.file.windows(member.len()).any(|part| part == member.as_bytes());
        let kept = lost.iter().filter(has).count();
        format!("{} acknowledged writes are lost; {kept} of them stood in the killed source's file", lost.len())
    }

    fn strike(&mut self, agent: &mut Agent, victim: Victim) {
        if victim == Victim::Agent || !agent.stopped() {
            return;
        }
        let target = 1 - self.owner;
        match victim {
            Victim::Source => {
                self.places.kill(self.owner);
                self.file = self.places.append_only_file(self.owner);
            }
            Victim::Target => self.places.kill(target),
            Victim::Frozen => {
                self.signal(target, Signal::STOP);
                thread::sleep(HELD_UP);
            }
            _ => thread::sleep(HELD_UP),
        }
        kill_process(agent.pid(), Signal::CONT).unwrap();
        match victim {
            Victim::Source => self.places.restart(self.owner),
            Victim::Target => self.places.restart(target),
            Victim::Frozen => {
                thread::sleep(HELD_UP);
                self.signal(target, Signal::CONT);
            }
            _ => {}
        }
    }

    fn signal(&self, place: u8, signal: Signal) {
        if let Some(pid) = self.places.pid(place) {
            kill_process(pid, signal).unwrap();
        }
    }
}
