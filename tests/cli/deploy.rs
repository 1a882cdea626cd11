//! `package`, `deploy`, `rollback` and `releases` without hosts.

use crate::example;
use crate::program::snapshot;

#[test]
fn a_release_is_packaged() {
    let project = example::project();
    project
        .snapshot("package", &[&["package", "shop", "--version", "1.2.0"], &["package", "shop", "--version", "1.2.0"]]);
    project.snapshot("package-json", &[&["package", "shop", "--version", "1.2.0", "--json"]]);
    assert!(project.path("dist/shop-1.2.0.tar.zst").is_file());
}

#[test]
fn a_release_that_cannot_be_packaged() {
    let project = example::project();
    let bad = [
        &["package", "shp"][..],
        &["package", "other"],
        &["package", "../shop"],
        &["package", "shop", "--version", "../1"],
        &["package", "shop", "--version", ""],
    ]
    .map(|command| project.dunlin(command).ends(64));
    snapshot("package-usage-errors", &bad);

    std::fs::remove_file(project.path("build/shop")).unwrap();
    let missing = project.dunlin(&["package", "shop", "--version", "1"]).ends(1);
    let broken = example::RECIPE
        .replace("keep_releases = 3", "keep_releases = 0\nkeep_release = 3")
        .replace("\"1\", \"100%\"", "\"0\", \"200%\"");
    project.write("playbooks/deploy-shop.toml", &broken);
    let broken = project.dunlin(&["package", "shop", "--version", "1"]).ends(1);
    project.write("playbooks/deploy-shop.toml", &example::RECIPE.replace("\"shop\"", "\"other\""));
    let other = project.dunlin(&["package", "shop", "--version", "1"]).ends(1);
    snapshot("package-errors", &[missing, broken, other]);
}

#[test]
fn a_release_is_built_before_it_is_packaged() {
    let project = example::project();
    let build = |command: &str| example::RECIPE.replace("user    =", &format!("build   = \"{command}\"\nuser    ="));
    project.write("playbooks/deploy-shop.toml", &build("echo built >build/shop"));
    let built = project.dunlin(&["package", "shop", "--version", "1"]).ends(0);
    assert_eq!(std::fs::read_to_string(project.path("build/shop")).unwrap(), "built\n");
    project.write("playbooks/deploy-shop.toml", &build("echo again >build/shop"));
    let taken = project.dunlin(&["package", "shop", "--version", "1"]).ends(3);
    project.write("playbooks/deploy-shop.toml", &build("exit 7"));
    let failed = project.dunlin(&["package", "shop", "--version", "2"]).ends(1);
    assert!(!project.path("dist/shop-2.tar.zst").exists());
    snapshot("package-build", &[built, taken, failed]);
}

#[test]
fn untracked_files_are_not_packaged() {
    let project = example::project();
    let recipe = example::RECIPE.replace("build/shop", "app").replace("bin/shop", "app");
    project.write("playbooks/deploy-shop.toml", &recipe);
    project.write("app/server.py", "print()\n");
    let git = |args: &[&str]| {
        let done = std::process::Command::new("git").args(args).current_dir(project.path(".")).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    git(&["init", "-q"]);
    git(&["add", "app/server.py"]);
    project.write("app/.env.local", "SECRET=1\n");
    let refused = project.dunlin(&["package", "shop", "--version", "1"]).ends(3);
    let allowed = project.dunlin(&["package", "shop", "--version", "1", "--allow-untracked"]).ends(0);
    snapshot("package-untracked", &[refused, allowed]);
}

#[test]
fn recipes_are_checked() {
    let project = example::project();
    project.dunlin(&["check"]).ends(0);
    project.write("templates/shop.service", "[Service]\nExecStart={{ release.rooot }}/current/bin/shop\n");
    let unit = "\n[[unit]]\nname = \"shop.service\"\nsrc = \"shop.service\"\n";
    project.write("playbooks/deploy-shop.toml", &format!("{}{unit}", example::RECIPE));
    std::fs::remove_file(project.path("build/shop")).unwrap();
    let other = example::RECIPE.replace("\"shop\"", "\"stall\"").replace("hosts   = \"web\"", "hosts   = \"wep\"");
    project.write("playbooks/deploy-stall.toml", &other.replace("build/shop", "templates/shop.service"));
    snapshot("check-recipes", &[project.dunlin(&["check"]).ends(1)]);
}

#[test]
fn a_release_that_cannot_be_deployed() {
    let project = example::project();
    let none = [
        (&["deploy", "shop", "--dry-run"][..], 1),
        (&["deploy", "shop", "--release", "1.2.0"], 1),
        (&["deploy", "shop", "--release", "./none.tar.zst"], 1),
        (&["rollback", "shp"], 64),
        (&["rollback", "shop", "--to", "../1"], 64),
        (&["rollback", "shop", "--limit", "redis"], 64),
        (&["releases", "shop", "--limit", "wep"], 64),
    ]
    .map(|(command, status)| project.dunlin(command).ends(status));
    snapshot("deploy-errors", &none);
    assert!(!project.connected());

    project.write("broken.tar.zst", "this is no archive");
    project.dunlin(&["package", "shop", "--version", "1.2.0"]).ends(0);
    project.write("playbooks/deploy-stall.toml", &example::RECIPE.replace("service = \"shop\"", "service = \"stall\""));
    let refused = [
        &["deploy", "shop", "--release", "./broken.tar.zst"][..],
        &["deploy", "stall", "--release", "./dist/shop-1.2.0.tar.zst"],
    ]
    .map(|command| project.dunlin(command).ends(1));
    snapshot("deploy-artifact-errors", &refused);
    project.write("playbooks/deploy-shop.toml", &example::RECIPE.replace("hosts   = \"web\"", "hosts   = \"wep\""));
    project.snapshot("deploy-unknown-hosts", &[&["deploy", "shop", "--dry-run"], &["releases", "shop"]]);
    assert!(!project.connected());
}

#[test]
fn a_service_on_hosts_that_cannot_be_reached() {
    let project = example::project();
    project.dunlin(&["package", "shop", "--version", "1.2.0"]).ends(0);
    let outputs = [
        &["deploy", "shop", "--dry-run"][..],
        &["deploy", "shop", "--yes"],
        &["deploy", "shop", "--yes", "--json"],
        &["rollback", "shop", "--dry-run"],
        &["rollback", "shop", "--to", "1.1.0", "--yes"],
        &["releases", "shop"],
        &["releases", "shop", "--json"],
    ]
    .map(|command| project.dunlin(command).ends(4));
    snapshot("deploy-unreachable", &outputs);
}
