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
/// Maximum number of characters of it in a message.
const MAX_QUOTED_CHARS: usize = 200;
/// Maximum number of bytes of a body in which an expected text is searched.
const MAX_COMPARED_BYTES: usize = 64 << 10;

/// Maximum time for a check of a release that was healthy before, in milliseconds.
const REPEATED_CHECK_MS: u64 = 2_000;
/// Maximum interval between its attempts, in milliseconds: a healthy service needs one, and a busy one some more.
const REPEATED_CHECK_INTERVAL_MS: u64 = 200;

/// A healthy service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HealthyService {
    /// Main processes of its units.
    pub pids: Vec<u32>,
}

/// The time in which a service was healthy without interruption.
struct SteadyTime {
    since: Instant,
    pids: Vec<u32>,
    checks: u32,
}

/// Checks until the service has been healthy for its steady time, with the same processes; else returns the reason.
///
/// It must be healthy within the time limit. A steady time that begins within the limit may end after it.
pub(super) fn wait_until_healthy(
    check: &HealthCheck,
    setup: &ServiceConfig,
    services: &dyn ServiceManager,
    place: &CommandContext<'_>,
) -> Result<HealthyService, String> {
    let has_probe = check.probe.is_some() || !setup.units.iter().any(should_run);
    wait_for_checks(check, if has_probe { 1 } else { REQUIRED_STEADY_CHECKS }, setup, services, place)
}

/// Works like [`wait_until_healthy`] with this number of consecutive checks.
fn wait_for_checks(
    check: &HealthCheck,
    needed: u32,
    setup: &ServiceConfig,
    services: &dyn ServiceManager,
    place: &CommandContext<'_>,
) -> Result<HealthyService, String> {
    let HealthCheck { probe, timeout_ms, interval_ms, steady_ms } = check;
    let units: Vec<&str> = setup.units.iter().filter(|unit| should_run(unit)).map(|unit| unit.name.as_str()).collect();
    let deadline = Instant::now() + Duration::from_millis(*timeout_ms);
    let mut steady: Option<SteadyTime> = None;
    let mut lost_health = None;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let probe_time = if steady.is_some() { MAX_PROBE_TIMEOUT } else { remaining };
        let reason = match check_once(probe.as_ref(), &units, services, place, probe_time) {
            Ok(pids) => {
                let time = match steady.take().filter(|time| time.pids == pids) {
                    Some(time) => SteadyTime { checks: time.checks + 1, ..time },
                    None => SteadyTime { since: Instant::now(), pids, checks: 1 },
                };
                if time.checks >= needed && time.since.elapsed() >= Duration::from_millis(*steady_ms) {
                    return Ok(HealthyService { pids: time.pids });
                }
                steady = Some(time);
                "it runs, but not for long enough yet".to_owned()
            }
            Err(CheckError::Failed(reason)) => return Err(describe_loss(steady.as_ref(), reason)),
            Err(CheckError::NotYet(reason)) => {
                lost_health = steady.take().map(|time| describe_loss(Some(&time), reason.clone())).or(lost_health);
                reason
            }
        };
        let began_in_time = steady.as_ref().is_some_and(|time| time.since <= deadline);
        if Instant::now() >= deadline && (!began_in_time || *steady_ms == 0) {
            let reason = lost_health.unwrap_or(reason);
            return Err(format!("not healthy within {}: {reason}", format_milliseconds(*timeout_ms)));
        }
        thread::sleep(Duration::from_millis(*interval_ms));
    }
}

/// Checks a service that was healthy before; returns the failure. Other processes than the expected ones are a failure,
/// so that one check is enough.
pub(super) fn check_again(
    setup: &ServiceConfig,
    services: &dyn ServiceManager,
    place: &CommandContext<'_>,
    expected_pids: Option<&[u32]>,
) -> Result<(), String> {
    let timeout_ms = setup.health.timeout_ms.min(REPEATED_CHECK_MS);
    let interval_ms = setup.health.interval_ms.min(REPEATED_CHECK_INTERVAL_MS);
    let check = HealthCheck { timeout_ms, interval_ms, steady_ms: 0, ..setup.health.clone() };
    let healthy = wait_for_checks(&check, 1, setup, services, place)?;
    match expected_pids {
        Some(expected) if *expected != *healthy.pids => {
            Err("a unit was restarted after the release became healthy".to_owned())
        }
        _ => Ok(()),
    }
}

fn describe_loss(steady: Option<&SteadyTime>, reason: String) -> String {
    match steady {
        Some(time) => {
            let milliseconds = u64::try_from(time.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            format!("healthy for {}, then unhealthy: {reason}", format_milliseconds(milliseconds))
        }
        None => reason,
    }
}

enum CheckError {
    /// The service may still become healthy.
    NotYet(String),
    /// The service manager no longer restarts a unit.
    Failed(String),
}

/// Checks units and probe once; returns the main processes of the units.
fn check_once(
    probe: Option<&HealthProbe>,
    units: &[&str],
    services: &dyn ServiceManager,
    place: &CommandContext<'_>,
    remaining: Duration,
) -> Result<Vec<u32>, CheckError> {
    match read_readiness(units, services) {
        UnitReadiness::Running(pids) => {
            let answer = probe.map_or(Ok(()), |probe| run_probe(probe, place, remaining));
            answer.map_err(|error| CheckError::NotYet(format!("{error:#}")))?;
            if has_same_processes(units, services, &pids) {
                Ok(pids)
            } else {
                Err(CheckError::NotYet("something answered, but a unit was restarted meanwhile".to_owned()))
            }
        }
        UnitReadiness::NotYet(reason) => Err(CheckError::NotYet(reason)),
        UnitReadiness::Failed(reason) => Err(CheckError::Failed(reason)),
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
        HealthProbe::Http { url, status, expect } => {
            check_http(url, *status, expect.as_deref(), timeout).with_context(|| url.clone())
        }
        HealthProbe::Tcp { address } => http::connect(address, timeout).map(drop).with_context(|| address.clone()),
        HealthProbe::Command { argv } => {
            let ended = place.run_command(argv, remaining.max(MIN_PROBE_TIMEOUT))?;
            ensure!(ended.is_success(), "`{}` {}", argv.join(" "), ended.describe());
            Ok(())
        }
    }
}

/// Sends one GET request; the status decides, and the body if it is to contain a text. Error messages have its
/// beginning.
fn check_http(url: &str, wanted: u16, expected: Option<&str>, limit: Duration) -> Result<()> {
    let response = http::get(url, limit)?;
    if response.status == wanted {
        let Some(expected) = expected else { return Ok(()) };
        let body = response.read_beginning(MAX_COMPARED_BYTES);
        let body = String::from_utf8_lossy(&body);
        let beginning: String = body.trim().chars().take(MAX_QUOTED_CHARS).collect();
        ensure!(body.contains(expected), "the body does not contain \"{expected}\": {beginning}");
        return Ok(());
    }
    let line = response.status_line.clone();
    let body = response.read_beginning(MAX_RESPONSE_BYTES);
    let body: String = String::from_utf8_lossy(&body).trim().chars().take(MAX_QUOTED_CHARS).collect();
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
        check_http(&format!("{}/readyz?x=1", server.url), 200, None, LIMIT).unwrap();
        let server = Server::start_closing("HTTP/1.1 503 Unavailable\r\n\r\nshard 3 is down");
        let error = check_http(&server.url, 200, None, LIMIT).unwrap_err().to_string();
        assert!(error.contains("503 Unavailable: shard 3 is down"), "{error}");
        let error = check_http(&Server::start_closing("SSH-2.0-x\r\n").url, 200, None, LIMIT).unwrap_err().to_string();
        assert!(error.contains("not HTTP"), "{error}");
    }

    #[test]
    fn the_body_contains_the_expected_text() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\nversion 1.2.0\r\n";
        check_http(&Server::start_closing(answer).url, 200, Some("1.2.0"), LIMIT).unwrap();
        let error = check_http(&Server::start_closing(answer).url, 200, Some("1.3.0"), LIMIT).unwrap_err().to_string();
        assert_eq!(error, "the body does not contain \"1.3.0\": version 1.2.0");
    }

    #[test]
    fn a_service_that_does_not_respond_times_out() {
        let server = Server::start("");
        let error = check_http(&server.url, 200, None, Duration::from_millis(100)).unwrap_err().to_string();
        assert!(error.contains("within 100ms"), "{error}");
    }
}
