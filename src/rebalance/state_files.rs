//! The files in `.dunlin` that one command leaves for the next: pending moves, throttle limits, capacity samples.
//!
//! Only a file that does not exist means that nothing was left. A file that cannot be read, or is not what was written,
//! is an error: a command that took it for "nothing pending" would plan over moves that are in progress.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::apply::PlannedMove;
use super::capacity::CapacitySample;
use crate::atomic_file::replace_text;
use crate::journal::{self, Journal};
use crate::protocol::throttle::ThrottleLimits;

/// Age up to which capacity samples are used, in seconds.
const HISTORY_SECONDS: i64 = 30 * 86400;

/// The state files of one inventory.
#[derive(Clone, Debug)]
pub struct StateFiles {
    pending_moves: PathBuf,
    throttle: PathBuf,
    capacity_history: PathBuf,
}

/// A state file that cannot be used. Whoever reports it adds [`StateFileError::hint`].
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The file exists, but cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
        /// The next step.
        hint: &'static str,
    },
    /// The file's text is not what dunlin writes there.
    #[error("{}:{}:{}: not a valid state file: {source}", path.display(), source.line(), source.column())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The mistake; its position is in the message.
        source: serde_json::Error,
        /// The next step.
        hint: &'static str,
    },
    /// The file cannot be written or removed.
    #[error("{}: cannot be written: {source:#}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: anyhow::Error,
    },
    /// The history of capacity samples cannot be read or extended; the message names the file.
    #[error("{0:#}")]
    History(anyhow::Error),
}

impl StateFileError {
    /// Returns the next step.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { hint, .. } | Self::Invalid { hint, .. } => hint,
            Self::Unwritable { .. } => "make its folder writable and the disk not full, then run the command again",
            Self::History(_) => "make it readable, or move it away: later samples start a new history",
        }
    }
}

const PENDING_HINT: &str = "make it readable or restore it; if that is impossible, move it away: `dunlin shards status` \
    shows moves that have started, and `dunlin shard-rebalance` plans the others again";
const THROTTLE_HINT: &str = "make it readable or restore it; if that is impossible, move it away and give the limits \
    again: dunlin shards resume --bandwidth … --max-p99 …";

impl StateFiles {
    /// Returns the state files of an inventory, below the project's folder `root`.
    pub fn new(root: &Path, inventory: &Path) -> Self {
        let name = inventory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let in_state_folder = |file: String| root.join(".dunlin").join(file);
        Self {
            pending_moves: in_state_folder(format!("rebalance-{name}.json")),
            throttle: in_state_folder(format!("rebalance-{name}.limits.json")),
            capacity_history: in_state_folder(format!("capacity-{name}.jsonl")),
        }
    }

    /// Returns the moves that an earlier run did not finish.
    ///
    /// # Errors
    /// Returns an error if the file exists and cannot be read, or is not valid.
    pub fn load_pending_moves(&self) -> Result<Vec<PlannedMove>, StateFileError> {
        load(&self.pending_moves, PENDING_HINT)
    }

    /// Saves the moves that are still to be made; without any, removes the file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written or removed.
    pub fn save_pending_moves(&self, steps: &[PlannedMove]) -> Result<(), StateFileError> {
        let path = &self.pending_moves;
        if !steps.is_empty() {
            return save(path, steps);
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(StateFileError::Unwritable { path: path.clone(), source: error.into() })
            }
            _ => Ok(()),
        }
    }

    /// Returns the throttle limits of the run whose moves are pending.
    ///
    /// # Errors
    /// Returns an error if the file exists and cannot be read, or is not valid.
    pub fn load_throttle(&self) -> Result<ThrottleLimits, StateFileError> {
        load(&self.throttle, THROTTLE_HINT)
    }

    /// Saves the throttle limits of a run, for the run that resumes it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn save_throttle(&self, throttle: &ThrottleLimits) -> Result<(), StateFileError> {
        save(&self.throttle, throttle)
    }

    /// Appends a capacity sample to the history, and returns the samples of the last 30 days with it.
    ///
    /// # Errors
    /// Returns an error if the history cannot be read or written.
    pub fn add_capacity_sample(&self, sample: &CapacitySample) -> Result<Vec<CapacitySample>, StateFileError> {
        let path = &self.capacity_history;
        // Read first: a history that cannot be read must not be extended.
        let mut samples: Vec<CapacitySample> =
            journal::read_entries(path).map_err(|error| StateFileError::History(error.into()))?;
        Journal::open(path).and_then(|mut history| history.append(sample)).map_err(StateFileError::History)?;
        samples.push(*sample);
        samples.retain(|earlier| earlier.at >= sample.at - HISTORY_SECONDS);
        Ok(samples)
    }
}

fn load<T: DeserializeOwned + Default>(path: &Path, hint: &'static str) -> Result<T, StateFileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        // A symbolic link without its target is a file that cannot be read, not an absent one.
        Err(error) if error.kind() == ErrorKind::NotFound && std::fs::symlink_metadata(path).is_err() => {
            return Ok(T::default());
        }
        Err(source) => return Err(StateFileError::Unreadable { path: path.to_owned(), source, hint }),
    };
    serde_json::from_slice(&bytes).map_err(|source| StateFileError::Invalid { path: path.to_owned(), source, hint })
}

fn save(path: &Path, value: &(impl Serialize + ?Sized)) -> Result<(), StateFileError> {
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        replace_text(path, &serde_json::to_string_pretty(value)?)
    };
    write().map_err(|source| StateFileError::Unwritable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use dunlin_shards::ShardId;

    use super::*;
    use crate::rebalance::plan::Role;

    fn step(shard: u16) -> PlannedMove {
        PlannedMove { shard: ShardId(shard), from: "a".to_owned(), to: "b".to_owned(), wave: 0, role: Role::Primary }
    }

    #[test]
    fn what_is_saved_is_loaded_and_an_empty_list_removes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let files = StateFiles::new(folder.path(), Path::new("inventories/prod"));
        assert_eq!(files.load_pending_moves().unwrap(), []);
        assert_eq!(files.load_throttle().unwrap(), ThrottleLimits::default());
        files.save_pending_moves(&[step(1), step(2)]).unwrap();
        assert!(folder.path().join(".dunlin/rebalance-prod.json").is_file());
        assert_eq!(files.load_pending_moves().unwrap(), [step(1), step(2)]);
        files.save_pending_moves(&[]).unwrap();
        assert_eq!(files.load_pending_moves().unwrap(), []);
        files.save_pending_moves(&[]).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_used_is_never_taken_for_an_absent_one() {
        let folder = tempfile::tempdir().unwrap();
        let files = StateFiles::new(folder.path(), Path::new("prod"));
        let state = folder.path().join(".dunlin");
        let paths = [state.join("rebalance-prod.json"), state.join("rebalance-prod.limits.json")];
        let errors = |what: &str| {
            let errors = [files.load_pending_moves().err(), files.load_throttle().err()];
            for (error, path) in errors.into_iter().zip(&paths) {
                let error = error.unwrap_or_else(|| panic!("{what}: {} is taken for absent", path.display()));
                assert!(error.to_string().contains(path.to_str().unwrap()), "{what}: {error}");
                assert!(error.hint().contains("dunlin shard"), "{what}: {}", error.hint());
            }
        };
        std::fs::write(&state, "a file").unwrap();
        errors("a folder that is a file");
        std::fs::remove_file(&state).unwrap();
        std::fs::create_dir(&state).unwrap();
        for text in [&b""[..], b"[{", b"5", b"\"a\"", b"\xff", b"[{\"shard\": \"x\"}]"] {
            paths.iter().for_each(|path| std::fs::write(path, text).unwrap());
            errors(&String::from_utf8_lossy(text));
        }
        paths.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        paths.iter().for_each(|path| std::os::unix::fs::symlink("missing", path).unwrap());
        errors("a symbolic link without its target");
        paths.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        paths.iter().for_each(|path| std::fs::create_dir(path).unwrap());
        errors("a folder");
    }

    #[test]
    fn the_capacity_history_keeps_the_last_days() {
        let folder = tempfile::tempdir().unwrap();
        let files = StateFiles::new(folder.path(), Path::new("prod"));
        let sample = |day: i64| CapacitySample { at: day * 86400, bytes: 1, keys: 1 };
        let days = |samples: Vec<CapacitySample>| samples.iter().map(|sample| sample.at / 86400).collect::<Vec<_>>();
        assert_eq!(days(files.add_capacity_sample(&sample(1)).unwrap()), [1]);
        assert_eq!(days(files.add_capacity_sample(&sample(20)).unwrap()), [1, 20]);
        assert_eq!(days(files.add_capacity_sample(&sample(40)).unwrap()), [20, 40]);
        let path = folder.path().join(".dunlin/capacity-prod.jsonl");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = files.add_capacity_sample(&sample(41)).unwrap_err();
        assert!(error.to_string().contains("capacity-prod.jsonl"), "{error}");
    }
}
