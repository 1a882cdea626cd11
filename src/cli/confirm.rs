//! Asking before something is changed.

use std::io::IsTerminal;

use super::command_error::CommandError;
use super::exit::Exit;

/// Asks; without a terminal it refuses and names `--yes`.
///
/// # Errors
/// Not confirmed.
pub fn require_confirmation(question: &str, yes: bool) -> Result<(), CommandError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(CommandError::with_message(
            Exit::Refused,
            "this changes hosts, and there is no terminal to ask on",
        )
        .with_hint("say --yes if the plan is what you want, or --dry-run to see it"));
    }
    let answer = dialoguer::Confirm::new().with_prompt(question).default(false).interact();
    match answer {
        Ok(true) => Ok(()),
        _ => Err(CommandError::with_message(Exit::Refused, "not confirmed; nothing was changed")),
    }
}
