//! The end of a program and what it wrote.

use std::process::ExitStatus;
use std::time::Duration;

/// Number of output lines that an error message quotes.
const LINES_IN_MESSAGE: usize = 8;
/// Maximum number of characters of each of these lines.
pub(super) const MAX_LINE_CHARS: usize = 2000;

/// Describes how a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// On its own, or by a signal of another process.
    Exited(ExitStatus),
    /// The program was killed at its time limit.
    TimedOut(Duration),
    /// The program was killed because the run was cancelled.
    Cancelled,
    /// The program was killed because it wrote more than this number of bytes.
    WroteTooMuch(u64),
}

/// Holds the output of a program on one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The last bytes, up to the limit.
    pub bytes: Vec<u8>,
    /// Number of earlier bytes that were dropped.
    pub omitted: u64,
}

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Completed {
    /// Result of the run.
    pub end: End,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error.
    pub stderr: Output,
}

impl Output {
    /// Adds bytes, and drops the oldest ones where there are far too many.
    pub(super) fn append(&mut self, bytes: &[u8], max: usize) {
        self.bytes.extend_from_slice(bytes);
        // Not at each call: what is kept has to be moved.
        if self.bytes.len() > max.saturating_mul(2) {
            self.trim(max);
        }
    }

    pub(super) fn trim(&mut self, max: usize) {
        let surplus = self.bytes.len().saturating_sub(max);
        self.bytes.drain(..surplus);
        self.omitted += surplus as u64;
    }
}

impl Completed {
    /// Returns whether it ended with status 0.
    pub fn is_success(&self) -> bool {
        matches!(self.end, End::Exited(status) if status.success())
    }

    /// Returns its status; `None` where a signal or the time limit ended it.
    pub fn code(&self) -> Option<i32> {
        match self.end {
            End::Exited(status) => status.code(),
            End::TimedOut(_) | End::Cancelled | End::WroteTooMuch(_) => None,
        }
    }

    /// Describes how it ended, with the last lines of what it wrote: `ended with exit status: 3: no such table`.
    pub fn describe(&self) -> String {
        format!("{}{}", self.describe_end(), self.describe_output())
    }

    /// Returns the last lines of what it wrote, with a colon before them.
    pub fn describe_output(&self) -> String {
        let text = |output: &Output| String::from_utf8_lossy(&output.bytes).into_owned();
        last_lines(&(text(&self.stdout) + &text(&self.stderr)))
    }

    /// Describes how it ended, without what it wrote.
    pub fn describe_end(&self) -> String {
        match self.end {
            End::Exited(status) => format!("ended with {status}"),
            End::TimedOut(timeout) => format!("did not end within {timeout:?}"),
            End::Cancelled => "was cancelled".to_owned(),
            End::WroteTooMuch(limit) => format!("wrote more than {limit} bytes"),
        }
    }
}

/// Returns the last lines of what a program wrote, with a colon before them, to be put behind its status.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES_IN_MESSAGE)..];
    let last: Vec<String> = last.iter().map(|line| shorten(line)).collect();
    if last.is_empty() { String::new() } else { format!(": {}", last.join("\n")) }
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(MAX_LINE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
