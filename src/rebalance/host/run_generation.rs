//! The number of the latest run on this host. A run takes the next one, under the host's lock, before it requests
//! anything; requests with a lower number are refused, also in the middle of a move: an agent whose controller was
//! presumed dead and which is still active must not interfere with the run that replaced it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::atomic_file::{Attributes, write_atomically};

#[derive(Debug, Default, Serialize, Deserialize)]
struct LatestRun {
    generation: u64,
    run: String,
}

fn generation_path(folder: &Path) -> PathBuf {
    folder.join("latest-run.json")
}

/// Takes the next number for a run; durable when it returns.
///
/// # Errors
/// Fails on I/O errors, and where the number of the latest run cannot be read.
pub fn take_next_generation(folder: &Path, run: &str) -> Result<u64> {
    // As the journals in it: only root reads them.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("making {}", folder.display()))?;
    let latest = LatestRun { generation: read_latest_run(folder)?.generation + 1, run: run.to_owned() };
    write_atomically(&generation_path(folder), &serde_json::to_vec(&latest)?, &Attributes::with_mode(0o600))?;
    Ok(latest.generation)
}

/// Checks that this generation is still the latest one.
///
/// # Errors
/// Returns an error if another run has a later generation; that run is named.
pub fn check_generation(folder: &Path, generation: u64) -> Result<()> {
    let latest = read_latest_run(folder)?;
    if generation < latest.generation {
        bail!(
            "a later run, {}, controls this host (run generation {}, this run has {generation})",
            latest.run,
            latest.generation
        );
    }
    Ok(())
}

fn read_latest_run(folder: &Path) -> Result<LatestRun> {
    match fs::read(generation_path(folder)) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("{} is broken", generation_path(folder).display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(LatestRun::default()),
        Err(error) => Err(error).with_context(|| format!("reading {}", generation_path(folder).display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::shard::MovePhase;
    use crate::rebalance::host::move_journal::MoveJournal;
    use crate::rebalance::host::move_journal::tests::test_header;

    #[test]
    fn the_folder_is_for_root_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let moves = folder.path().join("moves");
        take_next_generation(&moves, "r1").unwrap();
        assert_eq!(fs::metadata(&moves).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_superseded_run_starts_no_phase() {
        let folder = tempfile::tempdir().unwrap();
        let first = take_next_generation(folder.path(), "r1").unwrap();
        let mut diary = MoveJournal::open(&test_header(folder.path(), 0, "r1", first)).unwrap();
        diary.log_intent(MovePhase::StartReplica, serde_json::Value::Null).unwrap();
        assert_eq!(take_next_generation(folder.path(), "r2").unwrap(), first + 1);
        let refused = diary.log_intent(MovePhase::DemoteSource, serde_json::Value::Null).unwrap_err().to_string();
        crate::messages::check("run-taken-over", [("r1 after r2", refused)]);
        drop(diary);
        assert!(MoveJournal::open(&test_header(folder.path(), 0, "r1", first)).is_err());
        MoveJournal::open(&test_header(folder.path(), 0, "r2", first + 1)).unwrap();
    }
}
