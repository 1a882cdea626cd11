//! `[notify]` of a recipe: commands on the controller that learn of a rollout.

use std::ops::Range;

use serde::Deserialize;

use super::HookCommand;
use super::reader::RecipeReader;
use crate::deploy::batches::DurationMs;

/// Default time limit of a command, in milliseconds.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;

/// Commands that run on the controller, in the project's folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NotifyCommands {
    /// Run before the first change.
    pub started: Vec<Vec<String>>,
    /// Run after a rollout that succeeded on all hosts.
    pub finished: Vec<Vec<String>>,
    /// Run after any other rollout.
    pub failed: Vec<Vec<String>>,
    /// Milliseconds until a command is stopped.
    pub timeout_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NotifyTable {
    #[serde(default)]
    started: Vec<HookCommand>,
    #[serde(default)]
    finished: Vec<HookCommand>,
    #[serde(default)]
    failed: Vec<HookCommand>,
    timeout: Option<DurationMs>,
}

impl RecipeReader<'_> {
    pub(super) fn read_notify(&mut self, table: Option<(Range<usize>, NotifyTable)>) -> NotifyCommands {
        let Some((span, table)) = table else { return NotifyCommands::default() };
        let mut read = |commands: Vec<HookCommand>| -> Vec<Vec<String>> {
            commands.into_iter().map(|command| self.read_command(&span, command)).collect()
        };
        NotifyCommands {
            started: read(table.started),
            finished: read(table.finished),
            failed: read(table.failed),
            timeout_ms: table.timeout.map_or(DEFAULT_TIMEOUT_MS, |timeout| timeout.0),
        }
    }
}
