//! Asking before something is changed.

use std::io::IsTerminal;

use super::exit::Exit;
use super::failure::Failure;

/// Asks; without a terminal it refuses and names `--yes`.
///
/// # Errors
/// Not confirmed.
pub fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::say(Exit::Refused, "this changes hosts, and there is no terminal to ask on")
            .hint("say --yes if the plan is what you want, or --dry-run to see it"));
    }
    let answer = dialoguer::Confirm::new().with_prompt(question).default(false).interact();
    match answer {
        Ok(true) => Ok(()),
        _ => Err(Failure::say(Exit::Refused, "not confirmed; nothing was changed")),
    }
}
