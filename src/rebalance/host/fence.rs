//! The number of the latest run on this host. A run takes the next one, under the host's lock, before it asks for
//! anything; whatever carries a lower one is refused, also in the middle of a move: an agent whose controller was
//! given up for lost and which is still at work must not get in the way of the run that took its place.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::atomic_file::{Attributes, write_atomically};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Latest {
    number: u64,
    run: String,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("latest-run.json")
}

/// Takes the next number for a run; durable when it returns.
///
/// # Errors
/// Fails on I/O errors, and where the number of the latest run cannot be read.
pub fn take(folder: &Path, run: &str) -> Result<u64> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let latest = Latest { number: latest(folder)?.number + 1, run: run.to_owned() };
    write_atomically(&path(folder), &serde_json::to_vec(&latest)?, &Attributes::synced(0o600))?;
    Ok(latest.number)
}

/// Is this still the latest number?
///
/// # Errors
/// It is not: the run that has it is named.
pub fn check(folder: &Path, number: u64) -> Result<()> {
    let latest = latest(folder)?;
    if number < latest.number {
        bail!("run {} has taken over on this host (its number is {}, ours {number})", latest.run, latest.number);
    }
    Ok(())
}

fn latest(folder: &Path) -> Result<Latest> {
    match fs::read(path(folder)) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is broken", path(folder).display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Latest::default()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path(folder).display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rebalance::host::diary::tests::job;
    use crate::rebalance::host::diary::{Diary, Step};

    #[test]
    fn a_run_that_another_took_over_from_begins_no_step() {
        let folder = tempfile::tempdir().unwrap();
        let first = take(folder.path(), "r1").unwrap();
        let mut diary = Diary::open(&job(folder.path(), 0, ("r1", first))).unwrap();
        diary.intent(Step::Birth, serde_json::Value::Null).unwrap();
        assert_eq!(take(folder.path(), "r2").unwrap(), first + 1);
        let refused = diary.intent(Step::Fence, serde_json::Value::Null).unwrap_err().to_string();
        crate::messages::check("run-taken-over", [("r1 after r2", refused)]);
        drop(diary);
        assert!(Diary::open(&job(folder.path(), 0, ("r1", first))).is_err());
        Diary::open(&job(folder.path(), 0, ("r2", first + 1))).unwrap();
    }
}
