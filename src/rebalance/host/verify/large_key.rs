//! Keys that are too large for one command: compared in pieces, each by the same short commands at both servers.
//!
//! Members of sets, hashes and sorted sets are found by the scan of the source, which returns every member that exists
//! from beginning to end, and are looked up at both sides. Lists are read in windows ([`super::list_windows`]), strings
//! in ranges, streams from entry to entry. Sizes are compared last: with them, the target has no member that the source
//! lacks. A piece that was equal once stays so: what is written later comes through the replication stream, as it does
//! for every other key.

use anyhow::{Result, bail};
use redis::{Cmd, Value};

use super::super::redis_client::{RedisClient, value_text};
use super::key_state::{Key, command_with_key};
use super::list_windows::ListReader;
use super::piece::Piece;
use super::stream_groups;

/// Bytes of one piece, about: a server answers it in less than a millisecond.
const PIECE_BYTES: u64 = 256 << 10;
/// Members of one piece, at most.
const MAX_PIECE_MEMBERS: u64 = 1000;

/// Elements at each end of a list that are compared with its length, at most.
const MAX_END_ELEMENTS: u64 = 32;

/// Reads a large key piece by piece.
#[derive(Debug)]
pub struct PieceReader {
    key: Key,
    kind: KeyType,
    /// Members of a piece, or bytes for a string.
    step: u64,
    state: ReadState,
    /// The highest id of a stream when the reading began: later entries come through the replication stream.
    stream_end: String,
    /// True if hashes of this server may have fields that expire.
    has_field_expiry: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyType {
    String,
    List,
    Set,
    Hash,
    SortedSet,
    Stream,
}

/// Position of the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ReadState {
    /// From this cursor of a scan, this index, or after this entry of a stream.
    At(String),
    /// A stream's groups.
    Groups,
    /// The pending entries of these groups of a stream, from this entry on for the first of them.
    Pending(Vec<Vec<u8>>, String),
    /// The size and the time to live.
    Size,
    Done,
}

impl KeyType {
    /// Returns the type by the reply to `TYPE`; `None` for a module's type, and for no key.
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "string" => Self::String,
            "list" => Self::List,
            "set" => Self::Set,
            "hash" => Self::Hash,
            "zset" => Self::SortedSet,
            "stream" => Self::Stream,
            _ => return None,
        })
    }
}

/// Returns whether the key has a type that can be read in pieces.
///
/// # Errors
/// Returns an error if the source does not answer.
pub fn has_pieces(source: &mut RedisClient, key: &Key) -> Result<bool> {
    let type_name: String = source.query(&command_with_key("TYPE", key))?;
    Ok(KeyType::from_name(&type_name).is_some())
}

impl PieceReader {
    /// Prepares to read a key of that many bytes of memory; `None` if the key is gone.
    ///
    /// # Errors
    /// Returns an error if the source does not answer, or the key has a type that cannot be read in pieces.
    pub fn new(source: &mut RedisClient, key: &Key, memory: u64) -> Result<Option<Self>> {
        let type_name: String = source.query(&command_with_key("TYPE", key))?;
        let Some(kind) = KeyType::from_name(&type_name) else {
            if type_name == "none" {
                return Ok(None);
            }
            let key = String::from_utf8_lossy(key);
            bail!("{key} is a key of type {type_name} with {memory} bytes: too large to be compared by its bytes")
        };
        let step = match kind {
            KeyType::String => PIECE_BYTES,
            _ => {
                let members: u64 = source.query(&command_with_key(size_command(kind), key))?;
                (PIECE_BYTES / (memory / members.max(1)).max(1)).clamp(1, MAX_PIECE_MEMBERS)
            }
        };
        let has_field_expiry = kind == KeyType::Hash
            && source
                .run_batch(&[field_expiry_command(key, std::slice::from_ref(&Vec::new()))])?
                .iter()
                .all(|answer| !matches!(answer, Value::ServerError(_)));
        let (start, stream_end) = match kind {
            KeyType::Stream => ("-", stream_groups::last_generated_id(source, key)?),
            _ => ("0", String::new()),
        };
        let state = ReadState::At(start.to_owned());
        Ok(Some(Self { key: key.clone(), kind, step, state, stream_end, has_field_expiry }))
    }

    /// Returns the next piece; `None` after the last.
    ///
    /// # Errors
    /// Returns an error if the source does not answer, or the key has another type now.
    pub fn next_piece(&mut self, source: &mut RedisClient) -> Result<Option<Piece>> {
        match self.state.clone() {
            ReadState::At(position) => self.read_at(source, &position).map(Some),
            ReadState::Groups => {
                let groups = stream_groups::group_names(source, &self.key)?;
                self.state = ReadState::Pending(groups, "-".to_owned());
                let cmds = vec![stream_groups::groups_command(&self.key)];
                Ok(Some(Piece { cmds, normalize: stream_groups::normalize_answer }))
            }
            ReadState::Pending(mut groups, start) => {
                let Some(group) = groups.first().cloned() else {
                    self.state = ReadState::Size;
                    return self.next_piece(source);
                };
                let cmd =
                    stream_groups::pending_command(&self.key, &group, &start, &self.stream_end, MAX_PIECE_MEMBERS);
                let answer = source.run_batch(std::slice::from_ref(&cmd))?.into_iter().next();
                let next = match &answer {
                    Some(Value::Array(entries)) => entries.last().and_then(entry_id),
                    _ => None,
                };
                self.state = if let Some(id) = next {
                    ReadState::Pending(groups, format!("({id}"))
                } else {
                    groups.remove(0);
                    ReadState::Pending(groups, "-".to_owned())
                };
                Ok(Some(Piece { cmds: vec![cmd], normalize: stream_groups::normalize_answer }))
            }
            ReadState::Size => {
                self.state = ReadState::Done;
                let mut cmds = vec![
                    command_with_key("TYPE", &self.key),
                    command_with_key(size_command(self.kind), &self.key),
                    command_with_key("PEXPIRETIME", &self.key),
                ];
                if self.kind == KeyType::List {
                    cmds.extend(self.list_end_commands());
                }
                Ok(Some(Piece::of(cmds)))
            }
            ReadState::Done => Ok(None),
        }
    }

    /// Returns a reader for the elements of a list; `None` for other types.
    ///
    /// # Errors
    /// Returns an error if the source does not answer, or the key is no list any more.
    pub fn list_reader(&mut self, source: &mut RedisClient) -> Result<Option<ListReader>> {
        if self.kind != KeyType::List {
            return Ok(None);
        }
        self.state = ReadState::Size;
        let length = source.query(&command_with_key(size_command(self.kind), &self.key))?;
        Ok(Some(ListReader::new(&self.key, length, self.step)))
    }

    /// Returns the commands for both ends of a list: its windows are compared wherever they lie, the ends where they
    /// are.
    fn list_end_commands(&self) -> [Cmd; 2] {
        let count = i64::try_from(self.step.min(MAX_END_ELEMENTS)).unwrap_or(1);
        [(0, count - 1), (-count, -1)].map(|(first, last)| {
            let mut cmd = command_with_key("LRANGE", &self.key);
            cmd.arg(first).arg(last);
            cmd
        })
    }

    fn read_at(&mut self, source: &mut RedisClient, position: &str) -> Result<Piece> {
        match self.kind {
            KeyType::String => {
                let begin: u64 = position.parse()?;
                let length: u64 = source.query(&command_with_key("STRLEN", &self.key))?;
                self.advance_to(begin + self.step, length);
                let mut cmd = command_with_key("GETRANGE", &self.key);
                cmd.arg(begin).arg(begin + self.step - 1);
                Ok(Piece::of(vec![cmd]))
            }
            KeyType::Stream => {
                let mut cmd = command_with_key("XRANGE", &self.key);
                cmd.arg(position).arg(&self.stream_end).arg("COUNT").arg(self.step);
                let entries: Vec<Value> = source.query(&cmd)?;
                let next = entries.last().and_then(entry_id);
                self.state = next.map_or(ReadState::Groups, |id| ReadState::At(format!("({id}")));
                Ok(Piece::of(vec![cmd]))
            }
            KeyType::Set | KeyType::Hash | KeyType::SortedSet => self.read_members(source, position),
            // Their elements are read by the list reader.
            KeyType::List => Ok(Piece::of(Vec::new())),
        }
    }

    fn advance_to(&mut self, position: u64, length: u64) {
        self.state = if position < length { ReadState::At(position.to_string()) } else { ReadState::Size };
    }

    /// Scans the next members at the source; the piece looks them up at both sides.
    fn read_members(&mut self, source: &mut RedisClient, cursor: &str) -> Result<Piece> {
        let scan = match self.kind {
            KeyType::Set => "SSCAN",
            KeyType::Hash => "HSCAN",
            _ => "ZSCAN",
        };
        let mut cmd = command_with_key(scan, &self.key);
        cmd.arg(cursor).arg("COUNT").arg(self.step);
        let (next, found): (String, Vec<Vec<u8>>) = source.query(&cmd)?;
        self.state = if next == "0" { ReadState::Size } else { ReadState::At(next) };
        let members: Vec<Vec<u8>> = match self.kind {
            KeyType::Set => found,
            // With each member comes its value or score, which the look-up asks for again at both.
            _ => found.into_iter().step_by(2).collect(),
        };
        if members.is_empty() {
            return Ok(Piece::of(Vec::new()));
        }
        let lookup = match self.kind {
            KeyType::Set => "SMISMEMBER",
            KeyType::Hash => "HMGET",
            _ => "ZMSCORE",
        };
        let mut cmd = command_with_key(lookup, &self.key);
        cmd.arg(&members);
        let mut cmds = vec![cmd];
        if self.has_field_expiry {
            cmds.push(field_expiry_command(&self.key, &members));
        }
        Ok(Piece::of(cmds))
    }
}

/// Returns the id of an entry of a stream, which comes first in it.
fn entry_id(entry: &Value) -> Option<&str> {
    match entry {
        Value::Array(fields) => fields.first().and_then(value_text),
        _ => None,
    }
}

/// Returns the command for the times at which fields of a hash expire (Redis 7.4 and Valkey 9 have it).
pub fn field_expiry_command(key: &[u8], fields: &[Vec<u8>]) -> Cmd {
    let mut cmd = command_with_key("HPEXPIRETIME", key);
    cmd.arg("FIELDS").arg(fields.len()).arg(fields);
    cmd
}

fn size_command(kind: KeyType) -> &'static str {
    match kind {
        KeyType::String => "STRLEN",
        KeyType::List => "LLEN",
        KeyType::Set => "SCARD",
        KeyType::Hash => "HLEN",
        KeyType::SortedSet => "ZCARD",
        KeyType::Stream => "XLEN",
    }
}
