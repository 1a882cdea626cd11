//! `dunlin exec`.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::host_locks::{begin_run_log, operator_id};
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment, select_hosts};
use super::runtime::build_fleet;
use crate::duration::parse_duration;
use crate::fleet::{Fleet, Session};
use crate::protocol::{Event, ExecRequest, OutputStream};
use crate::report::Reporter;

/// Run a command on hosts
#[derive(Debug, Args)]
pub struct ExecCommand {
    /// Hosts to run it on: names, groups or globs
    #[arg(value_name = "SELECTOR")]
    selector: String,
    /// Time limit of the command on each host, e.g. `30s` or `2h`; the command is killed when it expires
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Command and arguments, run without a shell
    #[arg(required = true, last = true, value_name = "CMD")]
    argv: Vec<String>,
}

impl ExecCommand {
    /// Runs the command on all hosts in parallel, and prefixes each line of output with its host.
    ///
    /// # Errors
    /// Returns an error if files have mistakes, or the selector matches no host.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let project = find_project(&self.connect.inventory, common)?;
        let loaded = load_environment(&project, common)?;
        let hosts = select_hosts(&loaded.inventory, Some(&self.selector), None)?;
        let fleet = build_fleet(&loaded.inventory, &hosts, &self.connect, common)?;
        let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
        let reporter = common.new_reporter();
        let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        let request = ExecRequest { argv: self.argv, timeout_ms, operator: operator_id(), run: common.run.to_string() };
        begin_run_log(&names.iter().map(String::as_str).collect::<Vec<_>>(), &reporter);
        let results = fleet.map_parallel(&names, |host| exec_on_host(&fleet, host, &request, &reporter)).await;
        let failed = results.iter().filter(|ok| !**ok).count();
        Ok(CommandOutcome::of_hosts(failed, fleet.cancellation.is_cancelled()))
    }
}

async fn exec_on_host(fleet: &Fleet, host: &str, request: &ExecRequest, reporter: &Reporter) -> bool {
    let session = match fleet.connect(host).await {
        Ok(session) => session,
        Err(error) => {
            reporter.report_failure(host, &error.to_string(), Some(&error.hint()));
            return false;
        }
    };
    match run_command(fleet, &session, request, reporter).await {
        Ok(0) => true,
        Ok(status) => {
            reporter.report_failure(host, &format!("the command exited with status {status}"), None);
            false
        }
        Err(error) => {
            reporter.report_failure(host, &error, None);
            false
        }
    }
}

async fn run_command(
    fleet: &Fleet,
    session: &Session,
    request: &ExecRequest,
    reporter: &Reporter,
) -> Result<i32, String> {
    let host = session.host.as_str();
    let show = |event: Event| {
        reporter.report_event(host, &event);
        if let Event::Output { stream, text } = &event
            && !reporter.json
        {
            for line in text.lines() {
                match stream {
                    OutputStream::Out => reporter.print_data(&format!("{host}: {line}")),
                    OutputStream::Err => reporter.print_status(&format!("{host}: {line}")),
                }
            }
        }
    };
    let done = session.call(request.clone(), &show, &fleet.cancellation).await.map_err(|error| error.message)?;
    reporter.print_json("exec_done", json!({"host": host, "status": done.status}));
    Ok(done.status)
}
