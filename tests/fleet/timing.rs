//! A rebalance or a failover in progress, and the moments that a test waits for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Output, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value as Json;

use crate::cluster::{REDIS_HOSTS, TestCluster};

/// How long a moment may be waited for.
const MOMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A moment of a run.
#[derive(Clone, Copy, Debug)]
pub enum KillMoment {
    /// dunlin has said that: the event, and its phase where it has one.
    Said(&'static str, &'static str),
    /// A host's journal has that record: step and mark.
    Noted(&'static str, &'static str),
}

/// dunlin, running.
pub struct RunningCommand<'c> {
    cluster: &'c TestCluster<'c>,
    child: Child,
    said: Receiver<String>,
    lines: Vec<String>,
    before: BTreeMap<(&'static str, u16), usize>,
}

impl<'c> RunningCommand<'c> {
    /// Begins a rebalance, and waits until the moment has come.
    pub fn run_until(cluster: &'c TestCluster<'_>, moment: KillMoment, flags: &[&str]) -> Self {
        Self::start_and_wait(cluster, moment, &[&["shard-rebalance", "--yes", "--json"], flags].concat())
    }

    /// Begins what these arguments say, and waits until the moment has come.
    pub fn start_and_wait(cluster: &'c TestCluster<'_>, moment: KillMoment, arguments: &[&str]) -> Self {
        let before = instance_counts(cluster);
        let mut command = cluster.project.dunlin_command(arguments);
        // A group of its own, as a terminal makes one for what it runs.
        let mut child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = spawn_line_reader(&mut child);
        let mut running = Self { cluster, child, said, lines: Vec::new(), before };
        let end = Instant::now() + MOMENT_TIMEOUT;
        loop {
            let closed = running.read_event();
            if running.is_reached(moment) {
                return running;
            }
            let late = Instant::now() > end;
            if closed || late {
                let rest = running.remaining_output();
                panic!("{moment:?} has not come: {:#?}\n{rest}", running.lines);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills dunlin.
    pub fn kill_run(mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), None, "it ended before it was killed: {:#?}", self.lines);
    }

    /// What a terminal sends at Ctrl-C, to dunlin and all that it started: everything that dunlin said, once it has
    /// ended as it does then.
    pub fn interrupt_run(mut self) -> Vec<Json> {
        kill_process_group(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.lines.extend(self.said);
        let status = self.child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(130), None), "{:#?}", self.lines);
        self.lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for its end, so long at most; says whether it has come.
    pub fn exits_within(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// Its exit code and what it complained of, once it has ended.
    pub fn wait_for_exit(mut self) -> (i32, String) {
        assert!(self.exits_within(2 * MOMENT_TIMEOUT), "it does not end: {:#?}", self.lines);
        let Output { status, stderr, .. } = self.child.wait_with_output().unwrap();
        (status.code().unwrap(), String::from_utf8_lossy(&stderr).into_owned())
    }

    /// Takes in what was said meanwhile; whether that was all.
    fn read_event(&mut self) -> bool {
        loop {
            match self.said.try_recv() {
                Ok(line) => self.lines.push(line),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn is_reached(&self, moment: KillMoment) -> bool {
        match moment {
            KillMoment::Said(event, phase) => self.lines.iter().any(|line| {
                let line: Json = serde_json::from_str(line).unwrap();
                line["event"] == event && (phase.is_empty() || line["phase"] == phase)
            }),
            KillMoment::Noted(step, mark) => REDIS_HOSTS.into_iter().any(|host| {
                self.cluster.read_journals(host).into_iter().any(|(shard, records)| {
                    let new = records.iter().skip(self.before.get(&(host, shard)).copied().unwrap_or(0));
                    new.into_iter().any(|record| record["phase"] == step && record["state"] == mark)
                })
            }),
        }
    }

    fn remaining_output(&mut self) -> String {
        self.child.kill().ok();
        self.child.wait().ok();
        let mut text = String::new();
        std::io::Read::read_to_string(self.child.stderr.as_mut().unwrap(), &mut text).ok();
        text
    }
}

fn spawn_line_reader(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn instance_counts<'h>(cluster: &TestCluster<'_>) -> BTreeMap<(&'h str, u16), usize> {
    let counted =
        |host| cluster.read_journals(host).into_iter().map(move |(shard, records)| ((host, shard), records.len()));
    REDIS_HOSTS.into_iter().flat_map(counted).collect()
}
