//! Good and broken releases under a load through HAProxy (`script/bench deploy-load`): no request fails, and after a
//! broken release the one before serves on all hosts.

use std::time::Instant;

use crate::hosts::lock_fleet;
use crate::open_loop::OpenLoop;
use crate::output::CommandOutput;
use crate::shop::{BALANCER, NGINX_CONF, ROTATION_HOOKS, SHOP_HOSTS, Shop, UNIT};

/// The ways in which a release is broken, and the exit codes of their deploys.
const FAULTS: [(&str, i32); 12] = [
    ("unhealthy", 4),
    ("crash-2s", 4),
    ("crash-20s", 4),
    ("slow-start", 4),
    ("wrong-port", 4),
    ("taken-port", 3),
    ("bad-signature", 3),
    ("failed-migration", 4),
    ("full-disk", 3),
    ("cut-host", 3),
    ("failed-hook", 4),
    ("broken-unit", 3),
];
const FAILED_MIGRATION: &str = "\n[[task]]\nname = \"migrate\"\ncommand = [\"/bin/false\"]\n";
const FAILED_HOOKS: &str = "\n[hooks]\nbefore_switch = [\"false\"]\n";
/// Requests per second.
const RATE: u32 = 100;

impl Shop<'_> {
    /// Deploys a version with a fault, and removes the fault from the hosts.
    fn deploy_broken(&self, version: &str, fault: &str) -> CommandOutput {
        let config = NGINX_CONF.replace("VERSION", version);
        match fault {
            "unhealthy" => {
                self.fleet.root_on(&SHOP_HOSTS, &format!("touch /run/dunlin-shop-sick-{version}"));
                self.package(version, "", ROTATION_HOOKS);
            }
            "crash-2s" => self.package(version, "(sleep 2; kill -9 $$) &", ROTATION_HOOKS),
            "crash-20s" => {
                self.package(version, "(sleep 20; kill -9 $$) &", ROTATION_HOOKS);
                self.edit_recipe(|recipe| recipe.replace("steady   = \"1s\"", "steady   = \"25s\""));
            }
            "slow-start" => self.package(version, "sleep 8", ROTATION_HOOKS),
            "wrong-port" => self.package_with_config(version, "", ROTATION_HOOKS, &config.replace("8088", "8089")),
            "taken-port" => return self.deploy_to_taken_port(version, &config),
            "bad-signature" => return self.deploy_with_other_key(version),
            "failed-migration" => self.package(version, "", &format!("{ROTATION_HOOKS}{FAILED_MIGRATION}")),
            "full-disk" => {
                self.package(version, "", ROTATION_HOOKS);
                let fill = "dd if=/dev/zero of=/srv/dunlin-shop/filler bs=64k status=none 2>/dev/null || true";
                self.fleet.run_as_root("redis-02", fill);
                let output = self.deploy(&[]);
                self.fleet.run_as_root("redis-02", "rm /srv/dunlin-shop/filler");
                return output;
            }
            "cut-host" => {
                self.package(version, "", ROTATION_HOOKS);
                let _cut = self.fleet.partition_host("redis-02");
                return self.deploy(&[]);
            }
            "failed-hook" => self.package(version, "", FAILED_HOOKS),
            "broken-unit" => {
                self.package(version, "", ROTATION_HOOKS);
                let unit = UNIT.replace("/srv/dunlin-shop/current/", "");
                std::fs::write(self.project.file_path("templates/shop.service"), unit).unwrap();
            }
            other => panic!("no fault {other}"),
        }
        self.deploy(&[])
    }

    fn edit_recipe(&self, edit: impl FnOnce(&str) -> String) {
        let path = self.project.file_path("playbooks/deploy-shop.toml");
        let recipe = std::fs::read_to_string(&path).unwrap();
        let edited = edit(&recipe);
        assert_ne!(edited, recipe, "the recipe has not what is replaced");
        std::fs::write(path, edited).unwrap();
    }

    /// Deploys a release that listens on a port that another process of one host has.
    fn deploy_to_taken_port(&self, version: &str, config: &str) -> CommandOutput {
        self.package_with_config(version, "", ROTATION_HOOKS, &config.replace("8088", "8090"));
        self.edit_recipe(|recipe| recipe.replace("8088", "8090"));
        let stranger = "echo 'events {} http { access_log off; server { listen 8090; return 200 stranger; } }' \
            >/run/dunlin-shop-stranger.conf
            systemd-run --quiet --unit=dunlin-stranger --property=Type=forking /usr/sbin/nginx \
            -g 'pid /run/dunlin-shop-stranger.pid; error_log stderr;' -c /run/dunlin-shop-stranger.conf";
        self.fleet.run_as_root("redis-03", stranger);
        let output = self.deploy(&[]);
        self.fleet.run_as_root("redis-03", "systemctl stop dunlin-stranger");
        output
    }

    /// Deploys a release that is signed with a key that the recipe does not have.
    fn deploy_with_other_key(&self, version: &str) -> CommandOutput {
        let [own, other] = [0, 1].map(|_| minisign::KeyPair::generate_unencrypted_keypair().unwrap());
        let key = self.project.file_path("other.key");
        std::fs::write(&key, other.sk.to_box(None).unwrap().into_string()).unwrap();
        std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        self.package(version, "", ROTATION_HOOKS);
        let package = ["package", "shop", "--version", version, "--sign-key", "other.key"];
        self.project.run_dunlin(&package).assert_status(0);
        self.edit_recipe(|recipe| format!("public_keys = [{:?}]\n{recipe}", own.pk.to_base64()));
        self.deploy(&[])
    }

    /// Returns what differs from a fleet that serves this version with all hosts in rotation.
    fn find_problems(&self, version: &str) -> Vec<String> {
        let (versions, drained) = (self.versions(), self.drained_hosts());
        let mut problems = Vec::new();
        if versions.iter().any(|serving| serving != version) {
            problems.push(format!("{versions:?} serve instead of {version}"));
        }
        if !drained.is_empty() {
            problems.push(format!("{drained:?} are out of rotation"));
        }
        problems
    }
}

#[test]
#[ignore = "takes ten minutes: script/bench deploy-load"]
fn releases_under_load_fail_no_request() {
    let Some(fleet) = lock_fleet() else { return };
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let good: usize = setting("DUNLIN_LOAD_GOOD", "20").parse().unwrap();
    let faults = setting("DUNLIN_LOAD_BROKEN", &FAULTS.map(|(name, _)| name).join(","));
    let faults: Vec<&(&str, i32)> =
        FAULTS.iter().filter(|(name, _)| faults.split(',').any(|wanted| wanted == *name)).collect();
    // A small file system that can be filled.
    fleet.run_as_root("redis-02", "umount /srv/dunlin-shop 2>/dev/null || true");
    let shop = Shop::new(&fleet);
    fleet.run_as_root(
        "redis-02",
        "mkdir -p /srv/dunlin-shop && mount -t tmpfs -o size=32m,mode=755 tmpfs /srv/dunlin-shop",
    );
    shop.start_balancer();
    shop.package("0", "", ROTATION_HOOKS);
    shop.deploy(&[]).assert_status(0);
    let balancer = shop.project.hosts["hosts"][BALANCER]["address"].as_str().unwrap();
    let load = OpenLoop::start(balancer, 8099, RATE);
    let (mut serving, mut problems) = ("0".to_owned(), Vec::new());
    let mut pending_faults = faults.iter();
    for number in 1..=good.max(faults.len()) {
        if number <= good {
            serving = format!("good-{number}");
            shop.package(&serving, "", ROTATION_HOOKS);
            let output = shop.deploy(&[]);
            if output.status != Some(0) {
                problems.push(format!("{serving}: exit {:?}: {}", output.status, output.stderr));
            }
            problems.extend(shop.find_problems(&serving).iter().map(|problem| format!("{serving}: {problem}")));
        }
        if let Some((fault, status)) = pending_faults.next() {
            let begin = Instant::now();
            let output = shop.deploy_broken(fault, fault);
            println!("{fault}: exit {:?} after {:.1} s", output.status, begin.elapsed().as_secs_f64());
            if output.status != Some(*status) {
                problems.push(format!("{fault}: exit {:?} instead of {status}: {}", output.status, output.stderr));
            }
            problems.extend(shop.find_problems(&serving).iter().map(|problem| format!("{fault}: {problem}")));
        }
    }
    let report = load.stop();
    println!("deploy-load: {report} good={good} broken={} problems={}", faults.len(), problems.len());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!(report.failed(), 0, "{report}");
}
