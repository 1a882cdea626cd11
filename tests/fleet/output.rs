//! What a run of dunlin printed: its exit code, its JSON events, and snapshots of the whole.
//!
//! Snapshots are files in `tests/messages`. They are the same on all suites and at all speeds: addresses, sizes, times
//! and what else differs from run to run is replaced, and columns are as narrow as they can be.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value as Json;

use crate::hosts::HOST_NAMES;
use crate::messages;

/// How a run of dunlin ended.
#[derive(Debug)]
pub struct CommandOutput {
    /// The exit code; `None` where a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The command line.
    command: String,
    /// Texts of this project and its fleet, with what snapshots show in their place.
    placeholders: Vec<(String, String)>,
}

impl CommandOutput {
    /// Takes what a run printed that was started in a project's folder; the inventory has the addresses of its hosts.
    pub fn new(arguments: &[&str], output: std::process::Output, folder: &Path, hosts: &toml::Table) -> Self {
        let addresses = hosts["hosts"].as_table().unwrap().iter().filter_map(|(name, host)| {
            host.get("address").map(|address| (address.as_str().unwrap().to_owned(), format!("[{name}]")))
        });
        let mut placeholders: Vec<(String, String)> = addresses.collect();
        // 10.99.0.10 before 10.99.0.1.
        placeholders.sort_by_key(|(address, _)| std::cmp::Reverse(address.len()));
        placeholders.push((folder.display().to_string(), "[PROJECT]".to_owned()));
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            command: arguments.join(" "),
            placeholders,
        }
    }

    /// Panics with everything that was printed, unless this is the exit code.
    #[track_caller]
    pub fn assert_status(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Returns the JSON events of that name.
    #[track_caller]
    pub fn events(&self, name: &str) -> Vec<Json> {
        let events = self.stdout.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
        events.filter(|event| event["event"] == name).collect()
    }

    /// Replaces a text that differs from run to run, such as the number of a shard, in snapshots.
    pub fn with_placeholder(mut self, text: &str, placeholder: &str) -> Self {
        self.placeholders.push((text.to_owned(), placeholder.to_owned()));
        self
    }

    /// Leaves out standard output, such as a plan with figures of this run.
    pub fn without_stdout(mut self) -> Self {
        self.stdout.clear();
        self
    }

    /// Sorts the lines: hosts and shards that work in parallel print in any order.
    pub fn with_sorted_lines(mut self) -> Self {
        for text in [&mut self.stdout, &mut self.stderr] {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            *text = lines.iter().fold(String::new(), |text, line| text + line + "\n");
        }
        self
    }

    /// Compares all that was printed with the snapshot of that name.
    #[track_caller]
    pub fn assert_snapshot(self, name: &str) -> Self {
        assert_snapshot(name, &[&self]);
        self
    }

    /// Returns exit code and both streams, without what differs from run to run.
    fn transcript(&self) -> String {
        let mut text = format!("[exit code {}]\n", self.status.map_or("none".to_owned(), |code| code.to_string()));
        for (name, stream) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !stream.is_empty() {
                let _ = write!(text, "--- {name}\n{}", self.stable(stream));
            }
        }
        text
    }

    /// Replaces what differs from run to run in a text.
    pub fn stable(&self, text: &str) -> String {
        static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
            let patterns = [
                (r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?", "[TIME]"),
                (r"\b20\d\d-\d\d-\d\d\b", "[DATE]"),
                (r"\b\d{8}T\d{6}Z?(-\d+)?", "[RUN]"),
                (r"\b[0-9a-f]{12}([0-9a-f]{52})?\b", "[HASH]"),
                (r"SHA256:[\w+/]{43}", "[LOGIN KEY]"),
                (r"\b\d+(\.\d+)? ?([KMGT]i)?B(/s)?\b", "[SIZE]"),
                (r"\bfrom \d+ to about \d+ bytes\b", "from [N] to about [N] bytes"),
                (r"\b\d{5,} bytes\b", "[N] bytes"),
                (r"\b\d+(\.\d+)? ?(ms|s|min|h)\b", "[N] s"),
                (r"\b(pid|process|kill) \d+", "$1 [PID]"),
                (r"\b(epoch) \d+", "$1 [N]"),
                // How far a run was when it was killed, and the state of a link at that moment.
                (r"last step \w+ \w+", "last step [STEP]"),
                (r"link (up|down)", "link [STATE]"),
                // A host that is off: how the kernel finds that out depends on what it knows of the address.
                (r"Connection timed out|No route to host", "[UNREACHABLE]"),
                // Phases of a move: a busy machine passes some of them unseen.
                (r"(?m)^shard \S+ → \S+: .*\n", ""),
                (r"nginx/[\d.]+", "nginx/[VERSION]"),
                // Of systemd and the service: lines of a journal.
                (r"(?m)^ *[\w-]+ \| .*\n", ""),
                (r"\b[\w-]+@\w[\w.-]*", "[OPERATOR]"),
                // Columns, but not the marks below a line of a file.
                (r"([^\s|])  +", "$1  "),
                (r" +\n", "\n"),
            ];
            patterns.into_iter().map(|(pattern, name)| (Regex::new(pattern).unwrap(), name)).collect()
        });
        let text = self.placeholders.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        let text = sort_lines_of_hosts(&text.replace(env!("CARGO_PKG_VERSION"), "[VERSION]"));
        PATTERNS.iter().fold(text, |text, (pattern, name)| pattern.replace_all(&text, *name).into_owned())
    }
}

/// Sorts neighboring lines that begin with the names of hosts: hosts that work in parallel end in any order.
fn sort_lines_of_hosts(text: &str) -> String {
    let is_of_host = |line: &&str| HOST_NAMES.iter().any(|host| line.starts_with(&format!("{host}: ")));
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    for group in lines.chunk_by_mut(|line, next| is_of_host(line) && is_of_host(next)) {
        group.sort_unstable();
    }
    lines.concat()
}

/// Compares all that these runs printed with the snapshot of that name.
#[track_caller]
pub fn assert_snapshot(name: &str, outputs: &[&CommandOutput]) {
    messages::check(name, outputs.iter().map(|output| (output.stable(&output.command), output.transcript())));
}
