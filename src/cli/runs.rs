//! `dunlin runs`: the runs that changed hosts from this project.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::InventoryArgs;
use super::exit::Exit;
use super::project::find_project;
use crate::project::Project;
use crate::report::{Reporter, escape_line};

/// Show the runs that changed hosts from this project
#[derive(Debug, Args)]
pub struct RunsCommand {
    #[command(subcommand)]
    command: Option<RunsSubcommand>,
}

#[derive(Debug, Subcommand)]
enum RunsSubcommand {
    /// Show what a run changed, and how it ended
    Show {
        /// ID of the run, as `dunlin runs` shows it
        id: String,
    },
}

/// The recorded events of a run, oldest first.
struct RecordedRun {
    id: String,
    events: Vec<Value>,
}

/// Returns the folder of the project's run logs.
pub fn run_log_folder(project: &Project) -> PathBuf {
    project.root.join(".dunlin/runs")
}

impl RunsCommand {
    /// Lists the runs, or the events of one.
    ///
    /// # Errors
    /// Returns an error if there is no such run, or a log cannot be read.
    pub fn run(self, common: &CommonArgs) -> Result<Exit, CommandError> {
        let folder = run_log_folder(&find_project(&InventoryArgs::default(), common)?);
        let reporter = common.new_reporter();
        let ids = list_runs(&folder)?;
        match self.command {
            None if ids.is_empty() => reporter.print_data("no runs have changed hosts from this project"),
            None => {
                for id in ids {
                    RecordedRun::load(&folder, id)?.print_summary(&reporter);
                }
            }
            Some(RunsSubcommand::Show { id }) if ids.contains(&id) => {
                RecordedRun::load(&folder, id)?.print_events(&reporter);
            }
            Some(RunsSubcommand::Show { id }) => {
                let text = format!("no run {id} in {}", folder.display());
                return Err(CommandError::with_message(Exit::Usage, text).with_hint("dunlin runs lists the runs"));
            }
        }
        Ok(Exit::Done)
    }
}

/// Returns the IDs of the runs, oldest first.
fn list_runs(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(anyhow::Error::from(error).context(format!("cannot read {}", folder.display()))),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ids.extend(name.strip_suffix(".jsonl").map(str::to_owned));
    }
    ids.sort();
    Ok(ids)
}

impl RecordedRun {
    /// Reads the events of a run. A line that is not one, such as the last of a run that was killed, is left out.
    fn load(folder: &Path, id: String) -> anyhow::Result<Self> {
        let path = folder.join(format!("{id}.jsonl"));
        let text = std::fs::read_to_string(&path)
            .map_err(|error| anyhow::Error::from(error).context(format!("cannot read {}", path.display())))?;
        Ok(Self { id, events: text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect() })
    }

    fn find_event(&self, name: &str) -> Option<&Value> {
        self.events.iter().rev().find(|event| event["event"] == name)
    }

    fn text_of(&self, event: &str, field: &str) -> &str {
        self.find_event(event).and_then(|event| event[field].as_str()).unwrap_or("-")
    }

    fn describe_end(&self) -> String {
        let exit = self.find_event("summary").and_then(|summary| summary["exit"].as_u64());
        match exit {
            Some(0) => "done".to_owned(),
            Some(130) => "interrupted".to_owned(),
            Some(exit) => format!("failed (exit {exit})"),
            None => "did not end".to_owned(),
        }
    }

    fn print_summary(&self, reporter: &Reporter) {
        let hosts = self.find_event("run_started").map_or(&Value::Null, |event| &event["hosts"]);
        let names: Vec<&str> = hosts.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (command, operator) = (self.text_of("start", "command"), self.text_of("run_started", "operator"));
        let (id, end, started) = (&self.id, self.describe_end(), self.text_of("start", "at"));
        let limit = self.find_event("start").and_then(|event| event["limit"].as_str());
        let shown_limit = limit.map(|limit| format!(" --limit '{limit}'")).unwrap_or_default();
        let summary = format!("{id}  {command}{shown_limit} by {operator} on {}: {end}", names.join(", "));
        reporter.print_data(&escape_line(&summary));
        reporter.print_json(
            "recorded_run",
            json!({ "id": id, "command": command, "limit": limit, "operator": operator, "started": started, "hosts": hosts, "outcome": end }),
        );
    }

    fn print_events(&self, reporter: &Reporter) {
        self.print_summary(reporter);
        for event in &self.events {
            reporter.print_json("recorded_event", json!({ "id": self.id, "recorded": event }));
            if let Some(text) = self.describe_event(event) {
                let line = format!("  {}  {text}", event["at"].as_str().unwrap_or_default());
                // A host's text with line breaks must not look like other events.
                reporter.print_data(&escape_line(&line));
            }
        }
    }

    /// Describes an event in one line; `None` for the start and the end of the run.
    fn describe_event(&self, event: &Value) -> Option<String> {
        let text = |field: &str| event[field].as_str().unwrap_or_default();
        let name = text("event");
        Some(match name {
            "start" | "run_started" | "summary" => return None,
            "failed" if self.find_event("exec_done").is_some_and(|done| done["host"] == event["host"]) => return None,
            "plan" if event["resource"].is_string() => {
                format!("{}: to {} {}", text("host"), text("action"), text("resource"))
            }
            "step_done" => format!("{}: {} {}", text("host"), text("action"), self.resource_of(event)),
            "step_failed" => format!("{}: failed {}: {}", text("host"), self.resource_of(event), text("error")),
            "failed" => format!("{}: {}", text("host"), text("error")),
            "error" => format!("error: {}", text("error")),
            "exec_done" => format!("{}: the command exited with status {}", text("host"), event["status"]),
            "phase" => text("phase").to_owned(),
            other => {
                let mut fields = event.clone();
                for known in ["event", "at", "run"] {
                    fields.as_object_mut()?.remove(known);
                }
                format!("{other} {fields}")
            }
        })
    }

    /// Returns the resource of a step, from its row of the plan.
    fn resource_of(&self, event: &Value) -> &str {
        let is_row = |row: &&Value| {
            row["event"] == "plan"
                && row["host"] == event["host"]
                && row["step"] == event["step"]
                && row["step"].is_object()
        };
        self.events.iter().find(is_row).and_then(|row| row["resource"].as_str()).unwrap_or("a step")
    }
}
