//! The agent side in a separate process, so that it can be killed: the test binary starts itself again.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use dunlin::plan::Digest;
use dunlin::protocol::shard::{ShardReply, ShardRequest};
use dunlin::rebalance::host;
use dunlin::resources::BlobSource;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::fixture::{MoveFixture, RecordedNotes, wait_until};

/// Names the file that holds the requests; set in the child only.
pub const TASK_VARIABLE: &str = "DUNLIN_TEST_TASK";

/// Contents in a folder, by digest.
struct FolderBlobs<'a>(&'a Path);

impl BlobSource for FolderBlobs<'_> {
    fn read_blob(&self, digest: &Digest) -> anyhow::Result<Vec<u8>> {
        Ok(fs::read(self.0.join(digest.as_str()))?)
    }
}

/// A process that works on requests, one after the other, and its folder.
pub struct AgentProcess(Child, PathBuf);

/// Files that one process sees in place of those of the system, in a mount namespace of its own. Needs root.
#[derive(Default)]
pub struct MountOverrides {
    pub mounts: Vec<(PathBuf, String)>,
}

impl AgentProcess {
    /// Starts it, to crash at that step (`fence:before`), or not at all.
    pub fn start_agent(fixture: &MoveFixture, requests: &[ShardRequest], crash_at: Option<&str>) -> Self {
        Self::start_in_mounts(&MountOverrides::default(), fixture, requests, crash_at)
    }

    /// Starts it with these files in place of the system's.
    pub fn start_in_mounts(
        overrides: &MountOverrides,
        fixture: &MoveFixture,
        requests: &[ShardRequest],
        crash_at: Option<&str>,
    ) -> Self {
        let folder = fixture.folder.path().join("task");
        fs::create_dir_all(&folder).unwrap();
        fixture.contents.write_to(&folder);
        fs::remove_file(folder.join("replies.json")).ok();
        fs::write(folder.join("requests.json"), serde_json::to_vec(requests).unwrap()).unwrap();
        let mut command = overrides.unshare_command(&std::env::current_exe().unwrap());
        command.args(["--exact", "agent_process::agent_process_entry_point", "--test-threads=1"]);
        command.env(TASK_VARIABLE, &folder).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(at) = crash_at {
            command.env("DUNLIN_CRASH_AT", at);
        }
        Self(command.spawn().unwrap(), folder)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// Waits until it stopped itself; false where it ended without.
    pub fn wait_for_stop(&mut self) -> bool {
        let mut is_stopped = false;
        wait_until(Duration::from_secs(60), || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
            is_stopped = stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('T'));
            is_stopped || self.0.try_wait().unwrap().is_some()
        });
        is_stopped
    }

    /// Waits until it ends; returns the most memory that it had, in bytes.
    pub fn wait_and_measure_memory(&mut self, time: Duration) -> u64 {
        let mut peak = 0;
        wait_until(time, || {
            let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            peak = peak.max(kib.unwrap_or(0) * 1024);
            self.0.try_wait().unwrap().is_some()
        });
        peak
    }

    /// Returns the watches of its copies.
    pub fn copy_watches(&self) -> Vec<Watch> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let children = threads.flat_map(|thread| {
            let children = fs::read_to_string(thread.unwrap().path().join("children")).unwrap_or_default();
            children.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()
        });
        let is_watch =
            |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| contains(&line, b"watch-copy"));
        let open = |pid| Watch(pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap());
        children.filter(is_watch).map(open).collect()
    }

    /// SIGKILL; returns once its watches have ended too. There must be some.
    pub fn kill_with_watches(mut self) {
        let watches = self.copy_watches();
        assert!(!watches.is_empty(), "no copy is watched");
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        watches.iter().for_each(Watch::wait_for_exit);
    }

    pub fn wait_for_exit(&mut self) -> ExitStatus {
        wait_until(Duration::from_secs(120), || self.0.try_wait().unwrap().is_some());
        // As between two runs of dunlin. These know nothing of each other, as they have no generations.
        wait_until(Duration::from_secs(60), || !self.has_watches());
        self.0.wait().unwrap()
    }

    /// Returns whether a process of its folder watches copies: they live on for a moment after their agent.
    fn has_watches(&self) -> bool {
        let is_watch = |process: &Path| {
            let [line, variables] = ["cmdline", "environ"].map(|name| fs::read(process.join(name)).unwrap_or_default());
            let folder = self.1.as_os_str().as_encoded_bytes();
            contains(&line, b"watch-copy") && contains(&variables, folder)
        };
        fs::read_dir("/proc").unwrap().any(|process| is_watch(&process.unwrap().path()))
    }
}

/// The process that ends a copy after its agent.
pub struct Watch(OwnedFd);

impl Watch {
    pub fn wait_for_exit(&self) {
        let most = Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&most)), Ok(1), "a watch does not end");
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

impl MountOverrides {
    fn unshare_command(&self, program: &Path) -> Command {
        if self.mounts.is_empty() {
            return Command::new(program);
        }
        let mounts = self.mounts.iter().map(|(file, over)| format!("mount --bind {} {over} && ", file.display()));
        let script = mounts.collect::<String>() + "exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh"]).arg(program);
        command
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The replies of the agent that ended last; an error for a request that failed.
pub fn read_replies(fixture: &MoveFixture) -> Vec<Result<ShardReply, String>> {
    let bytes = fs::read(fixture.folder.path().join("task/replies.json")).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

#[test]
fn agent_process_entry_point() {
    if let Some(folder) = std::env::var_os(TASK_VARIABLE) {
        dunlin::process::enable_guards(env!("CARGO_BIN_EXE_dunlin"));
        return run_requests(Path::new(&folder));
    }
    let fixture = MoveFixture::with_instances(1);
    let credentials = crate::fixture::admin_credentials();
    let what =
        dunlin::protocol::shard::JournalQuery { credentials, journal_dir: fixture.instance_root(0).join("moves") };
    let mut agent = AgentProcess::start_agent(&fixture, &[ShardRequest::ListMoves(what)], None);
    assert!(agent.wait_for_exit().success());
    assert_eq!(read_replies(&fixture), [Ok(ShardReply::ListMoves(Vec::new()))]);
}

pub fn run_requests(folder: &Path) {
    let requests: Vec<ShardRequest> = serde_json::from_slice(&fs::read(folder.join("requests.json")).unwrap()).unwrap();
    let mut replies: Vec<Result<ShardReply, String>> = Vec::new();
    for request in requests {
        replies.push(
            host::handle_request(request, &FolderBlobs(folder), &RecordedNotes::default())
                .map_err(|error| format!("{error:#}")),
        );
        if replies.last().is_some_and(Result::is_err) {
            break;
        }
    }
    fs::write(folder.join("replies.json"), serde_json::to_vec(&replies).unwrap()).unwrap();
}
