//! One test for each guard of the protocol: without the guard, its test fails.

use std::fs;
use std::io::Read;
use std::thread;
use std::time::Duration;

use dunlin::wire::shard::{MoveSpec, Reply, Request, Switched};
use redis::Connection;
use rustix::process::{Signal, kill_process};

use crate::child::{Agent, replies};
use crate::moves::{copy, retire, switch};
use crate::places::{Places, admin, app, connect, within};
use crate::writers::{Writers, stop_and_check};

/// An agent that switches and stops itself at that point.
fn stopped_at(places: &Places, spec: &MoveSpec, at: &str) -> Agent {
    let mut agent = Agent::start(places, &[Request::Switch(spec.clone())], Some(&format!("{at}:stop")));
    assert!(agent.stopped(), "it passed {at} without stopping: {:?}", replies(places));
    agent
}

fn go_on(agent: &Agent) {
    kill_process(agent.pid(), Signal::CONT).unwrap();
}

fn switched(places: &Places) -> Switched {
    match replies(places).pop() {
        Some(Ok(Reply::Switched(switched))) => switched,
        other => panic!("{other:?}"),
    }
}

/// The steps and marks of a place's journal, in order.
fn journal(spec: &MoveSpec) -> Vec<(String, String)> {
    let text = fs::read_to_string(spec.job.journals.join(format!("shard-{}.jsonl", spec.job.shard))).unwrap();
    let record = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let word = |value: &serde_json::Value, name: &str| value[name].as_str().unwrap().to_owned();
    text.lines().map(record).map(|value| (word(&value, "step"), word(&value, "mark"))).collect()
}

fn info(connection: &mut Connection, section: &str, name: &str) -> String {
    let text: String = redis::cmd("INFO").arg(section).query(connection).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().to_owned()
}

fn role(places: &Places, n: u8) -> String {
    info(&mut admin(&places.address(n)).unwrap(), "replication", "role")
}

#[test]
fn a_pause_that_ran_out_is_noticed_before_the_fence() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(50);
    let spec = places.spec(0, 1);
    copy(&places, spec.clone()).unwrap();
    let mut agent = stopped_at(&places, &spec, "fence:before");
    // Acknowledgements again: the pause is over.
    writers.write_on(20);
    go_on(&agent);
    agent.wait();
    assert_eq!(switched(&places).retries, 1);
    let steps = journal(&spec);
    let first = |step: &str, mark: &str| steps.iter().position(|(s, m)| s == step && m == mark).unwrap();
    assert!(first("roll_back", "done") < first("fence", "done"), "the first attempt did not fence: {steps:?}");
    writers.publish(&places.address(1));
    writers.write_on(20);
    stop_and_check(&mut writers, &places, 1);
}

#[test]
fn writes_between_the_last_look_and_the_fence_are_kept() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let spec = places.spec(0, 1);
    copy(&places, spec.clone()).unwrap();
    let mut agent = stopped_at(&places, &spec, "fence:last");
    let target = places.pid(1).unwrap();
    kill_process(target, Signal::STOP).unwrap();
    // More than sockets hold, so that the target cannot have it all when it goes on.
    let mut client = connect(&places.address(0), &app()).unwrap();
    let value = "x".repeat(1 << 20);
    for n in 0..40 {
        redis::cmd("SET").arg(format!("large:{n}")).arg(&value).exec(&mut client).unwrap();
    }
    go_on(&agent);
    within(Duration::from_secs(20), || role(&places, 0) == "slave");
    kill_process(target, Signal::CONT).unwrap();
    agent.wait();
    assert_eq!(switched(&places).retries, 1);
    let mut owner = connect(&places.address(1), &app()).unwrap();
    for n in 0..40 {
        let length: usize = redis::cmd("STRLEN").arg(format!("large:{n}")).query(&mut owner).unwrap();
        assert_eq!(length, value.len(), "large:{n}");
    }
    assert_eq!(places.writable(), [1]);
}

#[test]
fn a_fenced_source_does_not_take_over_the_data_of_a_target_that_lacks_some() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let spec = places.spec(0, 1);
    copy(&places, spec.clone()).unwrap();
    let mut agent = stopped_at(&places, &spec, "stand_by:after");
    let target = places.pid(1).unwrap();
    kill_process(target, Signal::STOP).unwrap();
    let mut client = connect(&places.address(0), &app()).unwrap();
    let value = "x".repeat(1 << 20);
    for n in 0..40 {
        redis::cmd("SET").arg(format!("large:{n}")).arg(&value).exec(&mut client).unwrap();
    }
    // A fence too early, as nothing but a mistake could bring it about.
    let mut source = admin(&places.address(0)).unwrap();
    let (ip, port) = spec.to.rsplit_once(':').unwrap();
    redis::cmd("REPLICAOF").arg(ip).arg(port).exec(&mut source).unwrap();
    kill_process(target, Signal::CONT).unwrap();
    let mut behind = admin(&places.address(1)).unwrap();
    let mut refusals = || {
        let log: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query(&mut behind).unwrap();
        let syncs = info(&mut behind, "stats", "sync_full");
        (log.len(), syncs)
    };
    within(Duration::from_secs(20), || refusals() != (0, "0".to_owned()));
    assert_eq!(refusals().1, "0", "the source is let in before the target is promoted");
    go_on(&agent);
    agent.wait();
    switched(&places);
    let mut owner = connect(&places.address(1), &app()).unwrap();
    for n in 0..40 {
        let length: usize = redis::cmd("STRLEN").arg(format!("large:{n}")).query(&mut owner).unwrap();
        assert_eq!(length, value.len(), "large:{n}");
    }
    assert_eq!(places.writable(), [1]);
}

#[test]
fn a_restarted_old_source_refuses_clients_with_an_old_map() {
    for source_is_armed in [false, true] {
        let mut places = Places::with(2, "always");
        places.provision(0).unwrap();
        let mut writers = Writers::start(2, &places.address(0));
        writers.write_on(50);
        let spec = MoveSpec { source_is_armed, ..places.spec(0, 1) };
        copy(&places, spec.clone()).unwrap();
        if source_is_armed {
            let arm = places.arm(0, 1);
            assert_eq!(places.handle(arm).unwrap(), Reply::Armed);
        }
        // The source's role is not in its file yet.
        let mut agent = stopped_at(&places, &spec, "promote:after");
        places.kill(0);
        places.restart(0);
        places.await_answer(0);
        assert_eq!(role(&places, 0), "master");
        let mut stale = connect(&places.address(0), &app()).unwrap();
        for n in 0..50 {
            let refused = redis::cmd("SET").arg(format!("stale:{n}")).arg(n).exec(&mut stale).unwrap_err();
            assert_eq!(refused.code(), Some("NOREPLICAS"), "{refused}");
        }
        assert_eq!(places.writable(), [1]);
        go_on(&agent);
        agent.wait();
        assert_eq!(switched(&places).pending, Vec::<String>::new());
        writers.publish(&places.address(1));
        writers.write_on(20);
        let refused = redis::cmd("SET").arg("stale").arg(1).exec(&mut stale).unwrap_err();
        assert_eq!(refused.code(), Some("READONLY"), "{refused}");
        // Also once it is started anew.
        places.kill(0);
        places.restart(0);
        places.await_answer(0);
        assert_eq!(role(&places, 0), "slave");
        stop_and_check(&mut writers, &places, 1);
    }
}

#[test]
fn other_replicas_follow_the_new_owner_without_a_full_sync() {
    let mut places = Places::new(3);
    places.provision(0).unwrap();
    places.provision_replica(2, 0).unwrap();
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(50);
    let spec = MoveSpec { others: vec![places.address(2)], ..places.spec(0, 1) };
    copy(&places, spec.clone()).unwrap();
    // A replica that the map does not know could make a restarted source writable.
    let unknown = switch(&places, MoveSpec { others: Vec::new(), ..spec.clone() }).unwrap_err();
    assert!(format!("{unknown:#}").contains("has 2 replicas, the map knows 1"), "{unknown:#}");
    let done = switch(&places, spec).unwrap();
    assert_eq!(done.pending, Vec::<String>::new());
    writers.publish(&places.address(1));
    writers.write_on(50);
    let mut owner = admin(&places.address(1)).unwrap();
    within(Duration::from_secs(20), || info(&mut owner, "replication", "connected_slaves") == "2");
    assert_eq!(info(&mut owner, "stats", "sync_full"), "0");
    let (_, port) = places.address(1).rsplit_once(':').map(|(ip, port)| (ip.to_owned(), port.to_owned())).unwrap();
    let conf = fs::read_to_string(places.conf_path(2)).unwrap();
    assert!(conf.contains(&format!("replicaof 127.0.0.3 {port}")), "{conf}");
    retire(&mut places, 0, 1);
    stop_and_check(&mut writers, &places, 1);
    // What was acknowledged is at the replica too.
    let mut replica = admin(&places.address(2)).unwrap();
    let size = |connection: &mut Connection| redis::cmd("DBSIZE").query::<u64>(connection).unwrap();
    within(Duration::from_secs(20), || size(&mut replica) == size(&mut owner));
}

#[test]
fn two_moves_of_one_shard_at_once_hand_nothing_over() {
    let mut places = Places::new(3);
    places.provision(0).unwrap();
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(50);
    let specs = [places.spec(0, 1), places.spec(0, 2)];
    for spec in &specs {
        copy(&places, spec.clone()).unwrap();
    }
    let errors: Vec<String> = thread::scope(|scope| {
        let tries = specs.each_ref().map(|spec| scope.spawn(|| switch(&places, spec.clone())));
        tries.into_iter().map(|tried| format!("{:#}", tried.join().unwrap().unwrap_err())).collect()
    });
    assert!(errors.iter().all(|error| error.contains("has 2 replicas, the map knows 1")), "{errors:?}");
    writers.write_on(20);
    assert_eq!(places.writable(), [0]);
    // Once one of them is taken back, the other can be done.
    assert_eq!(places.handle(Request::Abort(specs[1].clone())).unwrap(), Reply::Aborted);
    switch(&places, specs[0].clone()).unwrap();
    writers.publish(&places.address(1));
    writers.write_on(20);
    stop_and_check(&mut writers, &places, 1);
}

#[test]
fn a_request_for_a_shard_that_is_being_worked_on_is_refused() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let mut writers = Writers::start(1, &places.address(0));
    let spec = places.spec(0, 1);
    copy(&places, spec.clone()).unwrap();
    let mut agent = stopped_at(&places, &spec, "arm:before");
    for request in [Request::Switch(spec.clone()), Request::Recover(spec.clone()), Request::Abort(spec.clone())] {
        let error = places.handle(request).unwrap_err();
        assert!(error.to_string().contains("another request is working on shard 17"), "{error:#}");
    }
    go_on(&agent);
    agent.wait();
    assert!(switch(&places, spec).unwrap().already);
    writers.publish(&places.address(1));
    writers.write_on(20);
    stop_and_check(&mut writers, &places, 1);
}

#[test]
fn a_frozen_source_costs_time_and_no_write() {
    for at in ["pause:before", "drain:before", "fence:last", "promote:before", "open:before"] {
        let mut places = Places::new(2);
        places.provision(0).unwrap();
        let mut writers = Writers::start(2, &places.address(0));
        writers.write_on(50);
        let spec = places.spec(0, 1);
        copy(&places, spec.clone()).unwrap();
        let mut agent = stopped_at(&places, &spec, at);
        let source = places.pid(0).unwrap();
        kill_process(source, Signal::STOP).unwrap();
        go_on(&agent);
        // Longer than any pause; the agent meets a server that accepts connections and says nothing.
        thread::sleep(Duration::from_millis(400));
        kill_process(source, Signal::CONT).unwrap();
        agent.wait();
        assert!(replies(&places)[0].is_ok(), "{at}: {:?}", replies(&places));
        writers.publish(&places.address(1));
        writers.write_on(20);
        stop_and_check(&mut writers, &places, 1);
        assert_eq!(role(&places, 0), "slave", "{at}");
    }
}

#[test]
fn a_full_disk_at_the_target_leaves_the_shard_where_it_is() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let mut client = connect(&places.address(0), &app()).unwrap();
    // Values that no compression makes smaller.
    let random = fs::File::open("/dev/urandom").unwrap();
    for n in 0..40 {
        let mut value = Vec::new();
        random.try_clone().unwrap().take(1 << 18).read_to_end(&mut value).unwrap();
        redis::cmd("SET").arg(format!("large:{n}")).arg(value).exec(&mut client).unwrap();
    }
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(50);
    let mut spec = places.spec(0, 1);
    spec.limits.copy_stall_s = 1;
    // What is preflight's to find, met without it: 10 MB of data, 4 MB of disk.
    let disk = SmallDisk::mount(&places.root(1).join("data"), "4m");
    let error = copy(&places, spec.clone()).unwrap_err();
    eprintln!("{error:#}");
    writers.write_on(20);
    assert_eq!(places.writable(), [0]);
    assert_eq!(places.handle(Request::Abort(spec.clone())).unwrap(), Reply::Aborted);
    assert_eq!(places.pid(1), None);
    drop(disk);
    copy(&places, spec.clone()).unwrap();
    // The journal's disk fills up: what cannot be announced is not done.
    let mut text = fs::read(spec.job.journals.join("shard-17.jsonl")).unwrap();
    assert_eq!(text.pop(), Some(b'\n'));
    text.resize((text.len() + 1).next_multiple_of(PAGE) - 1, b' ');
    text.push(b'\n');
    let disk = SmallDisk::mount(&spec.job.journals, "64k");
    fs::write(spec.job.journals.join("shard-17.jsonl"), text).unwrap();
    fs::write(spec.job.journals.join("filler"), vec![0; 1 << 20]).unwrap_err();
    let error = switch(&places, spec.clone()).unwrap_err();
    assert!(format!("{error:#}").contains("No space left"), "{error:#}");
    assert_eq!(info(&mut admin(&places.address(0)).unwrap(), "replication", "role"), "master");
    writers.write_on(20);
    fs::remove_file(spec.job.journals.join("filler")).unwrap();
    switch(&places, spec).unwrap();
    writers.publish(&places.address(1));
    writers.write_on(20);
    stop_and_check(&mut writers, &places, 1);
    drop(disk);
}

/// What a file on a tmpfs grows by; a full last page leaves no room for another byte.
const PAGE: usize = 4096;

/// A file system of a few bytes; needs root.
pub struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    pub fn mount(path: &std::path::Path, size: &str) -> Self {
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(path);
        assert!(mount.status().unwrap().success(), "mounting needs root");
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

#[test]
fn a_cancelled_move_hands_nothing_over() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(50);
    let spec = places.spec(0, 1);
    for request in [Request::Copy(spec.clone()), Request::Switch(spec.clone())] {
        let error = places.handle_cancelled(request).unwrap_err();
        assert!(format!("{error:#}").contains("cancelled"), "{error:#}");
        assert_eq!(places.writable(), [0]);
        assert_eq!(role(&places, 0), "master");
        copy(&places, spec.clone()).unwrap();
    }
    switch(&places, spec).unwrap();
    writers.publish(&places.address(1));
    writers.write_on(20);
    stop_and_check(&mut writers, &places, 1);
}
