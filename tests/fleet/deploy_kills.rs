//! dunlin, the agent, the link and the power of a host end at each step of a switch (`script/bench deploy-kills`): what
//! is active is complete, and one command finishes the release.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::hosts::lock_fleet;
use crate::shop::{AGENT, ROTATION_HOOKS, SHOP_HOSTS, Shop};

/// The steps of a switch, as the host reports them before it takes them.
const STEPS: [&str; 9] = ["journal", "drain", "unit", "reload", "link", "restart", "health", "confirm", "rotation"];
/// What ends at the step.
const CASUALTIES: [&str; 4] = ["dunlin", "agent", "link", "power"];
/// The host that is switched first.
const HOST: &str = "redis-01";
const MIGRATION: &str = r#"
[[task]]
name    = "migrate"
command = ["/bin/sh", "-c", "echo start >>/var/tmp/dunlin-shop-notes; sleep 0.2; echo end >>/var/tmp/dunlin-shop-notes"]
"#;
/// Longest time until a host notices that its controller is gone.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

impl Shop<'_> {
    /// Deploys the version packaged last, and ends something once the first host reports the step. Returns with the end
    /// of dunlin.
    fn deploy_until(&self, version: &str, step: &str, casualty: &str) {
        let mut command = self.project.dunlin_command(&["deploy", "shop", "--yes", "--verbose"]);
        let mut run = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let wanted = format!("{HOST}: release {version}: {step}");
        let mut lines = BufReader::new(run.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == wanted), "{step}: the host did not report it");
        match casualty {
            "dunlin" => kill_process(Pid::from_child(&run), Signal::KILL).unwrap(),
            "agent" => drop(self.fleet.run_as_root(HOST, &format!("pkill -9 -f '{AGENT}' || true"))),
            "link" => {
                let _cut = self.fleet.partition_host(HOST);
                return wait_for_end(&mut run, lines);
            }
            "power" => {
                let _off = self.fleet.power_off(HOST);
                return wait_for_end(&mut run, lines);
            }
            other => panic!("nothing ends {other}"),
        }
        wait_for_end(&mut run, lines);
    }

    /// Returns the number of beginnings and ends that the migrations of all hosts noted.
    fn migration_notes(&self) -> usize {
        let notes = self.fleet.root_on(&SHOP_HOSTS, "cat /var/tmp/dunlin-shop-notes 2>/dev/null || true");
        notes.iter().map(|notes| notes.lines().count()).sum()
    }

    /// Finishes the release with one command; waits for agents that have not noticed yet that their controller is gone.
    fn finish_release(&self) -> crate::output::CommandOutput {
        let begin = Instant::now();
        loop {
            let output = self.deploy(&[]);
            if output.status != Some(5) || begin.elapsed() > LOCK_LIMIT {
                return output;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

fn wait_for_end(run: &mut Child, lines: impl Iterator<Item = String>) {
    lines.for_each(drop);
    run.wait().unwrap();
}

#[test]
#[ignore = "takes half an hour: script/bench deploy-kills"]
fn a_switch_that_ends_at_any_step_is_finished_by_one_command() {
    let Some(fleet) = lock_fleet() else { return };
    let selected = |name: &str, all: &[&'static str]| -> Vec<&'static str> {
        let wanted = std::env::var(name).unwrap_or_else(|_| all.join(","));
        all.iter().copied().filter(|one| wanted.split(',').any(|name| name == *one)).collect()
    };
    let (steps, casualties) = (selected("DUNLIN_KILL_STEPS", &STEPS), selected("DUNLIN_KILL", &CASUALTIES));
    fleet.run_as_root("redis-02", "umount /srv/dunlin-shop 2>/dev/null || true");
    fleet.root_on(&SHOP_HOSTS, "rm -f /var/tmp/dunlin-shop-notes");
    let shop = Shop::new(&fleet);
    let keys = format!("batches = [\"1\", \"100%\"]\n{ROTATION_HOOKS}{MIGRATION}");
    shop.package("0", "", &keys);
    shop.deploy(&[]).assert_status(0);
    let (mut rounds, mut problems) = (0, Vec::new());
    for casualty in casualties {
        for step in &steps {
            rounds += 1;
            let (version, case) = (format!("{casualty}-{step}"), format!("{casualty} at {step}"));
            shop.package(&version, "", &keys);
            let begin = Instant::now();
            shop.deploy_until(&version, step, casualty);
            let is_complete = "test -f /srv/dunlin-shop/current/bin/run.sh -a -f /srv/dunlin-shop/current/nginx.conf";
            if !shop.host_has(HOST, is_complete) {
                problems.push(format!("{case}: `current` is not a complete release"));
            }
            let output = shop.finish_release();
            println!("{case}: finished after {:.1} s", begin.elapsed().as_secs_f64());
            if output.status != Some(0) {
                problems.push(format!("{case}: exit {:?}: {}", output.status, output.stderr));
            }
            let (versions, drained) = (shop.versions(), shop.drained_hosts());
            if versions != [version.as_str(); 3] || !drained.is_empty() {
                problems.push(format!("{case}: {versions:?} serve, out of rotation: {drained:?}"));
            }
            let notes = shop.migration_notes();
            if notes != 2 * (rounds + 1) {
                problems.push(format!("{case}: {notes} notes of migrations after {} releases", rounds + 1));
            }
        }
    }
    for host in SHOP_HOSTS {
        if shop.host_has(host, "ls /srv/dunlin-shop/releases | grep -q partial") {
            problems.push(format!("{host}: an incomplete release is left"));
        }
    }
    println!("deploy-kills: rounds={rounds} problems={}", problems.len());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
