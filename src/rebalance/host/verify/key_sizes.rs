//! The memory of keys, which decides how they are compared.

use anyhow::Result;
use redis::{Cmd, Value};

use super::super::redis_client::{RedisClient, redis_command};
use super::key_state::Key;

/// Memory, in bytes, of the keys in one pipeline, about: a server answers all of it before it turns to its other
/// clients, here for about a millisecond.
pub const BATCH_BYTES: usize = 256 << 10;
/// Members of a key whose memory the server adds up; the others are estimated by their average. A key with more members
/// is large by their number alone.
const MAX_SAMPLES: u64 = 16_384;
/// Members that the server looks at in one pipeline, at most: less than five milliseconds.
const MAX_PIPELINE_SAMPLES: u64 = 2 * MAX_SAMPLES;
/// Memory of a member, in bytes, at least: its entry in a table.
const MIN_MEMBER_BYTES: u64 = 16;
/// Members that `MEMORY USAGE` looks at by itself. A key with less memory than this many entries has no other members.
const DEFAULT_SAMPLES: u64 = 5;

/// Returns the memory of keys at the source in bytes, as the server estimates it; 0 for a key that is gone.
///
/// A few members of a key say little about the others: those that seem to have up to `max_bytes` are estimated again by
/// all their members.
///
/// # Errors
/// Returns an error if the source does not answer.
pub fn fetch_key_sizes(source: &mut RedisClient, keys: &[Key], max_bytes: u64) -> Result<Vec<u64>> {
    let cmds: Vec<Cmd> = keys.iter().map(usage_command).collect();
    let mut sizes: Vec<u64> = source.run_all(&cmds)?.iter().map(to_bytes).collect();
    let mut pipeline = Vec::new();
    let mut samples = 0;
    for (index, key) in keys.iter().enumerate() {
        if (DEFAULT_SAMPLES * MIN_MEMBER_BYTES..=max_bytes).contains(&sizes[index]) {
            samples += (sizes[index] / MIN_MEMBER_BYTES).min(MAX_SAMPLES);
            let mut cmd = usage_command(key);
            cmd.arg("SAMPLES").arg(MAX_SAMPLES);
            pipeline.push((index, cmd));
        }
        if samples > MAX_PIPELINE_SAMPLES || index + 1 == keys.len() {
            let (indexes, cmds): (Vec<usize>, Vec<Cmd>) = std::mem::take(&mut pipeline).into_iter().unzip();
            for (index, answer) in indexes.into_iter().zip(source.run_all(&cmds)?) {
                sizes[index] = to_bytes(&answer);
            }
            samples = 0;
        }
    }
    Ok(sizes)
}

fn usage_command(key: &Key) -> Cmd {
    let mut cmd = redis_command(&["MEMORY", "USAGE"]);
    cmd.arg(key);
    cmd
}

fn to_bytes(answer: &Value) -> u64 {
    match answer {
        Value::Int(bytes) => u64::try_from(*bytes).unwrap_or(0),
        _ => 0,
    }
}

/// Splits keys, each with its memory, into groups for one pipeline.
pub fn split_by_memory(keys: Vec<(Key, u64)>) -> Vec<Vec<Key>> {
    let mut groups: Vec<Vec<Key>> = Vec::new();
    let mut bytes = u64::MAX;
    for (key, memory) in keys {
        bytes = bytes.saturating_add(memory);
        match groups.last_mut() {
            Some(group) if bytes <= BATCH_BYTES as u64 => group.push(key),
            _ => {
                bytes = memory;
                groups.push(vec![key]);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_ends_where_its_keys_get_too_large() {
        let key = |name: &str| name.as_bytes().to_vec();
        let half = BATCH_BYTES as u64 / 2;
        let groups = split_by_memory(vec![(key("a"), 100), (key("b"), half), (key("c"), half), (key("d"), 4 * half)]);
        assert_eq!(groups, [vec![key("a"), key("b")], vec![key("c")], vec![key("d")]]);
        assert_eq!(split_by_memory(Vec::new()), Vec::<Vec<Key>>::new());
    }
}
