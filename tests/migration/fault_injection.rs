//! The lost-write checker: a shard moves back and forth under writers while SIGKILL hits the agent, the source or the
//! target at every step of the journal. `DUNLIN_KILLS=n` asks for n kills; without it a short form runs.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use dunlin::protocol::shard::{MoveSpec, RecoveryResult, ShardReply, ShardRequest};
use rustix::process::{Signal, kill_process};

use crate::agent_process::{AgentProcess, read_replies};
use crate::fixture::MoveFixture;
use crate::mixed_load::{MixedLoad, PUBSUB_EDIT};
use crate::moves::run_retire;
use crate::writers::{MoveWriters, stop_and_check};

/// The steps that a move passes through.
const FAILPOINTS: [&str; 11] = [
    "start_replica",
    "copy",
    "verify",
    "require_replicas",
    "prepare_standby",
    "pause",
    "drain",
    "demote_source",
    "promote",
    "open_target",
    "finalize",
];

/// What the shipped template says. With `everysec`, a killed master can come back without its last acknowledged
/// writes, whether or not it is being moved: Redis puts off writing to the file while a sync runs. That is Redis' loss
/// and would hide the mover's, so the checker runs with `always`, and its line of figures says so.
const APPENDFSYNC: &str = "always";

/// A cap that is none: what counts is that the copy goes through the bandwidth proxy.
const UNLIMITED_BANDWIDTH: u64 = 1 << 30;

/// A writer's rest between two writes. All data is checked after each move: more of it makes the rounds slower.
const WRITE_PAUSE: Duration = Duration::from_millis(1);

/// Twice the longest pause.
const FREEZE_TIME: Duration = Duration::from_millis(400);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Victim {
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

fn all_cases() -> Vec<(String, Victim)> {
    let points = FAILPOINTS.iter().flat_map(|step| [format!("{step}:before"), format!("{step}:after")]);
    points.flat_map(|at| VICTIMS.map(|victim| (at.clone(), victim))).collect()
}

#[test]
fn killing_any_process_loses_no_write() {
    let all = all_cases();
    let asked = std::env::var("DUNLIN_KILLS").ok().and_then(|kills| kills.parse::<usize>().ok());
    // The short form takes each side of each step once, another victim each time.
    let victims = VICTIMS.len();
    let short = |round: usize| round * victims + (round / victims + round) % victims;
    let kills = asked.unwrap_or(all.len() / victims);
    let mut torture = FaultInjector::without_replica();
    for round in 0..kills {
        let (at, victim) = &all[if asked.is_some() { round % all.len() } else { short(round) }];
        // The second round requires replicas in the other way at the source.
        torture.run_round(round, at, *victim, (round + round / all.len()) % 2 == 1);
    }
    torture.finish(kills as u64);
}

/// The same with a replica, without which the primary accepts no write: it follows the present primary.
/// `DUNLIN_REPLICA_KILLS=n` asks for n kills; after each fifth a seed decides about one more.
#[test]
fn killing_any_process_with_a_replica_loses_no_write() {
    let all = all_cases();
    let asked = std::env::var("DUNLIN_REPLICA_KILLS").ok().and_then(|kills| kills.parse::<usize>().ok());
    let mut torture = FaultInjector::with_replica();
    let kills = asked.unwrap_or(FAILPOINTS.len());
    for round in 0..kills {
        // All of them once, in an order that soon has been everywhere: 37 and 132 have no divisor in common.
        let (at, victim) = &all[(round * 37) % all.len()];
        torture.run_round(round, at, *victim, round % 2 == 1);
        if round % 5 == 4 {
            torture.run_seed(1000 + round as u64);
        }
        let needs = crate::replica::min_replicas_setting(&torture.fixture, torture.owner);
        assert_eq!(needs, ("1".to_owned(), true), "round {round}: the owner needs its replica");
    }
    let (owner, replica) = (torture.owner, REPLICA_INDEX);
    torture.writers.stop_writers();
    torture.mixed_load.stop();
    crate::replica::assert_replica_complete(&torture.fixture, replica, owner, &torture.writers);
    torture.finish((kills + kills / 5) as u64);
}

/// `DUNLIN_SEEDS=n` asks for n seeds, from `DUNLIN_SEED` on; each makes one move and what happens to it.
#[test]
fn seeded_faults_lose_no_write() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (first, seeds) = (number("DUNLIN_SEED").unwrap_or(1), number("DUNLIN_SEEDS").unwrap_or(6));
    let mut torture = FaultInjector::without_replica();
    for seed in first..first + seeds {
        torture.run_seed(seed);
    }
    torture.finish(seeds);
}

/// The same numbers for the same seed (xorshift64*).
struct FaultRng(u64, bool);

impl FaultRng {
    fn from_seed(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, false);
        dice.1 = dice.next_below(5) == 0;
        dice
    }

    fn next_below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % end
    }

    fn kills_agent(&self) -> bool {
        self.1
    }

    fn random_failpoint(&mut self) -> String {
        let moments = ["before", "after"];
        format!("{}:{}", FAILPOINTS[self.next_below(FAILPOINTS.len())], moments[self.next_below(2)])
    }
}

/// The place of the replica, where there is one.
const REPLICA_INDEX: u8 = 2;

pub struct FaultInjector {
    pub fixture: MoveFixture,
    has_replica: bool,
    writers: MoveWriters,
    mixed_load: MixedLoad,
    pub owner: u8,
    longest_gap: Duration,
    /// Each third one goes through the bandwidth proxy; all of them where `DUNLIN_PROXIED` is set.
    moves: usize,
    /// The append-only file of the source that was killed last, as it stood then.
    file: Vec<u8>,
}

impl FaultInjector {
    pub fn without_replica() -> Self {
        let mut fixture = MoveFixture::with_conf_edits(2, APPENDFSYNC, vec![PUBSUB_EDIT]);
        fixture.provision_primary(0).unwrap();
        Self::from_fixture(fixture, false)
    }

    fn with_replica() -> Self {
        let mut fixture = MoveFixture::with_conf_edits(3, APPENDFSYNC, vec![PUBSUB_EDIT]);
        fixture.needed = 1;
        fixture.provision_primary(0).unwrap();
        fixture.provision_replica(REPLICA_INDEX, 0).unwrap();
        Self::from_fixture(fixture, true)
    }

    fn from_fixture(fixture: MoveFixture, has_replica: bool) -> Self {
        let writers = MoveWriters::start_with_stale_client(3, &fixture.address(0), WRITE_PAUSE);
        // A primary that requires its replica accepts writes once that one is attached.
        writers.wait_for_writes(50);
        let mixed_load = MixedLoad::start(&writers.published_address());
        let (longest_gap, file) = (Duration::ZERO, Vec::new());
        Self { fixture, has_replica, writers, mixed_load, owner: 0, longest_gap, moves: 0, file }
    }

    /// Checks everything once more after the load, and prints the line of figures.
    pub fn finish(mut self, count: u64) {
        self.mixed_load.stop();
        let faults = self.mixed_load.find_faults(&self.fixture.address(self.owner));
        self.writers.stop_writers();
        let lost = self.writers.lost_writes(&self.fixture.address(self.owner));
        let acked = self.writers.acked_count() + self.mixed_load.acknowledged_count();
        let (lost, doubled, changed) = (lost.len() + faults.lost, faults.doubled, faults.changed);
        let gap = self.longest_gap.as_millis();
        // Past the capture of the test harness: this line is for the reader of the torture.
        #[expect(clippy::explicit_write, reason = "the test harness keeps what eprintln! says to itself")]
        writeln!(
            std::io::stderr(),
            "torture: kills={count} acked={acked} lost={lost} doubled={doubled} changed={changed} \
             longest_gap_ms={gap} appendfsync={APPENDFSYNC}"
        )
        .unwrap();
        assert!(faults.is_empty(), "{}", faults.describe());
        stop_and_check(&mut self.writers, &self.fixture, self.owner);
    }

    pub fn run_round(&mut self, round: usize, at: &str, victim: Victim, min_replicas_set: bool) {
        let what = format!("round {round}: {victim:?} at {at}");
        let crash = if victim == Victim::Agent { at.to_owned() } else { format!("{at}:stop") };
        self.move_with_fault(&what, &crash, min_replicas_set, |torture, agent| torture.inject_fault(agent, victim));
    }

    /// A move, and what its seed makes happen to it.
    fn run_seed(&mut self, seed: u64) {
        let mut dice = FaultRng::from_seed(seed);
        let (at, min_replicas_set) = (dice.random_failpoint(), dice.next_below(2) == 0);
        let crash = if dice.kills_agent() { at.clone() } else { format!("{at}:stop") };
        self.move_with_fault(&format!("seed {seed}: {crash}"), &crash, min_replicas_set, |torture, agent| {
            torture.inject_random_faults(agent, &mut dice);
        });
    }

    /// A move that something happens to, its recovery by another process, its end, and what the clients know.
    fn move_with_fault(
        &mut self,
        what: &str,
        crash: &str,
        min_replicas_set: bool,
        happens: impl FnOnce(&mut Self, &mut AgentProcess),
    ) {
        let (from, to) = (self.owner, 1 - self.owner);
        self.moves += 1;
        let proxied = self.moves.is_multiple_of(3) || std::env::var_os("DUNLIN_PROXIED").is_some();
        let bandwidth = if proxied { UNLIMITED_BANDWIDTH } else { 0 };
        let options = [
            (min_replicas_set, ", min-replicas-to-write set before"),
            (bandwidth > 0, ", through the bandwidth proxy"),
        ];
        let options: String = options.iter().filter(|(is, _)| *is).map(|(_, options)| *options).collect();
        let what = format!("{what}, {from} to {to}{options}");
        let others: &[u8] = if self.has_replica { &[REPLICA_INDEX] } else { &[] };
        let replicas = u32::try_from(others.len()).unwrap() + 1;
        let mut spec = MoveSpec {
            source_file_requires_replicas: min_replicas_set,
            ..self.fixture.move_spec_with_replicas(from, to, others)
        };
        spec.record.throttle.bandwidth = bandwidth;
        let mut requests = vec![ShardRequest::Copy(spec.clone()), ShardRequest::CutOver(spec.clone())];
        if min_replicas_set {
            requests.insert(1, self.fixture.min_replicas_request(from, replicas));
        }
        let started = Instant::now();
        let mut agent = AgentProcess::start_agent(&self.fixture, &requests, Some(crash));
        happens(self, &mut agent);
        agent.wait_for_exit();
        let first = read_replies(&self.fixture);

        // Another process, which knows nothing but the journal and the roles, ends it.
        let mut recovery = AgentProcess::start_agent(&self.fixture, &[ShardRequest::Recover(spec)], None);
        recovery.wait_for_exit();
        let recovered = read_replies(&self.fixture);
        self.owner = match recovered.first() {
            Some(Ok(ShardReply::Recover(RecoveryResult::AtSource { .. }))) => from,
            Some(Ok(ShardReply::Recover(RecoveryResult::AtTarget { follow_ups: pending, .. })))
                if pending.is_empty() =>
            {
                to
            }
            other => panic!("{what}: {other:?}, first {first:?}"),
        };
        if self.owner == from {
            let mut again = AgentProcess::start_agent(&self.fixture, &requests, None);
            again.wait_for_exit();
            let resumed = read_replies(&self.fixture);
            assert!(
                resumed.len() == requests.len() && resumed.iter().all(Result::is_ok),
                "{what}: {resumed:?}, first {first:?}\n{}\n{}",
                std::fs::read_to_string(self.fixture.instance_root(to).join("moves/shard-17.jsonl"))
                    .unwrap_or_default(),
                std::fs::read_to_string(self.fixture.conf_path(to)).unwrap_or_default()
            );
            self.owner = to;
        }
        self.writers.publish_address(&self.fixture.address(to));
        self.writers.wait_for_writes(20);
        self.mixed_load.wait_for_requests(3);
        self.longest_gap = self.longest_gap.max(self.writers.longest_gap());
        self.writers.reset_gaps();
        let lost = self.writers.lost_writes(&self.fixture.address(to));
        assert!(lost.is_empty(), "{what}: {}; first {first:?}, then {recovered:?}", self.describe_losses(&lost));
        let faults = self.mixed_load.find_faults(&self.fixture.address(to));
        assert!(faults.is_empty(), "{what}: {}; first {first:?}, then {recovered:?}", faults.describe());
        assert_eq!(self.fixture.writable_instances(), [to], "{what}");
        run_retire(&mut self.fixture, from, to);
        eprintln!("{what}: ok after {} ms", started.elapsed().as_millis());
    }

    /// Whose loss it is: what the source's file lacked when it was killed, no move could have kept for it.
    fn describe_losses(&self, lost: &[String]) -> String {
        let has = |member: &&String| self.file.windows(member.len()).any(|part| part == member.as_bytes());
        let kept = lost.iter().filter(has).count();
        format!("{} acknowledged writes are lost; {kept} of them stood in the killed source's file", lost.len())
    }

    fn inject_fault(&mut self, agent: &mut AgentProcess, victim: Victim) {
        if victim == Victim::Agent || !agent.wait_for_stop() {
            return;
        }
        let target = 1 - self.owner;
        match victim {
            Victim::Source => {
                self.fixture.kill_instance(self.owner);
                self.file = self.fixture.append_only_file(self.owner);
            }
            Victim::Target => self.fixture.kill_instance(target),
            Victim::Restart => self.fixture.stop(self.owner),
            Victim::Frozen => {
                self.signal_instance(target, Signal::STOP);
                thread::sleep(FREEZE_TIME);
            }
            _ => thread::sleep(FREEZE_TIME),
        }
        kill_process(agent.pid(), Signal::CONT).unwrap();
        match victim {
            Victim::Source | Victim::Restart => self.fixture.restart_instance(self.owner),
            Victim::Target => self.fixture.restart_instance(target),
            Victim::Frozen => {
                thread::sleep(FREEZE_TIME);
                self.signal_instance(target, Signal::CONT);
            }
            _ => {}
        }
    }

    /// What a seed makes happen at the crash point: one or both instances are killed or held, for a while of its own.
    fn inject_random_faults(&mut self, agent: &mut AgentProcess, dice: &mut FaultRng) {
        if dice.kills_agent() || !agent.wait_for_stop() {
            return;
        }
        let mut struck = vec![self.owner, 1 - self.owner];
        if dice.next_below(2) == 0 {
            struck.reverse();
        }
        struck.truncate(1 + dice.next_below(4) / 3);
        for place in struck {
            let held = Duration::from_millis(dice.next_below(400) as u64);
            if dice.next_below(3) == 0 {
                self.signal_instance(place, Signal::STOP);
                thread::sleep(held);
                self.signal_instance(place, Signal::CONT);
            } else {
                self.fixture.kill_instance(place);
                if place == self.owner {
                    self.file = self.fixture.append_only_file(place);
                }
                thread::sleep(held / 4);
                self.fixture.restart_instance(place);
            }
        }
        thread::sleep(Duration::from_millis(dice.next_below(150) as u64));
        // A host that fails takes its agent with it.
        let signal = if dice.next_below(3) == 0 { Signal::KILL } else { Signal::CONT };
        kill_process(agent.pid(), signal).unwrap();
    }

    fn signal_instance(&self, place: u8, signal: Signal) {
        if let Some(pid) = self.fixture.read_pid(place) {
            kill_process(pid, signal).unwrap();
        }
    }
}
