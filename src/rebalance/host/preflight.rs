//! P0: everything that stands in a move's way, found at once and without a write to any Redis.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use redis::Value;

use super::arm::attached;
use super::birth;
use super::link::{Info, Link, host_and_port, role_of, words, written};
use super::reencoding::{self, Predicted};
use crate::process::Program;
use crate::resources::Blobs;
use crate::resources::redis_shard::RedisShard;
use crate::resources::redis_shard::acl::{self, Acl};
use crate::resources::redis_shard::conf::Conf;
use crate::wire::shard::{Credentials, MoveSpec, Refusal, Role};
use crate::wire::{Event, Sink};

/// Over which time the source's write rate is taken.
const WINDOW: Duration = Duration::from_millis(200);
/// A full sync moves at least this many bytes per second; slower ones need a larger buffer than is predicted.
const SYNC_RATE: u64 = 50_000_000;
/// Settings that decide about encodings.
const ENCODINGS: &[&str] = &[
    "zset-max-listpack-entries",
    "zset-max-listpack-value",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "list-max-listpack-size",
    "set-max-intset-entries",
];

/// The reasons against a move; empty where there are none. What could not be looked at is a reason too.
pub fn refusals(spec: &MoveSpec, blobs: &dyn Blobs, sink: &dyn Sink) -> Vec<Refusal> {
    let mut found = Found(Vec::new());
    let desired = birth::instance(spec).and_then(|instance| {
        let text = |digest| Ok::<_, anyhow::Error>(String::from_utf8_lossy(&blobs.get(digest)?).into_owned());
        let (conf, acl) = (text(&instance.conf.digest)?, text(&instance.acl.digest)?);
        Ok((Conf::parse(&conf), acl, instance))
    });
    let source = match Link::open(&spec.from, &spec.job.credentials) {
        Ok(link) => Some(link),
        Err(error) => {
            let text = format!("{error:#}");
            let rule = if text.contains("uthentication") || text.contains("WRONGPASS") { "password" } else { "source" };
            found.add(rule, format!("the source {} cannot be entered: {text}", spec.from));
            None
        }
    };
    match desired {
        Err(error) => found.add("target", format!("{error:#}")),
        Ok((conf, acl, instance)) => {
            found.tried("target", target(spec, &instance));
            found.checked("eviction", eviction(&conf));
            found.checked("acl", target_acl(spec, &conf, &acl));
            if let Some(mut source) = source {
                let looked = from_source(&mut source, spec, (&conf, &instance), (&mut found, sink));
                found.tried("source", looked);
            }
        }
    }
    found.0
}

struct Found(Vec<Refusal>);

impl Found {
    fn add(&mut self, rule: &str, reason: String) {
        self.0.push(Refusal { rule: rule.to_owned(), reason });
    }

    fn checked(&mut self, rule: &str, reason: Option<String>) {
        if let Some(reason) = reason {
            self.add(rule, reason);
        }
    }

    fn tried(&mut self, rule: &str, looked: Result<()>) {
        if let Err(error) = looked {
            self.add(rule, format!("{error:#}"));
        }
    }
}

/// The place of the target: free, or held by the copy of an earlier attempt.
fn target(spec: &MoveSpec, instance: &RedisShard) -> Result<()> {
    if birth::is_copy(instance, spec)? {
        return Ok(());
    }
    match role_of(&spec.to, &spec.job.credentials) {
        Role::Unreachable => {
            let connected = spec.to.parse().ok().map(|to| std::net::TcpStream::connect_timeout(&to, WINDOW));
            if matches!(connected, Some(Ok(_))) {
                anyhow::bail!("something that dunlin cannot enter listens at {}", spec.to);
            }
            Ok(())
        }
        Role::Replica { of, .. } => anyhow::bail!("an instance at {} follows {of}", spec.to),
        Role::Master { .. } => {
            let mut link = Link::open(&spec.to, &spec.job.credentials)?;
            let keys: u64 = link.ask(&words(&["DBSIZE"]))?;
            anyhow::bail!("an instance of its own with {keys} keys runs at {}", spec.to)
        }
    }
}

fn eviction(conf: &Conf) -> Option<String> {
    let policy = conf.get("maxmemory-policy").unwrap_or_else(|| "noeviction".to_owned());
    let drops = conf.bytes("maxmemory").is_some_and(|limit| limit > 0) && policy != "noeviction";
    drops.then(|| format!("the target would drop keys on its own: maxmemory-policy {policy} (noeviction is needed)"))
}

/// The target's ACL file: users that are needed, and a `default` user that replays the append-only file.
fn target_acl(spec: &MoveSpec, conf: &Conf, text: &str) -> Option<String> {
    let acl = match Acl::parse(text) {
        Ok(acl) => acl,
        Err(error) => return Some(format!("the target's ACL file, {error}")),
    };
    let user = &spec.app_user;
    if acl.is_on(user) != Some(true) {
        return Some(format!("the target's ACL file has no user {user} that is on"));
    }
    let replay = acl::require_replay_rights(text).err().filter(|_| conf.is_append_only());
    replay.map(|error| format!("the target's ACL file, {error}"))
}

/// The users that the source has in memory: a restart of it during the move must not lose transactions.
fn source_acl(source: &mut Link, info: &Info) -> Result<Option<String>> {
    if !drops_transactions(info) {
        return Ok(None);
    }
    let users: Vec<String> = source.ask(&words(&["ACL", "LIST"]))?;
    let missing = Acl::parse(&users.join("\n"))?.missing_replay_rights();
    let reason = (!missing.is_empty()).then(|| acl::explain_missing(&missing));
    Ok(reason.map(|reason| {
        format!("at {}, {reason}; `dunlin provision` fixes the file and the running instance", source.address)
    }))
}

/// Does a server of this version replay transactions as the `default` user? Valkey from 9.0 on does not; others may.
fn drops_transactions(info: &Info) -> bool {
    let major = info.text("valkey_version").split('.').next().and_then(|major| major.parse::<u32>().ok());
    info.text("server_name") != "valkey" || major.is_none_or(|major| major < 9)
}

fn from_source(
    source: &mut Link,
    spec: &MoveSpec,
    (conf, instance): (&Conf, &RedisShard),
    (found, sink): (&mut Found, &dyn Sink),
) -> Result<()> {
    let info = source.info("all")?;
    match source.role()? {
        Role::Master { .. } => {}
        role => found.add("source", format!("{} is no master: {role:?}", spec.from)),
    }
    if info.text("aof_enabled") != "1" {
        found.add("source", format!("{} keeps no append-only file: restarted, it would empty its copy", spec.from));
    }
    match source_acl(source, &info) {
        Ok(reason) => found.checked("acl", reason),
        Err(error) => found.add("acl", format!("{error:#}")),
    }
    replicas(source, spec, &info, found);
    found.checked("version", version(info.text("redis_version"), &local_version()?));
    let grown = encodings(source, spec, conf, (found, sink))?;
    memory(info.number("used_memory") + grown, conf, found)?;
    found.checked("disk", disk(&info, instance)?);
    replica_user(source, spec, conf, found)?;
    found.checked("buffer", buffer(source, &info, spec.limits.sparing.bandwidth)?);
    Ok(())
}

/// The switch counts the source's replicas: all that the map names must be attached, and no others.
fn replicas(source: &mut Link, spec: &MoveSpec, info: &Info, found: &mut Found) {
    for other in &spec.others {
        found.tried("replica", attached(source, other));
    }
    let (known, there) = (spec.others.len() as u64, info.number("connected_slaves"));
    let copy = u64::from(info.iter().any(|(name, line)| name.starts_with("slave") && names(line, &spec.to)));
    if there > known + copy {
        let text = format!("{} has {there} replicas, the map knows {known}", spec.from);
        found.add("stranger", format!("{text}: dunlin shards status names what it does not know"));
    }
}

/// Does a line of `INFO replication` speak of the replica at this address?
fn names(line: &str, address: &str) -> bool {
    host_and_port(address).is_ok_and(|(ip, port)| line.starts_with(&format!("ip={ip},port={port},")))
}

fn local_version() -> Result<String> {
    let said = Program::new("redis-server").arg("--version").run().context("redis-server on the target's host")?;
    let said = String::from_utf8_lossy(&said).into_owned();
    let version = said.split_whitespace().find_map(|word| word.strip_prefix("v="));
    version.map(str::to_owned).with_context(|| format!("a version in \"{}\"", said.trim()))
}

fn version(source: &str, target: &str) -> Option<String> {
    let numbers = |text: &str| text.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    let older = numbers(target) < numbers(source);
    older.then(|| format!("redis-server {target} on the target's host is older than the source's {source}"))
}

/// Data, the copy's own buffers, and what a rewrite of the append-only file may copy.
fn memory(used: u64, conf: &Conf, found: &mut Found) -> Result<()> {
    if let Some(limit) = conf.bytes("maxmemory").filter(|&limit| limit > 0 && limit < used) {
        found.add("memory", format!("the copy will use {used} bytes, the target's maxmemory is {limit}"));
    }
    let available = meminfo("MemAvailable:")?;
    let needed = used + used / 2 + conf.bytes("repl-backlog-size").unwrap_or(1 << 20);
    if available < needed {
        found.add("memory", format!("the target's host has {available} bytes available, the copy needs {needed}"));
    }
    let overcommit = fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    let is_risky = match overcommit.trim() {
        "1" => false,
        "2" => true,
        _ => available < 2 * used,
    };
    if is_risky {
        let is = overcommit.trim();
        found.add(
            "overcommit",
            format!("vm.overcommit_memory is {is}: saving {used} bytes may fail to fork; set it to 1"),
        );
    }
    Ok(())
}

fn meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name} in meminfo"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().context("a number in /proc/meminfo")?;
    Ok(kilobytes * 1024)
}

/// The data twice: the file and, during a rewrite, its successor.
fn disk(info: &Info, instance: &RedisShard) -> Result<Option<String>> {
    let there = instance.folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there).with_context(|| format!("the free space of {}", there.display()))?;
    let (free, needed) = (stat.f_bavail * stat.f_frsize, 2 * info.number("used_memory"));
    Ok((free < needed).then(|| format!("{} has {free} bytes free, the copy needs {needed}", there.display())))
}

/// Other limits re-encode: a reason against the move, or, where that is allowed, something to say. Returns by how many
/// bytes the data grow with that.
fn encodings(source: &mut Link, spec: &MoveSpec, conf: &Conf, (found, sink): (&mut Found, &dyn Sink)) -> Result<u64> {
    let mut differing = Vec::new();
    for name in ENCODINGS {
        let here = source.setting(name)?;
        if let Some(there) = conf.get(name).filter(|there| *there != here) {
            differing.push(format!("{name} is {here} at the source and {there} at the target"));
        }
    }
    if differing.is_empty() {
        return Ok(0);
    }
    let Predicted { now, then } = reencoding::predicted(source, conf)?;
    let text = format!("{}: the move re-encodes, {now} bytes of data become about {then}", differing.join(", "));
    if spec.limits.allow_reencoding {
        sink.emit(Event::Note { text: format!("shard {}: {text}", spec.job.shard) });
    } else {
        found.add("encoding", format!("{text}; --allow-reencoding moves it all the same"));
    }
    Ok(then.saturating_sub(now))
}

/// The user that the target will replicate as must be let in at the source.
fn replica_user(source: &mut Link, spec: &MoveSpec, conf: &Conf, found: &mut Found) -> Result<()> {
    let user = conf.get("masteruser").unwrap_or_else(|| "default".to_owned());
    for command in ["PSYNC", "REPLCONF", "PING"] {
        let args: &[&str] = if command == "PSYNC" { &["?", "-1"] } else { &[] };
        let dry: Vec<&str> = ["ACL", "DRYRUN", &user, command].iter().chain(args).copied().collect();
        match source.run(&dry) {
            Ok(Value::Okay) => {}
            Ok(answer) => found.add("acl", format!("{} lets {user} not use {command}: {answer:?}", spec.from)),
            Err(error) => found.add("acl", format!("{} lets {user} not replicate: {error:#}", spec.from)),
        }
    }
    let login = Credentials { user, password: conf.get("masterauth").unwrap_or_default() };
    if let Err(error) = Link::open(&spec.from, &login) {
        found.add("password", format!("the target's masteruser and masterauth do not open {}: {error:#}", spec.from));
    }
    Ok(())
}

/// What the source writes while the copy is taken must fit into the replica's output buffer.
fn buffer(source: &mut Link, info: &Info, cap: u64) -> Result<Option<String>> {
    std::thread::sleep(WINDOW);
    let written = written(info, &source.info("all")?);
    let rate = written * 1000 / u64::try_from(WINDOW.as_millis())?;
    let sync_rate = if cap > 0 { cap.min(SYNC_RATE) } else { SYNC_RATE };
    let needed = rate.saturating_mul(1 + info.number("used_memory") / sync_rate);
    let limits = source.setting("client-output-buffer-limit")?;
    let hard = limits.split(' ').skip_while(|word| !matches!(*word, "replica" | "slave")).nth(1);
    let hard: u64 = hard.and_then(|hard| hard.parse().ok()).unwrap_or(0);
    let capped = if cap > 0 { format!("; a higher --bandwidth than {cap} bytes/s needs less") } else { String::new() };
    Ok((hard > 0 && hard < needed).then(|| {
        format!("the source writes {rate} bytes/s; its replica output buffer of {hard} bytes would overflow, {needed} are needed{capped}")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(version("7.0.15", "7.0.9").is_some());
        assert!(version("7.0.9", "7.0.15").is_none());
        assert!(version("7.0.15", "7.2").is_none());
    }

    #[test]
    fn only_a_valkey_that_is_known_to_be_safe_is_taken_for_safe() {
        let drops = |info: &str| drops_transactions(&Info::parse(info));
        assert!(drops("redis_version:7.0.15\n"));
        assert!(drops("redis_version:7.2.4\nserver_name:valkey\nvalkey_version:8.1.1\n"));
        assert!(drops("redis_version:7.2.4\nserver_name:valkey\n"));
        assert!(!drops("redis_version:7.2.4\nserver_name:valkey\nvalkey_version:9.1.2\n"));
    }

    #[test]
    fn only_a_limit_makes_a_policy_drop_keys() {
        assert!(eviction(&Conf::parse("maxmemory 1gb\nmaxmemory-policy allkeys-lru\n")).is_some());
        assert!(eviction(&Conf::parse("maxmemory 0\nmaxmemory-policy allkeys-lru\n")).is_none());
        assert!(eviction(&Conf::parse("maxmemory 1gb\n")).is_none());
    }
}
