//! The conditions of a command: `unless` and `only_if`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{CommandResource, Script, shell_argv, shorten_line};
use crate::resources::{HostView, PathState};

/// Time limit of a condition.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(10);

/// A condition of a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Condition {
    /// Text for `sh -c`.
    Shell(String),
    /// A program and its arguments.
    Argv(Vec<String>),
}

/// Result of one condition.
pub(super) enum ConditionResult {
    Status(i32),
    /// The condition can only be evaluated after earlier steps; with the reason.
    Deferred(String),
}

impl CommandResource {
    /// Returns the text of one of the conditions for messages.
    pub(super) fn condition_display(&self, condition: &Condition) -> String {
        let is_unless = self.unless.as_ref().is_some_and(|unless| std::ptr::eq(unless, condition));
        let source = self.display.get(if is_unless { "unless" } else { "only_if" });
        shorten_line(&source.cloned().unwrap_or_else(|| condition.display_text()))
    }

    /// Evaluates a condition, unless an earlier step may change its result.
    pub(super) fn check_condition(&self, condition: &Condition, view: &mut HostView) -> Result<ConditionResult> {
        if let Some(reason) = self.deferral_reason(condition, view)? {
            return Ok(ConditionResult::Deferred(reason));
        }
        self.ensure_runnable(view)?;
        let shown = self.condition_display(condition);
        let script = match condition {
            Condition::Shell(text) => Some(self.open_script(text)?),
            Condition::Argv(_) => None,
        };
        let argv = script.as_ref().map_or_else(|| condition.to_argv(), Script::argv);
        let output = match self.program(&argv, &shown).timeout(CONDITION_TIMEOUT).output() {
            Ok(output) => output,
            Err(error) if view.has_pending_steps() && is_program_missing(&error) => {
                return Ok(ConditionResult::Deferred(format!(
                    "the program of the condition `{shown}` is missing; an earlier step may install it"
                )));
            }
            Err(error) => return Err(error).context("running the condition"),
        };
        match output.status.code() {
            Some(126 | 127) if view.has_pending_steps() => Ok(ConditionResult::Deferred(format!(
                "the program of the condition `{shown}` is missing; an earlier step may install it"
            ))),
            Some(status) => Ok(ConditionResult::Status(status)),
            None => bail!("a signal ended the condition `{shown}`: {}", output.status),
        }
    }

    /// Returns the reason why a condition cannot be evaluated before earlier steps, if there is one.
    fn deferral_reason(&self, condition: &Condition, view: &mut HostView) -> Result<Option<String>> {
        let shown = condition.display_text();
        if let Some(what) = view.pending_change_in(&shown) {
            return Ok(Some(format!(
                "the condition `{}` names {what}, which an earlier step changes",
                self.condition_display(condition)
            )));
        }
        if let Some(surprise) = view.unknown_until_apply() {
            return Ok(Some(format!(
                "the condition `{}` may have another result after {surprise}",
                self.condition_display(condition)
            )));
        }
        if let Some(user) = self.user.as_ref().filter(|user| view.is_user_predicted(user)) {
            return Ok(Some(format!("the condition runs as user {user}, which an earlier step changes")));
        }
        let folder = self.cwd.as_ref().filter(|folder| !folder.is_dir());
        if let Some(folder) = folder
            && matches!(view.path_state(folder)?, PathState::Directory { .. })
        {
            return Ok(Some(format!("the condition runs in {}, which an earlier step creates", folder.display())));
        }
        Ok(None)
    }
}

impl Condition {
    pub(super) fn to_argv(&self) -> Vec<&str> {
        match self {
            Self::Shell(text) if text.trim().is_empty() => Vec::new(),
            Self::Shell(text) => shell_argv(text),
            Self::Argv(argv) => argv.iter().map(String::as_str).collect(),
        }
    }

    pub(super) fn display_text(&self) -> String {
        match self {
            Self::Shell(text) => text.clone(),
            Self::Argv(argv) => argv.join(" "),
        }
    }
}

/// Returns true if the program could not be started because there is none.
fn is_program_missing(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|error| {
        matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied)
    })
}
