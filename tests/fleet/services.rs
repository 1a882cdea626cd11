//! Template units, maintenance and removal of a service on three real hosts behind HAProxy.

use crate::hosts::lock_fleet;
use crate::shop::{ROTATION_HOOKS, RequestLoop, SHOP_HOSTS, Shop};

const JOB_UNIT: &str = "[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
";
/// Instances of the job that run and start at boot.
const LIST_JOBS: &str = "for job in 1 2 3; do
    if systemctl --quiet is-active dunlin-shop-job@$job && systemctl --quiet is-enabled dunlin-shop-job@$job; then
        printf '%s ' $job
    fi
done";

/// Commands that keep the facts in a file of the project.
const NOTIFY: &str = r#"
[notify]
started  = [["/bin/sh", "-c", "cat >>notified; echo >>notified"]]
finished = [["/bin/sh", "-c", "cat >>notified; echo >>notified"]]
"#;

fn package_with_jobs(shop: &Shop<'_>, version: &str, instances: &str) {
    std::fs::write(shop.project.file_path("templates/shop-job.service"), JOB_UNIT).unwrap();
    let unit = format!(
        "{ROTATION_HOOKS}\n[[unit]]\nname = \"dunlin-shop-job@.service\"\nsrc = \"shop-job.service\"\n\
         instances = {instances}\n"
    );
    shop.package(version, "", &unit);
}

fn jobs(shop: &Shop<'_>) -> Vec<String> {
    shop.fleet.root_on(&SHOP_HOSTS, LIST_JOBS).iter().map(|jobs| jobs.trim().to_owned()).collect()
}

#[test]
fn a_template_unit_has_instances_until_the_service_is_removed() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    package_with_jobs(&shop, "1", "[\"1\", \"2\"]");
    shop.deploy(&[]).assert_status(0);
    assert_eq!(jobs(&shop), ["1 2"; 3]);
    package_with_jobs(&shop, "2", "\"{{ 1 + 2 }}\"");
    shop.deploy(&[]).assert_status(0);
    assert_eq!((jobs(&shop), shop.versions()), (vec!["1 2 3".to_owned(); 3], vec!["2".to_owned(); 3]));
    shop.project.run_dunlin(&["rollback", "shop", "--yes"]).assert_status(0);
    assert_eq!((jobs(&shop), shop.versions()), (vec!["1 2".to_owned(); 3], vec!["1".to_owned(); 3]));
    shop.fleet.run_as_root("redis-02", "systemctl kill --signal KILL dunlin-shop-job@2; sleep 0.5");
    shop.project.run_dunlin(&["deploy", "shop", "--health"]).assert_status(4);

    shop.project.run_dunlin(&["undeploy", "shop", "--dry-run", "--detailed-exitcode"]).assert_status(2);
    assert_eq!(shop.versions(), ["1"; 3]);
    shop.project.run_dunlin(&["undeploy", "shop", "--yes"]).assert_status(0);
    assert_eq!((jobs(&shop), shop.versions()), (vec![String::new(); 3], vec!["none".to_owned(); 3]));
    let rest = "find /etc/systemd/system -name 'dunlin-shop*'; ls -d /srv/dunlin-shop 2>/dev/null; true";
    assert_eq!(shop.fleet.root_on(&SHOP_HOSTS, rest), [""; 3]);
    shop.project.run_dunlin(&["undeploy", "shop", "--dry-run", "--detailed-exitcode"]).assert_status(0);
}

#[test]
fn a_host_in_maintenance_gets_releases_and_no_requests() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.start_balancer();
    shop.package("1", "", ROTATION_HOOKS);
    shop.deploy(&[]).assert_status(0);
    let facts = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let load = RequestLoop::start(&fleet);
    let maintenance =
        |mode: &str, limit: &str| shop.project.run_dunlin(&["maintenance", "shop", mode, "--yes", "--limit", limit]);
    maintenance("on", "redis-01").assert_status(0);
    assert_eq!(shop.drained_hosts(), ["redis-01"]);
    shop.package("2", "", ROTATION_HOOKS);
    shop.deploy(&[]).assert_status(0).assert_snapshot("fleet-rollout-with-a-host-in-maintenance");
    assert_eq!(shop.versions(), ["2"; 3]);
    assert_eq!(shop.drained_hosts(), ["redis-01"]);
    shop.project.run_dunlin(&["deploy", "shop", "--health"]).assert_status(4);
    maintenance("off", "redis-01").assert_status(0);
    assert_eq!(shop.drained_hosts(), Vec::<&str>::new());
    shop.project.run_dunlin(&["deploy", "shop", "--health"]).assert_status(0);
    load.assert_none_failed();
    shop.package("3", "", &format!("{ROTATION_HOOKS}{NOTIFY}"));
    maintenance("on", "redis").assert_status(0);
    assert_eq!(shop.drained_hosts(), SHOP_HOSTS);
    let notified = std::fs::read_to_string(shop.project.file_path("notified")).unwrap();
    let notified: Vec<_> = notified.lines().map(facts).collect();
    let field = |name: &str| notified.iter().map(|facts| facts[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("event"), ["started", "finished"]);
    assert_eq!(field("command"), ["start_maintenance"; 2]);
    assert_eq!(notified[1]["hosts"][0], serde_json::json!({"host": "redis-01", "outcome": "changed"}));
    maintenance("off", "redis").assert_status(0);
}
