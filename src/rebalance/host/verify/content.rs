//! A key's content in one form, whatever its encoding: for keys whose `DUMP` bytes differ.

use anyhow::Result;
use redis::{Cmd, Value};

use super::super::link::{Link, words};
use crate::plan::Digest;

/// The digests of the contents of keys, by their types; equal contents have equal digests on both sides.
///
/// # Errors
/// The instance does not answer, or a key is of a type that is not known here.
pub fn contents(link: &mut Link, keys: &[&Vec<u8>]) -> Result<Vec<Digest>> {
    let with = |head: &[&str], key: &[u8], tail: &[&str]| -> Cmd {
        let mut cmd = words(head);
        cmd.arg(key);
        for word in tail {
            cmd.arg(word);
        }
        cmd
    };
    let types = link.all(&keys.iter().map(|key| with(&["TYPE"], key, &[])).collect::<Vec<_>>())?;
    let mut digests = Vec::with_capacity(keys.len());
    for (key, kind) in keys.iter().zip(types) {
        let kind = match kind {
            Value::SimpleString(kind) => kind,
            _ => String::new(),
        };
        let (cmds, parts) = match kind.as_str() {
            "string" => (vec![with(&["GET"], key, &[])], 0),
            "list" => (vec![with(&["LRANGE"], key, &["0", "-1"])], 0),
            "zset" => (vec![with(&["ZRANGE"], key, &["0", "-1", "WITHSCORES"])], 0),
            "set" => (vec![with(&["SMEMBERS"], key, &[])], 1),
            "hash" => (vec![with(&["HGETALL"], key, &[])], 2),
            "stream" => (vec![with(&["XRANGE"], key, &["-", "+"]), with(&["XINFO", "GROUPS"], key, &[])], 0),
            "none" => (Vec::new(), 0),
            other => anyhow::bail!("a key of type {other} cannot be compared but by its bytes, and those differ"),
        };
        // Between the question for the type and this the key may have become another: that is an error answer, and
        // so it differs, and is looked at again.
        let mut form = kind.into_bytes();
        for answer in link.batch(&cmds)? {
            write(&in_order(answer, parts), &mut form);
        }
        digests.push(Digest::of(&form));
    }
    Ok(digests)
}

/// What comes in no order (a set's members, a hash's pairs), `parts` values at a time, is brought into one.
fn in_order(answer: Value, parts: usize) -> Value {
    match answer {
        Value::Array(values) if parts > 0 => {
            let mut groups: Vec<Vec<u8>> = values
                .chunks(parts)
                .map(|group| {
                    let mut form = Vec::new();
                    group.iter().for_each(|value| write(value, &mut form));
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
fn write(value: &Value, form: &mut Vec<u8>) {
    match value {
        Value::BulkString(bytes) => {
            form.extend_from_slice(format!("${}\n", bytes.len()).as_bytes());
            form.extend_from_slice(bytes);
        }
        Value::Array(values) => {
            form.extend_from_slice(format!("*{}\n", values.len()).as_bytes());
            values.iter().for_each(|value| write(value, form));
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
    fn pairs_keep_together_and_order_does_not_count() {
        assert_eq!(in_order(bulk(&["a", "1", "b", "2"]), 2), in_order(bulk(&["b", "2", "a", "1"]), 2));
        assert_ne!(in_order(bulk(&["a", "1", "b", "2"]), 2), in_order(bulk(&["a", "2", "b", "1"]), 2));
        assert_ne!(in_order(bulk(&["a", "b"]), 0), in_order(bulk(&["b", "a"]), 0));
    }
}
