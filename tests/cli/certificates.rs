//! `dunlin shards certificates`: the CA, the hosts' certificates, renewal, and another CA.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use dunlin::inventory::Certificate;
use rcgen::{CertificateParams, Issuer, KeyPair};

use crate::example;
use crate::program::Project;

const SECRETS: &str = "inventory/secrets.toml";
const CA_KEY: &str = "inventory/redis-ca.key";
const RENEW: [&str; 3] = ["shards", "certificates", "--renew"];

fn read(project: &Project, name: &str) -> String {
    fs::read_to_string(project.path(name)).unwrap()
}

fn mode(project: &Project, name: &str) -> u32 {
    fs::metadata(project.path(name)).unwrap().permissions().mode() & 0o7777
}

/// The certificates of the secrets, by host; the CAs as `ca-0`, `ca-1`.
fn certificates(project: &Project) -> BTreeMap<String, Certificate> {
    let secrets: toml::Table = read(project, SECRETS).parse().unwrap();
    let tls = &secrets["redis"]["tls"];
    let cas = Certificate::parse_pem(tls["ca"].as_str().unwrap()).unwrap();
    let mut found: BTreeMap<_, _> = cas.into_iter().enumerate().map(|(n, ca)| (format!("ca-{n}"), ca)).collect();
    for (host, table) in tls["hosts"].as_table().unwrap() {
        let parsed = Certificate::parse_pem(table["certificate"].as_str().unwrap()).unwrap();
        found.insert(host.clone(), parsed[0].clone());
    }
    found
}

/// The example with certificates.
fn project_with_certificates() -> Project {
    let project = example::project();
    project.dunlin(&["shards", "certificates"]).ends(0);
    project
}

#[test]
fn certificates_are_created_once() {
    let project = example::project();
    let before = read(&project, SECRETS);
    let dry_run = ["shards", "certificates", "--dry-run", "--detailed-exitcode"];
    project.dunlin(&dry_run).ends(2).matches("certificates-dry-run");
    assert!(read(&project, SECRETS) == before && !project.path(CA_KEY).exists());

    project.dunlin(&["shards", "certificates"]).ends(0).matches("certificates-created");
    let text = read(&project, SECRETS);
    assert!(text.starts_with(&before), "the lines of other secrets are unchanged");
    assert!(!text.contains(read(&project, CA_KEY).trim()), "the CA's key is not a secret of hosts");
    assert_eq!((mode(&project, SECRETS), mode(&project, CA_KEY)), (0o600, 0o600));
    let found = certificates(&project);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["ca-0", "redis_01", "redis_02"]);
    for (host, address, other) in [("redis_01", "192.0.2.11", "192.0.2.12"), ("redis_02", "192.0.2.12", "192.0.2.11")] {
        assert!(found[host].is_signed_by(&found["ca-0"]) && found[host].has_address(address));
        assert!(!found[host].has_address(other) && !found[host].is_signed_by(&found[host]));
    }

    project.dunlin(&["shards", "certificates"]).ends(0).matches("certificates-valid");
    project.dunlin(&dry_run).ends(0);
    project.dunlin(&RENEW).ends(0);
    assert_eq!(read(&project, SECRETS), text);
    let check = project.dunlin(&["check"]);
    assert!(!check.stdout.contains("certificate"), "{}", check.stdout);
    assert!(!project.connected());
}

#[test]
fn an_interrupted_first_run_is_repeated_with_the_same_key() {
    let project = example::project();
    let before = read(&project, SECRETS);
    project.dunlin(&["shards", "certificates"]).ends(0);
    let key = read(&project, CA_KEY);
    fs::write(project.path(SECRETS), before).unwrap();
    project.dunlin(&["shards", "certificates"]).ends(0);
    assert_eq!(read(&project, CA_KEY), key);
    assert!(certificates(&project)["redis_01"].is_signed_by(&certificates(&project)["ca-0"]));
}

#[test]
fn a_new_ca_is_trusted_before_it_signs() {
    let project = project_with_certificates();
    let first = certificates(&project);
    project.dunlin(&["shards", "certificates", "--new-ca"]).ends(0);
    let both = certificates(&project);
    assert_eq!((&both["ca-0"], &both["redis_01"]), (&first["ca-0"], &first["redis_01"]));
    project.dunlin(&["shards", "certificates", "--dry-run", "--detailed-exitcode"]).ends(0);
    project.dunlin(&[&RENEW[..], &["--host", "redis-01"]].concat()).ends(0).matches("certificates-renew-one-host");
    project.dunlin(&RENEW).ends(0).matches("certificates-renew-after-a-new-ca");
    let renewed = certificates(&project);
    for host in ["redis_01", "redis_02"] {
        assert!(renewed[host].is_signed_by(&both["ca-1"]) && !renewed[host].is_signed_by(&both["ca-0"]));
    }
}

/// The key of a new CA until the secrets have its certificate.
const NEW_CA_KEY: &str = "inventory/redis-ca.key.new";

#[test]
fn an_interrupted_change_of_the_ca_loses_no_key() {
    let renew_one = [&RENEW[..], &["--host", "redis-01"]].concat();
    // Before the secrets were written: the CA is the old one, and another attempt creates a new one.
    let project = project_with_certificates();
    let (first, first_key) = (certificates(&project), read(&project, CA_KEY));
    project.write(NEW_CA_KEY, &KeyPair::generate().unwrap().serialize_pem());
    fs::set_permissions(project.path(NEW_CA_KEY), PermissionsExt::from_mode(0o600)).unwrap();
    project.dunlin(&renew_one).ends(0);
    assert!(certificates(&project)["redis_01"].is_signed_by(&first["ca-0"]));
    assert_eq!(read(&project, CA_KEY), first_key);
    project.dunlin(&["shards", "certificates", "--new-ca"]).ends(0);
    assert!(!project.path(NEW_CA_KEY).exists() && read(&project, CA_KEY) != first_key);

    // After the secrets were written: the new CA signs, and its key takes the place of the old one.
    fs::rename(project.path(CA_KEY), project.path(NEW_CA_KEY)).unwrap();
    project.write(CA_KEY, &first_key);
    fs::set_permissions(project.path(CA_KEY), PermissionsExt::from_mode(0o600)).unwrap();
    project.dunlin(&[&renew_one[..], &["--dry-run"]].concat()).ends(0);
    assert!(project.path(NEW_CA_KEY).exists(), "a dry run changes nothing");
    project.dunlin(&renew_one).ends(0);
    let both = certificates(&project);
    assert!(both["redis_01"].is_signed_by(&both["ca-1"]) && !both["redis_01"].is_signed_by(&both["ca-0"]));
    assert!(!project.path(NEW_CA_KEY).exists() && read(&project, CA_KEY) != first_key);
}

#[test]
fn a_killed_change_of_the_ca_leaves_a_key_that_signs() {
    let project = project_with_certificates();
    let before = Instant::now();
    project.dunlin(&["shards", "certificates", "--new-ca"]).ends(0);
    let duration = before.elapsed();
    for attempt in 0..12 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
        command.args(["shards", "certificates", "--new-ca"]).current_dir(project.path("."));
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(duration.mul_f64(f64::from(attempt) / 10.0));
        child.kill().ok();
        child.wait().unwrap();
        project.dunlin(&[&RENEW[..], &["--host", "redis-01"]].concat()).ends(0);
        let found = certificates(&project);
        let cas = found.iter().filter(|(name, _)| name.starts_with("ca-"));
        assert!(cas.map(|(_, ca)| ca).any(|ca| found["redis_01"].is_signed_by(ca)));
    }
}

#[test]
fn what_clients_would_refuse_is_a_warning() {
    let project = project_with_certificates();
    let hosts = read(&project, "inventory/hosts.toml").replace("192.0.2.11", "redis-01.example.org");
    project.write("inventory/hosts.toml", &hosts);
    project.dunlin(&["check"]).ends(1).matches("check-certificate-of-another-address");
    project.dunlin(&["shards", "certificates"]).ends(0).matches("certificates-of-another-address");
    assert!(certificates(&project)["redis_01"].has_address("redis-01.example.org"));

    // The same CA signs a certificate that expires in ten days.
    let ca = certificates(&project)["ca-0"].clone();
    let ca_key = KeyPair::from_pem(&read(&project, CA_KEY)).unwrap();
    let mut params = CertificateParams::new(vec!["192.0.2.12".to_owned()]).unwrap();
    let day = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date() + jiff::Span::new().days(10);
    params.not_after = rcgen::date_time_ymd(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs());
    let issuer = Issuer::from_ca_cert_der(&ca.as_der().into(), &ca_key).unwrap();
    let (key, mut secrets) =
        (KeyPair::generate().unwrap(), read(&project, SECRETS).parse::<toml_edit::DocumentMut>().unwrap());
    let table = &mut secrets["redis"]["tls"]["hosts"]["redis_02"];
    table["certificate"] = toml_edit::value(params.signed_by(&key, &issuer).unwrap().pem());
    table["key"] = toml_edit::value(key.serialize_pem());
    fs::write(project.path(SECRETS), secrets.to_string()).unwrap();
    project.dunlin(&["check"]).ends(1).matches("check-certificate-that-expires");
    let before = certificates(&project);
    project.dunlin(&["shards", "certificates"]).ends(0);
    assert_eq!(certificates(&project), before, "without --renew");
    project.dunlin(&RENEW).ends(0);
    let after = certificates(&project);
    assert!(after["redis_02"] != before["redis_02"] && after["redis_01"] == before["redis_01"]);
}

#[test]
fn nothing_is_signed_without_the_key_of_the_ca() {
    let project = project_with_certificates();
    let secrets = read(&project, SECRETS);
    fs::set_permissions(project.path(CA_KEY), PermissionsExt::from_mode(0o644)).unwrap();
    project.dunlin(&RENEW).ends(1).matches("certificates-key-open-to-others");
    fs::remove_file(project.path(CA_KEY)).unwrap();
    project.dunlin(&RENEW).ends(0);
    let renew_one = [&RENEW[..], &["--host", "redis-01"]].concat();
    project.dunlin(&renew_one).ends(1).matches("certificates-without-the-key");
    project
        .dunlin(&[&RENEW[..], &["--host", "web-1"]].concat())
        .ends(64)
        .matches("certificates-of-a-host-without-shards");
    assert!(read(&project, SECRETS) == secrets && !project.path(CA_KEY).exists());
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn redis_and_its_clients_accept_the_certificates() {
    let project = example::project();
    let hosts = read(&project, "inventory/hosts.toml").replace("192.0.2.11", "127.0.0.1");
    project.write("inventory/hosts.toml", &hosts);
    project.dunlin(&["shards", "certificates"]).ends(0);
    let secrets: toml::Table = read(&project, SECRETS).parse().unwrap();
    let tls = &secrets["redis"]["tls"];
    let host = &tls["hosts"]["redis_01"];
    let ca = tls["ca"].as_str().unwrap();
    let [ca_file, certificate, key] = [
        ("ca.crt", ca),
        ("server.crt", host["certificate"].as_str().unwrap()),
        ("server.key", host["key"].as_str().unwrap()),
    ]
    .map(|(name, text)| project.write(name, text));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--bind", "127.0.0.1", "--save", "", "--tls-auth-clients", "no", "--tls-port"]);
    command.arg(port.to_string()).arg("--tls-ca-cert-file").arg(ca_file).arg("--tls-cert-file").arg(certificate);
    command.arg("--tls-key-file").arg(key).arg("--dir").arg(project.path(".")).stdout(std::process::Stdio::null());
    let _server = Server(command.spawn().unwrap());
    let client =
        dunlin_shards::build_client("127.0.0.1", port, redis::RedisConnectionInfo::default(), Some(ca)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut connection = loop {
        match client.get_connection() {
            Ok(connection) => break connection,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    assert_eq!(redis::cmd("PING").query::<String>(&mut connection).unwrap(), "PONG");
}
