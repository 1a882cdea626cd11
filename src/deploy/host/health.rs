//! Finds out whether a service serves: asks it, and asks the service manager whether it was this service that answered.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::command::Place;
use super::services::Services;
use crate::deploy::plan::keeps_running;
use crate::http;
use crate::wire::deploy::{Health, Probe, Setup};

/// How often in a row units without a probe must be seen running, with the same process: one that ends at once does
/// not count as serving.
const STEADY: u32 = 4;
/// Longest time for one question.
const QUESTION: Duration = Duration::from_secs(5);
/// Shortest time that a question is given, also when the time for all is nearly up.
const SHORTEST: Duration = Duration::from_millis(100);
/// How much of a body is read for an error message, in bytes.
const KEPT: usize = 512;

/// Asks until the service is healthy; else why it is not.
pub(super) fn wait(setup: &Setup, services: &dyn Services, place: &Place<'_>) -> Result<(), String> {
    let Health { probe, timeout_ms, interval_ms } = &setup.health;
    let units: Vec<&str> =
        setup.units.iter().filter(|unit| keeps_running(unit)).map(|unit| unit.name.as_str()).collect();
    let until = Instant::now() + Duration::from_millis(*timeout_ms);
    let needed = if probe.is_some() || units.is_empty() { 1 } else { STEADY };
    let (mut steady, mut last) = (0, Vec::new());
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let why = match look(&units, services) {
            Look::Running(pids) => match probe.as_ref().map_or(Ok(()), |probe| ask(probe, place, left)) {
                Ok(()) if unchanged(&units, services, &pids) => {
                    steady = if pids == last { steady + 1 } else { 1 };
                    last = pids;
                    if steady >= needed {
                        return Ok(());
                    }
                    "it runs, but not for long enough yet".to_owned()
                }
                Ok(()) => "something answered, but a unit was restarted meanwhile".to_owned(),
                Err(error) => format!("{error:#}"),
            },
            Look::NotYet(why) => why,
            Look::Failed(why) => return Err(why),
        };
        if Instant::now() >= until {
            return Err(format!("not healthy within {}: {why}", shown(*timeout_ms)));
        }
        thread::sleep(Duration::from_millis(*interval_ms).min(until.saturating_duration_since(Instant::now())));
    }
}

fn shown(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

enum Look {
    /// All units run; their main processes.
    Running(Vec<u32>),
    /// One does not run yet.
    NotYet(String),
    /// One was given up: waiting is in vain.
    Failed(String),
}

fn look(units: &[&str], services: &dyn Services) -> Look {
    let states = match services.states(units) {
        Ok(states) => states,
        Err(error) => return Look::NotYet(format!("{error:#}")),
    };
    for (unit, state) in units.iter().zip(&states) {
        match state.active.as_str() {
            "active" | "exited" | "reloading" => {}
            "failed" => return Look::Failed(format!("{unit} failed")),
            other => return Look::NotYet(format!("{unit} is {other}")),
        }
    }
    Look::Running(states.iter().map(|state| state.pid).collect())
}

/// Are the same processes running as before the question? Else another process may have answered it.
fn unchanged(units: &[&str], services: &dyn Services, pids: &[u32]) -> bool {
    matches!(look(units, services), Look::Running(now) if now == pids)
}

fn ask(probe: &Probe, place: &Place<'_>, left: Duration) -> Result<()> {
    let limit = left.clamp(SHORTEST, QUESTION);
    match probe {
        Probe::Http { url, status } => check_http(url, *status, limit).with_context(|| url.clone()),
        Probe::Tcp { address } => http::connect(address, limit).map(drop).with_context(|| address.clone()),
        Probe::Command { argv } => {
            let ended = place.run(argv, left.max(SHORTEST))?;
            ensure!(ended.is_success(), "`{}` {}", argv.join(" "), ended.describe());
            Ok(())
        }
    }
}

/// Asks with one GET; the status decides, and of another one the beginning of the body is for the error.
fn check_http(url: &str, wanted: u16, limit: Duration) -> Result<()> {
    let response = http::get(url, limit)?;
    if response.status == wanted {
        return Ok(());
    }
    let line = response.status_line.clone();
    let body = response.read_beginning(KEPT);
    let body: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
    let separator = if body.is_empty() { "" } else { ": " };
    bail!("expected status {wanted}, the response was {line}{separator}{body}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::Server;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn the_status_decides_and_the_body_is_not_waited_for() {
        let server = Server::start("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok");
        check_http(&format!("{}/readyz?x=1", server.url), 200, LIMIT).unwrap();
        let server = Server::start_closing("HTTP/1.1 503 Unavailable\r\n\r\nshard 3 is down");
        let error = check_http(&server.url, 200, LIMIT).unwrap_err().to_string();
        assert!(error.contains("503 Unavailable: shard 3 is down"), "{error}");
        let error = check_http(&Server::start_closing("SSH-2.0-x\r\n").url, 200, LIMIT).unwrap_err().to_string();
        assert!(error.contains("not HTTP"), "{error}");
    }

    #[test]
    fn a_service_that_does_not_answer_is_not_waited_for_longer_than_asked() {
        let server = Server::start("");
        let error = check_http(&server.url, 200, Duration::from_millis(100)).unwrap_err().to_string();
        assert!(error.contains("within 100ms"), "{error}");
    }
}
