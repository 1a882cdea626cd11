//! Where plans and events of a run go.

use std::io::Write;

use serde_json::{Value, json};

use super::json::{event_line, plan_lines};
use super::plan_text::plan_text;
use crate::plan::{Action, Counts, HostPlan};
use crate::wire::Event;

/// How text is dressed. Colour never carries a meaning alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Colours on.
    pub colour: bool,
    /// Rows with nothing to do and the text of new files, too.
    pub verbose: bool,
    /// Only what is asked for and errors.
    pub quiet: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Bold.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Faint.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// In an action's colour.
    pub fn action(self, action: Action, text: &str) -> String {
        match action {
            Action::Add => self.paint("32", text),
            Action::Change | Action::Run => self.paint("33", text),
            Action::Remove => self.paint("31", text),
            Action::Unknown => self.paint("35", text),
            Action::None => self.dim(text),
        }
    }

    /// A line of a unified diff.
    pub fn diff_line(self, line: &str) -> String {
        match line.as_bytes().first() {
            Some(b'+') => self.paint("32", line),
            Some(b'-') => self.paint("31", line),
            Some(b'@') => self.paint("36", line),
            _ => line.to_owned(),
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// What the plan adds up to.
    pub counts: Counts,
    /// Hosts that failed.
    pub failed: usize,
    /// The exit code.
    pub exit: u8,
}

/// Writes plans and events, as text or as JSON lines.
#[derive(Clone, Copy, Debug)]
pub struct Reporter {
    /// JSON lines on stdout?
    pub json: bool,
    /// Text otherwise, dressed so.
    pub style: Style,
}

impl Reporter {
    /// The first line of a JSON run.
    pub fn start(&self, command: &str, run: &str) {
        self.line(&json!({"event": "start", "format_version": 1, "command": command, "run": run, "at": now()}));
    }

    /// One host's plan.
    pub fn plan(&self, plan: &HostPlan) {
        if self.json {
            for line in plan_lines(plan, &now()) {
                self.line(&line);
            }
        } else if !self.style.quiet {
            out(&plan_text(plan, self.style));
        }
    }

    /// Something that happened on a host.
    pub fn event(&self, host: &str, event: &Event) {
        if self.json {
            self.line(&event_line(host, event, &now()));
        } else if let Event::Note { text } = event {
            self.say(&format!("{host}: {text}"));
        }
    }

    /// Data for the reader: stdout, unless the run speaks JSON.
    pub fn data(&self, text: &str) {
        if !self.json {
            out(&format!("{text}\n"));
        }
    }

    /// A line for the person who watches: stderr.
    pub fn say(&self, text: &str) {
        if !self.style.quiet {
            eprintln!("{text}");
        }
    }

    /// A host that failed.
    pub fn failed(&self, host: &str, error: &str, hint: Option<&str>) {
        self.line(&json!({"event": "failed", "host": host, "at": now(), "error": error, "hint": hint}));
        let shown = if error.starts_with(host) { error.to_owned() } else { format!("{host}: {error}") };
        eprintln!("{} {shown}", self.style.paint("31", "failed:"));
        if let Some(hint) = hint {
            eprintln!("  next: {hint}");
        }
    }

    /// Any other JSON line; nothing where the run speaks text.
    pub fn line(&self, line: &Value) {
        if self.json {
            out(&format!("{line}\n"));
        }
    }

    /// The last line of a JSON run.
    pub fn summary(&self, summary: Summary) {
        let Summary { counts: Counts { add, change, remove, unknown }, failed, exit } = summary;
        self.line(&json!({
            "event": "summary", "at": now(), "add": add, "change": change, "remove": remove, "unknown": unknown,
            "failed": failed, "exit": exit,
        }));
    }
}

/// Writes to stdout; a reader that went away (`| head`) is no error.
fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The time in UTC, as RFC 3339 with milliseconds.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}
