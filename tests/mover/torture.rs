//! The lost-write checker: a shard moves back and forth under writers while SIGKILL hits the agent, the source or the
//! target at every step of the journal. `DUNLIN_KILLS=n` asks for n kills; without it a short form runs.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use dunlin::wire::shard::{MoveSpec, Recovered, Reply, Request};
use rustix::process::{Signal, kill_process};

use crate::child::{Agent, replies};
use crate::moves::retire;
use crate::places::Places;
use crate::writers::{Writers, stop_and_check};

/// The steps that a move passes through.
const STEPS: [&str; 11] =
    ["birth", "copy", "verify", "arm", "stand_by", "pause", "drain", "fence", "promote", "open", "settle"];

/// What the shipped template says. With `everysec`, a killed master can come back without its last acknowledged
/// writes, whether or not it is being moved: Redis puts off writing to the file while a sync runs. That is Redis' loss
/// and would hide the mover's, so the checker runs with `always`, and its line of figures says so.
const APPENDFSYNC: &str = "always";

/// A cap that is none: what counts is that the copy goes through a relay.
const RELAYED: u64 = 1 << 30;

/// Twice the longest pause.
const HELD_UP: Duration = Duration::from_millis(400);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Agent,
    Source,
    Target,
    /// The source is restarted as `systemctl restart` does it.
    Restart,
    /// The agent is only held up for longer than any pause.
    Stall,
    /// The target hangs for as long, and a little longer than the agent.
    Frozen,
}

const VICTIMS: [Victim; 6] =
    [Victim::Agent, Victim::Source, Victim::Target, Victim::Restart, Victim::Stall, Victim::Frozen];

fn cases() -> Vec<(String, Victim)> {
    let points = STEPS.iter().flat_map(|step| [format!("{step}:before"), format!("{step}:after")]);
    points.flat_map(|at| VICTIMS.map(|victim| (at.clone(), victim))).collect()
}

#[test]
fn nothing_is_lost_whoever_is_killed() {
    let all = cases();
    let asked = std::env::var("DUNLIN_KILLS").ok().and_then(|kills| kills.parse::<usize>().ok());
    // The short form takes each side of each step once, another victim each time.
    let victims = VICTIMS.len();
    let short = |round: usize| round * victims + (round / victims + round) % victims;
    let kills = asked.unwrap_or(all.len() / victims);
    let mut torture = Torture::new();
    for round in 0..kills {
        let (at, victim) = &all[if asked.is_some() { round % all.len() } else { short(round) }];
        // The second time round with the other way of arming the source.
        torture.round(round, at, *victim, (round + round / all.len()) % 2 == 1);
    }
    torture.end(kills as u64);
}

/// The same with a replica, without which the primary accepts no write: it follows whoever owns the shard.
/// `DUNLIN_REPLICA_KILLS=n` asks for n kills; after each fifth a seed decides about one more.
#[test]
fn nothing_is_lost_with_a_replica_either() {
    let all = cases();
    let asked = std::env::var("DUNLIN_REPLICA_KILLS").ok().and_then(|kills| kills.parse::<usize>().ok());
    let mut torture = Torture::with_a_replica();
    let kills = asked.unwrap_or(STEPS.len());
    for round in 0..kills {
        // All of them once, in an order that soon has been everywhere: 37 and 132 have no divisor in common.
        let (at, victim) = &all[(round * 37) % all.len()];
        torture.round(round, at, *victim, round % 2 == 1);
        if round % 5 == 4 {
            torture.seeded(1000 + round as u64);
        }
        let needs = crate::replica::needed(&torture.places, torture.owner);
        assert_eq!(needs, ("1".to_owned(), true), "round {round}: the owner needs its replica");
    }
    let (owner, replica) = (torture.owner, REPLICA);
    torture.writers.stop();
    crate::replica::has_everything(&torture.places, replica, owner, &torture.writers);
    torture.end((kills + kills / 5) as u64);
}

/// `DUNLIN_SEEDS=n` asks for n seeds, from `DUNLIN_SEED` on; each makes one move and what happens to it.
#[test]
fn nothing_is_lost_whatever_a_seed_makes_happen() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (first, seeds) = (number("DUNLIN_SEED").unwrap_or(1), number("DUNLIN_SEEDS").unwrap_or(6));
    let mut torture = Torture::new();
    for seed in first..first + seeds {
        torture.seeded(seed);
    }
    torture.end(seeds);
}

/// The same numbers for the same seed (xorshift64*).
struct Dice(u64, bool);

impl Dice {
    fn of(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, false);
        dice.1 = dice.below(5) == 0;
        dice
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % end
    }

    fn kills_agent(&self) -> bool {
        self.1
    }

    fn point(&mut self) -> String {
        let moments = ["before", "after"];
        format!("{}:{}", STEPS[self.below(STEPS.len())], moments[self.below(2)])
    }
}

/// The place of the replica, where there is one.
const REPLICA: u8 = 2;

struct Torture {
    places: Places,
    has_replica: bool,
    writers: Writers,
    owner: u8,
    longest_gap: Duration,
    /// Each third one goes through a relay; all of them where `DUNLIN_RELAYED` is set.
    moves: usize,
    /// The append-only file of the source that was killed last, as it stood then.
    file: Vec<u8>,
}

impl Torture {
    fn new() -> Self {
        let mut places = Places::with(2, APPENDFSYNC);
        places.provision(0).unwrap();
        Self::of(places, false)
    }

    fn with_a_replica() -> Self {
        let mut places = Places::with(3, APPENDFSYNC);
        places.needed = 1;
        places.provision(0).unwrap();
        places.provision_replica(REPLICA, 0).unwrap();
        Self::of(places, true)
    }

    fn of(places: Places, has_replica: bool) -> Self {
        let writers = Writers::start_with_a_stale_one(3, &places.address(0));
        writers.write_on(50);
        Self { places, has_replica, writers, owner: 0, longest_gap: Duration::ZERO, moves: 0, file: Vec::new() }
    }

    /// The last look, and the line of figures.
    fn end(mut self, count: u64) {
        let (acked, gap) = (self.writers.acked(), self.longest_gap.as_millis());
        stop_and_check(&mut self.writers, &self.places, self.owner);
        // Past the capture of the test harness: this line is for the reader of the torture.
        #[expect(clippy::explicit_write, reason = "the test harness keeps what eprintln! says to itself")]
        writeln!(
            std::io::stderr(),
            "torture: kills={count} acked={acked} lost=0 longest_gap_ms={gap} appendfsync={APPENDFSYNC}"
        )
        .unwrap();
    }

    fn round(&mut self, round: usize, at: &str, victim: Victim, armed: bool) {
        let what = format!("round {round}: {victim:?} at {at}");
        let crash = if victim == Victim::Agent { at.to_owned() } else { format!("{at}:stop") };
        self.around(&what, &crash, armed, |torture, agent| torture.strike(agent, victim));
    }

    /// A move, and what its seed makes happen to it.
    fn seeded(&mut self, seed: u64) {
        let mut dice = Dice::of(seed);
        let (at, armed) = (dice.point(), dice.below(2) == 0);
        let crash = if dice.kills_agent() { at.clone() } else { format!("{at}:stop") };
        self.around(&format!("seed {seed}: {crash}"), &crash, armed, |torture, agent| {
            torture.strike_at_random(agent, &mut dice);
        });
    }

    /// A move that something happens to, its recovery by another process, its end, and what the clients know.
    fn around(&mut self, what: &str, crash: &str, armed: bool, happens: impl FnOnce(&mut Self, &mut Agent)) {
        let (from, to) = (self.owner, 1 - self.owner);
        self.moves += 1;
        let relayed = self.moves.is_multiple_of(3) || std::env::var_os("DUNLIN_RELAYED").is_some();
        let bandwidth = if relayed { RELAYED } else { 0 };
        let told = [(armed, ", its file armed before"), (bandwidth > 0, ", through a relay")];
        let told: String = told.iter().filter(|(is, _)| *is).map(|(_, told)| *told).collect();
        let what = format!("{what}, {from} to {to}{told}");
        let others = if self.has_replica { vec![self.places.address(REPLICA)] } else { Vec::new() };
        let replicas = u32::try_from(others.len()).unwrap() + 1;
        let mut spec = MoveSpec { source_is_armed: armed, others, ..self.places.spec(from, to) };
        spec.limits.sparing.bandwidth = bandwidth;
        let mut requests = vec![Request::Copy(spec.clone()), Request::Switch(spec.clone())];
        if armed {
            requests.insert(1, self.places.arm(from, replicas));
        }
        let started = Instant::now();
        let mut agent = Agent::start(&self.places, &requests, Some(crash));
        happens(self, &mut agent);
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
            assert!(resumed.len() == requests.len() && resumed.iter().all(Result::is_ok), "{what}: {resumed:?}");
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
            Victim::Restart => self.places.stop(self.owner),
            Victim::Frozen => {
                self.signal(target, Signal::STOP);
                thread::sleep(HELD_UP);
            }
            _ => thread::sleep(HELD_UP),
        }
        kill_process(agent.pid(), Signal::CONT).unwrap();
        match victim {
            Victim::Source | Victim::Restart => self.places.restart(self.owner),
            Victim::Target => self.places.restart(target),
            Victim::Frozen => {
                thread::sleep(HELD_UP);
                self.signal(target, Signal::CONT);
            }
            _ => {}
        }
    }

    /// What a seed makes happen at the crash point: one or both instances are killed or held, for a while of its own.
    fn strike_at_random(&mut self, agent: &mut Agent, dice: &mut Dice) {
        if dice.kills_agent() || !agent.stopped() {
            return;
        }
        let mut struck = vec![self.owner, 1 - self.owner];
        if dice.below(2) == 0 {
            struck.reverse();
        }
        struck.truncate(1 + dice.below(4) / 3);
        for place in struck {
            let held = Duration::from_millis(dice.below(400) as u64);
            if dice.below(3) == 0 {
                self.signal(place, Signal::STOP);
                thread::sleep(held);
                self.signal(place, Signal::CONT);
            } else {
                self.places.kill(place);
                if place == self.owner {
                    self.file = self.places.append_only_file(place);
                }
                thread::sleep(held / 4);
                self.places.restart(place);
            }
        }
        thread::sleep(Duration::from_millis(dice.below(150) as u64));
        // A host that fails takes its agent with it.
        let signal = if dice.below(3) == 0 { Signal::KILL } else { Signal::CONT };
        kill_process(agent.pid(), signal).unwrap();
    }

    fn signal(&self, place: u8, signal: Signal) {
        if let Some(pid) = self.places.pid(place) {
            kill_process(pid, signal).unwrap();
        }
    }
}
