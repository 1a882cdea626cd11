//! `package`, `deploy`, `rollback` and `releases` without hosts.

use std::os::unix::fs::PermissionsExt;

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
fn a_build_does_not_get_the_password_of_the_signing_key() {
    let project = example::project();
    let pair = minisign::KeyPair::generate_encrypted_keypair(Some("Canary-password".to_owned())).unwrap();
    project.write_private("own.key", &pair.sk.to_box(None).unwrap().into_string());
    let build = "build   = \"env >build/shop\"\nuser    =";
    project.write("playbooks/deploy-shop.toml", &example::RECIPE.replace("user    =", build));
    let package = ["package", "shop", "--version", "1", "--sign-key", "own.key"];
    let variables = [("DUNLIN_SIGN_PASSWORD", "Canary-password"), ("OTHER", "kept")];
    project.dunlin_with(&package, &variables).ends(0);
    let environment = project.read("build/shop");
    assert!(environment.contains("OTHER=kept") && !environment.contains("Canary-password"), "{environment}");
}

#[test]
fn git_runs_no_program_of_the_sources() {
    let project = example::project();
    let pair = minisign::KeyPair::generate_encrypted_keypair(Some("Canary-password".to_owned())).unwrap();
    project.write_private("own.key", &pair.sk.to_box(None).unwrap().into_string());
    let recipe = example::RECIPE.replace("build/shop", "app").replace("bin/shop", "app");
    project.write("playbooks/deploy-shop.toml", &recipe);
    project.write("app/server.py", "print()\n");
    run_git(&project, &["init", "-q"]);
    run_git(&project, &["add", "app/server.py"]);
    let write_program = |name: &str, text: &str| {
        let path = project.write(name, &format!("#!/bin/sh\n{text}\n"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let signature = "-----BEGIN PGP SIGNATURE-----\\n\\nx\\n-----END PGP SIGNATURE-----\\n";
    // It reads what it signs: git takes a closed pipe for a failure.
    let signer =
        write_program("sign", &format!("cat >/dev/null\necho '[GNUPG:] SIG_CREATED x' >&2\nprintf -- '{signature}'"));
    run_git(&project, &["-c", &format!("gpg.program={signer}"), "commit", "-q", "-S", "-m", "first"]);
    // The settings of a repository from somebody else, with a program that tells what it can see.
    let program = &write_program("spy", &format!("env >>{}\ncat >/dev/null", project.path("seen").display()));
    run_git(&project, &["config", "core.fsmonitor", program]);
    run_git(&project, &["config", "log.showSignature", "true"]);
    run_git(&project, &["config", "gpg.program", program]);
    let variables = [("DUNLIN_SIGN_PASSWORD", "Canary-password")];
    project
        .dunlin_with(&["package", "shop", "--no-build", "--allow-stale", "--sign-key", "own.key"], &variables)
        .ends(0);
    project.dunlin(&["check"]).ends(0);
    assert!(!project.path("seen").exists(), "git ran it: {}", project.read("seen"));
    // What the settings of the repository still decide, such as filters, does not get the password.
    project.write(".gitattributes", "* filter=spy\n");
    run_git(&project, &["config", "filter.spy.clean", program]);
    project.write("app/server.py", "print(1)\n");
    project
        .dunlin_with(&["package", "shop", "--no-build", "--allow-stale", "--sign-key", "own.key"], &variables)
        .ends(0);
    assert!(!project.path("seen").exists() || !project.read("seen").contains("Canary"), "{}", project.read("seen"));
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

/// Runs git in the project's folder.
fn run_git(project: &crate::program::Project, args: &[&str]) {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
    let mut git = std::process::Command::new("git");
    git.args(identity).args(args).current_dir(project.path("."));
    // The same commit in two projects has the same revision.
    git.env("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z").env("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z");
    let done = git.output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn a_cargo_project_is_built_and_gives_the_same_artifact_in_any_folder() {
    // The compiler is beside the cargo of these tests.
    let tools = std::path::Path::new(env!("CARGO")).parent().unwrap();
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let package = |project: &crate::program::Project, arguments: &[&str]| {
        project.dunlin_with(&[&["package", "shop"], arguments].concat(), &[("PATH", &path)])
    };
    let built = |version: &str| {
        let project = example::project();
        let source = "target/release/shop";
        project.write("playbooks/deploy-shop.toml", &example::RECIPE.replace("build/shop", source));
        project.write(
            "Cargo.toml",
            "[package]\nname = \"shop\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[profile.release]\nstrip = true\n[workspace]\n",
        );
        project.write("Cargo.lock", "version = 4\n\n[[package]]\nname = \"shop\"\nversion = \"0.1.0\"\n");
        project.write("src/main.rs", "fn main() {}\n");
        project.write(".gitignore", "/target\n/dist\n");
        run_git(&project, &["init", "-q"]);
        run_git(&project, &["add", "."]);
        run_git(&project, &["commit", "-qm", "x"]);
        package(&project, &["--version", version]).ends(0).mentions(&["cargo build --locked --release"]);
        let artifact = std::fs::read(project.path(&format!("dist/shop-{version}.tar.zst"))).unwrap();
        (project, artifact)
    };
    let (project, first) = built("1");
    assert_eq!(first, built("1").1);
    // An input of the build that is not in the revision.
    project.write("src/extra.rs", "");
    package(&project, &["--version", "2"]).ends(3).matches("package-input-outside-of-the-revision");
    std::fs::remove_file(project.path("src/extra.rs")).unwrap();
    // A newer source without a build.
    project.write("src/main.rs", "fn main() { }\n");
    project
        .dunlin(&["package", "shop", "--version", "2", "--no-build"])
        .ends(3)
        .matches("package-older-than-its-source");
    project.dunlin(&["package", "shop", "--version", "2", "--no-build", "--allow-stale"]).ends(0);
    project.write("src/main.rs", "fn main() { oops }\n");
    package(&project, &["--version", "3"]).ends(1).mentions(&["ended with exit code 101"]);
    assert!(!project.path("dist/shop-3.tar.zst").exists());
}

#[test]
fn the_default_release_is_the_one_packaged_last() {
    let project = example::project();
    for version in ["1.1", "1.0"] {
        project.dunlin(&["package", "shop", "--version", version]).ends(0);
    }
    let artifact = |version: &str| project.path(&format!("dist/shop-{version}.tar.zst"));
    // The times of the files say nothing.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(100);
    std::fs::File::options().write(true).open(artifact("1.1")).unwrap().set_modified(later).unwrap();
    // The one packaged last is opened, and refused.
    std::fs::write(artifact("1.0"), "no archive").unwrap();
    project.dunlin(&["deploy", "shop", "--dry-run"]).ends(1).matches("deploy-artifact-that-is-no-archive");
    std::fs::remove_file(artifact("1.0")).unwrap();
    project.dunlin(&["deploy", "shop", "--dry-run"]).ends(4);
    project.dunlin(&["package", "shop", "--version", "1.2"]).ends(0);
    std::fs::remove_file(project.path("dist/shop.packaged.json")).unwrap();
    project.dunlin(&["deploy", "shop", "--dry-run"]).ends(1).matches("deploy-without-a-record-of-the-last-package");
}

#[test]
fn a_release_is_signed_and_others_are_refused() {
    let project = example::project();
    let [own, other] = [0, 1].map(|_| minisign::KeyPair::generate_unencrypted_keypair().unwrap());
    let encrypted = minisign::KeyPair::generate_encrypted_keypair(Some("secret".to_owned())).unwrap();
    for (name, pair) in [("own.key", &own), ("other.key", &other), ("encrypted.key", &encrypted)] {
        project.write_private(name, &pair.sk.to_box(None).unwrap().into_string());
    }
    let keys = format!("public_keys = [{:?}, {:?}]\n", own.pk.to_base64(), encrypted.pk.to_base64());
    project.write("playbooks/deploy-shop.toml", &format!("{keys}{}", example::RECIPE));
    let package =
        |version: &str, key: &str| project.dunlin(&["package", "shop", "--version", version, "--sign-key", key]);

    project.dunlin(&["package", "shop", "--version", "1.0"]).ends(0).matches("package-not-signed");
    project.dunlin(&["deploy", "shop", "--dry-run"]).ends(3).matches("deploy-not-signed");
    assert!(!project.connected());
    package("1.0", "own.key").ends(0);
    // Signed: the command goes on to the hosts.
    project.dunlin(&["deploy", "shop", "--dry-run"]).ends(4);
    package("1.1", "other.key").ends(3).matches("package-signed-with-another-key");
    project.dunlin(&["deploy", "shop", "--release", "1.1"]).ends(3).matches("deploy-signed-with-another-key");
    package("1.2", "encrypted.key").ends(64).matches("package-key-with-a-password");
    package("1.2", "none.key").ends(1).matches("package-key-missing");
    project.write_private("text.key", "text\n");
    package("1.2", "text.key").ends(1).matches("package-key-of-another-form");
    for (mode, name) in [(0o644, "package-key-open-to-all"), (0o640, "package-key-open-to-its-group")] {
        std::fs::set_permissions(project.path("own.key"), PermissionsExt::from_mode(mode)).unwrap();
        package("1.2", "own.key").ends(1).matches(name);
    }
    // The signature of another release.
    let signature = |version: &str| project.path(&format!("dist/shop-{version}.manifest.json.minisig"));
    std::fs::copy(signature("1.0"), signature("1.1")).unwrap();
    project.dunlin(&["deploy", "shop", "--release", "1.1"]).ends(3).matches("deploy-signature-of-another-release");

    project.write("playbooks/deploy-shop.toml", &format!("public_keys = [\"RWQ\"]\n{}", example::RECIPE));
    project.dunlin(&["package", "shop"]).ends(1).matches("package-public-key-of-another-form");
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
        &["maintenance", "shop", "on", "--yes"],
        &["undeploy", "shop", "--dry-run"],
        &["releases", "shop"],
        &["releases", "shop", "--json"],
        &["history", "shop"],
        &["deploy", "shop", "--health"],
    ]
    .map(|command| project.dunlin(command).ends(4));
    snapshot("deploy-unreachable", &outputs);
}

#[test]
fn a_freeze_refuses_deploys() {
    let project = example::project();
    let freeze = |keys: &str| {
        let window = format!("\n[[freeze]]\nfrom = \"2020-01-01\"\nuntil = \"2900-01-01\"\n{keys}");
        project.write("playbooks/deploy-shop.toml", &format!("{}{window}", example::RECIPE));
    };
    freeze("reason = \"holidays\"\n");
    let refused = project.dunlin(&["deploy", "shop", "--yes"]).ends(3);
    // These go on, and find no release.
    let overridden = project.dunlin(&["deploy", "shop", "--yes", "--override-freeze"]).ends(1);
    let dry_run = project.dunlin(&["deploy", "shop", "--dry-run"]).ends(1);
    freeze("timezone = \"Mars/Olympus\"\n");
    let wrong = project.dunlin(&["deploy", "shop", "--yes"]).ends(1);
    snapshot("deploy-freeze", &[refused, overridden, dry_run, wrong]);
}
