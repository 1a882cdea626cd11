//! `dunlin exec`.

use clap::Args;
use serde_json::json;

use super::Common;
use super::failure::Failure;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment, select};
use super::run::fleet;
use crate::fleet::{Fleet, Session};
use crate::report::Reporter;
use crate::wire::{self, Event, Reply, Request, Stream};

/// Run one command on many hosts
#[derive(Debug, Args)]
pub struct Exec {
    /// Which hosts
    #[arg(value_name = "SELECTOR")]
    selector: String,
    /// The command and its arguments, run as they stand, without a shell
    #[arg(required = true, last = true, value_name = "CMD")]
    argv: Vec<String>,
}

impl Exec {
    /// Runs it everywhere at once; each line of output is led by its host.
    ///
    /// # Errors
    /// Broken files, no such host.
    pub async fn run(self, common: &Common) -> Result<CommandOutcome, Failure> {
        let project = find_project(common)?;
        let loaded = load_environment(&project, common)?;
        let hosts = select(&loaded.inventory, Some(&self.selector), None)?;
        let fleet = fleet(&loaded.inventory, &hosts, common)?;
        let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
        let reporter = common.reporter();
        let results = fleet.each(&names, |host| one(&fleet, host, &self.argv, &reporter)).await;
        let failed = results.iter().filter(|ok| !**ok).count();
        Ok(CommandOutcome::of_hosts(failed, fleet.stop.is_cancelled()))
    }
}

async fn one(fleet: &Fleet, host: &str, argv: &[String], reporter: &Reporter) -> bool {
    let session = match fleet.connect(host).await {
        Ok(session) => session,
        Err(error) => {
            reporter.failed(host, &error.to_string(), Some(&error.hint()));
            return false;
        }
    };
    match command(fleet, &session, argv, reporter).await {
        Ok(0) => true,
        Ok(status) => {
            reporter.failed(host, &format!("the command ended with status {status}"), None);
            false
        }
        Err(error) => {
            reporter.failed(host, &error, None);
            false
        }
    }
}

async fn command(fleet: &Fleet, session: &Session, argv: &[String], reporter: &Reporter) -> Result<i32, String> {
    let host = session.host.as_str();
    let show = |event: Event| {
        reporter.event(host, &event);
        if let Event::Output { stream, text } = &event
            && !reporter.json
        {
            for line in text.lines() {
                match stream {
                    Stream::Out => reporter.data(&format!("{host}: {line}")),
                    Stream::Err => reporter.say(&format!("{host}: {line}")),
                }
            }
        }
    };
    let request = Request::Exec(wire::Exec { argv: argv.to_vec() });
    match session.request(request, &show, &fleet.stop).await {
        Ok(Reply::Exec(done)) => {
            reporter.line("exec_done", json!({"host": host, "status": done.status}));
            Ok(done.status)
        }
        Ok(_) => Err("an answer that does not fit".to_owned()),
        Err(error) => Err(error.error),
    }
}
