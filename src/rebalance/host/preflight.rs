//! Preflight checks: find everything that prevents a move, without a write to any Redis instance.

mod space;

use std::time::Duration;

use anyhow::{Context, Result};
use dunlin_shards::InstanceAddress;
use redis::Value;

use super::instance::parse_instance;
use super::instance_state::{ENCODING_SETTINGS, compare_instance_state};
use super::min_replicas::wait_for_replica;
use super::modules;
use super::redis_client::{RedisClient, RedisInfo, probe_role, redis_command, replication_bytes_between};
use super::reencoding::{self, ReencodingEstimate};
use super::start_replica;
use crate::plan::format_count;
use crate::protocol::shard::{
    Credentials, MoveNeeds, MoveSpec, PreflightIssue, PreflightRequest, PreflightResult, PreflightRule, ReplicationRole,
};
use crate::protocol::{Event, ProgressSink};
use crate::resources::BlobSource;
use crate::resources::redis_shard::RedisShard;
use crate::resources::redis_shard::acl::{self, AclFile};
use crate::resources::redis_shard::conf::RedisConf;
use crate::resources::redis_shard::server::{ServerProduct, ServerVersion};
use space::{check_disk, check_memory, measure_needs};

/// Window for the source's write rate.
const RATE_WINDOW: Duration = Duration::from_millis(200);
/// Values with which the source could accept writes although the target serves.
const UNSAFE_SETTINGS: &[(&str, &str, &str)] = &[
    ("replica-read-only", "no", "after the cutover it would accept writes as a replica, and lose them"),
    (
        "min-replicas-max-lag",
        "0",
        "it would ignore min-replicas-to-write, which keeps it closed if it restarts during the cutover",
    ),
];
/// Assumed minimum rate of a full sync, in bytes per second; a slower one needs a larger buffer than predicted.
const MIN_SYNC_BYTES_PER_S: u64 = 50_000_000;

/// Returns the issues that prevent a move, and what it needs; a check that could not run is an issue too.
pub fn check_move(request: &PreflightRequest, blobs: &dyn BlobSource, sink: &dyn ProgressSink) -> PreflightResult {
    let spec = &request.spec;
    let mut needs = None;
    let mut issues = IssueList(Vec::new());
    let desired = parse_instance(spec.header.shard, &spec.record.instance).and_then(|instance| {
        let text = |digest| Ok::<_, anyhow::Error>(String::from_utf8_lossy(&blobs.read_blob(digest)?).into_owned());
        let (conf, acl) = (text(&instance.conf.digest)?, text(&instance.acl.digest)?);
        Ok(DesiredTarget { conf: RedisConf::parse(&conf), acl, instance })
    });
    let source = match RedisClient::open(&spec.record.from, &spec.header.credentials) {
        Ok(link) => Some(link),
        Err(error) => {
            let text = format!("{error:#}");
            let rule = if text.contains("uthentication") || text.contains("WRONGPASS") {
                PreflightRule::Password
            } else {
                PreflightRule::Source
            };
            issues.add_issue(rule, format!("cannot log in to the source {}: {text}", spec.record.from));
            None
        }
    };
    match desired {
        Err(error) => issues.add_issue(PreflightRule::Target, format!("{error:#}")),
        Ok(target) => {
            issues.add_if_error(PreflightRule::Target, check_target(spec, &target.instance));
            issues.add_if_some(PreflightRule::Setting, check_tls(spec, &target.instance));
            issues.add_if_some(PreflightRule::Eviction, check_eviction(&target.conf));
            issues.add_if_some(PreflightRule::Acl, target_acl(spec, &target.conf, &target.acl));
            if let Some(mut source) = source {
                match check_source(&mut source, request, &target, &mut issues, sink) {
                    Ok(found) => needs = Some(found),
                    Err(error) => issues.add_issue(PreflightRule::Source, format!("{error:#}")),
                }
                let compared = check_instance_state(&mut source, request, &target, &mut issues, sink);
                issues.add_if_error(PreflightRule::Source, compared);
            }
        }
    }
    PreflightResult { issues: issues.0, needs }
}

/// The desired target: its instance, and the contents of its files.
struct DesiredTarget {
    instance: RedisShard,
    conf: RedisConf,
    acl: String,
}

struct IssueList(Vec<PreflightIssue>);

impl IssueList {
    fn add_issue(&mut self, rule: PreflightRule, reason: String) {
        self.0.push(PreflightIssue { rule, reason });
    }

    fn add_if_some(&mut self, rule: PreflightRule, reason: Option<String>) {
        if let Some(reason) = reason {
            self.add_issue(rule, reason);
        }
    }

    fn add_if_error(&mut self, rule: PreflightRule, looked: Result<()>) {
        if let Err(error) = looked {
            self.add_issue(rule, format!("{error:#}"));
        }
    }
}

/// Checks that the target's address is free or used by the copy of an earlier attempt.
fn check_target(spec: &MoveSpec, instance: &RedisShard) -> Result<()> {
    if start_replica::is_copy(instance, spec)? {
        return Ok(());
    }
    match probe_role(&spec.record.to, &spec.header.credentials) {
        ReplicationRole::Unreachable => {
            let target = spec.record.to.to_string().parse().ok();
            let connected = target.map(|target| std::net::TcpStream::connect_timeout(&target, RATE_WINDOW));
            if matches!(connected, Some(Ok(_))) {
                anyhow::bail!("another service listens at {}, and dunlin cannot log in to it", spec.record.to);
            }
            Ok(())
        }
        ReplicationRole::Replica { primary: of, .. } => anyhow::bail!("an instance at {} follows {of}", spec.record.to),
        ReplicationRole::Primary { .. } => {
            let mut link = RedisClient::open(&spec.record.to, &spec.header.credentials)?;
            let keys: u64 = link.query(&redis_command(&["DBSIZE"]))?;
            anyhow::bail!("another primary with {} runs at {}", format_count(keys, "key"), spec.record.to)
        }
    }
}

/// Checks that the target's instance uses TLS exactly if the run does: it could not replicate otherwise.
fn check_tls(spec: &MoveSpec, instance: &RedisShard) -> Option<String> {
    match (instance.uses_tls(), spec.header.credentials.tls_ca.is_some()) {
        (true, false) => {
            Some("the target's tls_ca_file is set, but the inventory has no secret redis.tls.ca".to_owned())
        }
        (false, true) => Some("the inventory has a secret redis.tls.ca, but the target has no tls_ca_file".to_owned()),
        _ => None,
    }
}

fn check_eviction(conf: &RedisConf) -> Option<String> {
    let policy = conf.last_value("maxmemory-policy").unwrap_or_else(|| "noeviction".to_owned());
    let evicts = conf.last_bytes("maxmemory").is_some_and(|limit| limit > 0) && policy != "noeviction";
    evicts.then(|| format!("the target would evict keys: maxmemory-policy is {policy}, set it to noeviction"))
}

/// Checks the target's ACL file: required users, and a `default` user that can replay the append-only file.
fn target_acl(spec: &MoveSpec, conf: &RedisConf, text: &str) -> Option<String> {
    let acl = match AclFile::parse(text) {
        Ok(acl) => acl,
        Err(error) => return Some(format!("the target's ACL file, {error}")),
    };
    let user = &spec.record.app_user;
    if acl.is_user_enabled(user) != Some(true) {
        return Some(format!("the target's ACL file has no enabled user {user}"));
    }
    let replay = acl::require_replay_rights(text).err().filter(|_| conf.is_append_only());
    replay.map(|error| format!("the target's ACL file, {error}"))
}

/// Checks the source's users in memory: a restart of the source during the move must not lose transactions.
fn source_acl(source: &mut RedisClient, info: &RedisInfo) -> Result<Option<String>> {
    if !drops_transactions(info) {
        return Ok(None);
    }
    let users: Vec<String> = source.query(&redis_command(&["ACL", "LIST"]))?;
    let missing = AclFile::parse(&users.join("\n"))?.missing_replay_rights();
    let reason = (!missing.is_empty()).then(|| acl::explain_missing(&missing));
    Ok(reason.map(|reason| {
        format!(
            "at {}, {reason}; `dunlin provision` fixes the file and the running instance (by hand: \
             `ACL SETUSER default ~* &* +@all`)",
            source.address
        )
    }))
}

/// Returns true if this server version may replay transactions as the `default` user; Valkey from 9.0 on does not.
fn drops_transactions(info: &RedisInfo) -> bool {
    let version = ServerVersion::from_info(|name| info.text_field(name));
    !version.is_ok_and(|version| version.product == ServerProduct::Valkey && version.numbers.first() >= Some(&9))
}

fn check_source(
    source: &mut RedisClient,
    request: &PreflightRequest,
    target: &DesiredTarget,
    issues: &mut IssueList,
    sink: &dyn ProgressSink,
) -> Result<MoveNeeds> {
    let spec = &request.spec;
    let DesiredTarget { instance, conf, .. } = target;
    let info = source.fetch_info("all")?;
    match source.fetch_role()? {
        ReplicationRole::Primary { .. } => {}
        role => issues.add_issue(PreflightRule::Source, format!("{} is not a primary: {role}", spec.record.from)),
    }
    if info.text_field("aof_enabled") != "1" {
        issues.add_issue(
            PreflightRule::Source,
            format!(
                "{} has no append-only file: a restart would empty its copy too; set `appendonly yes`",
                spec.record.from
            ),
        );
    }
    match source_acl(source, &info) {
        Ok(reason) => issues.add_if_some(PreflightRule::Acl, reason),
        Err(error) => issues.add_issue(PreflightRule::Acl, format!("{error:#}")),
    }
    for (name, unsafe_value, effect) in UNSAFE_SETTINGS {
        if source.fetch_setting(name)? == *unsafe_value {
            let from = &spec.record.from;
            let reason = format!("{name} is {unsafe_value} at {from}: {effect}; change it there with CONFIG SET");
            issues.add_issue(PreflightRule::Setting, reason);
        }
    }
    check_replicas(source, request, &info, issues);
    issues.add_if_error(PreflightRule::Version, check_version(&info, instance));
    for reason in modules::find_missing_modules(source, conf)? {
        issues.add_issue(PreflightRule::Module, reason);
    }
    let grown = check_encodings(source, spec, conf, issues, sink)?;
    let needs = measure_needs(info.number_field("used_memory") + grown, instance, conf)?;
    check_memory(&needs, conf, issues);
    issues.add_if_some(PreflightRule::Disk, check_disk(&needs, instance));
    check_replica_user(source, spec, conf, issues)?;
    issues.add_if_some(PreflightRule::Buffer, check_output_buffer(source, &info, spec.record.throttle.bandwidth)?);
    Ok(needs)
}

/// Compares what the source holds outside its keys with the target's files: issues, and one note per shard.
fn check_instance_state(
    source: &mut RedisClient,
    request: &PreflightRequest,
    target: &DesiredTarget,
    issues: &mut IssueList,
    sink: &dyn ProgressSink,
) -> Result<()> {
    let info = source.fetch_info("all")?;
    let (spec, pending) = (&request.spec, &request.pending_changes);
    let admin = &spec.header.credentials.user;
    let found = compare_instance_state(source, &info, &target.conf, &target.acl, admin, pending)?;
    issues.0.extend(found.issues);
    if !found.notes.is_empty() {
        sink.emit(Event::Note { text: format!("shard {}: {}", spec.header.shard, found.notes.join("; ")) });
    }
    Ok(())
}

/// Checks the source's replicas, which the cutover counts: exactly those in the map must be attached.
fn check_replicas(source: &mut RedisClient, request: &PreflightRequest, info: &RedisInfo, issues: &mut IssueList) {
    let PreflightRequest { spec, source_replicas, .. } = request;
    for other in source_replicas {
        issues.add_if_error(PreflightRule::Replica, wait_for_replica(source, other));
    }
    let (expected, attached) = (source_replicas.len() as u64, info.number_field("connected_slaves"));
    let copy =
        u64::from(info.iter().any(|(name, line)| name.starts_with("slave") && is_replica_line(line, &spec.record.to)));
    if attached > expected + copy {
        let text = format!("{} has {}, the map has {expected}", spec.record.from, format_count(attached, "replica"));
        issues
            .add_issue(PreflightRule::OrphanReplica, format!("{text}; `dunlin shards status` lists the unknown ones"));
    }
}

/// Returns true if a line of `INFO replication` describes the replica at this address.
fn is_replica_line(line: &str, address: &InstanceAddress) -> bool {
    line.starts_with(&format!("ip={},port={},", address.host, address.port))
}

/// Checks that the target's server program can take over from the source's.
fn check_version(source: &RedisInfo, instance: &RedisShard) -> Result<()> {
    let source = ServerVersion::from_info(|name| source.text_field(name)).context("the source's version")?;
    match instance.installed_version()?.explain_incompatible(&source) {
        None => Ok(()),
        Some(reason) => anyhow::bail!(reason),
    }
}

/// Compares the encoding limits: a difference re-encodes data, which is an issue, or a note if it is allowed. Returns
/// the growth of the data, in bytes.
fn check_encodings(
    source: &mut RedisClient,
    spec: &MoveSpec,
    conf: &RedisConf,
    issues: &mut IssueList,
    sink: &dyn ProgressSink,
) -> Result<u64> {
    let mut differing = Vec::new();
    for name in ENCODING_SETTINGS {
        let at_source = source.fetch_setting(name)?;
        if let Some(at_target) = conf.last_value(name).filter(|there| *there != at_source) {
            differing.push(format!("{name} is {at_source} at the source and {at_target} at the target"));
        }
    }
    if differing.is_empty() {
        return Ok(0);
    }
    let ReencodingEstimate { current_bytes: now, target_bytes: then } = reencoding::estimate_reencoding(source, conf)?;
    let text = format!("{}: the move re-encodes the data, from {now} to about {then} bytes", differing.join(", "));
    if spec.limits.allow_reencoding {
        sink.emit(Event::Note { text: format!("shard {}: {text}", spec.header.shard) });
    } else {
        issues.add_issue(PreflightRule::Encoding, format!("{text}; allow this with --allow-reencoding"));
    }
    Ok(then.saturating_sub(now))
}

/// Checks that the target's replication user can log in to the source and replicate.
fn check_replica_user(
    source: &mut RedisClient,
    spec: &MoveSpec,
    conf: &RedisConf,
    issues: &mut IssueList,
) -> Result<()> {
    let user = conf.last_value("masteruser").unwrap_or_else(|| "default".to_owned());
    for command in ["PSYNC", "REPLCONF", "PING"] {
        let args: &[&str] = if command == "PSYNC" { &["?", "-1"] } else { &[] };
        let dry_run_command: Vec<&str> = ["ACL", "DRYRUN", &user, command].iter().chain(args).copied().collect();
        match source.run_command(&dry_run_command) {
            Ok(Value::Okay) => {}
            Ok(answer) => issues.add_issue(
                PreflightRule::Acl,
                format!("{} does not allow {user} to run {command}: {answer:?}", spec.record.from),
            ),
            Err(error) => issues.add_issue(
                PreflightRule::Acl,
                format!("{} does not allow {user} to replicate: {error:#}", spec.record.from),
            ),
        }
    }
    let tls_ca = spec.header.credentials.tls_ca.clone();
    let login = Credentials { user, password: conf.last_value("masterauth").unwrap_or_default(), tls_ca };
    if let Err(error) = RedisClient::open(&spec.record.from, &login) {
        issues.add_issue(
            PreflightRule::Password,
            format!("{} rejects the target's masteruser and masterauth: {error:#}", spec.record.from),
        );
    }
    Ok(())
}

/// Checks that the source's writes during the copy fit into the replica's output buffer.
fn check_output_buffer(source: &mut RedisClient, info: &RedisInfo, bandwidth: u64) -> Result<Option<String>> {
    std::thread::sleep(RATE_WINDOW);
    let written = replication_bytes_between(info, &source.fetch_info("all")?);
    let rate = written * 1000 / u64::try_from(RATE_WINDOW.as_millis())?;
    let sync_rate = if bandwidth > 0 { bandwidth.min(MIN_SYNC_BYTES_PER_S) } else { MIN_SYNC_BYTES_PER_S };
    let needed = rate.saturating_mul(1 + info.number_field("used_memory") / sync_rate);
    let limits = source.fetch_setting("client-output-buffer-limit")?;
    let hard = limits.split(' ').skip_while(|word| !matches!(*word, "replica" | "slave")).nth(1);
    let hard: u64 = hard.and_then(|hard| hard.parse().ok()).unwrap_or(0);
    let hint = if bandwidth > 0 {
        format!("; raise --bandwidth above {bandwidth} bytes/s to need less")
    } else {
        String::new()
    };
    Ok((hard > 0 && hard < needed).then(|| {
        format!("the source writes {rate} bytes/s; its replica output buffer of {hard} bytes would overflow, {needed} are needed{hint}")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valkey_that_is_known_to_be_safe_is_taken_for_safe() {
        let drops = |info: &str| drops_transactions(&RedisInfo::parse(info));
        assert!(drops("redis_version:7.0.15\n"));
        assert!(drops("redis_version:7.2.4\nserver_name:valkey\nvalkey_version:8.1.1\n"));
        assert!(drops("redis_version:7.2.4\nserver_name:valkey\n"));
        assert!(!drops("redis_version:7.2.4\nserver_name:valkey\nvalkey_version:9.1.2\n"));
    }

    #[test]
    fn a_policy_evicts_keys_only_under_a_limit() {
        assert!(check_eviction(&RedisConf::parse("maxmemory 1gb\nmaxmemory-policy allkeys-lru\n")).is_some());
        assert!(check_eviction(&RedisConf::parse("maxmemory 0\nmaxmemory-policy allkeys-lru\n")).is_none());
        assert!(check_eviction(&RedisConf::parse("maxmemory 1gb\n")).is_none());
    }
}
