//! Commands of a recipe: `[[task]]`, `[hooks]`, `build`.

use std::ops::Range;

use serde::Deserialize;

use super::reader::RecipeReader;
use crate::deploy::batches::DurationMs;
use crate::protocol::deploy::{ReleaseTask, SwitchHooks, TaskPhase};

/// Default time limit of a task, in milliseconds.
const DEFAULT_TASK_TIMEOUT_MS: u64 = 600_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TaskTable {
    name: String,
    command: Vec<String>,
    #[serde(default = "default_task_phase")]
    run: TaskPhase,
    timeout: Option<DurationMs>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HooksTable {
    #[serde(default)]
    before_switch: Vec<HookCommand>,
    #[serde(default)]
    after_switch: Vec<HookCommand>,
    timeout: Option<DurationMs>,
}

/// A command of the recipe: `["program", "argument"]`, or one string that a shell reads.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum HookCommand {
    Argv(Vec<String>),
    Shell(String),
}

fn default_task_phase() -> TaskPhase {
    TaskPhase::BeforeSwitch
}

impl RecipeReader<'_> {
    pub(super) fn read_tasks(&mut self, tables: Vec<(Range<usize>, TaskTable)>) -> Vec<ReleaseTask> {
        let mut tasks: Vec<ReleaseTask> = Vec::new();
        for (span, table) in tables {
            self.check_argv(&span, &table.command);
            if tasks.iter().any(|other| other.name == table.name) {
                self.add_error(&span, format!("two tasks have the name {}", table.name), None);
            }
            let timeout_ms = table.timeout.map_or(DEFAULT_TASK_TIMEOUT_MS, |span| span.0);
            tasks.push(ReleaseTask { name: table.name, argv: table.command, phase: table.run, timeout_ms });
        }
        tasks
    }

    pub(super) fn read_command(&mut self, span: &Range<usize>, command: HookCommand) -> Vec<String> {
        let argv = match command {
            HookCommand::Argv(argv) => argv,
            HookCommand::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
        };
        self.check_argv(span, &argv);
        argv
    }

    pub(super) fn read_hooks(&mut self, table: Option<(Range<usize>, HooksTable)>) -> SwitchHooks {
        let Some((span, table)) = table else { return SwitchHooks::default() };
        let mut hooks = |hooks: Vec<HookCommand>| -> Vec<Vec<String>> {
            hooks.into_iter().map(|hook| self.read_command(&span, hook)).collect()
        };
        let timeout_ms = table.timeout.map_or(SwitchHooks::DEFAULT_TIMEOUT_MS, |timeout| timeout.0);
        SwitchHooks { before: hooks(table.before_switch), after: hooks(table.after_switch), timeout_ms }
    }
}
