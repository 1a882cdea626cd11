//! The agent side in a separate process, so that it can be killed: the test binary starts itself again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use dunlin::plan::Digest;
use dunlin::protocol::shard::{ShardReply, ShardRequest};
use dunlin::rebalance::host;
use dunlin::resources::BlobSource;

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

/// A process that works on requests, one after the other.
pub struct AgentProcess(Child);

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
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.0)
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

    pub fn wait_for_exit(&mut self) -> ExitStatus {
        wait_until(Duration::from_secs(120), || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap()
    }
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
