//! Keys as source and target have them: their bytes and their times to live.

use anyhow::Result;
use redis::{Cmd, Value};

use super::super::redis_client::{RedisClient, redis_command};

/// A key's name.
pub type Key = Vec<u8>;

/// A key on one side: its `DUMP` (`None` if there is no such key) and when it expires, in Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    pub dump: Option<Vec<u8>>,
    pub expires_at_ms: i64,
}

/// Result of comparing a key at both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyVerdict {
    Equal,
    Reencoded,
    Differs,
    Missing,
    Extra,
}

/// Compares both states of a key, by their bytes.
pub fn compare_states(source: &KeyState, target: &KeyState) -> KeyVerdict {
    match (&source.dump, &target.dump) {
        (None, None) => KeyVerdict::Equal,
        (Some(_), None) => KeyVerdict::Missing,
        (None, Some(_)) => KeyVerdict::Extra,
        (Some(_), Some(_)) if source == target => KeyVerdict::Equal,
        (Some(_), Some(_)) => KeyVerdict::Differs,
    }
}

/// Scans the next keys; the cursor is `0` again after the last.
///
/// # Errors
/// Returns an error if the instance does not answer.
pub fn scan_keys(link: &mut RedisClient, cursor: &mut String, batch: usize) -> Result<Vec<Key>> {
    let (next, keys): (String, Vec<Key>) =
        link.query(&redis_command(&["SCAN", cursor, "COUNT", &batch.to_string()]))?;
    *cursor = next;
    Ok(keys)
}

/// Fetches the keys' states from both sides, at the same time.
///
/// # Errors
/// Returns an error if one of them does not answer.
pub fn fetch_states(
    source: &mut RedisClient,
    target: &mut RedisClient,
    keys: &[Key],
) -> Result<(Vec<KeyState>, Vec<KeyState>)> {
    let cmds: Vec<Cmd> =
        keys.iter().flat_map(|key| [command_with_key("DUMP", key), command_with_key("PEXPIRETIME", key)]).collect();
    let (source, target) = RedisClient::query_both(source, target, &cmds)?;
    Ok((parse_states(source), parse_states(target)))
}

fn parse_states(answers: Vec<Value>) -> Vec<KeyState> {
    let mut answers = answers.into_iter();
    let pair = || match (answers.next()?, answers.next()?) {
        (Value::BulkString(dump), Value::Int(expires)) => Some(KeyState { dump: Some(dump), expires_at_ms: expires }),
        _ => Some(KeyState { dump: None, expires_at_ms: 0 }),
    };
    std::iter::from_fn(pair).collect()
}

/// Builds a command with a key.
pub fn command_with_key(name: &str, key: &[u8]) -> Cmd {
    let mut cmd = redis_command(&[name]);
    cmd.arg(key);
    cmd
}
