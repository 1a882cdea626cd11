//! Moves that spare their source: a cap on bytes, limits past which they wait, slow down, or give a copy up.

use std::fs::{self, File};
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dunlin::wire::shard::{MoveSpec, Moves, Recovered, Reply, Request};
use dunlin::wire::sparing::{Cow, Sparing};
use dunlin::wire::{Event, Sink};
use redis::Connection;
use rustix::process::{Signal, kill_process};

use crate::child::{Agent, replies};
use crate::moves::{copy, switch};
use crate::places::{Places, SHARD, admin, app, connect, credentials, within};
use crate::writers::{Writers, stop_and_check};

const MIB: u64 = 1 << 20;
/// Where the target's file leads while a copy goes through a relay.
const DEAD_END: &str = "replicaof 127.77.0.17 0";

/// Keys with values that no compression makes smaller.
fn fill(places: &Places, count: usize, size: u64) {
    let mut client = connect(&places.address(0), &app()).unwrap();
    let random = File::open("/dev/urandom").unwrap();
    for n in 0..count {
        let mut value = Vec::new();
        random.try_clone().unwrap().take(size).read_to_end(&mut value).unwrap();
        redis::cmd("SET").arg(format!("value:{n}")).arg(value).exec(&mut client).unwrap();
    }
}

fn spared(places: &mut Places, sparing: Sparing) -> MoveSpec {
    let mut spec = places.spec(0, 1);
    spec.limits.sparing = sparing;
    spec
}

fn capped(places: &mut Places, bandwidth: u64) -> MoveSpec {
    spared(places, Sparing { bandwidth, ..Sparing::default() })
}

fn info(connection: &mut Connection, section: &str, name: &str) -> String {
    let text: String = redis::cmd("INFO").arg(section).query(connection).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().to_owned()
}

fn conf(places: &Places, n: u8) -> String {
    fs::read_to_string(places.conf_path(n)).unwrap_or_default()
}

/// Waits until the target has a part of the data, and not all of it.
fn half_way(places: &Places) {
    let mut target = None;
    within(Duration::from_secs(20), || {
        target = admin(&places.address(1)).ok();
        target.is_some()
    });
    let mut target = target.unwrap();
    let reads = |target: &mut Connection| info(target, "replication", "master_sync_read_bytes").parse().unwrap_or(0);
    within(Duration::from_secs(20), || reads(&mut target) > MIB / 2);
}

/// Waits until the source has nothing to do with the copy any more.
fn is_left_alone(places: &Places) {
    let mut source = admin(&places.address(0)).unwrap();
    within(Duration::from_secs(20), || {
        info(&mut source, "replication", "connected_slaves") == "0"
            && info(&mut source, "persistence", "rdb_bgsave_in_progress") == "0"
    });
    assert_eq!(info(&mut source, "replication", "role"), "master");
    let armed: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("min-replicas-to-write").query(&mut source).unwrap();
    assert_eq!(armed[1], "0");
    assert_eq!(places.writable(), [0]);
}

/// What a sink was told, and whether it wants it to stop.
#[derive(Default)]
struct Told {
    notes: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Told {
    fn has(&self, text: &str) -> bool {
        self.notes.lock().unwrap().iter().any(|note| note.contains(text))
    }
}

impl Sink for Told {
    fn emit(&self, event: Event) {
        if let Event::Note { text } = event {
            self.notes.lock().unwrap().push(text);
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Sets a flag when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A client whose commands take a fifth of a second and more, one after the other, while `work` is done.
fn beside_slow_commands<T>(places: &Places, work: impl FnOnce(&AtomicBool) -> T) -> T {
    let is_over = AtomicBool::new(false);
    let address = places.address(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = admin(&address).unwrap();
            let mut rounds = 1_000_000;
            while !is_over.load(Ordering::SeqCst) {
                let begin = Instant::now();
                let script = format!("for i = 1, {rounds} do end");
                redis::cmd("EVAL").arg(script).arg(0).exec(&mut client).unwrap();
                rounds = if begin.elapsed() < Duration::from_millis(250) { rounds * 2 } else { rounds };
            }
        });
        // Also where the work fails: the scope waits for the client.
        let _over = Over(&is_over);
        work(&is_over)
    })
}

#[test]
fn a_capped_copy_keeps_to_its_cap_and_is_a_copy_like_any_other() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    fill(&places, 60, MIB / 10);
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(50);
    let cap = 4 * MIB;
    let spec = capped(&mut places, cap);
    let begin = Instant::now();
    let copied = copy(&places, spec.clone()).unwrap();
    let took = begin.elapsed().as_secs_f64();
    // Sent once by the full sync; a bucket lets a twentieth of a second pass at once.
    let least = (60 * (MIB / 10)) as f64 / cap as f64 - 0.1;
    assert!(took >= least, "6 MiB took {took} s at 4 MiB/s, at least {least}");
    assert!(copied.verified.is_equal() && copied.verified.keys >= 60 && copied.verified.live < 60);
    // Once more where all keys are asked of both servers.
    let begin = Instant::now();
    assert!(matches!(places.handle(Request::Verify(spec.clone())).unwrap(), Reply::Verified(all) if all.live >= 60));
    assert!(begin.elapsed().as_secs_f64() >= least, "{:?}, at least {least}", begin.elapsed());
    let mut source = admin(&places.address(0)).unwrap();
    let syncs = |source: &mut Connection| ["sync_full", "sync_partial_ok"].map(|name| info(source, "stats", name));
    let [full, partial] = syncs(&mut source);
    assert!(full == "1" && partial != "0", "one full sync through the relay, {full}, then partial ones, {partial}");
    let (ip, port) = spec.from.rsplit_once(':').unwrap();
    assert!(conf(&places, 1).contains(&format!("replicaof {ip} {port}")), "{}", conf(&places, 1));
    // Asked again, there is nothing to do; then everything is as after a copy without a cap.
    copy(&places, spec.clone()).unwrap();
    assert_eq!(syncs(&mut source), [full, partial]);
    switch(&places, spec).unwrap();
    writers.publish(&places.address(1));
    writers.write_on(50);
    stop_and_check(&mut writers, &places, 1);
}

#[test]
fn a_capped_copy_whose_agent_is_killed_waits_for_the_next_one() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    fill(&places, 60, MIB / 10);
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(20);
    let slow = capped(&mut places, MIB);
    for victim_too in [false, true] {
        let agent = Agent::start(&places, &[Request::Copy(slow.clone())], None);
        half_way(&places);
        drop(agent);
        is_left_alone(&places);
        assert!(conf(&places, 1).contains(DEAD_END), "{}", conf(&places, 1));
        if victim_too {
            places.kill(1);
            places.restart(1);
            places.await_answer(1);
        }
        // Alive or started anew, it is no master, and sends for nothing.
        let mut target = admin(&places.address(1)).unwrap();
        let is = ["role", "master_host", "master_link_status"].map(|name| info(&mut target, "replication", name));
        assert_eq!(is, ["slave", "127.77.0.17", "down"]);
        assert!(matches!(places.recover(0, 1), Recovered::AtSource { .. }));
    }
    let what = Moves { credentials: credentials(), journals: slow.job.journals.clone() };
    let Reply::Moves(moves) = places.handle(Request::Moves(what)).unwrap() else { panic!() };
    assert_eq!(moves[0].sparing.bandwidth, MIB, "whoever goes on with it knows what it keeps to");
    // Another agent, another relay; its operator is in more of a hurry.
    let fast = capped(&mut places, 16 * MIB);
    let mut agent = Agent::start(&places, &[Request::Copy(fast.clone()), Request::Switch(fast)], None);
    agent.wait();
    let done = replies(&places);
    assert!(matches!(&done[..], [Ok(Reply::Copied(_)), Ok(Reply::Switched(_))]), "{done:?}");
    writers.publish(&places.address(1));
    writers.write_on(20);
    stop_and_check(&mut writers, &places, 1);
}

#[test]
fn a_capped_copy_is_taken_back_or_goes_on_without_a_cap() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    fill(&places, 60, MIB / 10);
    let mut writers = Writers::start(1, &places.address(0));
    let slow = capped(&mut places, MIB);
    let agent = Agent::start(&places, &[Request::Copy(slow.clone())], None);
    half_way(&places);
    drop(agent);
    assert_eq!(places.handle(Request::Abort(slow.clone())).unwrap(), Reply::Aborted);
    is_left_alone(&places);
    assert!(!places.data(1).exists() && !places.conf_path(1).exists() && places.pid(1).is_none());

    let agent = Agent::start(&places, &[Request::Copy(slow)], None);
    half_way(&places);
    drop(agent);
    let spec = places.spec(0, 1);
    copy(&places, spec.clone()).unwrap();
    assert!(!conf(&places, 1).contains(DEAD_END));
    switch(&places, spec).unwrap();
    writers.publish(&places.address(1));
    writers.write_on(20);
    stop_and_check(&mut writers, &places, 1);
}

#[test]
fn a_copy_that_is_cancelled_half_way_ends_at_the_source_too() {
    for bandwidth in [MIB, 0] {
        let mut places = Places::new(2);
        places.provision(0).unwrap();
        fill(&places, 60, MIB / 10);
        let mut source = admin(&places.address(0)).unwrap();
        // Without a cap: six seconds for the keys, by the source's own brake.
        let delay = if bandwidth == 0 { "100000" } else { "0" };
        redis::cmd("CONFIG").arg("SET").arg("rdb-key-save-delay").arg(delay).exec(&mut source).unwrap();
        let (spec, told) = (capped(&mut places, bandwidth), Told::default());
        let error = thread::scope(|scope| {
            let copying = scope.spawn(|| places.handle_with(Request::Copy(spec.clone()), &told).unwrap_err());
            half_way(&places);
            told.stop.store(true, Ordering::SeqCst);
            copying.join().unwrap()
        });
        assert!(format!("{error:#}").contains("cancelled"), "{error:#}");
        is_left_alone(&places);
        redis::cmd("CONFIG").arg("SET").arg("rdb-key-save-delay").arg(0).exec(&mut source).unwrap();
        let spec = MoveSpec { limits: places.spec(0, 1).limits, ..spec };
        copy(&places, spec.clone()).unwrap();
        switch(&places, spec).unwrap();
        assert_eq!(places.writable(), [1]);
    }
}

#[test]
fn nothing_begins_while_the_source_is_slow() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let mut writers = Writers::start(1, &places.address(0));
    writers.write_on(20);
    let impatient = spared(&mut places, Sparing { p99_ms: 150, hold_s: 4, ..Sparing::default() });
    let patient = spared(&mut places, Sparing { p99_ms: 150, hold_s: 60, ..Sparing::default() });
    let journal = impatient.job.journals.join(format!("shard-{SHARD}.jsonl"));
    beside_slow_commands(&places, |_| {
        let error = copy(&places, impatient.clone()).unwrap_err();
        assert!(format!("{error:#}").contains("the copy was not begun"), "{error:#}");
        assert!(format!("{error:#}").contains("ms over 150 ms"), "{error:#}");
    });
    assert_eq!(fs::read_to_string(&journal).unwrap(), "", "no move was begun");
    assert!(!places.conf_path(1).exists());

    let told = Told::default();
    beside_slow_commands(&places, |is_over| {
        thread::scope(|scope| {
            let copying = scope.spawn(|| places.handle_with(Request::Copy(patient.clone()), &told));
            within(Duration::from_secs(30), || told.has("copy held: p99"));
            assert!(!places.conf_path(1).exists());
            is_over.store(true, Ordering::SeqCst);
            copying.join().unwrap().unwrap();
        });
    });
    assert!(told.has("the copy goes on after"));

    // The copy is there; the switch waits too, and nothing is armed meanwhile.
    beside_slow_commands(&places, |_| {
        let error = switch(&places, impatient.clone()).unwrap_err();
        assert!(format!("{error:#}").contains("the switch was not begun"), "{error:#}");
    });
    assert!(!fs::read_to_string(&journal).unwrap().contains("arm"));
    assert_eq!(places.writable(), [0]);
    switch(&places, patient).unwrap();
    writers.publish(&places.address(1));
    writers.write_on(20);
    stop_and_check(&mut writers, &places, 1);
}

#[test]
fn a_frozen_source_holds_a_copy_until_it_answers_again() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let mut writers = Writers::start(1, &places.address(0));
    writers.write_on(20);
    let spec = spared(&mut places, Sparing { p99_ms: 150, hold_s: 60, ..Sparing::default() });
    let (source, told) = (places.pid(0).unwrap(), Told::default());
    thread::scope(|scope| {
        let copying = scope.spawn(|| places.handle_with(Request::Copy(spec.clone()), &told));
        // It is being watched: a connection of the admin's that asks for nothing but PING.
        let mut client = admin(&places.address(0)).unwrap();
        within(Duration::from_secs(20), || {
            let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
            list.contains("cmd=ping")
        });
        kill_process(source, Signal::STOP).unwrap();
        within(Duration::from_secs(30), || told.has("copy held: the source does not answer"));
        kill_process(source, Signal::CONT).unwrap();
        copying.join().unwrap().unwrap();
    });
    switch(&places, spec).unwrap();
    writers.publish(&places.address(1));
    writers.write_on(20);
    stop_and_check(&mut writers, &places, 1);
}

#[test]
fn a_copy_that_slows_the_source_down_is_slowed_down_itself() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    fill(&places, 80, MIB / 10);
    let spec = spared(&mut places, Sparing { p99_ms: 150, bandwidth: 2 * MIB, ..Sparing::default() });
    let told = Told::default();
    thread::scope(|scope| {
        let copying = scope.spawn(|| places.handle_with(Request::Copy(spec.clone()), &told));
        half_way(&places);
        beside_slow_commands(&places, |_| within(Duration::from_secs(20), || told.has("copy slowed down: p99")));
        copying.join().unwrap().unwrap();
    });
    switch(&places, spec).unwrap();
    assert_eq!(places.writable(), [1]);
}

#[test]
fn a_copy_whose_fork_takes_too_much_memory_is_given_up_and_the_source_left_alone() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    fill(&places, 30_000, 1000);
    let cow = Some(Cow::Bytes(4 * MIB));
    let spec = spared(&mut places, Sparing { bandwidth: 2 * MIB, cow, ..Sparing::default() });
    let (is_over, told, address) = (AtomicBool::new(false), Told::default(), places.address(0));
    let copied = thread::scope(|scope| {
        // Writes to all of the data: each page of it becomes the fork's own.
        scope.spawn(|| {
            let mut client = connect(&address, &app()).unwrap();
            for n in (0..30_000).cycle() {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                redis::cmd("SETRANGE").arg(format!("value:{n}")).arg(0).arg("x").exec(&mut client).unwrap();
            }
        });
        let copied = places.handle_with(Request::Copy(spec.clone()), &told);
        is_over.store(true, Ordering::SeqCst);
        copied
    });
    let error = copied.expect_err(&format!("{:?}", told.notes.lock().unwrap()));
    assert!(format!("{error:#}").contains("given up 3 times (copy-on-write memory"), "{error:#}");
    assert!(told.has("copy given up: copy-on-write memory"));
    is_left_alone(&places);
    assert!(conf(&places, 1).contains(DEAD_END));
    // Nobody writes any more: the same copy, under the same limits.
    copy(&places, spec.clone()).unwrap();
    switch(&places, spec).unwrap();
    assert_eq!(places.writable(), [1]);
}

#[test]
fn a_replica_is_made_within_the_cap_too() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    fill(&places, 40, MIB / 10);
    let mut writers = Writers::start(1, &places.address(0));
    writers.write_on(20);
    let spec = capped(&mut places, 2 * MIB);
    let begin = Instant::now();
    let agent = Agent::start(&places, &[Request::Replicate(spec.clone())], None);
    half_way(&places);
    drop(agent);
    is_left_alone(&places);
    assert!(conf(&places, 1).contains(DEAD_END));
    assert!(matches!(places.handle(Request::Replicate(spec.clone())).unwrap(), Reply::Copied(_)));
    let least = (40 * (MIB / 10)) as f64 / (2 * MIB) as f64 - 0.1;
    assert!(begin.elapsed().as_secs_f64() >= least, "{:?}, at least {least}", begin.elapsed());
    assert_eq!(places.handle(Request::Keep(spec)).unwrap(), Reply::Kept);
    assert!(!conf(&places, 1).contains(DEAD_END));
    let mut source = admin(&places.address(0)).unwrap();
    assert_eq!(info(&mut source, "replication", "connected_slaves"), "1");
    stop_and_check(&mut writers, &places, 0);
}
