//! What hooks and health commands printed, and what hosts keep of it: no command shows the secrets in it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dunlin::deploy::host::{DeployAgent, ServiceManager, UnitStatus};
use dunlin::deploy::plan::plan_rows;
use dunlin::plan::{Digest, PlannedRow};
use dunlin::protocol::deploy::{
    CompareWith, DesiredState, HealthCheck, HealthProbe, MANIFEST_FORMAT, ObserveService, ReleaseManifest,
    ReleaseOrigin, ReleaseVersion, ServiceConfig, ServiceName, ServiceRef, SignatureCheck, StageRelease, SwitchHooks,
    SwitchOutcome, SwitchPurpose, SwitchRelease,
};
use dunlin::protocol::{Call, Event, ProgressSink, Reply, Request};
use dunlin::resources::BlobSource;

use crate::loopback;
use crate::program::Project;

const CANARY: &str = "Canary-db-password";
/// The run that deploys in this process.
const RUN: &str = "20261101T080000-1";

/// A release without files has no contents.
struct NoContents;

impl BlobSource for NoContents {
    fn read_blob(&self, digest: &Digest) -> anyhow::Result<Vec<u8>> {
        anyhow::bail!("{digest} was not sent")
    }
}

struct NoProgress;

impl ProgressSink for NoProgress {
    fn emit(&self, _event: Event) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A host without units, and without systemd.
struct NoUnits;

impl ServiceManager for NoUnits {
    fn unit_dir(&self) -> &Path {
        Path::new("/nonexistent")
    }

    fn read_unit_statuses(&self, _units: &[&str]) -> anyhow::Result<Vec<UnitStatus>> {
        Ok(Vec::new())
    }

    fn find_unit_file(&self, _unit: &str) -> anyhow::Result<Option<PathBuf>> {
        Ok(None)
    }

    fn can_verify_units(&self) -> bool {
        false
    }

    fn verify_units(&self, _units: &[(&str, String)]) -> anyhow::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn reload_units(&self) -> anyhow::Result<()> {
        Ok(())
    }

    fn set_enabled(&self, _unit: &str, _on: bool) -> anyhow::Result<()> {
        Ok(())
    }

    fn restart_unit(&self, _unit: &str) -> anyhow::Result<()> {
        Ok(())
    }

    fn reload_unit(&self, _unit: &str) -> anyhow::Result<()> {
        Ok(())
    }

    fn stop_unit(&self, _unit: &str) -> anyhow::Result<()> {
        Ok(())
    }

    fn forget_failure(&self, _unit: &str) -> anyhow::Result<()> {
        Ok(())
    }

    fn read_log(&self, _units: &[&str], _since: u64) -> Vec<String> {
        Vec::new()
    }
}

fn service(project: &Project) -> ServiceRef {
    ServiceRef {
        service: ServiceName::new("shop").unwrap(),
        base_dir: project.path("srv/shop"),
        operator: "test".to_owned(),
        run: RUN.to_owned(),
    }
}

/// A release whose health command prints the canary once the file `srv/broken` exists.
fn release(project: &Project, version: &str, before: &[&str]) -> DesiredState {
    let script = format!("test ! -e {} || {{ echo login {CANARY}; exit 1; }}", project.path("srv/broken").display());
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let before = if before.is_empty() { Vec::new() } else { vec![words(before)] };
    DesiredState {
        manifest: ReleaseManifest {
            format_version: MANIFEST_FORMAT,
            service: ServiceName::new("shop").unwrap(),
            version: ReleaseVersion::new(version).unwrap(),
            origin: None,
            files: Vec::new(),
            links: Vec::new(),
            folders: Vec::new(),
        },
        config: ServiceConfig {
            units: Vec::new(),
            configs: Vec::new(),
            health: HealthCheck {
                probe: Some(HealthProbe::Command { argv: words(&["sh", "-c", &script]) }),
                timeout_ms: 60_000,
                interval_ms: 10,
                steady_ms: 0,
            },
            hooks: SwitchHooks { before, ..SwitchHooks::default() },
            user: None,
            adopted: None,
            shared: Vec::new(),
        },
        signature_check: SignatureCheck::default(),
    }
}

/// Deploys a release in this process, as an agent does.
fn deploy(project: &Project, desired: &DesiredState, serving: Option<&DesiredState>) -> SwitchOutcome {
    let (agent, scope) = (DeployAgent::new(Box::new(NoUnits)), service(project));
    let stage = StageRelease {
        scope: scope.clone(),
        desired: Box::new(desired.clone()),
        expected_changes: Vec::new(),
        adopt: false,
    };
    let compare_with = CompareWith::Desired(Box::new(desired.clone()));
    let observed = call_agent(&agent, ObserveService { scope: scope.clone(), compare_with }).unwrap();
    let rows = plan_rows(desired, &observed, &|_| None).unwrap();
    let switch = SwitchRelease {
        scope,
        target: desired.to_release_target(),
        expected_current: serving.map(DesiredState::to_release_target),
        purpose: SwitchPurpose::Plan { expected_changes: rows.iter().map(PlannedRow::from).collect() },
    };
    call_agent(&agent, stage).unwrap();
    call_agent(&agent, switch).unwrap()
}

fn call_agent<C: Call>(agent: &DeployAgent, call: C) -> C::Reply {
    let Request::Deploy(request) = call.into_request() else { panic!("{} is about no service", C::NAME) };
    C::from_reply(Reply::Deploy(agent.handle_request(&request, &NoContents, &NoProgress).unwrap())).unwrap()
}

#[test]
fn texts_of_hosts_show_no_secret() {
    let project = loopback::project();
    let secrets = project.write("inventory/secrets.toml", &format!("db = \"{CANARY}\"\n"));
    std::fs::set_permissions(secrets, std::fs::Permissions::from_mode(0o600)).unwrap();
    let good = release(&project, "1.0", &[]);
    let first = deploy(&project, &good, None);
    assert!(matches!(first, SwitchOutcome::Healthy { .. }), "{first:?}");
    let hook = format!("echo login {CANARY}; exit 1");
    deploy(&project, &release(&project, "2.0", &["sh", "-c", &hook]), Some(&good));
    project.write("srv/broken", "");
    assert!(project.read("srv/shop/.dunlin/state.json").contains(CANARY), "the host keeps what the hook printed");
    project.dunlin(&["package", "shop", "--version", "3.0"]).ends(0);
    let commands: [(&[&str], i32, bool); 10] = [
        (&["releases", "shop"], 0, true),
        (&["releases", "shop", "--json"], 0, true),
        (&["history", "shop"], 0, true),
        (&["history", "shop", "--json"], 0, true),
        (&["rollback", "shop", "--to", "2.0", "--dry-run"], 3, true),
        (&["rollback", "shop", "--to", "2.0", "--yes", "--json"], 3, true),
        (&["deploy", "shop", "--health"], 4, false),
        (&["deploy", "shop", "--health", "--json"], 4, false),
        (&["deploy", "shop", "--dry-run"], 0, false),
        (&["deploy", "shop", "--dry-run", "--json"], 0, false),
    ];
    for (command, status, quotes_host) in commands {
        let output = project.dunlin(command).ends(status);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(!text.contains(CANARY), "{command:?} shows a secret:\n{text}");
        assert!(!quotes_host || text.contains("login ***"), "{command:?}:\n{text}");
    }
}

#[test]
fn a_run_is_rolled_back_by_its_id() {
    let project = loopback::project();
    let mut first = release(&project, "1.0", &[]);
    first.manifest.origin = Some(ReleaseOrigin {
        revision: Some("4b825dc642cb6eb9a060e54bf8d69288fbee4904".to_owned()),
        ..ReleaseOrigin::default()
    });
    deploy(&project, &first, None);
    let history = project.dunlin(&["history", "shop"]).ends(0);
    assert!(history.stdout.contains("  4b825dc642cb  healthy"), "{}", history.stdout);
    assert!(history.stdout.trim_end().ends_with(&format!("by test  run {RUN}")), "{}", history.stdout);
    let history = project.dunlin(&["history", "shop", "--json"]).ends(0);
    history
        .mentions(&["\"revision\":\"4b825dc642cb6eb9a060e54bf8d69288fbee4904\"", &format!("\"switch_run\":\"{RUN}\"")]);
    let before_first = project.dunlin(&["rollback", "shop", "--run", RUN, "--dry-run"]).ends(3);
    before_first.mentions(&["no release was active on this host before run"]);
    let unknown = project.dunlin(&["rollback", "shop", "--run", "20261101T090000-2", "--dry-run"]).ends(3);
    unknown.mentions(&["run 20261101T090000-2 switched no release on this host"]);
    project.dunlin(&["rollback", "shop", "--run", RUN, "--to", "1.0"]).ends(64);
}

#[test]
fn shared_files_are_deleted_only_with_the_name_of_the_service() {
    let project = loopback::project();
    deploy(&project, &release(&project, "1.0", &[]), None);
    let undeploy = ["undeploy", "shop", "--delete-shared"];
    let with = |flags: &[&str]| project.dunlin(&[&undeploy[..], flags].concat());
    with(&["--yes"]).ends(3).matches("undeploy-shared-with-yes");
    with(&["--yes", "--confirm=shopp"]).ends(3).matches("undeploy-shared-with-another-name");
    with(&[]).ends(3).matches("undeploy-shared-without-a-terminal");
    project.dunlin(&["undeploy", "shop", "--confirm=shop", "--yes"]).ends(64);
    with(&["--dry-run"]).ends(0);
    assert!(project.path("srv/shop/current").exists());
}
