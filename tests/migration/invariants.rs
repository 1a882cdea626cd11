//! One test for each guard of the protocol: without the guard, its test fails.

use std::fs;
use std::io::Read;
use std::thread;
use std::time::Duration;

use dunlin::protocol::shard::{CutoverResult, MoveSpec, ShardReply, ShardRequest};
use redis::Connection;
use rustix::process::{Signal, kill_process};

use crate::agent_process::{AgentProcess, read_replies};
use crate::fixture::{MoveFixture, app_credentials, connect_admin, connect_as, wait_until};
use crate::messages;
use crate::moves::{run_copy, run_retire, run_switch};
use crate::writers::{MoveWriters, stop_and_check};

/// An agent that switches and stops itself at that point.
fn start_and_stop_at(fixture: &MoveFixture, spec: &MoveSpec, at: &str) -> AgentProcess {
    let mut agent =
        AgentProcess::start_agent(fixture, &[ShardRequest::CutOver(spec.clone())], Some(&format!("{at}:stop")));
    assert!(agent.wait_for_stop(), "it passed {at} without stopping: {:?}", read_replies(fixture));
    agent
}

fn resume_agent(agent: &AgentProcess) {
    kill_process(agent.pid(), Signal::CONT).unwrap();
}

fn last_switched(fixture: &MoveFixture) -> CutoverResult {
    match read_replies(fixture).pop() {
        Some(Ok(ShardReply::CutOver(switched))) => switched,
        other => panic!("{other:?}"),
    }
}

/// The steps and marks of a place's journal, in order.
fn journal_steps(spec: &MoveSpec) -> Vec<(String, String)> {
    let text = fs::read_to_string(spec.header.journal_dir.join(format!("shard-{}.jsonl", spec.header.shard))).unwrap();
    let record = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let word = |value: &serde_json::Value, name: &str| value[name].as_str().unwrap().to_owned();
    text.lines().map(record).map(|value| (word(&value, "phase"), word(&value, "state"))).collect()
}

pub fn info_field(connection: &mut Connection, section: &str, name: &str) -> String {
    let text: String = redis::cmd("INFO").arg(section).query(connection).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().to_owned()
}

fn role_of(fixture: &MoveFixture, n: u8) -> String {
    info_field(&mut connect_admin(&fixture.address(n)).unwrap(), "replication", "role")
}

#[test]
fn expired_pauses_are_detected_before_demoting_the_source() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(50);
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    let mut agent = start_and_stop_at(&fixture, &spec, "demote_source:before");
    // Acknowledgements again: the pause is over.
    writers.wait_for_writes(20);
    resume_agent(&agent);
    agent.wait_for_exit();
    let switched = last_switched(&fixture);
    assert_eq!(switched.retries, 1);
    // The pause of the first attempt counts in full, and not the time for which the agent was stopped.
    assert!(switched.gap_us >= spec.limits.max_write_pause_ms * 1000, "{switched:?}");
    let steps = journal_steps(&spec);
    let first = |step: &str, mark: &str| steps.iter().position(|(s, m)| s == step && m == mark).unwrap();
    assert!(first("roll_back", "done") < first("demote_source", "done"), "the first attempt did not fence: {steps:?}");
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(20);
    stop_and_check(&mut writers, &fixture, 1);
}

#[test]
fn writes_just_before_the_cutover_are_preserved() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    let mut agent = start_and_stop_at(&fixture, &spec, "demote_source:last");
    let target = fixture.read_pid(1).unwrap();
    kill_process(target, Signal::STOP).unwrap();
    // More than sockets hold, so that the target cannot have it all when it goes on.
    let mut client = connect_as(&fixture.address(0), &app_credentials()).unwrap();
    let value = "x".repeat(1 << 20);
    for n in 0..40 {
        redis::cmd("SET").arg(format!("large:{n}")).arg(&value).exec(&mut client).unwrap();
    }
    resume_agent(&agent);
    wait_until(Duration::from_secs(20), || role_of(&fixture, 0) == "slave");
    kill_process(target, Signal::CONT).unwrap();
    agent.wait_for_exit();
    assert_eq!(last_switched(&fixture).retries, 1);
    let mut owner = connect_as(&fixture.address(1), &app_credentials()).unwrap();
    for n in 0..40 {
        let length: usize = redis::cmd("STRLEN").arg(format!("large:{n}")).query(&mut owner).unwrap();
        assert_eq!(length, value.len(), "large:{n}");
    }
    assert_eq!(fixture.writable_instances(), [1]);
}

#[test]
fn demoted_sources_do_not_sync_from_incomplete_targets() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    let mut agent = start_and_stop_at(&fixture, &spec, "prepare_standby:after");
    let target = fixture.read_pid(1).unwrap();
    kill_process(target, Signal::STOP).unwrap();
    let mut client = connect_as(&fixture.address(0), &app_credentials()).unwrap();
    let value = "x".repeat(1 << 20);
    for n in 0..40 {
        redis::cmd("SET").arg(format!("large:{n}")).arg(&value).exec(&mut client).unwrap();
    }
    // A fence too early, as nothing but a mistake could bring it about.
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    let (ip, port) = (&spec.record.to.host, spec.record.to.port);
    redis::cmd("REPLICAOF").arg(ip).arg(port).exec(&mut source).unwrap();
    kill_process(target, Signal::CONT).unwrap();
    let mut behind = connect_admin(&fixture.address(1)).unwrap();
    let mut refusals = || {
        let log: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query(&mut behind).unwrap();
        let syncs = info_field(&mut behind, "stats", "sync_full");
        (log.len(), syncs)
    };
    wait_until(Duration::from_secs(20), || refusals() != (0, "0".to_owned()));
    assert_eq!(refusals().1, "0", "the source is let in before the target is promoted");
    resume_agent(&agent);
    agent.wait_for_exit();
    last_switched(&fixture);
    let mut owner = connect_as(&fixture.address(1), &app_credentials()).unwrap();
    for n in 0..40 {
        let length: usize = redis::cmd("STRLEN").arg(format!("large:{n}")).query(&mut owner).unwrap();
        assert_eq!(length, value.len(), "large:{n}");
    }
    assert_eq!(fixture.writable_instances(), [1]);
}

#[test]
fn a_restarted_old_source_refuses_clients_with_an_old_map() {
    for min_replicas_set in [false, true] {
        let mut fixture = MoveFixture::with_appendfsync(2, "always");
        fixture.provision_primary(0).unwrap();
        let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
        writers.wait_for_writes(50);
        let spec = MoveSpec { source_file_requires_replicas: min_replicas_set, ..fixture.move_spec(0, 1) };
        run_copy(&fixture, spec.clone()).unwrap();
        if min_replicas_set {
            let arm = fixture.min_replicas_request(0, 1);
            assert_eq!(fixture.run_request(arm).unwrap(), ShardReply::RequireReplicas(()));
        }
        // The source's role is not in its file yet.
        let mut agent = start_and_stop_at(&fixture, &spec, "promote:after");
        fixture.kill_instance(0);
        fixture.restart_instance(0);
        fixture.wait_until_ready(0);
        assert_eq!(role_of(&fixture, 0), "master");
        let mut stale = connect_as(&fixture.address(0), &app_credentials()).unwrap();
        for n in 0..50 {
            let refused = redis::cmd("SET").arg(format!("stale:{n}")).arg(n).exec(&mut stale).unwrap_err();
            assert_eq!(refused.code(), Some("NOREPLICAS"), "{refused}");
        }
        assert_eq!(fixture.writable_instances(), [1]);
        resume_agent(&agent);
        agent.wait_for_exit();
        assert_eq!(last_switched(&fixture).follow_ups, Vec::<String>::new());
        writers.publish_address(&fixture.address(1));
        writers.wait_for_writes(20);
        let refused = redis::cmd("SET").arg("stale").arg(1).exec(&mut stale).unwrap_err();
        assert_eq!(refused.code(), Some("READONLY"), "{refused}");
        // Also after a restart.
        fixture.kill_instance(0);
        fixture.restart_instance(0);
        fixture.wait_until_ready(0);
        assert_eq!(role_of(&fixture, 0), "slave");
        stop_and_check(&mut writers, &fixture, 1);
    }
}

#[test]
fn other_replicas_follow_the_new_primary_without_a_full_sync() {
    let mut fixture = MoveFixture::with_instances(3);
    fixture.provision_primary(0).unwrap();
    fixture.provision_replica(2, 0).unwrap();
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(50);
    let spec = fixture.move_spec_with_replicas(0, 1, &[2]);
    run_copy(&fixture, spec.clone()).unwrap();
    // A replica that the map does not know could make a restarted source writable.
    let without_replica = fixture.move_spec(0, 1);
    let unknown = run_switch(&fixture, without_replica).unwrap_err();
    messages::check("cutover-with-unknown-replica", [("cutover", format!("{unknown:#}"))]);
    let done = run_switch(&fixture, spec).unwrap();
    assert_eq!(done.follow_ups, Vec::<String>::new());
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(50);
    let mut owner = connect_admin(&fixture.address(1)).unwrap();
    wait_until(Duration::from_secs(20), || info_field(&mut owner, "replication", "connected_slaves") == "2");
    assert_eq!(info_field(&mut owner, "stats", "sync_full"), "0");
    let (_, port) = fixture.address(1).rsplit_once(':').map(|(ip, port)| (ip.to_owned(), port.to_owned())).unwrap();
    let conf = fs::read_to_string(fixture.conf_path(2)).unwrap();
    assert!(conf.contains(&format!("replicaof 127.0.0.3 {port}")), "{conf}");
    run_retire(&mut fixture, 0, 1);
    stop_and_check(&mut writers, &fixture, 1);
    // What was acknowledged is at the replica too.
    let mut replica = connect_admin(&fixture.address(2)).unwrap();
    let size = |connection: &mut Connection| redis::cmd("DBSIZE").query::<u64>(connection).unwrap();
    wait_until(Duration::from_secs(20), || size(&mut replica) == size(&mut owner));
}

#[test]
fn concurrent_moves_of_one_shard_do_not_cut_over() {
    let mut fixture = MoveFixture::with_instances(3);
    fixture.provision_primary(0).unwrap();
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(50);
    let specs = [fixture.move_spec(0, 1), fixture.move_spec(0, 2)];
    for spec in &specs {
        run_copy(&fixture, spec.clone()).unwrap();
    }
    let errors: Vec<String> = thread::scope(|scope| {
        let tries = specs.each_ref().map(|spec| scope.spawn(|| run_switch(&fixture, spec.clone())));
        tries.into_iter().map(|tried| format!("{:#}", tried.join().unwrap().unwrap_err())).collect()
    });
    messages::check("concurrent-moves-of-a-shard", errors.iter().map(|error| ("cutover", error)));
    writers.wait_for_writes(20);
    assert_eq!(fixture.writable_instances(), [0]);
    // Once one of them is taken back, the other can be done.
    assert_eq!(fixture.run_request(ShardRequest::Abort(specs[1].clone())).unwrap(), ShardReply::Abort(()));
    run_switch(&fixture, specs[0].clone()).unwrap();
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(20);
    stop_and_check(&mut writers, &fixture, 1);
}

#[test]
fn requests_for_a_busy_shard_are_rejected() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut writers = MoveWriters::start_writers(1, &fixture.address(0));
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    let mut agent = start_and_stop_at(&fixture, &spec, "require_replicas:before");
    for request in
        [ShardRequest::CutOver(spec.clone()), ShardRequest::Recover(spec.clone()), ShardRequest::Abort(spec.clone())]
    {
        let error = fixture.run_request(request).unwrap_err();
        messages::check("shard-is-busy", [("any request", format!("{error:#}"))]);
    }
    resume_agent(&agent);
    agent.wait_for_exit();
    assert!(run_switch(&fixture, spec).unwrap().already_cut_over);
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(20);
    stop_and_check(&mut writers, &fixture, 1);
}

#[test]
fn frozen_sources_delay_but_lose_no_write() {
    for at in ["pause:before", "drain:before", "demote_source:last", "promote:before", "open_target:before"] {
        let mut fixture = MoveFixture::with_instances(2);
        fixture.provision_primary(0).unwrap();
        let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
        writers.wait_for_writes(50);
        let spec = fixture.move_spec(0, 1);
        run_copy(&fixture, spec.clone()).unwrap();
        let mut agent = start_and_stop_at(&fixture, &spec, at);
        let source = fixture.read_pid(0).unwrap();
        kill_process(source, Signal::STOP).unwrap();
        resume_agent(&agent);
        // Longer than any pause; the agent meets a server that accepts connections and says nothing.
        thread::sleep(Duration::from_millis(400));
        kill_process(source, Signal::CONT).unwrap();
        agent.wait_for_exit();
        assert!(read_replies(&fixture)[0].is_ok(), "{at}: {:?}", read_replies(&fixture));
        writers.publish_address(&fixture.address(1));
        writers.wait_for_writes(20);
        stop_and_check(&mut writers, &fixture, 1);
        assert_eq!(role_of(&fixture, 0), "slave", "{at}");
    }
}

#[test]
fn full_target_disks_leave_the_shard_in_place() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut client = connect_as(&fixture.address(0), &app_credentials()).unwrap();
    // Values that no compression makes smaller.
    let random = fs::File::open("/dev/urandom").unwrap();
    for n in 0..40 {
        let mut value = Vec::new();
        random.try_clone().unwrap().take(1 << 18).read_to_end(&mut value).unwrap();
        redis::cmd("SET").arg(format!("large:{n}")).arg(value).exec(&mut client).unwrap();
    }
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(50);
    let mut spec = fixture.move_spec(0, 1);
    spec.limits.copy_stall_timeout_s = 1;
    // What is preflight's to find, met without it: 10 MB of data, 4 MB of disk.
    let disk = SmallDisk::mount_tmpfs(&fixture.instance_root(1).join("data"), "4m");
    let error = run_copy(&fixture, spec.clone()).unwrap_err();
    messages::check("copy-onto-a-full-disk", [("copy", format!("{error:#}"))]);
    writers.wait_for_writes(20);
    assert_eq!(fixture.writable_instances(), [0]);
    assert_eq!(fixture.run_request(ShardRequest::Abort(spec.clone())).unwrap(), ShardReply::Abort(()));
    assert_eq!(fixture.read_pid(1), None);
    drop(disk);
    run_copy(&fixture, spec.clone()).unwrap();
    // The journal's disk fills up: what cannot be announced is not done.
    let mut text = fs::read(spec.header.journal_dir.join("shard-17.jsonl")).unwrap();
    assert_eq!(text.pop(), Some(b'\n'));
    text.resize((text.len() + 1).next_multiple_of(PAGE_BYTES) - 1, b' ');
    text.push(b'\n');
    let disk = SmallDisk::mount_tmpfs(&spec.header.journal_dir, "64k");
    fs::write(spec.header.journal_dir.join("shard-17.jsonl"), text).unwrap();
    fs::write(spec.header.journal_dir.join("filler"), vec![0; 1 << 20]).unwrap_err();
    let error = run_switch(&fixture, spec.clone()).unwrap_err();
    messages::check("journal-without-space", [("cutover", format!("{error:#}"))]);
    assert_eq!(info_field(&mut connect_admin(&fixture.address(0)).unwrap(), "replication", "role"), "master");
    writers.wait_for_writes(20);
    fs::remove_file(spec.header.journal_dir.join("filler")).unwrap();
    run_switch(&fixture, spec).unwrap();
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(20);
    stop_and_check(&mut writers, &fixture, 1);
    drop(disk);
}

/// What a file on a tmpfs grows by; a full last page leaves no room for another byte.
const PAGE_BYTES: usize = 4096;

/// A file system of a few bytes; needs root.
pub struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    pub fn mount_tmpfs(path: &std::path::Path, size: &str) -> Self {
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
fn cancelled_moves_do_not_cut_over() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(50);
    let spec = fixture.move_spec(0, 1);
    for (step, request) in
        [("copy", ShardRequest::Copy(spec.clone())), ("cutover", ShardRequest::CutOver(spec.clone()))]
    {
        let error = fixture.run_cancelled(request).unwrap_err();
        messages::check(&format!("{step}-cancelled-at-once"), [(step, format!("{error:#}"))]);
        assert_eq!(fixture.writable_instances(), [0]);
        assert_eq!(role_of(&fixture, 0), "master");
        run_copy(&fixture, spec.clone()).unwrap();
    }
    run_switch(&fixture, spec).unwrap();
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(20);
    stop_and_check(&mut writers, &fixture, 1);
}
