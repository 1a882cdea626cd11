//! Agents and controllers that are killed while a program runs on a host: the program ends with its agent, the next run
//! never starts it a second time beside the first, and nothing is left on either side.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::hosts::{TestFleet, lock_fleet};
use crate::project::FleetProject;

const LIMIT: Duration = Duration::from_secs(60);
/// The binary's name is the digest of its content, with a number behind it in the run that pushed it.
const AGENT: &str = "[/]var/lib/dunlin/agent/[0-9a-f.]* agent";

fn wait_until(problem: &str, mut is_done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_done() {
        assert!(Instant::now() < end, "{problem}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn start(project: &FleetProject, arguments: &[&str]) -> Child {
    let mut command = project.dunlin_command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn is_running(fleet: &TestFleet, pattern: &str) -> bool {
    fleet.run_as_root("app-01", &format!("pgrep -f '{pattern}' >/dev/null && echo yes || true")).trim() == "yes"
}

fn read_log(fleet: &TestFleet, folder: &str) -> Vec<String> {
    let log = fleet.read_file("app-01", &format!("{folder}/log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

/// A project with one slow command, which notes its beginning and its end.
fn slow_project(fleet: &TestFleet, folder: &str, first: &str) -> FleetProject {
    fleet.remove_paths(folder);
    fleet.run_as_root("app-01", &format!("mkdir -p {folder}"));
    let project = FleetProject::with_fleet(fleet);
    let shell = format!("{first}echo start >> {folder}/log; sleep 6.25; echo end >> {folder}/log; touch {folder}/slow");
    let command = format!("[[play.step]]\ncommand = {{ shell = \"{shell}\", creates = \"{folder}/slow\" }}\n");
    let after = format!("[[play.step]]\nfile = {{ dest = \"{folder}/after\", content = \"after\" }}\n");
    project.write_play("app", &(command + &after));
    project
}

const PROVISION: [&str; 4] = ["provision", "--playbook", "play.toml", "--yes"];

#[test]
fn a_killed_agent_never_leaves_its_command_to_run_beside_the_next() {
    let Some(fleet) = lock_fleet() else { return };
    // A command that ends when asked, and one that has to be killed while the next run waits for the lock.
    for (folder, first) in [("/srv/dunlin-orphan-1", ""), ("/srv/dunlin-orphan-2", "trap '' TERM; ")] {
        let project = slow_project(&fleet, folder, first);
        let mut run = start(&project, &PROVISION);
        wait_until("the command did not start", || read_log(&fleet, folder) == ["start"]);
        fleet.run_as_root("app-01", &format!("pkill -9 -f '{AGENT}'"));
        project.run_provision(&["--yes"]).assert_status(0);
        assert_ne!(run.wait().unwrap().code(), Some(0));
        assert_eq!(read_log(&fleet, folder), ["start", "start", "end"], "{folder}");
        project.run_provision(&["--dry-run", "--detailed-exitcode"]).assert_status(0);
        assert!(!is_running(&fleet, "sleep 6[.]25"));
    }
}

#[test]
fn the_second_interrupt_ends_a_command_on_the_host() {
    let Some(fleet) = lock_fleet() else { return };
    let folder = "/srv/dunlin-interrupted";
    let project = slow_project(&fleet, folder, "");
    let mut run = start(&project, &PROVISION);
    wait_until("the command did not start", || read_log(&fleet, folder) == ["start"]);
    for _ in 0..2 {
        kill_process(Pid::from_child(&run), Signal::INT).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(run.wait().unwrap().code(), Some(130));
    wait_until("the command still runs", || !is_running(&fleet, "sleep 6[.]25"));
    wait_until("the agent still runs", || !is_running(&fleet, AGENT));
    assert_eq!(read_log(&fleet, folder), ["start"]);
    assert_eq!(fleet.read_file("app-01", &format!("{folder}/after")), None);
}

#[test]
fn one_interrupt_lets_a_command_finish() {
    let Some(fleet) = lock_fleet() else { return };
    let folder = "/srv/dunlin-finishing";
    let project = slow_project(&fleet, folder, "");
    let mut run = start(&project, &PROVISION);
    wait_until("the command did not start", || read_log(&fleet, folder) == ["start"]);
    kill_process(Pid::from_child(&run), Signal::INT).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert_eq!(read_log(&fleet, folder), ["start", "end"]);
    assert_eq!(fleet.read_file("app-01", &format!("{folder}/after")), None, "a step began after the interrupt");
}

#[test]
fn a_killed_controller_leaves_no_command_agent_or_master() {
    let Some(fleet) = lock_fleet() else { return };
    let project = FleetProject::with_fleet(&fleet);
    let script = "while :; do echo tick; sleep 0.2; done # dunlin-tick";
    for signal in [Signal::TERM, Signal::KILL] {
        let mut run = start(&project, &["exec", "app-01", "--", "sh", "-c", script]);
        wait_until("the command did not start", || is_running(&fleet, "[d]unlin-tick"));
        let folder = control_dir(&run);
        assert!(is_master_running(&folder));
        kill_process(Pid::from_child(&run), signal).unwrap();
        run.wait().unwrap();
        wait_until("the command still runs", || !is_running(&fleet, "[d]unlin-tick"));
        wait_until("the agent still runs", || !is_running(&fleet, AGENT));
        wait_until("the ssh master still runs", || !is_master_running(&folder));
        project.run_dunlin(&["exec", "app-01", "--", "true"]).assert_status(0);
        assert!(!Path::new(&folder).exists());
    }
}

/// Returns the folder of a run's control sockets: it has a file there open.
fn control_dir(run: &Child) -> String {
    let files = std::fs::read_dir(format!("/proc/{}/fd", run.id())).unwrap();
    let mut paths = files.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let lock = paths.find(|path| path.to_str().is_some_and(|path| path.contains("/dunlin-ssh-"))).unwrap();
    lock.parent().unwrap().to_str().unwrap().to_owned()
}

fn is_master_running(folder: &str) -> bool {
    Command::new("pgrep").args(["-f", &format!("ssh.*{folder}")]).stdout(Stdio::null()).status().unwrap().success()
}

#[test]
fn old_agents_are_removed_from_a_host() {
    let Some(fleet) = lock_fleet() else { return };
    let project = FleetProject::with_fleet(&fleet);
    project.run_dunlin(&["exec", "app-01", "--", "true"]).assert_status(0);
    let fill = "cd /var/lib/dunlin/agent && rm -f * && for n in 1 2 3 4 5; do \
                f=$(printf %064d $n); echo $n > $f; touch -d \"-$n days\" $f; done; \
                touch -d '-1 day' $(printf %064d 9).77";
    fleet.run_as_root("app-01", fill);
    project.run_dunlin(&["exec", "app-01", "--", "true"]).assert_status(0);
    let left = fleet.run_as_root("app-01", "ls /var/lib/dunlin/agent");
    let names: Vec<&str> = left.lines().collect();
    assert_eq!(names.len(), 3, "{left}");
    for number in 1..=2 {
        assert!(names.contains(&format!("{number:064}").as_str()), "{left}");
    }
}
