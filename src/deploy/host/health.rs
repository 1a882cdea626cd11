//! Finds out whether a service serves: asks it, and asks the service manager whether it was this service that answered.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::command::CommandContext;
use super::service_manager::ServiceManager;
use crate::deploy::plan::should_run;
use crate::http;
use crate::protocol::deploy::{HealthCheck, HealthProbe, ServiceConfig};

/// Number of consecutive checks in which units without a probe must run with the same process: a unit that exits at
/// once does not count as serving.
const REQUIRED_STEADY_CHECKS: u32 = 4;
/// Maximum time for one probe.
const MAX_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum time for one probe, also when the total time is nearly over.
const MIN_PROBE_TIMEOUT: Duration = Duration::from_millis(100);
/// Maximum number of bytes of a body that an error message quotes.
const MAX_RESPONSE_BYTES: usize = 512;

/// Asks until the service is healthy; else why it is not.
pub(super) fn wait_until_healthy(
    setup: &ServiceConfig,
    services: &dyn ServiceManager,
    place: &CommandContext<'_>,
) -> Result<(), String> {
    let HealthCheck { probe, timeout_ms, interval_ms } = &setup.health;
    let units: Vec<&str> = setup.units.iter().filter(|unit| should_run(unit)).map(|unit| unit.name.as_str()).collect();
    let deadline = Instant::now() + Duration::from_millis(*timeout_ms);
    let needed = if probe.is_some() || units.is_empty() { 1 } else { REQUIRED_STEADY_CHECKS };
    let (mut steady, mut last_pids) = (0, Vec::new());
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let reason = match read_readiness(&units, services) {
            UnitReadiness::Running(pids) => {
                match probe.as_ref().map_or(Ok(()), |probe| run_probe(probe, place, remaining)) {
                    Ok(()) if has_same_processes(&units, services, &pids) => {
                        steady = if pids == last_pids { steady + 1 } else { 1 };
                        last_pids = pids;
                        if steady >= needed {
                            return Ok(());
                        }
                        "it runs, but not for long enough yet".to_owned()
                    }
                    Ok(()) => "something answered, but a unit was restarted meanwhile".to_owned(),
                    Err(error) => format!("{error:#}"),
                }
            }
            UnitReadiness::NotYet(why) => why,
            UnitReadiness::Failed(why) => return Err(why),
        };
        if Instant::now() >= deadline {
            return Err(format!("not healthy within {}: {reason}", format_milliseconds(*timeout_ms)));
        }
        thread::sleep(Duration::from_millis(*interval_ms).min(deadline.saturating_duration_since(Instant::now())));
    }
}

fn format_milliseconds(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

enum UnitReadiness {
    /// Every unit runs; contains their main processes.
    Running(Vec<u32>),
    /// At least one unit does not run yet.
    NotYet(String),
    /// The service manager no longer restarts a unit.
    Failed(String),
}

fn read_readiness(units: &[&str], services: &dyn ServiceManager) -> UnitReadiness {
    let states = match services.read_unit_statuses(units) {
        Ok(states) => states,
        Err(error) => return UnitReadiness::NotYet(format!("{error:#}")),
    };
    for (unit, state) in units.iter().zip(&states) {
        match state.active.as_str() {
            "active" | "exited" | "reloading" => {}
            "failed" => return UnitReadiness::Failed(format!("{unit} failed")),
            other => return UnitReadiness::NotYet(format!("{unit} is {other}")),
        }
    }
    UnitReadiness::Running(states.iter().map(|state| state.pid).collect())
}

/// Returns whether the same processes run as before the probe. Otherwise another process may have answered it.
fn has_same_processes(units: &[&str], services: &dyn ServiceManager, pids: &[u32]) -> bool {
    matches!(read_readiness(units, services), UnitReadiness::Running(now) if now == pids)
}

fn run_probe(probe: &HealthProbe, place: &CommandContext<'_>, remaining: Duration) -> Result<()> {
    let timeout = remaining.clamp(MIN_PROBE_TIMEOUT, MAX_PROBE_TIMEOUT);
    match probe {
        HealthProbe::Http { url, status } => check_http(url, *status, timeout).with_context(|| url.clone()),
        HealthProbe::Tcp { address } => http::connect(address, timeout).map(drop).with_context(|| address.clone()),
        HealthProbe::Command { argv } => {
            let ended = place.run_command(argv, remaining.max(MIN_PROBE_TIMEOUT))?;
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
    let body = response.read_beginning(MAX_RESPONSE_BYTES);
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
    fn a_service_that_does_not_respond_times_out() {
        let server = Server::start("");
        let error = check_http(&server.url, 200, Duration::from_millis(100)).unwrap_err().to_string();
        assert!(error.contains("within 100ms"), "{error}");
    }
}
