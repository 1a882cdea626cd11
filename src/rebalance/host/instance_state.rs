//! State of an instance outside its keys: users, settings, scripts, subscribers. Replication does not copy it, so
//! preflight compares it with the files of the target, and names each difference before the first write.

use std::collections::BTreeMap;

use anyhow::Result;

use super::redis_client::{RedisClient, RedisInfo, redis_command};
use crate::protocol::shard::{PreflightIssue, PreflightRule};
use crate::resources::redis_shard::acl::{AclFile, user_change};
use crate::resources::redis_shard::conf::{RedisConf, is_secret_directive};

/// Settings that belong to a host, or that the move or another check deals with.
const IGNORED_SETTINGS: &[&str] = &[
    "bind",
    "port",
    "dir",
    "aclfile",
    "pidfile",
    "logfile",
    "daemonize",
    "supervised",
    "unixsocket",
    "replicaof",
    "masteruser",
    "masterauth",
    "replica-announce-ip",
    "client-output-buffer-limit",
    "min-replicas-to-write",
    "repl-diskless-sync",
    "repl-diskless-sync-delay",
    "repl-timeout",
    "maxmemory",
    "maxmemory-policy",
    "appendonly",
];
/// Settings that determine encodings, which preflight compares by itself.
pub const ENCODING_SETTINGS: &[&str] = &[
    "zset-max-listpack-entries",
    "zset-max-listpack-value",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "list-max-listpack-size",
    "set-max-intset-entries",
];
/// Settings that are often changed at run time, with the value that a server has without a line in its file.
const DEFAULTS: &[(&str, &str)] = &[
    ("activedefrag", "no"),
    ("appendfsync", "everysec"),
    ("client-query-buffer-limit", "1073741824"),
    ("databases", "16"),
    ("latency-monitor-threshold", "0"),
    ("lfu-decay-time", "1"),
    ("lfu-log-factor", "10"),
    ("list-compress-depth", "0"),
    ("maxclients", "10000"),
    ("maxmemory-clients", "0"),
    ("notify-keyspace-events", ""),
    ("proto-max-bulk-len", "536870912"),
    ("slowlog-log-slower-than", "10000"),
    ("slowlog-max-len", "128"),
    ("stream-node-max-bytes", "4096"),
    ("stream-node-max-entries", "100"),
    ("timeout", "0"),
    ("tracking-table-max-keys", "1000000"),
];
/// Settings whose difference breaks clients, and how.
const BREAKING_SETTINGS: &[(&str, &str)] = &[
    ("databases", "clients of the other databases would get errors"),
    ("notify-keyspace-events", "subscribers would miss events"),
];

/// A difference that is not compared: `ACL LIST` of Redis 7.0 writes the categories of a file as lists of commands.
const COMMANDS_DIFFER: &str = "has other commands";

/// Differences between the source and the files of the target.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StateDifferences {
    /// Differences that break clients: the move is refused.
    pub issues: Vec<PreflightIssue>,
    /// State that does not move, or is different afterwards, without breaking clients.
    pub notes: Vec<String>,
}

/// Compares the source's users, settings, scripts and subscribers with the files of the target. Writes nothing.
///
/// # Errors
/// Returns an error if the source does not answer, or lists a user that cannot be parsed.
pub fn compare_instance_state(
    source: &mut RedisClient,
    info: &RedisInfo,
    conf: &RedisConf,
    acl: &str,
    admin_user: &str,
    pending_changes: &[String],
) -> Result<StateDifferences> {
    let mut found = StateDifferences::default();
    let users: Vec<String> = source.query(&redis_command(&["ACL", "LIST"]))?;
    // A mistake in the target's file is a separate issue.
    if let Ok(target) = AclFile::parse(acl) {
        compare_users(
            &AclFile::parse(&users.join("\n"))?,
            &target,
            &source.address.to_string(),
            admin_user,
            pending_changes,
            &mut found,
        );
    }
    let settings: BTreeMap<String, String> = source.query(&redis_command(&["CONFIG", "GET", "*"]))?;
    compare_settings(&settings, conf, &source.address.to_string(), pending_changes, &mut found);
    let scripts = info.number_field("number_of_cached_scripts");
    if scripts > 0 {
        found.notes.push(format!(
            "{scripts} cached scripts do not move: EVALSHA answers NOSCRIPT at the target until a client sends the script again"
        ));
    }
    let clients: String = source.query(&redis_command(&["CLIENT", "LIST", "TYPE", "PUBSUB"]))?;
    let subscribers = clients.lines().filter(|line| !line.is_empty()).count();
    if subscribers > 0 {
        found.notes.push(format!(
            "{subscribers} subscribers stay connected to the source; it is not retired until they reconnect"
        ));
    }
    Ok(found)
}

/// The description of a difference that the source's own file has, too.
const PENDING: &str = "a change that the source's files have already, and that takes effect with the move";

/// Compares the users that can log in at the source; those that are off there break no client.
fn compare_users(
    source: &AclFile,
    target: &AclFile,
    address: &str,
    admin_user: &str,
    pending_changes: &[String],
    found: &mut StateDifferences,
) {
    for (user, difference) in source.diff_users(target) {
        if user == admin_user || difference == COMMANDS_DIFFER {
            continue;
        }
        if source.is_user_enabled(&user) != Some(true) {
            found.notes.push(format!("user {user} of the target's ACL file {difference} at the source"));
            continue;
        }
        let reason = match target.is_user_enabled(&user) {
            None => format!("the target's ACL file has no user {user}, who can log in at {address}"),
            Some(_) => format!("user {user} at {address} {difference} than in the target's ACL file"),
        };
        let reason = reason.replace("is on than in", "is on, and off in");
        if pending_changes.contains(&user_change(&user)) {
            found.notes.push(format!("{reason}: {PENDING}"));
            continue;
        }
        found.issues.push(PreflightIssue {
            rule: PreflightRule::Acl,
            reason: format!(
                "{reason}; its clients would be refused after the move; change the ACL template, or remove the difference \
                 at {address} (`dunlin provision`, or ACL SETUSER and ACL DELUSER)"
            ),
        });
    }
}

fn compare_settings(
    settings: &BTreeMap<String, String>,
    conf: &RedisConf,
    address: &str,
    pending_changes: &[String],
    found: &mut StateDifferences,
) {
    let is_compared = |name: &str| !IGNORED_SETTINGS.contains(&name) && !ENCODING_SETTINGS.contains(&name);
    for (name, at_source) in settings.iter().filter(|(name, _)| is_compared(name)) {
        let default = DEFAULTS.iter().find(|(known, _)| known == name).map(|(_, value)| (*value).to_owned());
        let Some(at_target) = conf.last_value(name).or(default) else { continue };
        let is_same_size = || conf.last_bytes(name).is_some_and(|bytes| Some(bytes) == at_source.parse().ok());
        if at_target == *at_source || is_same_size() || is_same_set(name, &at_target, at_source) {
            continue;
        }
        let text = match is_secret_directive(name) {
            true => format!("{name} at {address} differs from the target's"),
            false => format!("{name} is \"{at_source}\" at {address} and \"{at_target}\" at the target"),
        };
        if pending_changes.contains(name) {
            found.notes.push(format!("{text}: {PENDING}"));
            continue;
        }
        match BREAKING_SETTINGS.iter().find(|(breaking, _)| breaking == name) {
            Some((_, effect)) => found.issues.push(PreflightIssue {
                rule: PreflightRule::Setting,
                reason: format!("{text}: {effect}; set it in the configuration template, or at the source"),
            }),
            None => found.notes.push(format!("{text}; a value that was set at run time does not move")),
        }
    }
}

/// Returns true if both name the same classes of keyspace events: Redis reports them in its own order.
fn is_same_set(name: &str, at_target: &str, at_source: &str) -> bool {
    let classes =
        |text: &str| -> std::collections::BTreeSet<char> { text.replace('A', "g$lshzxetd").chars().collect() };
    name == "notify-keyspace-events" && classes(at_target) == classes(at_source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_compare_by_meaning() {
        let settings = [
            ("port", "7000"),
            ("repl-backlog-size", "33554432"),
            ("notify-keyspace-events", "AKE"),
            ("timeout", "300"),
            ("an-unknown-setting", "1"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let conf = RedisConf::parse("port 7001\nrepl-backlog-size 32mb\nnotify-keyspace-events KEA\n");
        let mut found = StateDifferences::default();
        compare_settings(&settings, &conf, "a:1", &[], &mut found);
        assert_eq!(found.issues, []);
        assert!(
            matches!(&found.notes[..], [note] if note.starts_with("timeout is \"300\" at a:1 and \"0\"")),
            "{found:?}"
        );
        let passwords = ["requirepass", "tls-key-file-pass"].map(|name| (name.to_owned(), "hunter2".to_owned())).into();
        let conf = RedisConf::parse("requirepass hunter3\ntls-key-file-pass hunter3\n");
        let mut differing = StateDifferences::default();
        compare_settings(&passwords, &conf, "a:1", &[], &mut differing);
        assert_eq!(differing.notes.len(), 2);
        assert!(!format!("{differing:?}").contains("hunter"), "{differing:?}");
        compare_settings(&settings, &RedisConf::parse("repl-backlog-size 32mb\n"), "a:1", &[], &mut found);
        assert!(matches!(&found.issues[..], [issue] if issue.reason.contains("miss events")), "{found:?}");
    }

    #[test]
    fn differences_that_a_pending_change_explains_are_notes() {
        let settings = [("databases", "16"), ("notify-keyspace-events", "")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let conf = RedisConf::parse("databases 4\nnotify-keyspace-events KEA\n");
        let mut found = StateDifferences::default();
        compare_settings(&settings, &conf, "a:1", &["databases".to_owned()], &mut found);
        assert!(matches!(&found.issues[..], [issue] if issue.reason.contains("notify-keyspace-events")), "{found:?}");
        assert!(matches!(&found.notes[..], [note] if note.contains("databases") && note.contains("already")));

        let acl = |text: &str| AclFile::parse(text).unwrap();
        let old = acl("user s001 on >old ~* +@all\nuser s002 on >old ~* +@all\n");
        let new = acl("user s001 on >new ~* +@all\nuser s002 on >new ~* +@all\n");
        let mut found = StateDifferences::default();
        compare_users(&old, &new, "a:1", "dunlin", &["ACL user s001".to_owned()], &mut found);
        assert!(matches!(&found.issues[..], [issue] if issue.reason.contains("user s002")), "{found:?}");
        assert!(matches!(&found.notes[..], [note] if note.contains("user s001")), "{found:?}");
    }
}
