//! Everything that stands in a move's way is found before the first write, and without one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use dunlin::wire::shard::{MoveSpec, Refusal, Reply, Request};
use redis::Connection;
use serde_json::Value;

use crate::child::{Agent, World, replies};
use crate::directed::SmallDisk;
use crate::moves::copy;
use crate::places::{Places, admin};
use crate::verification::{fill, run};
use crate::writers::Writers;

/// Commands that change nothing. All others are counted.
const READS: &[&str] = &[
    "acl|dryrun",
    "acl|list",
    "acl|whoami",
    "auth",
    "client|list",
    "config|get",
    "dbsize",
    "hgetall",
    "hello",
    "info",
    "memory|usage",
    "object|encoding",
    "ping",
    "psync",
    "replconf",
    "role",
    "scan",
    "select",
    "type",
    "zrange",
];
/// What the tests' own writers send.
const WRITERS: &[&str] = &["zadd", "incr", "multi", "exec", "eval", "fcall", "function|load"];

/// How often commands were called that change something, by name, at all instances that run.
fn writes(places: &Places, count: u8) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::new();
    for mut connection in (0..count).filter_map(|n| admin(&places.address(n)).ok()) {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut connection).unwrap();
        for line in stats.lines() {
            let Some((name, stat)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(':')) else {
                continue;
            };
            if !READS.contains(&name) && !WRITERS.contains(&name) {
                let number = stat.strip_prefix("calls=").and_then(|stat| stat.split(',').next()).unwrap();
                *calls.entry(name.to_owned()).or_default() += number.parse::<u64>().unwrap();
            }
        }
    }
    calls
}

/// What preflight says in some world, and that it wrote nothing to any instance.
fn refusals(world: &World, places: &Places, spec: &MoveSpec) -> Vec<Refusal> {
    let before = writes(places, 3);
    let mut agent = Agent::start_in(world, places, &[Request::Preflight(spec.clone())], None);
    agent.wait();
    let refusals = match replies(places).pop() {
        Some(Ok(Reply::Preflight(refusals))) => refusals,
        other => panic!("{other:?}"),
    };
    assert_eq!(writes(places, 3), before, "{refusals:?}");
    refusals
}

fn rules(refusals: &[Refusal]) -> BTreeSet<&str> {
    refusals.iter().map(|refusal| refusal.rule.as_str()).collect()
}

/// Holds that exactly this rule speaks against the move, with these words in its reason.
#[track_caller]
fn refused(world: &World, places: &Places, spec: &MoveSpec, (rule, words): (&str, &str)) {
    let found = refusals(world, places, spec);
    assert_eq!(rules(&found), BTreeSet::from([rule]), "{found:?}");
    assert!(found.iter().any(|refusal| refusal.reason.contains(words)), "{found:?}");
}

/// The move with one of its target's files edited.
fn edited(places: &mut Places, file: &str, from: &str, to: &str) -> MoveSpec {
    let mut spec = places.spec(0, 1);
    let digest = serde_json::from_value(spec.instance[file]["digest"].clone()).unwrap();
    let text = String::from_utf8(dunlin::resources::Blobs::get(&places.contents, &digest).unwrap()).unwrap();
    assert!(text.contains(from), "{text}");
    let content: Value = places.content(text.replace(from, to).as_bytes());
    spec.instance[file] = content;
    spec
}

/// A source with data; places for two more.
fn ready() -> Places {
    let mut places = Places::new(3);
    places.provision(0).unwrap();
    fill(&places);
    places
}

fn source(places: &Places) -> Connection {
    admin(&places.address(0)).unwrap()
}

fn file(places: &Places, name: &str, text: &str) -> std::path::PathBuf {
    let path = places.folder.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn nothing_speaks_against_a_good_move() {
    let mut places = ready();
    let spec = places.spec(0, 1);
    assert_eq!(refusals(&World::default(), &places, &spec), []);
}

#[test]
fn what_the_targets_files_say() {
    let mut places = ready();
    let here = World::default();
    for (name, from, to, found) in [
        ("conf", "maxmemory 256mb", "maxmemory 100kb", ("memory", "the target's maxmemory is 102400")),
        ("conf", "maxmemory-policy noeviction", "maxmemory-policy allkeys-lru", ("eviction", "allkeys-lru")),
        ("conf", "maxmemory-policy noeviction", "maxmemory-policy allkeys-random", ("eviction", "allkeys-random")),
        ("conf", "a replica's word", "no such word", ("password", "masterauth")),
        ("acl", "user s017 on", "user s018 on", ("acl", "no user s017")),
        ("acl", "user s017 on", "user s017 off", ("acl", "no user s017 that is on")),
        ("acl", "user s017 on", "# user s017 on", ("acl", "ACL file, line 4: a line must start with `user`")),
        ("acl", "resetpass ~* &* +@all", "resetchannels -@all", ("acl", "line 1: the user default lacks ~* &* +@all")),
        ("acl", "resetpass ~* &* +@all", "~* &* +@all -@dangerous", ("acl", "line 1: the user default lacks +@all")),
    ] {
        let spec = edited(&mut places, name, from, to);
        refused(&here, &places, &spec, found);
    }
    let mut spec = places.spec(0, 1);
    spec.job.credentials.password = "guessed".to_owned();
    refused(&here, &places, &spec, ("password", "cannot be entered"));
}

#[test]
fn what_the_host_has() {
    let mut places = ready();
    let spec = places.spec(0, 1);
    let little = file(&places, "meminfo", "MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable: 10 kB\n");
    let world = |file: &std::path::Path, over| World { over: vec![(file.to_owned(), over)] };
    let found = refusals(&world(&little, "/proc/meminfo"), &places, &spec);
    assert!(rules(&found).contains("memory"), "{found:?}");
    assert!(found.iter().any(|refusal| refusal.reason.contains("10240 bytes available")), "{found:?}");
    let off = file(&places, "overcommit", "2\n");
    let world = world(&off, "/proc/sys/vm/overcommit_memory");
    refused(&world, &places, &spec, ("overcommit", "vm.overcommit_memory is 2"));

    let old = file(&places, "old", "#!/bin/sh\necho 'Redis server v=6.2.14 sha=0:0 malloc=libc bits=64'\n");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    let world = World { over: vec![(old, "$(command -v redis-server)")] };
    refused(&world, &places, &spec, ("version", "6.2.14 on the target's host is older"));

    let _disk = SmallDisk::mount(&places.root(1).join("data"), "16k");
    refused(&World::default(), &places, &spec, ("disk", "bytes free"));
}

#[test]
fn what_runs_where_the_target_is_to_be() {
    let mut places = ready();
    let here = World::default();
    let spec = places.spec(0, 1);
    places.provision(1).unwrap();
    run(&mut admin(&places.address(1)).unwrap(), "SET mine 1");
    refused(&here, &places, &spec, ("target", "an instance of its own with 1 keys"));
    let error = copy(&places, spec.clone()).unwrap_err();
    assert!(format!("{error:#}").contains("not touched"), "{error:#}");
    assert!(fs::exists(places.data(1)).unwrap());
    // A replica of a third one.
    places.provision(2).unwrap();
    let (host, port) = places.address(2).rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    run(&mut admin(&places.address(1)).unwrap(), &format!("REPLICAOF {host} {port}"));
    refused(&here, &places, &spec, ("target", "follows 127.0.0.4"));
    // And a stranger.
    places.kill(1);
    let _listener = std::net::TcpListener::bind(places.address(1)).unwrap();
    let found = refusals(&here, &places, &spec);
    assert_eq!(rules(&found), BTreeSet::from(["target"]), "{found:?}");
}

#[test]
fn what_the_source_is_like() {
    let mut places = ready();
    let here = World::default();
    let spec = places.spec(0, 1);
    run(&mut source(&places), "ACL SETUSER replica -psync");
    refused(&here, &places, &spec, ("acl", "lets replica not use PSYNC"));
    run(&mut source(&places), "ACL SETUSER replica +psync");
    run(&mut source(&places), "ACL SETUSER default -@all");
    refused(&here, &places, &spec, ("acl", "`dunlin provision` fixes the file and the running instance"));
    run(&mut source(&places), "ACL SETUSER default +@all");
    run(&mut source(&places), "CONFIG SET appendonly no");
    refused(&here, &places, &spec, ("source", "keeps no append-only file"));
    run(&mut source(&places), "CONFIG SET appendonly yes");
    // The writers make far more than a thousand bytes a second.
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("client-output-buffer-limit")
        .arg("replica 1000 1000 60")
        .exec(&mut source(&places))
        .unwrap();
    let writers = Writers::start(3, &places.address(0));
    writers.write_on(20);
    refused(&here, &places, &spec, ("buffer", "replica output buffer of 1000 bytes would overflow"));
}

#[test]
fn other_listpack_limits_are_refused_or_foretold() {
    let mut places = Places::new(3);
    places.provision(0).unwrap();
    let mut client = source(&places);
    for key in 0..200 {
        let mut add = redis::cmd("ZADD");
        add.arg(format!("timeline:{key}"));
        for member in 0..1000 {
            add.arg(member).arg(1_000_000_000_000_u64 + member);
        }
        add.exec(&mut client).unwrap();
    }
    let mut spec = edited(&mut places, "conf", "zset-max-listpack-entries 1100", "zset-max-listpack-entries 128");
    refused(&World::default(), &places, &spec, ("encoding", "zset-max-listpack-entries is 1100 at the source and 128"));
    spec.limits.allow_reencoding = true;
    let before = writes(&places, 3);
    let (reply, notes) = places.handle_noted(Request::Preflight(spec.clone()));
    assert_eq!(reply.unwrap(), Reply::Preflight(Vec::new()));
    assert_eq!(writes(&places, 3), before);
    // Data that grow at the target must fit there as they will be.
    let tight =
        edited(&mut places, "conf", "zset-max-listpack-entries 1100", "zset-max-listpack-entries 128\nmaxmemory 8mb");
    let tight = MoveSpec { limits: spec.limits, ..tight };
    refused(&World::default(), &places, &tight, ("memory", "the target's maxmemory is 8388608"));
    let told = notes.iter().find_map(|note| note.split_once("become about ")).unwrap().1;
    let foretold: u64 = told.trim().parse().unwrap();
    let bytes = copy(&places, spec).unwrap().bytes;
    assert!(bytes.abs_diff(foretold) < bytes / 5, "{foretold} foretold, {bytes} found");
}
