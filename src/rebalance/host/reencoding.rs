//! What a move makes of small sorted sets and hashes where the target's listpack limits are other ones: predicted from
//! a sample, by reads only.

use anyhow::Result;
use redis::{Cmd, Value};

use super::redis_client::{RedisClient, redis_command};
use crate::resources::redis_shard::conf::RedisConf;

/// Keys looked at.
const SAMPLED_KEYS: usize = 64;
/// Members and bytes of the largest key whose content is read: no client waits for more than that, and larger keys are
/// estimated from their size.
const MAX_READ_MEMBERS: u64 = 4096;
const MAX_READ_BYTES: u64 = 256 << 10;
/// Bytes that a member needs outside of a listpack in addition to its own, as measured with redis-server 7.0: in a
/// sorted set a skip list's node (24 bytes and 16 per level, 1.33 levels), a table's entry and its bucket; in a hash no
/// node.
const SKIPLIST_BYTES_PER_MEMBER: u64 = 96;
const TABLE_BYTES_PER_FIELD: u64 = 48;

/// Bytes of the data set now, and as they will be at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReencodingEstimate {
    pub current_bytes: u64,
    pub target_bytes: u64,
}

/// The limits of one type.
#[derive(Clone, Copy)]
struct ListpackLimits {
    max_entries: u64,
    max_value_bytes: u64,
}

/// Predicts the data set's size from the first keys of a scan.
///
/// # Errors
/// Returns an error if the source does not answer.
pub fn estimate_reencoding(source: &mut RedisClient, conf: &RedisConf) -> Result<ReencodingEstimate> {
    let now = source.fetch_info("memory")?.number_field("used_memory_dataset");
    let (_, keys): (String, Vec<Vec<u8>>) =
        source.query(&redis_command(&["SCAN", "0", "COUNT", &SAMPLED_KEYS.to_string()]))?;
    let (mut before, mut after) = (0, 0);
    for key in &keys {
        let answers = source.run_batch(&[key_command(&["TYPE"], key), key_command(&["MEMORY", "USAGE"], key)])?;
        let [Value::SimpleString(kind), Value::Int(bytes)] = &answers[..] else { continue };
        let bytes = u64::try_from(*bytes)?;
        before += bytes;
        after += match kind.as_str() {
            "zset" => estimate_key_size(source, "zset", key, bytes, conf)?,
            "hash" => estimate_key_size(source, "hash", key, bytes, conf)?,
            _ => bytes,
        };
    }
    let then = (u128::from(now) * u128::from(after)).checked_div(u128::from(before)).unwrap_or(u128::from(now));
    Ok(ReencodingEstimate { current_bytes: now, target_bytes: u64::try_from(then)? })
}

fn estimate_key_size(source: &mut RedisClient, kind: &str, key: &[u8], bytes: u64, conf: &RedisConf) -> Result<u64> {
    let is_zset = kind == "zset";
    let encoding = key_command(&["OBJECT", "ENCODING"], key);
    let count = key_command(&[if is_zset { "ZCARD" } else { "HLEN" }], key);
    let answers = source.run_batch(&[encoding, count])?;
    let [Value::BulkString(encoding), Value::Int(count)] = &answers[..] else { return Ok(bytes) };
    let (is_small, count) = (encoding == b"listpack", u64::try_from(*count)?);
    let limits = read_target_limits(source, kind, conf)?;
    if !is_small && count > limits.max_entries {
        return Ok(bytes);
    }
    if count > MAX_READ_MEMBERS || exact_key_bytes(source, key)? > MAX_READ_BYTES {
        let added = if is_zset { SKIPLIST_BYTES_PER_MEMBER } else { TABLE_BYTES_PER_FIELD };
        let is_expanded = is_small && count > limits.max_entries;
        return Ok(if is_expanded { bytes + count * added } else { bytes });
    }
    let mut content = key_command(if is_zset { &["ZRANGE"] } else { &["HGETALL"] }, key);
    if is_zset {
        content.arg("0").arg("-1").arg("WITHSCORES");
    }
    let answers = source.run_batch(&[content])?;
    let [Value::Array(words)] = &answers[..] else { return Ok(bytes) };
    let words: Vec<&[u8]> = words.iter().filter_map(as_bytes).collect();
    Ok(match (is_small, fits_listpack(&words, limits)) {
        (false, true) => 64 + words.iter().map(|word| listpack_entry_bytes(word)).sum::<u64>(),
        (true, false) => expanded_bytes(kind, &words),
        _ => bytes,
    })
}

/// Returns the memory of a key with all its members; without `SAMPLES 0` the server extrapolates from five of them.
fn exact_key_bytes(source: &mut RedisClient, key: &[u8]) -> Result<u64> {
    let mut usage = key_command(&["MEMORY", "USAGE"], key);
    usage.arg("SAMPLES").arg("0");
    Ok(source.query::<Option<u64>>(&usage)?.unwrap_or(0))
}

fn key_command(words: &[&str], key: &[u8]) -> Cmd {
    let mut cmd = redis_command(words);
    cmd.arg(key);
    cmd
}

fn read_target_limits(source: &mut RedisClient, kind: &str, conf: &RedisConf) -> Result<ListpackLimits> {
    let mut limit = |what: &str| -> Result<u64> {
        let name = format!("{kind}-max-listpack-{what}");
        let here = source.fetch_setting(&name)?;
        Ok(conf.last_value(&name).unwrap_or(here).parse().unwrap_or(0))
    };
    Ok(ListpackLimits { max_entries: limit("entries")?, max_value_bytes: limit("value")? })
}

/// Scores count as little as numbers do: only members and values can be too long.
fn fits_listpack(words: &[&[u8]], limits: ListpackLimits) -> bool {
    words.len() as u64 / 2 <= limits.max_entries && words.iter().all(|word| word.len() as u64 <= limits.max_value_bytes)
}

/// An entry of a listpack: head, content (a number in as few bytes as it needs), length of both.
fn listpack_entry_bytes(word: &[u8]) -> u64 {
    let number = std::str::from_utf8(word).ok().and_then(|text| text.parse::<i64>().ok());
    match number.map(i64::unsigned_abs) {
        Some(0..=127) => 2,
        Some(128..=4095) => 3,
        Some(4096..=32_767) => 4,
        Some(32_768..=8_388_607) => 5,
        Some(8_388_608..=2_147_483_647) => 6,
        Some(_) => 10,
        None => word.len() as u64 + if word.len() < 64 { 2 } else { 4 },
    }
}

fn expanded_bytes(kind: &str, words: &[&[u8]]) -> u64 {
    let pairs = words.chunks(2).map(|pair| match (kind, pair) {
        ("zset", [member, ..]) => member.len() as u64 + SKIPLIST_BYTES_PER_MEMBER,
        (_, pair) => pair.iter().map(|word| word.len() as u64 + 8).sum::<u64>() + TABLE_BYTES_PER_FIELD,
    });
    pairs.sum()
}

fn as_bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_small_and_long_values_do_not_fit() {
        assert_eq!([&b"7"[..], b"1000", b"1000000000000", b"abc"].map(listpack_entry_bytes), [2, 3, 10, 5]);
        let limits = ListpackLimits { max_entries: 2, max_value_bytes: 3 };
        assert!(fits_listpack(&[b"abc", b"1"], limits));
        assert!(!fits_listpack(&[b"abcd", b"1"], limits));
        assert!(!fits_listpack(&[b"a", b"1", b"b", b"2", b"c", b"3"], limits));
    }
}
