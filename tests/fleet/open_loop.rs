//! Requests at a constant rate, each over a connection of its own, whether earlier ones are answered or not (httperf).

use std::fmt;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

/// Seconds after which a request without an answer counts as failed.
const TIMEOUT_SECONDS: u32 = 15;

/// Seconds after which the load ends by itself.
const MAX_SECONDS: u32 = 3600;

/// A load, until it is stopped.
pub struct OpenLoop {
    child: Child,
    begin: Instant,
}

/// The requests of a load that ended before it was stopped.
#[derive(Debug)]
pub struct LoadReport {
    /// Requests with an answer of status 2xx.
    pub succeeded: u64,
    /// Answers of another status.
    pub other_status: u64,
    /// Connections that the host refused.
    pub refused: u64,
    /// Connections that the host reset.
    pub reset: u64,
    /// Requests without an answer in time.
    pub timeouts: u64,
    /// Other errors, those of the load generator among them.
    pub other_errors: u64,
    /// Longest time from a connection's begin to its end, in milliseconds.
    pub longest_ms: f64,
    /// Duration of the load, in seconds.
    pub seconds: u64,
}

impl OpenLoop {
    /// Sends requests for `/`, with so many new connections per second.
    pub fn start(address: &str, port: u16, rate: u32) -> Self {
        // It spins between two requests: others come first.
        let child = Command::new("nice")
            .args(["-n", "10", "httperf", "--hog", "--uri", "/", "--num-conns"])
            .arg((rate * MAX_SECONDS).to_string())
            .args(["--timeout", &TIMEOUT_SECONDS.to_string(), "--rate", &rate.to_string()])
            .args(["--server", address, "--port", &port.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, begin: Instant::now() }
    }

    /// Stops it and returns its report.
    pub fn stop(mut self) -> LoadReport {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        LoadReport::parse(&text, self.begin.elapsed().as_secs())
            .unwrap_or_else(|| panic!("no report of httperf (apt-get install httperf):\n{text}"))
    }
}

impl Drop for OpenLoop {
    fn drop(&mut self) {
        // It has ended where it was stopped.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl LoadReport {
    /// Parses what httperf prints at its end.
    fn parse(text: &str, seconds: u64) -> Option<Self> {
        let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
        let statuses: Vec<&str> = line("Reply status: ")?.split_whitespace().collect();
        let status = |class: &str| statuses.iter().find_map(|one| one.strip_prefix(class)?.parse::<u64>().ok());
        let errors: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("Errors: ")).flat_map(str::split_whitespace).collect();
        let error =
            |kind: &str| errors.windows(2).find(|pair| pair[0] == kind).and_then(|pair| pair[1].parse::<u64>().ok());
        let times: Vec<&str> = line("Connection time [ms]: min")?.split_whitespace().collect();
        let longest = times.windows(2).find(|pair| pair[0] == "max")?[1];
        let (refused, reset) = (error("connrefused")?, error("connreset")?);
        let timeouts = error("client-timo")? + error("socket-timo")?;
        Some(Self {
            succeeded: status("2xx=")?,
            other_status: status("1xx=")? + status("3xx=")? + status("4xx=")? + status("5xx=")?,
            refused,
            reset,
            timeouts,
            other_errors: error("fd-unavail")? + error("addrunavail")? + error("ftab-full")? + error("other")?,
            longest_ms: longest.parse().ok()?,
            seconds,
        })
    }

    /// Returns the number of requests that failed.
    pub fn failed(&self) -> u64 {
        self.other_status + self.refused + self.reset + self.timeouts + self.other_errors
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { succeeded, other_status, refused, reset, timeouts, other_errors, longest_ms, seconds } = self;
        let failed = self.failed();
        write!(
            out,
            "requests={} failed={failed} refused={refused} reset={reset} timeouts={timeouts} status={other_status} \
             other={other_errors} longest_ms={longest_ms:.0} seconds={seconds}",
            succeeded + failed
        )
    }
}

#[test]
fn reports_of_httperf_are_parsed() {
    let text = "Total: connections 216 requests 39 replies 25 test-duration 4.306 s\n\
        Connection time [ms]: min 358.8 avg 688.7 max 1844.3 median 656.5 stddev 295.4\n\
        Connection time [ms]: connect 66.6\n\
        Reply status: 1xx=0 2xx=24 3xx=0 4xx=0 5xx=1\n\
        Errors: total 107 client-timo 1 socket-timo 0 connrefused 105 connreset 1\n\
        Errors: fd-unavail 0 addrunavail 0 ftab-full 0 other 0\n";
    assert_eq!(
        LoadReport::parse(text, 4).unwrap().to_string(),
        "requests=132 failed=108 refused=105 reset=1 timeouts=1 status=1 other=0 longest_ms=1844 seconds=4"
    );
    assert!(LoadReport::parse("", 4).is_none());
}
