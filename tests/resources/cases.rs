//! Data cases: what is wanted, what was there, what the plan must say. One folder a type in `tests/cases/resources`.
//!
//! In `desired` contents stand as text; in `observed` the text `digest of X` stands for the digest of X. A case without
//! `observed` is refused before any host is asked: `invalid` is a part of the message.

use std::fs;
use std::path::Path;

use dunlin::plan::{AttributeChange, Digest};
use dunlin::resources::RESOURCE_KINDS;
use serde::Deserialize;
use serde_json::Value;

use crate::support::ResourceBlobs;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    case: Vec<DiffCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffCase {
    name: String,
    desired: toml::Table,
    observed: Option<toml::Value>,
    action: Option<String>,
    #[serde(default)]
    changes: Vec<String>,
    diff: Option<String>,
    reason: Option<String>,
    error: Option<String>,
    invalid: Option<String>,
}

/// Types whose observations are more than a small file can say; what they do is shown where they are used: with real
/// instances in `tests/migration`, with real maps in their own file.
const TESTED_ELSEWHERE: &[&str] = &["redis_shard", "shard_map"];

#[test]
fn every_resource_type_matches_its_cases() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/resources");
    let mut failures = Vec::new();
    for kind in RESOURCE_KINDS.iter().filter(|kind| !TESTED_ELSEWHERE.contains(&kind.name)) {
        let folder = root.join(kind.name);
        let Ok(entries) = fs::read_dir(&folder) else {
            failures.push(format!("{} has no cases", kind.name));
            continue;
        };
        let mut actions = Vec::new();
        for entry in entries {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let cases: CaseFile = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for case in cases.case {
                actions.extend(case.action.clone());
                if let Err(error) = run_case(kind.name, &case) {
                    failures.push(format!("{}: {}: {error}", path.display(), case.name));
                }
            }
        }
        if !actions.iter().any(|action| action == "none") {
            failures.push(format!("{} has no case with nothing to do", kind.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn run_case(kind: &str, case: &DiffCase) -> Result<(), String> {
    let mut store = ResourceBlobs::default();
    let desired = serde_json::to_value(&case.desired).map_err(|error| error.to_string())?;
    let step = match (store.parse_step(kind, desired), &case.invalid) {
        (Err(error), Some(part)) if error.contains(part) => return Ok(()),
        (Err(error), _) => return Err(format!("refused: {error}")),
        (Ok(_), Some(part)) => return Err(format!("accepted, but is wrong: {part}")),
        (Ok(step), None) => step,
    };
    let observed = case.observed.as_ref().ok_or("neither `observed` nor `invalid`")?;
    let observed = replace_texts_by_digests(serde_json::to_value(observed).map_err(|error| error.to_string())?);
    let diff = match (step.diff(&observed, &store), &case.error) {
        (Err(error), Some(part)) if format!("{error:#}").contains(part) => return Ok(()),
        (Err(error), _) => return Err(format!("failed: {error:#}")),
        (Ok(diff), Some(part)) => return Err(format!("no error \"{part}\" but {diff:?}")),
        (Ok(diff), None) => diff,
    };
    let changes: Vec<String> = diff.changes.iter().map(change_text).collect();
    let text: String = diff.changes.iter().filter_map(|change| change.diff.as_deref()).collect();
    ensure_equal("action", Some(diff.action.as_str()), case.action.as_deref())?;
    ensure_equal("changes", Some(&changes), Some(&case.changes))?;
    ensure_equal("reason", diff.reason.as_ref(), case.reason.as_ref())?;
    case.diff.as_ref().map_or(Ok(()), |wanted| ensure_equal("diff", Some(&text), Some(wanted)))
}

fn ensure_equal<T: PartialEq + std::fmt::Debug>(what: &str, is: T, wanted: T) -> Result<(), String> {
    if is == wanted { Ok(()) } else { Err(format!("{what} is {is:?}, wanted {wanted:?}")) }
}

/// `mode: 0600 -> 0644`; contents without their digest.
fn change_text(change: &AttributeChange) -> String {
    let side = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or_default();
        text.split_once(", ").map_or(text, |(_, length)| length).to_owned()
    };
    let (from, to) = if change.attribute == "content" {
        (side(&change.from), side(&change.to))
    } else {
        (change.from.clone().unwrap_or_default(), change.to.clone().unwrap_or_default())
    };
    format!("{}: {from} -> {to}", change.attribute)
}

fn replace_texts_by_digests(value: Value) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix("digest of ") {
            Some(content) => Value::String(Digest::of_bytes(content.as_bytes()).to_string()),
            None => Value::String(text),
        },
        Value::Array(values) => values.into_iter().map(replace_texts_by_digests).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, replace_texts_by_digests(value))).collect(),
        other => other,
    }
}
