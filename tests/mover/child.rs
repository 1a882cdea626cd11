//! The host half in a process of its own, so that it can be killed: the test binary starts itself again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use dunlin::plan::Digest;
use dunlin::rebalance::host;
use dunlin::resources::Blobs;
use dunlin::wire::shard::{Moves, Reply, Request};

use crate::places::{Notes, Places, credentials, within};

/// Names the file that holds the requests; set in the child only.
const TASK: &str = "DUNLIN_TEST_TASK";

/// Contents in a folder, by digest.
struct Folder<'a>(&'a Path);

impl Blobs for Folder<'_> {
    fn get(&self, digest: &Digest) -> anyhow::Result<Vec<u8>> {
        Ok(fs::read(self.0.join(digest.as_str()))?)
    }
}

/// A process that works on requests, one after the other.
pub struct Agent(Child);

/// Another world for one process, in a mount namespace of its own: files to lie over those of the system. Needs root.
#[derive(Default)]
pub struct World {
    pub over: Vec<(PathBuf, &'static str)>,
}

impl Agent {
    /// Starts it, to crash at that step (`fence:before`), or not at all.
    pub fn start(places: &Places, requests: &[Request], crash_at: Option<&str>) -> Self {
        Self::start_in(&World::default(), places, requests, crash_at)
    }

    /// Starts it in another world.
    pub fn start_in(world: &World, places: &Places, requests: &[Request], crash_at: Option<&str>) -> Self {
        let folder = places.folder.path().join("task");
        fs::create_dir_all(&folder).unwrap();
        places.contents.write_to(&folder);
        fs::remove_file(folder.join("replies.json")).ok();
        fs::write(folder.join("requests.json"), serde_json::to_vec(requests).unwrap()).unwrap();
        let mut command = world.command(&std::env::current_exe().unwrap());
        command.args(["--exact", "child::an_agent_works_in_a_process_of_its_own", "--test-threads=1"]);
        command.env(TASK, &folder).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(at) = crash_at {
            command.env("DUNLIN_CRASH_AT", at);
        }
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.0)
    }

    /// Waits until it stopped itself; false where it ended without.
    pub fn stopped(&mut self) -> bool {
        let mut is_stopped = false;
        within(Duration::from_secs(60), || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
            is_stopped = stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('T'));
            is_stopped || self.0.try_wait().unwrap().is_some()
        });
        is_stopped
    }

    pub fn wait(&mut self) -> ExitStatus {
        within(Duration::from_secs(120), || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap()
    }
}

impl World {
    fn command(&self, program: &Path) -> Command {
        if self.over.is_empty() {
            return Command::new(program);
        }
        let mounts = self.over.iter().map(|(file, over)| format!("mount --bind {} {over} && ", file.display()));
        let script = mounts.collect::<String>() + "exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh"]).arg(program);
        command
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The replies of the agent that ended last; an error for a request that failed.
pub fn replies(places: &Places) -> Vec<Result<Reply, String>> {
    let bytes = fs::read(places.folder.path().join("task/replies.json")).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

#[test]
fn an_agent_works_in_a_process_of_its_own() {
    if let Some(folder) = std::env::var_os(TASK) {
        return work(Path::new(&folder));
    }
    let places = Places::new(1);
    let what = Moves { credentials: credentials(), journals: places.root(0).join("moves") };
    let mut agent = Agent::start(&places, &[Request::Moves(what)], None);
    assert!(agent.wait().success());
    assert_eq!(replies(&places), [Ok(Reply::Moves(Vec::new()))]);
}

fn work(folder: &Path) {
    let requests: Vec<Request> = serde_json::from_slice(&fs::read(folder.join("requests.json")).unwrap()).unwrap();
    let mut replies: Vec<Result<Reply, String>> = Vec::new();
    for request in requests {
        replies.push(host::handle(request, &Folder(folder), &Notes::default()).map_err(|error| format!("{error:#}")));
        if replies.last().is_some_and(Result::is_err) {
            break;
        }
    }
    fs::write(folder.join("replies.json"), serde_json::to_vec(&replies).unwrap()).unwrap();
}
