//! Finds out whether a service serves: asks it, and asks the service manager whether it was this service that answered.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::command::Place;
use super::services::Services;
use crate::deploy::plan::keeps_running;
use crate::wire::deploy::{Health, Probe, Setup, split_url};

/// How often in a row units without a probe must be seen running, with the same process: one that ends at once does
/// not count as serving.
const STEADY: u32 = 4;
/// Longest time for one question.
const QUESTION: Duration = Duration::from_secs(5);
/// Shortest time that a question is given, also when the time for all is nearly up.
const SHORTEST: Duration = Duration::from_millis(100);
/// How much of an answer is kept for a person, in bytes.
const KEPT: u64 = 512;

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
        Probe::Http { url, status } => http(url, *status, limit).with_context(|| url.clone()),
        Probe::Tcp { address } => connect(address, limit).map(drop).with_context(|| address.clone()),
        Probe::Command { argv } => {
            let ended = place.run(argv, left.max(SHORTEST))?;
            ensure!(ended.ok, "`{}` {}", argv.join(" "), ended.told());
            Ok(())
        }
    }
}

fn connect(address: &str, limit: Duration) -> Result<TcpStream> {
    let mut last = None;
    for address in address.to_socket_addrs().context("the name cannot be resolved")? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).context("no connection"),
        None => bail!("the name has no address"),
    }
}

/// One `GET` by HTTP/1.1 (RFC 9112), the connection closed behind it; only the status line is read, and of an unlike
/// answer its beginning, for the person who looks for the cause.
fn http(url: &str, wanted: u16, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    let (connect_to, host, path) = split_url(url).context("no http:// address")?;
    let mut stream = connect(&connect_to, limit)?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: dunlin\r\nConnection: close\r\n\r\n")?;
    let (mut answer, mut chunk) = (Vec::new(), [0; 512]);
    while (answer.len() as u64) < KEPT && status(&answer) != Some(wanted) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
        }
    }
    match status(&answer) {
        Some(status) if status == wanted => Ok(()),
        Some(_) => bail!("{wanted} is wanted; the answer was {}", told(&answer)),
        None if answer.is_empty() => bail!("no answer within {limit:?}"),
        None => bail!("the answer is no HTTP: {}", told(&answer)),
    }
}

/// The status of a whole status line: `HTTP/1.1 200 OK`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|&byte| byte == b'\n').next().filter(|line| line.len() < answer.len())?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next()?.strip_prefix("HTTP/1.")?;
    words.next()?.parse().ok()
}

/// The status line and the beginning of the body.
fn told(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let line = text.lines().next().unwrap_or_default().trim();
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.trim()).filter(|body| !body.is_empty());
    match body {
        Some(body) => format!("{line}: {}", body.chars().take(200).collect::<String>()),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection with these bytes.
    fn answering(answer: &'static [u8]) -> (String, thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/readyz?x=1", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut chunk = [0; 256];
            while !asked.ends_with(b"\r\n\r\n") {
                let n = stream.read(&mut chunk).unwrap();
                asked.extend_from_slice(&chunk[..n]);
            }
            stream.write_all(answer).unwrap();
            asked
        });
        (url, server)
    }

    fn asked(answer: &'static [u8], limit: Duration) -> (Result<()>, String) {
        let (url, server) = answering(answer);
        let result = http(&url, 200, limit);
        (result, String::from_utf8(server.join().unwrap()).unwrap())
    }

    #[test]
    fn the_status_line_decides() {
        let second = Duration::from_secs(10);
        let (result, question) = asked(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", second);
        result.unwrap();
        assert!(question.starts_with("GET /readyz?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"), "{question}");
        let error = |answer| format!("{:#}", asked(answer, second).0.unwrap_err());
        crate::messages::check(
            "health-answers",
            [
                ("another status", error(b"HTTP/1.1 503 Unavailable\r\n\r\nshard 3 is down")),
                ("another protocol", error(b"SSH-2.0-x\r\n")),
                ("nothing", error(b"")),
            ],
        );
    }

    #[test]
    fn a_service_that_does_not_answer_is_not_waited_for_longer_than_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let started = Instant::now();
        assert!(http(&url, 200, Duration::from_millis(100)).is_err());
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn nobody_there_is_told() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = connect(&format!("127.0.0.1:{port}"), Duration::from_secs(10)).unwrap_err();
        crate::messages::check("health-nobody-there", [("a closed port", format!("{error:#}"))]);
    }
}
