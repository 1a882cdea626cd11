//! Questions before a change.

use std::io::{IsTerminal, Write as _};

use dialoguer::console::{Key, Term};
use dialoguer::theme::{SimpleTheme, Theme as _};
use rustix::termios::{QueueSelector, tcflush};

use super::command_error::CommandError;
use super::exit::Exit;
use crate::report::escape_text;

/// Asks a question, unless `--yes` answers it.
///
/// # Errors
/// Returns an error if the answer is no or there is no terminal (exit 3), or after Ctrl-C (exit 130).
pub fn require_confirmation(question: &str, yes: bool) -> Result<(), CommandError> {
    if yes {
        return Ok(());
    }
    require_answer(question, "run the command again with --yes to confirm")
}

/// Asks a question. Without a terminal it refuses, and names what confirms instead.
///
/// # Errors
/// Returns an error under the same conditions as [`require_confirmation`].
pub fn require_answer(question: &str, without_terminal: &str) -> Result<(), CommandError> {
    ensure_terminal("confirmation is required, and there is no terminal to ask on", without_terminal)?;
    let mut prompt = String::new();
    let is_formatted = SimpleTheme.format_confirm_prompt(&mut prompt, question, Some(false));
    let answer = is_formatted.map_err(std::io::Error::other).and_then(|()| ask(&prompt, read_yes_or_no));
    require_yes(answer)
}

/// Asks the person to type a text, such as the names of what may be lost. `danger` says what may be lost.
///
/// # Errors
/// Returns an error if another text was typed or there is no terminal (exit 3), or after Ctrl-C (exit 130).
pub fn require_typed_text(danger: &str, expected: &str, without_terminal: &str) -> Result<(), CommandError> {
    ensure_terminal(&format!("{danger}, and there is no terminal to ask on"), without_terminal)?;
    let mut prompt = danger.to_owned();
    if let Some(first) = prompt.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    prompt.push_str(&format!(". Type {expected} to confirm:"));
    require_yes(ask(&prompt, |terminal| read_text(&mut || terminal.read_key_raw(), &mut terminal.clone(), expected)))
}

fn ensure_terminal(problem: &str, hint: &str) -> Result<(), CommandError> {
    if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        return Ok(());
    }
    Err(CommandError::with_message(Exit::Refused, format!("{problem}; no changes were made")).with_hint(hint))
}

fn require_yes(answer: std::io::Result<Answer>) -> Result<(), CommandError> {
    match answer {
        Ok(Answer::Yes) => Ok(()),
        Ok(Answer::No) => Err(CommandError::with_message(Exit::Refused, "not confirmed; no changes were made")),
        Ok(Answer::Interrupted) => {
            Err(CommandError::with_message(Exit::Interrupted, "cancelled; no changes were made"))
        }
        Err(error) => Err(CommandError::with_message(
            Exit::Refused,
            format!("cannot read the answer: {error}; no changes were made"),
        )),
    }
}

/// An answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    Interrupted,
}

/// Shows a prompt and waits for the answer. Input from before the prompt is discarded: it cannot be an answer to a plan
/// that was not on the screen yet.
fn ask(prompt: &str, read: impl Fn(&Term) -> std::io::Result<Answer>) -> std::io::Result<Answer> {
    let mut terminal = Term::stderr();
    tcflush(std::io::stdin(), QueueSelector::IFlush)?;
    // A prompt may name what a host or a file called so.
    write!(terminal, "{} ", escape_text(prompt))?;
    terminal.flush()?;
    let answer = read(&terminal)?;
    terminal.write_line(match answer {
        Answer::Yes => "",
        Answer::No => "no",
        Answer::Interrupted => "^C",
    })?;
    Ok(answer)
}

/// Waits for `y`, `n`, Enter (no), Esc (no), Ctrl-D (no) or Ctrl-C.
fn read_yes_or_no(mut terminal: &Term) -> std::io::Result<Answer> {
    loop {
        let key = read_key(&mut || terminal.read_key_raw())?;
        match key {
            Some(Key::Char('y' | 'Y')) => {
                write!(terminal, "yes")?;
                return Ok(Answer::Yes);
            }
            Some(Key::CtrlC) => return Ok(Answer::Interrupted),
            None | Some(Key::Char('n' | 'N' | END_OF_INPUT) | Key::Enter | Key::Escape) => return Ok(Answer::No),
            Some(_) => {}
        }
    }
}

/// Ctrl-D.
const END_OF_INPUT: char = '\u{4}';

/// Reads a line from keys and echoes it. Backspace removes a character; Esc and Ctrl-D cancel.
fn read_text(
    next_key: &mut dyn FnMut() -> std::io::Result<Key>,
    echo: &mut dyn std::io::Write,
    expected: &str,
) -> std::io::Result<Answer> {
    let mut typed = String::new();
    loop {
        match read_key(next_key)? {
            Some(Key::Enter) if typed.trim() == expected => return Ok(Answer::Yes),
            None | Some(Key::Enter | Key::Escape | Key::Char(END_OF_INPUT)) => return Ok(Answer::No),
            Some(Key::CtrlC) => return Ok(Answer::Interrupted),
            Some(Key::Backspace) => {
                if typed.pop().is_some() {
                    write!(echo, "\u{8} \u{8}")?;
                }
            }
            Some(Key::Char(character)) if !character.is_control() => {
                typed.push(character);
                write!(echo, "{character}")?;
            }
            Some(_) => {}
        }
        echo.flush()?;
    }
}

/// Reads a key; `None` at the end of the input. A signal that interrupts the read counts as Ctrl-C.
fn read_key(next_key: &mut dyn FnMut() -> std::io::Result<Key>) -> std::io::Result<Option<Key>> {
    match next_key() {
        Ok(key) => Ok(Some(key)),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(Some(Key::CtrlC)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(keys: &[Key]) -> (Answer, String) {
        let mut keys = keys.iter().cloned();
        let mut echo = Vec::new();
        let mut next = || keys.next().ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into());
        let answer = read_text(&mut next, &mut echo, "a,b").unwrap();
        (answer, String::from_utf8(echo).unwrap())
    }

    fn typed(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    #[test]
    fn only_the_exact_text_confirms() {
        for (text, expected) in
            [("a,b", Answer::Yes), (" a,b ", Answer::Yes), ("a", Answer::No), ("", Answer::No), ("y", Answer::No)]
        {
            assert_eq!(answer(&[typed(text), vec![Key::Enter]].concat()), (expected, text.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn a_mistyped_character_can_be_removed() {
        let keys = [typed("a;"), vec![Key::Backspace], typed(",b"), vec![Key::Enter]].concat();
        assert_eq!(answer(&keys), (Answer::Yes, "a;\u{8} \u{8},b".to_owned()));
        assert_eq!(answer(&[Key::Backspace, Key::Enter]), (Answer::No, String::new()));
    }

    #[test]
    fn the_text_without_enter_does_not_confirm() {
        for (last, expected) in [
            (vec![], Answer::No),
            (vec![Key::Escape], Answer::No),
            (vec![Key::Char(END_OF_INPUT)], Answer::No),
            (vec![Key::CtrlC], Answer::Interrupted),
        ] {
            assert_eq!(answer(&[typed("a,b"), last].concat()).0, expected);
        }
    }
}
