//! Shards: what a host is asked about its instances and their moves, and what it answers.
//!
//! A move's requests go to the agent on the *target's* host, which talks to the source over the hosts' own network;
//! `retire` goes to the source's host. All are idempotent: asked again, they go on where the last one stopped.

pub mod failover;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sparing::Sparing;

/// Where the host half keeps its journals unless told otherwise.
pub const MOVES: &str = "/var/lib/dunlin/moves";

/// A question or a step of a move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Sizes, rates, roles and persistence of instances; changes nothing.
    Observe(Observe),
    /// Which epoch consumers of the map on this host have; changes nothing.
    Consumers(Vec<Consumer>),
    /// A run takes the next number of this host: requests that carry a lower one are refused from now on.
    Begin(Begin),
    /// Everything that stands in a move's way, at once; writes to no Redis.
    Preflight(MoveSpec),
    /// Start the target as a replica, wait until it has caught up and is durable, compare the two (P1–P5).
    Copy(MoveSpec),
    /// Make the source's file say that it accepts writes only with its replicas attached (the durable part of P6). Goes
    /// to the source's host, before `Switch` with `source_is_armed`; without it the source syncs its file itself, and
    /// its clients wait for that disk.
    Arm(Arm),
    /// Hand the writes over (P6–P11).
    Switch(MoveSpec),
    /// Make a replica: as `Copy`, and opened to readers; `others` names the replica that it takes the place of.
    Replicate(MoveSpec),
    /// The map names the replica, from this epoch on: its journal is closed.
    Keep(MoveSpec),
    /// Have a primary accept writes only with so many replicas attached, from now on and after a restart; its standing
    /// value, where `Arm` is for one switch. Goes to the primary's host.
    Guard(Arm),
    /// Compare source and target again (P5 alone).
    Verify(MoveSpec),
    /// Stop an instance that has handed its shard over, keep its files (P14). Goes to the source's host.
    Retire(Retire),
    /// All moves in this host's journals, with the roles that their instances have now.
    Moves(Moves),
    /// All moves that this host's journals know, also those that are over.
    Log(Moves),
    /// Look at the roles and bring a move that was cut short to an end: the old owner or the new one.
    Recover(MoveSpec),
    /// Take a move back that has not fenced yet: disarm the source, remove the copy.
    Abort(MoveSpec),
    /// Look closely at copies, and at their primaries from there; changes nothing.
    Survey(failover::Survey),
    /// Stop an instance that does not answer as a master, so that it does not come back by itself. Goes to its host.
    Silence(failover::Handle),
    /// Promote a copy whose primary is gone.
    Promote(failover::Promote),
    /// Have a copy that was not opened yet follow its primary again, which lives after all.
    TakeBack(failover::Promote),
    /// A move that has only copied so far is over: its source is gone, and the copy becomes another one's. Goes to the
    /// copy's host.
    Forget(failover::Handle),
    /// Have a primary accept writes with the replicas that are left. Goes to its host.
    Free(failover::Free),
    /// Stop an old primary that came back, keep its files. Goes to its host.
    SetAside(failover::Handle),
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// One entry for each instance asked about.
    Observed(Vec<Observed>),
    /// One entry for each consumer asked about.
    Consumers(Vec<ConsumerState>),
    /// The run's number on this host.
    Begun(u64),
    /// The reasons against the move; none: it may begin.
    Preflight(Vec<Refusal>),
    /// The copy is complete and equal.
    Copied(Copied),
    /// The source's file says so.
    Armed,
    /// The replica's journal is closed.
    Kept,
    /// The target owns the shard.
    Switched(Switched),
    /// The comparison's result.
    Verified(Verified),
    /// The instance is gone, its files are kept.
    Retired(Retired),
    /// The moves.
    Moves(Vec<MoveState>),
    /// The moves, oldest first.
    Log(Vec<Logged>),
    /// How recovery ended.
    Recovered(Recovered),
    /// The copy is removed, the source serves as before.
    Aborted,
    /// One entry for each place asked about.
    Surveyed(Vec<failover::Seen>),
    /// It is stopped, also for the next start of its host.
    Silenced,
    /// The copy is the primary.
    Promoted(failover::Promoted),
    /// It follows its primary.
    TakenBack,
    /// It is.
    Forgotten,
    /// It does.
    Freed,
    /// The old primary is gone, its files are kept.
    SetAside(failover::Aside),
}

/// A consumer of the map: a `shard_map` step of the playbook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Where the map stands.
    pub file: PathBuf,
    /// Where the service that reads it tells its `map_epoch`; asked on this host.
    pub version_url: Option<String>,
}

/// What a consumer has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerState {
    /// Cluster and epoch of the file; nothing where there is no map.
    pub file: Option<(String, u64)>,
    /// The service that reads it.
    pub service: Service,
}

/// A service that reads the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "service", rename_all = "snake_case")]
pub enum Service {
    /// The playbook does not say where to ask.
    NotAsked,
    /// It routes by that epoch.
    Runs {
        /// The epoch.
        epoch: u64,
    },
    /// Nobody listens there.
    Down,
    /// Somebody listens, but what the epoch is was not told.
    Unclear {
        /// What was found.
        why: String,
    },
}

/// A run begins to move shards on this host, under the host's lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The run.
    pub run: String,
    /// Where the journals are.
    #[serde(default = "moves_folder")]
    pub journals: PathBuf,
}

/// How dunlin enters an instance.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The ACL user; it may do everything.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

/// Bounds of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest time that writes are held, in milliseconds; past half of it the switch gives up and tries again.
    pub pause_ms: u64,
    /// How often the switch is tried before the move is rolled back.
    pub attempts: u32,
    /// Longest time without progress while copying, in seconds.
    pub copy_stall_s: u64,
    /// How far behind, in bytes, the target may be when the switch begins.
    pub lag_bytes: u64,
    /// Keys compared per second; 0: as fast as it goes.
    pub verify_keys_per_s: u64,
    /// Go on although the target's listpack limits differ from the source's: the move re-encodes.
    pub allow_reencoding: bool,
    /// What is left to the source's clients.
    pub sparing: Sparing,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pause_ms: 200,
            attempts: 5,
            copy_stall_s: 60,
            lag_bytes: 1 << 20,
            verify_keys_per_s: 0,
            allow_reencoding: false,
            sparing: Sparing::default(),
        }
    }
}

/// One shard's move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveSpec {
    /// The run it belongs to.
    pub run: String,
    /// Who runs it: `user@machine`, for the log.
    #[serde(default)]
    pub by: String,
    /// The run's number on the host that is asked, from [`Request::Begin`]; with one that is not the latest any more,
    /// no step is begun.
    #[serde(default)]
    pub fence: u64,
    /// The shard's number.
    pub shard: u32,
    /// The source, `ip:port`.
    pub from: String,
    /// The target on the host that is asked, `ip:port`.
    pub to: String,
    /// The source's other replicas, `ip:port`; they follow the new owner.
    #[serde(default)]
    pub others: Vec<String>,
    /// The epoch under which the new owner will be published.
    pub epoch: u64,
    /// How both instances are entered.
    pub credentials: Credentials,
    /// The application's ACL user on this shard.
    pub app_user: String,
    /// The target instance: the desired state of its `redis_shard`, contents by digest.
    pub instance: Value,
    /// Did [`Request::Arm`] make the source's file ready for this switch?
    #[serde(default)]
    pub source_is_armed: bool,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
    /// Where the journals are; [`MOVES`] where not given.
    #[serde(default = "moves_folder")]
    pub journals: PathBuf,
}

/// [`MOVES`] as a path.
pub fn moves_folder() -> PathBuf {
    PathBuf::from(MOVES)
}

/// What to observe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observe {
    /// Shard number and address, `ip:port`.
    pub instances: Vec<(u32, String)>,
    /// How they are entered.
    pub credentials: Credentials,
    /// Over how many milliseconds rates are taken; 0: no rates.
    pub window_ms: u64,
    /// How many keys of each are looked at closely; 0: none.
    #[serde(default)]
    pub sample: u32,
}

/// Keys that were looked at closely.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Sorted sets among them.
    pub sets: u64,
    /// Their entries.
    pub entries: u64,
    /// Those that are listpacks.
    pub listpacks: u64,
}

impl Sample {
    /// Takes another's counts in.
    pub fn add(&mut self, other: &Self) {
        self.sets += other.sets;
        self.entries += other.entries;
        self.listpacks += other.listpacks;
    }

    /// How many entries a set has on average.
    #[expect(clippy::cast_precision_loss, reason = "counts of a sample")]
    pub fn entries_each(&self) -> Option<f64> {
        (self.sets > 0).then(|| self.entries as f64 / self.sets as f64)
    }
}

/// One instance as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// The shard.
    pub shard: u32,
    /// The address asked.
    pub address: String,
    /// Why nothing more is known, where it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its role.
    pub role: Role,
    /// redis-server's version.
    pub version: String,
    /// Bytes of keys and values; 0 where there are none, whatever the server itself takes.
    pub bytes: u64,
    /// Bytes of memory in all (`used_memory`).
    pub used_memory: u64,
    /// The most that it has been since the server started.
    pub peak_memory: u64,
    /// Its `maxmemory`; 0: no limit.
    pub maxmemory: u64,
    /// Keys.
    pub keys: u64,
    /// Commands per second over the window, without those of replication and of observers.
    pub ops_per_s: f64,
    /// Bytes per second that are written to the replication stream.
    pub stream_bytes_per_s: f64,
    /// Connections of application users.
    pub clients: u64,
    /// Is the append-only file on and its last write good?
    pub durable: bool,
    /// How many replicas must be attached for it to accept writes (`min-replicas-to-write`).
    #[serde(default)]
    pub min_replicas: u64,
    /// Keys that were looked at closely, where that was asked for.
    #[serde(default)]
    pub sample: Sample,
    /// When its file is synced: `always`, `everysec` or `no`.
    pub appendfsync: String,
    /// The last fork, in microseconds.
    pub fork_us: u64,
    /// `zset-max-listpack-entries`.
    pub listpack_entries: u64,
}

/// What an instance is in replication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Role {
    /// It did not answer.
    #[default]
    Unreachable,
    /// It accepts writes, as far as its rules let it.
    Master {
        /// End of its replication stream.
        offset: u64,
        /// Replicas that are attached.
        replicas: u64,
    },
    /// It follows another.
    Replica {
        /// Whom, `ip:port`.
        of: String,
        /// Is the link up?
        linked: bool,
        /// How far it has come.
        offset: u64,
    },
}

/// One reason against a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The rule: `memory`, `eviction`, `version`, `target`, `password`, `acl`, `encoding`, `disk`, `buffer`,
    /// `overcommit`, `source`, `replica`, `port`.
    pub rule: String,
    /// What was found and what would do.
    pub reason: String,
}

/// A copy's end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Copied {
    /// Bytes of the target's data set.
    pub bytes: u64,
    /// Seconds from birth to the last comparison.
    pub seconds: f64,
    /// The comparison.
    pub verified: Verified,
}

/// What a comparison found; equal where the three lists are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Keys compared.
    pub keys: u64,
    /// Keys whose bytes differ but whose contents are the same: another encoding.
    pub reencoded: u64,
    /// Comparisons that had to be repeated because the key was being written to.
    pub retried: u64,
    /// Keys whose contents or times to live differ; at most 20 of each list are named.
    pub differing: Vec<String>,
    /// Keys that the target lacks.
    pub missing: Vec<String>,
    /// Keys that only the target has.
    pub extra: Vec<String>,
}

impl Verified {
    /// Are source and target equal?
    pub fn is_equal(&self) -> bool {
        self.differing.is_empty() && self.missing.is_empty() && self.extra.is_empty()
    }
}

/// Arm a source's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// The run that asks.
    pub run: String,
    /// The run's number on the host that is asked; a lower one than the latest there is refused.
    #[serde(default)]
    pub fence: u64,
    /// The shard.
    pub shard: u32,
    /// The source on the host that is asked, `ip:port`.
    pub address: String,
    /// How many replicas it must have to accept writes: the move's target, and the others of the map.
    pub replicas: u32,
    /// How it is entered.
    pub credentials: Credentials,
    /// Its `redis_shard` as it was provisioned.
    pub instance: Value,
    /// Where the journals are.
    #[serde(default = "moves_folder")]
    pub journals: PathBuf,
}

/// A switch's end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// Microseconds from the pause of writes at the source to the opening of the target, as this host saw it.
    pub gap_us: u64,
    /// The offset at which the source was fenced.
    pub offset: u64,
    /// How many attempts were given up before.
    pub retries: u32,
    /// Was the shard already handed over when this was asked?
    pub already: bool,
    /// What remains to be done: a source or a replica that did not answer.
    pub pending: Vec<String>,
}

/// Retire an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retire {
    /// The run.
    pub run: String,
    /// The run's number on this host.
    #[serde(default)]
    pub fence: u64,
    /// The shard.
    pub shard: u32,
    /// The instance on this host, `ip:port`.
    pub address: String,
    /// The new owner, `ip:port`.
    pub owner: String,
    /// The map's epoch.
    pub epoch: u64,
    /// How it is entered.
    pub credentials: Credentials,
    /// The application's ACL user.
    pub app_user: String,
    /// Its `redis_shard` as it was provisioned.
    pub instance: Value,
    /// How long the files are kept, in hours; a note beside them says until when.
    pub keep_hours: u64,
    /// Where the journals are.
    #[serde(default = "moves_folder")]
    pub journals: PathBuf,
}

/// A retired instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Where its files are kept; empty where it had been retired before.
    pub kept: Option<PathBuf>,
}

/// Which journals to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moves {
    /// How instances are entered.
    pub credentials: Credentials,
    /// Where the journals are.
    #[serde(default = "moves_folder")]
    pub journals: PathBuf,
}

/// One move in the journal of its target's host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveState {
    /// The run.
    pub run: String,
    /// The shard.
    pub shard: u32,
    /// Source.
    pub from: String,
    /// Target.
    pub to: String,
    /// The source's other replicas.
    pub others: Vec<String>,
    /// The epoch it is for; of a replica that the map names, the one that named it.
    pub epoch: u64,
    /// The application's ACL user.
    pub app_user: String,
    /// The target instance as it was asked for, so that another operator can go on.
    pub instance: Value,
    /// What it leaves to the source's clients.
    #[serde(default)]
    pub sparing: Sparing,
    /// The last step in the journal.
    pub step: String,
    /// `intent`, `done` or `failed`.
    pub mark: String,
    /// When that was noted, RFC 3339.
    pub at: String,
    /// Is it a replica that is made, and not the primary that moves? The source is the primary then, and `others` the
    /// replica that is replaced.
    #[serde(default)]
    pub replica: bool,
    /// Has it come to an end, at the source or at the target?
    pub finished: bool,
    /// Is it a failover? Then the source was given up, and the target may have been opened where that is said.
    #[serde(default)]
    pub failover: Option<failover::Begun>,
    /// The source's role now.
    pub source: Role,
    /// The target's role now.
    pub target: Role,
}

/// A move in the journal of its target's host, as it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// The run.
    pub run: String,
    /// Who ran it.
    pub by: String,
    /// The shard.
    pub shard: u32,
    /// Source, `ip:port`.
    pub from: String,
    /// Target, `ip:port`.
    pub to: String,
    /// The epoch it was for.
    pub epoch: u64,
    /// When it was begun, RFC 3339.
    pub begun: String,
    /// When the last record was made.
    pub ended: String,
    /// `moved`, `failed over`, `replica made`, `taken back`, or `open`.
    pub end: String,
}

/// Where recovery left a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovered {
    /// The source serves; the copy, if there is one, follows it.
    AtSource {
        /// Why.
        why: String,
    },
    /// The target serves.
    AtTarget {
        /// Why.
        why: String,
        /// What remains to be done.
        pending: Vec<String>,
    },
    /// Nothing was changed: a person has to decide.
    Undecided {
        /// What was found, and what there is to choose from.
        why: String,
    },
}
