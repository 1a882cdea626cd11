//! A key's content in one form, whatever its encoding: for keys whose `DUMP` bytes differ.

use anyhow::Result;
use redis::{Cmd, Value};

use super::super::redis_client::{RedisClient, redis_command};
use super::large_key::field_expiry_command;
use super::stream_groups;
use crate::plan::Digest;

/// Answer of `HPEXPIRETIME` for a field without an expiry time.
const NO_FIELD_EXPIRY: i64 = -1;

/// Returns the digests of the contents of keys, by their types; equal contents have equal digests on both sides.
///
/// # Errors
/// Returns an error if the instance does not answer, or a key is of a type that is not known here.
pub fn content_digests(link: &mut RedisClient, keys: &[&Vec<u8>]) -> Result<Vec<Digest>> {
    let key_command = |head: &[&str], key: &[u8], tail: &[&str]| -> Cmd {
        let mut cmd = redis_command(head);
        cmd.arg(key);
        for word in tail {
            cmd.arg(word);
        }
        cmd
    };
    let types = link.run_all(&keys.iter().map(|key| key_command(&["TYPE"], key, &[])).collect::<Vec<_>>())?;
    let mut digests = Vec::with_capacity(keys.len());
    for (key, kind) in keys.iter().zip(types) {
        let kind = match kind {
            Value::SimpleString(kind) => kind,
            _ => String::new(),
        };
        let (cmds, group_size) = match kind.as_str() {
            "string" => (vec![key_command(&["GET"], key, &[])], 0),
            "list" => (vec![key_command(&["LRANGE"], key, &["0", "-1"])], 0),
            "zset" => (vec![key_command(&["ZRANGE"], key, &["0", "-1", "WITHSCORES"])], 0),
            "set" => (vec![key_command(&["SMEMBERS"], key, &[])], 1),
            "hash" => (vec![key_command(&["HGETALL"], key, &[])], 2),
            "stream" => {
                let mut cmds = vec![key_command(&["XRANGE"], key, &["-", "+"])];
                cmds.extend(stream_groups::all_group_commands(link, key)?);
                (cmds, 0)
            }
            "none" => (Vec::new(), 0),
            other => anyhow::bail!("a key of type {other} can be compared only by its bytes, and those differ"),
        };
        // Between the question for the type and this the key may have become another: that is an error answer, and
        // so it differs, and is looked at again.
        let is_stream = kind == "stream";
        let mut form = kind.into_bytes();
        let mut fields = Vec::new();
        for (number, answer) in link.run_batch(&cmds)?.into_iter().enumerate() {
            // The first answer is the stream itself; the others are its groups.
            let answer = if is_stream && number > 0 { stream_groups::normalize_answer(answer) } else { answer };
            if let (2, Value::Array(pairs)) = (group_size, &answer) {
                fields = field_names(pairs);
            }
            write_canonical(&sort_unordered(answer, group_size), &mut form);
        }
        write_field_expiry(link, key, fields, &mut form)?;
        digests.push(Digest::of_bytes(&form));
    }
    Ok(digests)
}

/// Returns the names of a hash's fields, sorted.
fn field_names(pairs: &[Value]) -> Vec<Vec<u8>> {
    let name = |value: &Value| match value {
        Value::BulkString(name) => Some(name.clone()),
        _ => None,
    };
    let mut names: Vec<Vec<u8>> = pairs.iter().step_by(2).filter_map(name).collect();
    names.sort_unstable();
    names
}

/// Adds the times at which fields of a hash expire, where one has such a time: an older server has no such times, and
/// its hashes are equal to those of a newer one whose fields do not expire.
fn write_field_expiry(link: &mut RedisClient, key: &[u8], fields: Vec<Vec<u8>>, form: &mut Vec<u8>) -> Result<()> {
    if !fields.is_empty()
        && let Some(Value::Array(times)) = link.run_batch(&[field_expiry_command(key, &fields)])?.first()
        && times.iter().any(|time| *time != Value::Int(NO_FIELD_EXPIRY))
    {
        write_canonical(&Value::Array(times.clone()), form);
    }
    Ok(())
}

/// Sorts values that have no order (members of a set, pairs of a hash), in groups of `group_size`.
fn sort_unordered(answer: Value, group_size: usize) -> Value {
    match answer {
        Value::Array(values) if group_size > 0 => {
            let mut groups: Vec<Vec<u8>> = values
                .chunks(group_size)
                .map(|group| {
                    let mut form = Vec::new();
                    group.iter().for_each(|value| write_canonical(value, &mut form));
                    form
                })
                .collect();
            groups.sort_unstable();
            Value::Array(groups.into_iter().map(Value::BulkString).collect())
        }
        other => other,
    }
}

/// Lengths before contents, so that no two different answers have the same bytes.
fn write_canonical(value: &Value, form: &mut Vec<u8>) {
    match value {
        Value::BulkString(bytes) => {
            form.extend_from_slice(format!("${}\n", bytes.len()).as_bytes());
            form.extend_from_slice(bytes);
        }
        Value::Array(values) => {
            form.extend_from_slice(format!("*{}\n", values.len()).as_bytes());
            values.iter().for_each(|value| write_canonical(value, form));
        }
        other => form.extend_from_slice(format!("{other:?}\n").as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(words: &[&str]) -> Value {
        Value::Array(words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect())
    }

    #[test]
    fn pairs_stay_together_and_their_order_is_ignored() {
        assert_eq!(sort_unordered(bulk(&["a", "1", "b", "2"]), 2), sort_unordered(bulk(&["b", "2", "a", "1"]), 2));
        assert_ne!(sort_unordered(bulk(&["a", "1", "b", "2"]), 2), sort_unordered(bulk(&["a", "2", "b", "1"]), 2));
        assert_ne!(sort_unordered(bulk(&["a", "b"]), 0), sort_unordered(bulk(&["b", "a"]), 0));
    }
}
