//! What a move makes of small sorted sets and hashes where the target's listpack limits are other ones: predicted from
//! a sample, by reads only.

use anyhow::Result;
use redis::Value;

use super::link::{Link, words};
use crate::resources::redis_shard::conf::Conf;

/// Keys looked at.
const SAMPLE: usize = 64;
/// What one member costs outside of a listpack beside its own bytes, as measured with redis-server 7.0: in a sorted set
/// a skip list's node (24 bytes and 16 per level, 1.33 levels), a table's entry and its bucket; in a hash no node.
const IN_SKIPLIST: u64 = 96;
const IN_TABLE: u64 = 48;

/// Bytes of the data set now, and as they will be at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predicted {
    pub now: u64,
    pub then: u64,
}

/// The limits of one type.
#[derive(Clone, Copy)]
struct Limits {
    entries: u64,
    value: u64,
}

/// Predicts the data set's size from the first keys of a scan.
///
/// # Errors
/// The source does not answer.
pub fn predicted(source: &mut Link, conf: &Conf) -> Result<Predicted> {
    let now = source.info("memory")?.number("used_memory_dataset");
    let (_, keys): (String, Vec<Vec<u8>>) = source.ask(&words(&["SCAN", "0", "COUNT", &SAMPLE.to_string()]))?;
    let (mut before, mut after) = (0, 0);
    for key in &keys {
        let asked = ["TYPE", "MEMORY"].map(|name| {
            let mut cmd = if name == "MEMORY" { words(&["MEMORY", "USAGE"]) } else { words(&[name]) };
            cmd.arg(key);
            cmd
        });
        let answers = source.batch(&asked)?;
        let [Value::SimpleString(kind), Value::Int(bytes)] = &answers[..] else { continue };
        let bytes = u64::try_from(*bytes)?;
        before += bytes;
        after += match kind.as_str() {
            "zset" => resized(source, ("zset", &["ZRANGE"], key), bytes, conf)?,
            "hash" => resized(source, ("hash", &["HGETALL"], key), bytes, conf)?,
            _ => bytes,
        };
    }
    let then = (u128::from(now) * u128::from(after)).checked_div(u128::from(before)).unwrap_or(u128::from(now));
    Ok(Predicted { now, then: u64::try_from(then)? })
}

fn resized(source: &mut Link, (kind, read, key): (&str, &[&str], &[u8]), bytes: u64, conf: &Conf) -> Result<u64> {
    let mut encoding = words(&["OBJECT", "ENCODING"]);
    encoding.arg(key);
    let mut content = words(read);
    content.arg(key);
    if kind == "zset" {
        content.arg("0").arg("-1").arg("WITHSCORES");
    }
    let answers = source.batch(&[encoding, content])?;
    let [Value::BulkString(encoding), Value::Array(words)] = &answers[..] else { return Ok(bytes) };
    let words: Vec<&[u8]> = words.iter().filter_map(as_bytes).collect();
    let limits = limits(source, kind, conf)?;
    let is_small = encoding == b"listpack";
    Ok(match (is_small, fits(&words, limits)) {
        (false, true) => 64 + words.iter().map(|word| in_listpack(word)).sum::<u64>(),
        (true, false) => outside(kind, &words),
        _ => bytes,
    })
}

fn limits(source: &mut Link, kind: &str, conf: &Conf) -> Result<Limits> {
    let mut limit = |what: &str| -> Result<u64> {
        let name = format!("{kind}-max-listpack-{what}");
        let here = source.setting(&name)?;
        Ok(conf.get(&name).unwrap_or(here).parse().unwrap_or(0))
    };
    Ok(Limits { entries: limit("entries")?, value: limit("value")? })
}

/// Scores count as little as numbers do: only members and values can be too long.
fn fits(words: &[&[u8]], limits: Limits) -> bool {
    words.len() as u64 / 2 <= limits.entries && words.iter().all(|word| word.len() as u64 <= limits.value)
}

/// An entry of a listpack: head, content (a number in as few bytes as it needs), length of both.
fn in_listpack(word: &[u8]) -> u64 {
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

fn outside(kind: &str, words: &[&[u8]]) -> u64 {
    let pairs = words.chunks(2).map(|pair| match (kind, pair) {
        ("zset", [member, ..]) => member.len() as u64 + IN_SKIPLIST,
        (_, pair) => pair.iter().map(|word| word.len() as u64 + 8).sum::<u64>() + IN_TABLE,
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
        assert_eq!([&b"7"[..], b"1000", b"1000000000000", b"abc"].map(in_listpack), [2, 3, 10, 5]);
        let limits = Limits { entries: 2, value: 3 };
        assert!(fits(&[b"abc", b"1"], limits));
        assert!(!fits(&[b"abcd", b"1"], limits));
        assert!(!fits(&[b"a", b"1", b"b", b"2", b"c", b"3"], limits));
    }
}
