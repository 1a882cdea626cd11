//! Keys as source and target have them: their bytes and their times to live.

use anyhow::Result;
use redis::{Cmd, Value};

use super::super::link::{Link, words};

/// A key's name.
pub type Key = Vec<u8>;

/// One key at one side: its `DUMP` (nothing where there is no such key) and when it expires, in Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub dump: Option<Vec<u8>>,
    pub expires: i64,
}

/// How two sides of a key compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Equal,
    Reencoded,
    Differs,
    Missing,
    Extra,
}

/// How the two compare, by their bytes.
pub fn verdict(source: &State, target: &State) -> Verdict {
    match (&source.dump, &target.dump) {
        (None, None) => Verdict::Equal,
        (Some(_), None) => Verdict::Missing,
        (None, Some(_)) => Verdict::Extra,
        (Some(_), Some(_)) if source == target => Verdict::Equal,
        (Some(_), Some(_)) => Verdict::Differs,
    }
}

/// The next keys; the cursor is `0` again after the last.
///
/// # Errors
/// The instance does not answer.
pub fn scan(link: &mut Link, cursor: &mut String, batch: usize) -> Result<Vec<Key>> {
    let (next, keys): (String, Vec<Key>) = link.ask(&words(&["SCAN", cursor, "COUNT", &batch.to_string()]))?;
    *cursor = next;
    Ok(keys)
}

/// The keys as both sides have them, asked at the same time.
///
/// # Errors
/// One of them does not answer.
pub fn states(source: &mut Link, target: &mut Link, keys: &[Key]) -> Result<(Vec<State>, Vec<State>)> {
    let cmds: Vec<Cmd> = keys.iter().flat_map(|key| [with_key("DUMP", key), with_key("PEXPIRETIME", key)]).collect();
    let (source, target) = Link::both(source, target, &cmds)?;
    Ok((pairs(source), pairs(target)))
}

fn pairs(answers: Vec<Value>) -> Vec<State> {
    let mut answers = answers.into_iter();
    let pair = || match (answers.next()?, answers.next()?) {
        (Value::BulkString(dump), Value::Int(expires)) => Some(State { dump: Some(dump), expires }),
        _ => Some(State { dump: None, expires: 0 }),
    };
    std::iter::from_fn(pair).collect()
}

/// A command with a key.
pub fn with_key(name: &str, key: &[u8]) -> Cmd {
    let mut cmd = words(&[name]);
    cmd.arg(key);
    cmd
}
