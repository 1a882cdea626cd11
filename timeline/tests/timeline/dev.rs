//! `script/dev`: everything starts with one command, a second run changes nothing, and `down` leaves nothing.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

struct Dev {
    folder: PathBuf,
    port: u16,
}

impl Dev {
    fn run(&self, args: &[&str]) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
        let programs = Path::new(env!("CARGO_BIN_EXE_timeline-api")).parent().expect("the folder of the programs");
        let output = Command::new(root.join("script/dev"))
            .args(args)
            .env("TIMELINE_DEV_DIR", &self.folder)
            .env("TIMELINE_DEV_PORT", self.port.to_string())
            .env("TIMELINE_DEV_BIN", programs)
            .output()
            .expect("script/dev runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The process of each part, with its start time.
    fn processes(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(self.folder.join("run")).expect("the parts run");
        let read = |path: PathBuf| (path.display().to_string(), fs::read_to_string(&path).expect("a file"));
        let mut parts: Vec<(String, String)> = entries.map(|entry| read(entry.expect("a file").path())).collect();
        parts.sort();
        parts
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if self.folder.exists() {
            self.run(&["down"]);
        }
    }
}

/// Returns the first of as many free ports as the servers use. They are below those that the system gives to the
/// connections of the other tests.
fn first_of_free_ports() -> u16 {
    const COUNT: u16 = 20;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let from = 12_000 + u16::try_from(std::process::id() % 500).expect("below 500") * COUNT;
    let blocks = (from..32_000).step_by(COUNT.into());
    let mut free = blocks.filter(|first| (*first..first + COUNT).all(is_free));
    free.next().expect("free ports")
}

#[test]
fn one_command_starts_all_and_another_leaves_nothing() {
    let parent = tempfile::TempDir::new().expect("a temporary folder");
    // other users must reach the folder of their server
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(parent.path(), open).expect("an own folder");
    let dev = Dev { folder: parent.path().join("dev"), port: first_of_free_ports() };
    let first = dev.run(&[]);
    for part in ["postgres", "redis-3", "memcached", "rabbitmq", "seed", "api", "worker"] {
        assert!(first.lines().next().expect("a line").contains(part), "{first}");
    }
    let request = first.lines().find_map(|line| line.strip_prefix("user 1   ")).expect("an example");
    let page = Command::new("sh").args(["-c", &format!("{request} --silent --fail")]).output().expect("sh runs");
    let page: serde_json::Value = serde_json::from_slice(&page.stdout).expect("a page");
    assert_eq!(page["tweets"].as_array().expect("tweets").len(), 50, "{page}");
    let before = dev.processes();
    assert!(dev.run(&[]).starts_with("dev: nothing to do"));
    assert_eq!(dev.processes(), before);
    let settings = dev.run(&["env"]);
    let commands = format!("{settings}\ntimeline-worker rebuild --shard 3 --rate 1000 && timeline-worker replay");
    let output = Command::new("bash").args(["-ec", &commands]).output().expect("bash runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && printed.contains("\"timelines\":"), "{printed}{:?}", output.stderr);
    dev.run(&["down"]);
    assert!(!dev.folder.exists());
    for (name, process) in before.into_iter().filter(|(name, _)| !name.ends_with(".sum")) {
        let (id, start) = process.trim().split_once(' ').expect("an id and a start time");
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // the state is the first field behind the name, the start time the twentieth
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let still_runs = fields.get(19) == Some(&start) && fields[0] != "Z";
        assert!(!still_runs, "{name} still runs as {id}");
    }
}
