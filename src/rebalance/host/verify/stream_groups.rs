//! Consumer groups of a stream as data: the last delivered entry, and every pending entry with its consumer and its
//! number of deliveries.
//!
//! Left out is what a healthy primary and its healthy replica do not share: `entries-read` and `lag` (Redis before
//! 7.2.4 does not replicate them with `XCLAIM`), times since the last delivery, and consumers without pending entries.

use anyhow::Result;
use redis::{Cmd, Value};

use super::super::redis_client::{RedisClient, redis_command, value_text};

/// More pending entries than a stream can have that is compared as a whole.
const ALL_PENDING: u64 = 100_000;

/// Returns the command that describes the groups of a stream.
pub fn groups_command(key: &[u8]) -> Cmd {
    let mut cmd = redis_command(&["XINFO", "GROUPS"]);
    cmd.arg(key);
    cmd
}

/// Returns the names of the groups of a stream; none if the key is no stream any more.
///
/// # Errors
/// Returns an error if the instance does not answer.
pub fn group_names(link: &mut RedisClient, key: &[u8]) -> Result<Vec<Vec<u8>>> {
    let Some(Value::Array(groups)) = link.run_batch(&[groups_command(key)])?.into_iter().next() else {
        return Ok(Vec::new());
    };
    let mut names: Vec<Vec<u8>> = groups.iter().filter_map(group_name).collect();
    names.sort_unstable();
    Ok(names)
}

/// Returns the command for up to `count` pending entries of a group, from the entry `start` to the entry `end`.
pub fn pending_command(key: &[u8], group: &[u8], start: &str, end: &str, count: u64) -> Cmd {
    let mut cmd = redis_command(&["XPENDING"]);
    cmd.arg(key).arg(group).arg(start).arg(end).arg(count);
    cmd
}

/// Returns the commands for all groups of a small stream, with all pending entries.
///
/// # Errors
/// Returns an error if the instance does not answer.
pub fn all_group_commands(link: &mut RedisClient, key: &[u8]) -> Result<Vec<Cmd>> {
    let names = group_names(link, key)?;
    let pending = names.iter().map(|name| pending_command(key, name, "-", "+", ALL_PENDING));
    Ok(std::iter::once(groups_command(key)).chain(pending).collect())
}

fn group_name(group: &Value) -> Option<Vec<u8>> {
    match field(group, "name")? {
        Value::BulkString(name) => Some(name.clone()),
        _ => None,
    }
}

/// Returns the highest id that an entry of a stream ever had; `0-0` if it never had one. Entries may be pending that
/// are deleted from the stream.
///
/// # Errors
/// Returns an error if the instance does not answer, or the key is no stream.
pub fn last_generated_id(link: &mut RedisClient, key: &[u8]) -> Result<String> {
    let mut cmd = redis_command(&["XINFO", "STREAM"]);
    cmd.arg(key);
    let info: Value = link.query(&cmd)?;
    Ok(field(&info, "last-generated-id").and_then(value_text).unwrap_or("0-0").to_owned())
}

/// Returns a field of a group or a stream, which is a flat list of names and values, or a map.
fn field<'v>(group: &'v Value, name: &str) -> Option<&'v Value> {
    match group {
        Value::Array(fields) => {
            fields.chunks_exact(2).find(|pair| value_text(&pair[0]) == Some(name)).map(|pair| &pair[1])
        }
        Value::Map(fields) => fields.iter().find(|(key, _)| value_text(key) == Some(name)).map(|(_, value)| value),
        _ => None,
    }
}

/// Keeps of each group its name, its last delivered entry and its number of pending entries, and of each pending entry
/// its id, its consumer and its number of deliveries.
pub fn normalize_answer(answer: Value) -> Value {
    let Value::Array(items) = answer else { return answer };
    let mut kept: Vec<Value> = items
        .into_iter()
        .map(|item| match &item {
            Value::Array(entry) if entry.len() == 4 && matches!(entry[3], Value::Int(_)) => {
                Value::Array(vec![entry[0].clone(), entry[1].clone(), entry[3].clone()])
            }
            _ => {
                let fields = ["name", "last-delivered-id", "pending"].map(|name| field(&item, name).cloned());
                if fields[0].is_none() { item } else { Value::Array(fields.into_iter().flatten().collect()) }
            }
        })
        .collect();
    // Groups come in no order that both sides share.
    kept.sort_by_key(|item| format!("{item:?}"));
    Value::Array(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn counters_that_replicas_lack_are_left_out() {
        let group = |consumers: i64, read: Value, last: &str| {
            Value::Array(vec![Value::Array(vec![
                text("name"),
                text("g"),
                text("consumers"),
                Value::Int(consumers),
                text("pending"),
                Value::Int(1),
                text("last-delivered-id"),
                text(last),
                text("entries-read"),
                read,
                text("lag"),
                Value::Int(0),
            ])])
        };
        let here = normalize_answer(group(2, Value::Int(5), "1-1"));
        assert_eq!(here, normalize_answer(group(1, Value::Nil, "1-1")));
        assert_ne!(here, normalize_answer(group(2, Value::Int(5), "1-2")));
    }

    #[test]
    fn the_owner_and_the_deliveries_of_a_pending_entry_count_and_its_idle_time_does_not() {
        let pending = |consumer: &str, idle: i64, deliveries: i64| {
            let entry = Value::Array(vec![text("1-1"), text(consumer), Value::Int(idle), Value::Int(deliveries)]);
            normalize_answer(Value::Array(vec![entry]))
        };
        assert_eq!(pending("c", 5, 1), pending("c", 900, 1));
        assert_ne!(pending("c", 5, 1), pending("d", 5, 1));
        assert_ne!(pending("c", 5, 1), pending("c", 5, 2));
    }
}
