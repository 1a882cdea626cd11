//! Rollouts that fail on three real hosts behind HAProxy: no request fails, and each host runs and serves what it
//! should.

use rustix::process::{Pid, Signal, kill_process};

use crate::hosts::lock_fleet;
use crate::output::assert_snapshot;
use crate::shop::{
    AGENT, MIGRATION, NGINX_CONF, ROTATION_HOOKS, RequestLoop, SHOP_HOSTS, SLOW_ROTATION_HOOKS, Shop, UNIT,
};

#[test]
fn a_host_that_does_not_return_into_rotation_stops_the_rollout() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.start_balancer();
    let keys = format!("batches = [\"1\", \"1\", \"1\"]\n{ROTATION_HOOKS}");
    shop.package("1", "", &keys);
    shop.deploy(&[]).assert_status(0);
    let load = RequestLoop::start(&fleet);
    fleet.run_as_root("redis-02", "touch /run/dunlin-shop-stuck");
    shop.package("2", "", &keys);
    let stopped = shop.deploy(&[]).assert_status(4);
    assert_eq!(shop.versions(), ["2", "2", "1"]);
    assert_eq!(shop.drained_hosts(), ["redis-02"]);
    let releases = shop.project.run_dunlin(&["releases", "shop"]);
    assert_snapshot("fleet-rollout-host-out-of-rotation", &[&stopped, &releases]);
    fleet.run_as_root("redis-02", "rm /run/dunlin-shop-stuck");
    shop.deploy(&[]).assert_status(0);
    assert_eq!(shop.versions(), ["2"; 3]);
    assert_eq!(shop.drained_hosts(), Vec::<&str>::new());
    load.assert_none_failed();
}

#[test]
fn a_run_killed_before_the_return_into_rotation_is_finished_by_the_next() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.package("1", "", SLOW_ROTATION_HOOKS);
    shop.deploy(&[]).assert_status(0);
    shop.package("2", "", SLOW_ROTATION_HOOKS);
    let mut run = shop.start_deploy(&shop.project);
    // The release is confirmed, and the hook after the switch sleeps.
    let is_waiting = "grep -q '\"pending_switch\":null,\"out_of_rotation\":true' /srv/dunlin-shop/.dunlin/state.json";
    shop.wait_until("the first host was not switched", || shop.host_has("redis-01", is_waiting));
    kill_process(Pid::from_child(&run), Signal::KILL).unwrap();
    fleet.root_on(&SHOP_HOSTS, &format!("pkill -9 -f '{AGENT}' || true"));
    run.wait().unwrap();
    assert_eq!(shop.drained_hosts(), ["redis-01"]);
    shop.deploy(&[]).assert_status(0);
    assert_eq!(shop.versions(), ["2"; 3]);
    assert_eq!(shop.drained_hosts(), Vec::<&str>::new());
}

#[test]
fn a_migration_runs_once_for_two_operators_and_a_killed_agent() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.package("1", "", MIGRATION);
    let other = shop.project.clone_project();
    let mut runs = [shop.start_deploy(&shop.project), shop.start_deploy(&other)];
    let mut codes: Vec<Option<i32>> = runs.iter_mut().map(|run| run.wait().unwrap().code()).collect();
    codes.sort_unstable();
    assert_eq!(codes[0], Some(0), "{codes:?}");
    assert_eq!(codes[1], Some(5), "the second operator sees the lock: {codes:?}");
    assert_eq!(shop.migrations(), ["start", "end"]);

    shop.package("2", "", MIGRATION);
    let mut run = shop.start_deploy(&shop.project);
    shop.wait_until("the migration did not start", || shop.migrations().len() == 3);
    fleet.root_on(&SHOP_HOSTS, &format!("pkill -9 -f '{AGENT}' || true"));
    assert_ne!(run.wait().unwrap().code(), Some(0));
    shop.wait_until("the migration was not finished", || shop.migrations().len() == 4);
    assert_eq!(shop.versions(), ["1"; 3]);
    shop.deploy(&[]).assert_status(3).assert_snapshot("fleet-rollout-task-unknown");
    assert_eq!(shop.versions(), ["1"; 3]);
    shop.deploy(&["--task-done", "migrate"]).assert_status(0);
    assert_eq!(shop.migrations(), ["start", "end", "start", "end"]);
    assert_eq!(shop.versions(), ["2"; 3]);
}

#[test]
fn a_migration_runs_once_while_a_host_is_gone() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.package("1", "", MIGRATION);
    shop.deploy(&["--limit", "redis-01"]).assert_status(0);
    assert_eq!(shop.migrations(), ["start", "end"]);
    let rest = ["--limit", "redis-02:redis-03"];
    {
        let _cut = fleet.partition_host("redis-01");
        shop.deploy(&rest).assert_status(0);
        // Of a new release nobody knows whether the host that is gone ran its migration.
        shop.package("2", "", MIGRATION);
        shop.deploy(&rest).assert_status(3).assert_snapshot("fleet-rollout-task-of-an-unreachable-host");
    }
    assert_eq!(shop.migrations(), ["start", "end"]);
    assert_eq!(shop.versions(), ["1"; 3]);
    shop.deploy(&[]).assert_status(0);
    assert_eq!(shop.migrations(), ["start", "end", "start", "end"]);
    assert_eq!(shop.versions(), ["2"; 3]);
}

#[test]
fn a_release_that_crashes_after_its_batch_returns_the_whole_fleet() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.start_balancer();
    shop.package("1", "", ROTATION_HOOKS);
    shop.deploy(&[]).assert_status(0);
    let load = RequestLoop::start(&fleet);
    // By default one host at a time is switched, which takes 1.5 s or more; the first crashes while the others follow.
    fleet.run_as_root("redis-01", "touch /run/dunlin-shop-crashes");
    shop.package("2", "[ ! -e /run/dunlin-shop-crashes ] || (sleep 3; kill -9 $$) &", ROTATION_HOOKS);
    let returned = shop.deploy(&["--json"]).assert_status(4);
    let hosts = returned.events("returned")[0]["hosts"].as_array().unwrap().clone();
    assert!(!hosts.is_empty() && hosts.iter().all(|host| host["version"] == "1"), "{}", returned.stdout);
    assert_eq!(shop.versions(), ["1"; 3]);
    assert_eq!(shop.drained_hosts(), Vec::<&str>::new());
    load.assert_none_failed();
}

#[test]
fn a_release_that_fails_on_half_the_fleet_returns_the_whole_fleet() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.start_balancer();
    let keys = format!("batches = [\"1\", \"100%\"]\n{ROTATION_HOOKS}");
    shop.package("1", "", &keys);
    shop.deploy(&[]).assert_status(0);
    let load = RequestLoop::start(&fleet);
    fleet.run_as_root("redis-03", "touch /run/dunlin-shop-sick-2");
    shop.package("2", "", &keys);
    shop.deploy(&[]).assert_status(4).assert_snapshot("fleet-rollout-half-failed");
    assert_eq!(shop.versions(), ["1"; 3]);
    assert_eq!(shop.drained_hosts(), Vec::<&str>::new());
    let releases = shop.project.run_dunlin(&["releases", "shop"]).assert_status(0);
    assert_eq!(releases.stdout.matches(": healthy").count(), 3, "{}", releases.stdout);
    load.assert_none_failed();
}

#[test]
fn a_service_of_another_tool_is_refused_and_with_adopt_restored() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    let by_hand = format!(
        "mkdir -p /srv/dunlin-shop/releases/20260101/bin && cd /srv/dunlin-shop/releases/20260101 &&
        printf '#!/bin/sh\\nexec /usr/sbin/nginx -c /srv/dunlin-shop/current/nginx.conf -g \"daemon off;\"\\n' >bin/run.sh &&
        chmod 755 bin/run.sh && cat >nginx.conf <<'END'\n{}END\nln -s releases/20260101 /srv/dunlin-shop/current &&
        cat >/etc/systemd/system/dunlin-shop.service <<'END'\n# by hand\n{UNIT}END\n
        systemctl daemon-reload && systemctl enable --quiet --now dunlin-shop",
        NGINX_CONF.replace("VERSION", "by-hand")
    );
    fleet.root_on(&SHOP_HOSTS, &by_hand);
    fleet.root_on(&SHOP_HOSTS, "touch /run/dunlin-shop-sick-1");
    shop.package("1", "", "batches = [\"100%\"]\n");
    shop.deploy(&[]).assert_status(3).assert_snapshot("fleet-rollout-service-of-another-tool");
    assert_eq!(shop.versions(), ["by-hand"; 3]);
    shop.deploy(&["--adopt"]).assert_status(4).assert_snapshot("fleet-rollout-adopt-failed");
    assert_eq!(shop.versions(), ["by-hand"; 3]);
    for host in SHOP_HOSTS {
        assert_eq!(fleet.run_as_root(host, "readlink /srv/dunlin-shop/current").trim(), "releases/20260101");
        assert!(shop.host_has(host, "grep -q '# by hand' /etc/systemd/system/dunlin-shop.service"));
    }
    fleet.root_on(&SHOP_HOSTS, "rm /run/dunlin-shop-sick-1");
    shop.deploy(&[]).assert_status(0);
    assert_eq!(shop.versions(), ["1"; 3]);
    shop.project.run_dunlin(&["rollback", "shop", "--yes"]).assert_status(0);
    assert_eq!(shop.versions(), ["by-hand"; 3]);
}

#[test]
fn faults_of_a_unit_and_a_taken_port_are_found_before_any_change() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.package("1", "", "");
    std::fs::write(shop.project.file_path("templates/shop.service"), UNIT.replace("/srv/dunlin-shop/current/", ""))
        .unwrap();
    let fault = shop.deploy(&[]).assert_status(3);
    std::fs::write(shop.project.file_path("templates/shop.service"), UNIT).unwrap();
    let listen = "systemd-run --quiet --unit=dunlin-stranger --property=Type=forking \
        /usr/sbin/nginx -g 'pid /run/dunlin-shop-stranger.pid; error_log stderr;' -c /run/dunlin-shop-stranger.conf";
    let config = "events {} http { access_log off; server { listen 8088; return 200 \"stranger\"; } }";
    fleet.run_as_root("redis-03", &format!("echo '{config}' >/run/dunlin-shop-stranger.conf; {listen}"));
    let taken = shop.deploy(&[]).assert_status(3);
    assert_snapshot("fleet-rollout-faults-before-any-change", &[&fault, &taken]);
    for host in SHOP_HOSTS {
        assert!(!shop.host_has(host, "[ -e /srv/dunlin-shop/current ]"), "{host} was changed");
    }
    fleet.run_as_root("redis-03", "systemctl stop dunlin-stranger");
    shop.deploy(&[]).assert_status(0);
    assert_eq!(shop.versions(), ["1"; 3]);
}
