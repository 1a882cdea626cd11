//! Where plans and events of a run go.

use std::io::Write;

use anstyle::AnsiColor;
use serde_json::{Value, json};

use super::json::{event_line, host_event, plan_fields};
use super::plan_text::plan_text;
use super::run_id::RunId;
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
    fn paint(self, style: anstyle::Style, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// Bold.
    pub fn bold(self, text: &str) -> String {
        self.paint(anstyle::Style::new().bold(), text)
    }

    /// Faint.
    pub fn dim(self, text: &str) -> String {
        self.paint(anstyle::Style::new().dimmed(), text)
    }

    /// In an action's colour.
    pub fn action(self, action: Action, text: &str) -> String {
        match action {
            Action::Add => self.paint(AnsiColor::Green.on_default(), text),
            Action::Change | Action::Run => self.paint(AnsiColor::Yellow.on_default(), text),
            Action::Remove => self.paint(AnsiColor::Red.on_default(), text),
            Action::Unknown => self.paint(AnsiColor::Magenta.on_default(), text),
            Action::None => self.dim(text),
        }
    }

    /// A line of a unified diff.
    pub fn diff_line(self, line: &str) -> String {
        match line.as_bytes().first() {
            Some(b'+') => self.paint(AnsiColor::Green.on_default(), line),
            Some(b'-') => self.paint(AnsiColor::Red.on_default(), line),
            Some(b'@') => self.paint(AnsiColor::Cyan.on_default(), line),
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

/// Writes plans and events, as text or as JSON lines. All output of the commands goes through here.
#[derive(Clone, Copy, Debug)]
pub struct Reporter {
    /// JSON lines on stdout?
    pub json: bool,
    /// The style of text on stdout.
    pub style: Style,
    /// Colours on stderr?
    pub stderr_colour: bool,
    /// The run, named in every JSON line.
    pub run: RunId,
}

impl Reporter {
    /// Prints the first line of a JSON run.
    pub fn start(&self, command: &str) {
        self.line("start", json!({"format_version": 1, "command": command}));
    }

    /// Prints one host's plan.
    pub fn plan(&self, plan: &HostPlan) {
        if self.json {
            plan_fields(plan).into_iter().for_each(|fields| self.line("plan", fields));
        } else if !self.style.quiet {
            write_stdout(&plan_text(plan, self.style));
        }
    }

    /// Prints something that happened on a host.
    pub fn event(&self, host: &str, event: &Event) {
        if self.json {
            let (name, fields) = host_event(host, event);
            self.line(&name, fields);
        } else if let Event::Note { text } = event {
            self.say(&format!("{host}: {text}"));
        }
    }

    /// Prints data for the reader: stdout, unless the run speaks JSON.
    pub fn data(&self, text: &str) {
        if !self.json {
            write_stdout(&format!("{text}\n"));
        }
    }

    /// Prints a document to stdout that is the same with and without `--json`, such as the manual page.
    pub fn document(&self, text: &str) {
        write_stdout(text);
    }

    /// Prints a line for the person who watches: stderr.
    pub fn say(&self, text: &str) {
        if !self.style.quiet {
            write_stderr(&format!("{text}\n"));
        }
    }

    /// Prints a warning to stderr, also with `--quiet`.
    pub fn warn(&self, text: &str) {
        self.line("warning", json!({"warning": text}));
        write_stderr(&format!("warning: {text}\n"));
    }

    /// Prints a host that failed.
    pub fn failed(&self, host: &str, error: &str, hint: Option<&str>) {
        self.line("failed", json!({"host": host, "error": error, "hint": hint}));
        let shown = if error.starts_with(host) { error.to_owned() } else { format!("{host}: {error}") };
        let style = Style { colour: self.stderr_colour, ..self.style };
        let label = style.paint(AnsiColor::Red.on_default(), "failed:");
        let next = hint.map(|hint| format!("  next: {hint}\n")).unwrap_or_default();
        write_stderr(&format!("{label} {shown}\n{next}"));
    }

    /// Prints why a command ended without success, and the next steps.
    pub fn error(&self, error: &str, hints: &[String]) {
        self.line("error", json!({"error": error, "next": hints}));
        let next: String = hints.iter().map(|hint| format!("  next: {hint}\n")).collect();
        write_stderr(&format!("error: {error}\n{next}"));
    }

    /// Prints a JSON line: an event with its fields, an object. Prints nothing where the run speaks text.
    pub fn line(&self, event: &str, fields: Value) {
        if self.json {
            write_stdout(&format!("{}\n", event_line(event, self.run, fields)));
        }
    }

    /// Prints the last line of a JSON run.
    pub fn summary(&self, summary: Summary) {
        let Summary { counts: Counts { add, change, remove, unknown }, failed, exit } = summary;
        let counts = json!({
            "add": add, "change": change, "remove": remove, "unknown": unknown, "failed": failed, "exit": exit,
        });
        self.line("summary", counts);
    }
}

/// Writes to stdout; a reader that went away (`| head`) is no error.
fn write_stdout(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes to stderr; nobody is left to hear of an error there.
pub(super) fn write_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
