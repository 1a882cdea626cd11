//! What the journals of this host say about its moves, beside the roles that the instances have now.

use std::fs;
use std::io::ErrorKind;
use std::panic::resume_unwind;
use std::thread;

use anyhow::{Context, Result, bail};

use super::diary::{self, Begun, Mark, Record, Step, is_finished, last_move};
use super::link::role_of;
use super::survey::AT_ONCE;
use crate::journal;
use crate::wire::shard::{Logged, MoveState, Moves};

/// The last move of each shard, by shard number.
///
/// # Errors
/// The folder or a journal could not be read.
pub fn moves(what: &Moves) -> Result<Vec<MoveState>> {
    let last: Vec<(u32, Vec<Record>)> =
        read_journals(what)?.into_iter().map(|(shard, records)| (shard, last_move(&records).to_vec())).collect();
    let some = |some: &[(u32, Vec<Record>)]| -> Vec<Option<MoveState>> {
        thread::scope(|scope| {
            let looks: Vec<_> = some.iter().map(|(id, records)| scope.spawn(|| state(*id, records, what))).collect();
            looks.into_iter().map(|look| look.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        })
    };
    Ok(last.chunks(AT_ONCE).flat_map(some).flatten().collect())
}

/// All moves, oldest first.
///
/// # Errors
/// The folder or a journal could not be read.
pub fn log(what: &Moves) -> Result<Vec<Logged>> {
    let mut moves = Vec::new();
    for (shard, records) in read_journals(what)? {
        let begins: Vec<usize> = (0..records.len()).filter(|&at| records[at].step == Step::Begin).collect();
        let ends = begins.iter().skip(1).copied().chain([records.len()]);
        moves.extend(begins.iter().zip(ends).filter_map(|(&begin, end)| logged(shard, &records[begin..end])));
    }
    moves.sort_by(|a, b| a.begun.cmp(&b.begun));
    Ok(moves)
}

/// Reads the journals of all shards, ascending.
///
/// # Errors
/// Fails where one is damaged, and names each that is: a move that is left out would look like one that never was.
fn read_journals(what: &Moves) -> Result<Vec<(u32, Vec<Record>)>> {
    let (mut journals, mut damaged) = (Vec::new(), Vec::new());
    for shard in shards(what)? {
        match journal::read(&diary::path(&what.journals, shard)) {
            Ok(records) => journals.push((shard, records)),
            Err(error) => damaged.push(format!("shard {shard}: {:#}", anyhow::Error::new(error))),
        }
    }
    if !damaged.is_empty() {
        bail!("cannot read the moves of this host: {}", damaged.join("; "));
    }
    Ok(journals)
}

fn logged(shard: u32, records: &[Record]) -> Option<Logged> {
    let (first, last) = (records.first()?, records.last()?);
    let begun: Begun = serde_json::from_value(first.detail.clone()).ok()?;
    let done = |step| records.iter().any(|record| record.step == step && record.mark == Mark::Done);
    let end = if done(Step::Settle) && begun.failover {
        "failed over"
    } else if done(Step::Settle) && begun.replica {
        "replica made"
    } else if done(Step::Settle) {
        "moved"
    } else if done(Step::Abort) {
        "taken back"
    } else {
        "open"
    };
    Some(Logged {
        run: first.run.clone(),
        by: begun.by,
        shard,
        from: begun.from,
        to: begun.to,
        epoch: begun.epoch,
        begun: first.at.clone(),
        ended: last.at.clone(),
        end: end.to_owned(),
    })
}

/// The shards that there are journals of, ascending.
fn shards(what: &Moves) -> Result<Vec<u32>> {
    let mut shards = Vec::new();
    match fs::read_dir(&what.journals) {
        Ok(entries) => {
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let number = name.strip_prefix("shard-").and_then(|name| name.strip_suffix(".jsonl"));
                shards.extend(number.and_then(|number| number.parse::<u32>().ok()));
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", what.journals.display())),
    }
    shards.sort_unstable();
    Ok(shards)
}

fn state(shard: u32, records: &[Record], what: &Moves) -> Option<MoveState> {
    let (first, last) = (records.first()?, records.last()?);
    let begun: Begun = serde_json::from_value(first.detail.clone()).ok()?;
    let settled = records.iter().rev().find(|record| record.step == Step::Settle && record.mark == Mark::Done);
    let named = settled.and_then(|record| record.detail["epoch"].as_u64());
    let mark = serde_json::to_value(last.mark).ok()?.as_str()?.to_owned();
    Some(MoveState {
        run: first.run.clone(),
        shard,
        source: role_of(&begun.from, &what.credentials),
        target: role_of(&begun.to, &what.credentials),
        from: begun.from,
        to: begun.to,
        others: begun.others,
        epoch: named.unwrap_or(begun.epoch),
        app_user: begun.app_user,
        instance: begun.instance,
        sparing: begun.sparing,
        step: last.step.name().to_owned(),
        mark,
        at: last.at.clone(),
        replica: begun.replica,
        finished: is_finished(records),
        failover: diary::stage(records).map(|(begun, _)| begun),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::shard::Credentials;

    #[test]
    fn each_damaged_journal_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = Credentials { user: String::new(), password: String::new() };
        let what = Moves { credentials, journals: folder.path().to_owned() };
        assert_eq!(moves(&what).unwrap(), []);
        for shard in [2, 10] {
            fs::write(folder.path().join(format!("shard-{shard}.jsonl")), "{}\n{}\n").unwrap();
        }
        for error in [moves(&what).unwrap_err(), log(&what).unwrap_err()] {
            let error = format!("{error:#}");
            assert!(error.contains("shard-2.jsonl:1: ") && error.contains("shard-10.jsonl:1: "), "{error}");
        }
    }
}
