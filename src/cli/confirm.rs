//! Asking before something is changed.

use std::io::{IsTerminal, Write as _};

use dialoguer::console::{Key, Term};
use dialoguer::theme::{SimpleTheme, Theme as _};
use rustix::termios::{QueueSelector, tcflush};

use super::command_error::CommandError;
use super::exit::Exit;

/// Asks a question; without a terminal it refuses and names `--yes`. What was typed before the question was on the screen
/// is discarded: it cannot be an answer to a plan that nobody had seen.
///
/// # Errors
/// The answer is no (exit 3), or Ctrl-C (exit 130).
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
    match ask(question) {
        Ok(Answer::Yes) => Ok(()),
        Ok(Answer::No) => Err(CommandError::with_message(Exit::Refused, "not confirmed; nothing was changed")),
        Ok(Answer::Interrupted) => Err(CommandError::with_message(Exit::Interrupted, "cancelled; nothing was changed")),
        Err(error) => {
            Err(CommandError::with_message(Exit::Refused, format!("no answer ({error}); nothing was changed")))
        }
    }
}

/// An answer to a question.
enum Answer {
    Yes,
    No,
    Interrupted,
}

/// Shows the question and waits for `y`, `n`, Enter (no), Esc (no), Ctrl-D (no) or Ctrl-C.
fn ask(question: &str) -> std::io::Result<Answer> {
    let mut terminal = Term::stderr();
    let mut prompt = String::new();
    SimpleTheme.format_confirm_prompt(&mut prompt, question, Some(false)).map_err(std::io::Error::other)?;
    tcflush(std::io::stdin(), QueueSelector::IFlush)?;
    write!(terminal, "{prompt} ")?;
    terminal.flush()?;
    let answer = loop {
        match terminal.read_key_raw() {
            Ok(Key::Char('y' | 'Y')) => break Answer::Yes,
            Ok(Key::Char('n' | 'N' | '\u{4}') | Key::Enter | Key::Escape) => break Answer::No,
            Ok(Key::CtrlC) => break Answer::Interrupted,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => break Answer::Interrupted,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break Answer::No,
            Err(error) => return Err(error),
        }
    };
    terminal.write_line(match answer {
        Answer::Yes => "yes",
        Answer::No | Answer::Interrupted => "no",
    })?;
    Ok(answer)
}
