//! Files that a command writes where its user says: plans and observations.

use std::path::Path;

use super::command_error::CommandError;
use super::exit::Exit;
use crate::atomic_file::{Attributes, write_atomically};
use crate::plan::SealError;

/// Only the user may read it: a plan lists the hosts of the fleet and their state.
const PRIVATE_MODE: u32 = 0o600;

/// Returns the error of a saved plan whose seal is not accepted.
pub fn seal_error(path: &Path, error: SealError) -> CommandError {
    CommandError::with_message(Exit::Refused, format!("{}: {error}", path.display())).with_hint("make a new plan")
}

/// Creates or replaces a file that only its owner can read. What is there and is no regular file (`/dev/stdout`, a
/// pipe) is written to.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn write_output_file(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    let is_replaced = path.metadata().map_or(true, |stat| stat.is_file());
    let written = if is_replaced {
        write_atomically(path, bytes, &Attributes::with_mode(PRIVATE_MODE))
    } else {
        std::fs::write(path, bytes).map_err(anyhow::Error::from)
    };
    written.map_err(|error| {
        CommandError::with_message(Exit::Error, format!("{}: cannot be written: {error:#}", path.display()))
    })
}
