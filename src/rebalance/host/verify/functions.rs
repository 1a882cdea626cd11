//! Libraries of functions, which replication copies with the keys: source and target have the same ones, with the same
//! code.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use redis::Value;

use super::super::redis_client::{RedisClient, redis_command, value_text};
use crate::poll::poll_until;
use crate::protocol::shard::VerifyResult;

/// Time within which a change of a library at the source has to be at the target.
const REPLICATION_TIMEOUT: Duration = Duration::from_secs(5);
/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The libraries of an instance: engine and code, by name.
type Libraries = BTreeMap<String, (String, String)>;

/// Compares the libraries of source and target, and adds those that differ to the result. A library that was just
/// changed is looked at again.
///
/// # Errors
/// Returns an error if one of the instances does not answer.
pub fn compare_functions(
    source: &mut RedisClient,
    target: &mut RedisClient,
    verified: &mut VerifyResult,
) -> Result<()> {
    let mut last = (Libraries::new(), Libraries::new());
    let equal = poll_until(Instant::now() + REPLICATION_TIMEOUT, POLL_INTERVAL, || {
        last = (list_libraries(source)?, list_libraries(target)?);
        anyhow::Ok((last.0 == last.1).then_some(()))
    })?;
    if equal.is_none() {
        add_differences(&last.0, &last.1, verified);
    }
    Ok(())
}

fn list_libraries(instance: &mut RedisClient) -> Result<Libraries> {
    let list: Vec<BTreeMap<String, Value>> = instance.query(&redis_command(&["FUNCTION", "LIST", "WITHCODE"]))?;
    let text = |library: &BTreeMap<String, Value>, name: &str| {
        library.get(name).and_then(value_text).unwrap_or_default().to_owned()
    };
    let entry = |library: &BTreeMap<String, Value>| {
        (text(library, "library_name"), (text(library, "engine"), text(library, "library_code")))
    };
    Ok(list.iter().map(entry).collect())
}

fn add_differences(source: &Libraries, target: &Libraries, verified: &mut VerifyResult) {
    for name in source.keys().chain(target.keys()).collect::<BTreeSet<_>>() {
        let list = match (source.get(name), target.get(name)) {
            (Some(_), None) => &mut verified.missing,
            (None, _) => &mut verified.extra,
            (at_source, at_target) if at_source != at_target => &mut verified.differing,
            _ => continue,
        };
        list.push(format!("function library {name}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_differ_are_named() {
        let libraries = |list: &[(&str, &str)]| -> Libraries {
            list.iter().map(|(name, code)| ((*name).to_owned(), ("LUA".to_owned(), (*code).to_owned()))).collect()
        };
        let mut verified = VerifyResult::default();
        let source = libraries(&[("a", "1"), ("b", "1"), ("c", "1")]);
        add_differences(&source, &libraries(&[("a", "1"), ("b", "2"), ("d", "1")]), &mut verified);
        assert_eq!(verified.differing, ["function library b"]);
        assert_eq!(verified.missing, ["function library c"]);
        assert_eq!(verified.extra, ["function library d"]);
    }
}
