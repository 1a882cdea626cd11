//! Moves between instances that use TLS only, replication and dunlin's own connections included.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use dunlin::plan::Action;
use dunlin::protocol::shard::{
    Credentials, ObserveInstances, PreflightRequest, PreflightRule, ShardReply, ShardRequest,
};
use dunlin::protocol::throttle::ThrottleLimits;
use dunlin_shards::{ConnectionOptions, RetryPolicy, ShardConnections, ShardId};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::fixture::{APP_PASSWORD, APP_USER, MoveFixture, SHARD_ID, admin_credentials, connect_admin, wait_until};
use crate::messages;
use crate::moves::{run_copy, run_retire, run_switch};
use crate::writers::{MoveWriters, stop_and_check};

struct TestCa {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Writes the CA, and a certificate for an address, into the folder of an instance.
    fn write_certificate(&self, fixture: &MoveFixture, n: u8, address: &str) {
        self.write_certificate_until(fixture, n, address, 4000);
    }

    /// Works like [`Self::write_certificate`], with a certificate that is valid until a year.
    fn write_certificate_until(&self, fixture: &MoveFixture, n: u8, address: &str, year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![address.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.distinguished_name.push(DnType::CommonName, format!("instance {n}"));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let folder = fixture.instance_root(n).join("tls");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("ca.crt"), &self.pem).unwrap();
        fs::write(folder.join("server.crt"), certificate.pem()).unwrap();
        fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
    }
}

/// Two instances with certificates for their addresses.
fn tls_fixture(ca: &TestCa) -> MoveFixture {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.enable_tls(&ca.pem);
    for n in 0..2 {
        ca.write_certificate(&fixture, n, &format!("127.0.0.{}", n + 2));
    }
    fixture
}

/// Why dunlin cannot log in to an instance; `None` if it can.
fn observe_error(fixture: &MoveFixture, n: u8, tls_ca: Option<&str>) -> Option<String> {
    let request = ObserveInstances {
        credentials: Credentials { tls_ca: tls_ca.map(str::to_owned), ..admin_credentials() },
        instances: vec![(ShardId(SHARD_ID), fixture.instance_address(n))],
        window_ms: 0,
        sampled_keys: 0,
    };
    match fixture.run_request(ShardRequest::Observe(request)).unwrap() {
        ShardReply::Observe(observed) => observed[0].error.clone(),
        other => panic!("{other:?}"),
    }
}

/// An answer to a command in clear.
fn send_in_clear(address: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    answer
}

#[test]
fn moves_over_tls_lose_no_write() {
    let ca = TestCa::new("the cluster's CA");
    let mut fixture = tls_fixture(&ca);
    fixture.provision_primary(0).unwrap();
    let mut writers = MoveWriters::start_writers(4, &fixture.address(0));
    writers.wait_for_writes(200);
    // Directly, then back through the proxy of a throttled copy.
    for (from, to, bandwidth) in [(0, 1, 0), (1, 0, 8 << 20)] {
        let mut spec = fixture.move_spec(from, to);
        spec.record.throttle = ThrottleLimits { bandwidth, ..ThrottleLimits::default() };
        let request = PreflightRequest::for_relocation(spec.clone());
        let ShardReply::Preflight(result) = fixture.run_request(ShardRequest::Preflight(request)).unwrap() else {
            panic!()
        };
        assert_eq!(result.issues, []);
        let copied = run_copy(&fixture, spec.clone()).unwrap();
        assert!(copied.verification.keys >= 4 && copied.verification.is_equal(), "{:?}", copied.verification);
        writers.reset_gaps();
        let switched = run_switch(&fixture, spec).unwrap();
        assert!(!switched.already_cut_over && switched.gap_us < 200_000, "{switched:?}");
        writers.publish_address(&fixture.address(to));
        writers.wait_for_writes(100);
        for n in 0..2 {
            let answer = send_in_clear(&fixture.address(n));
            assert!(!answer.starts_with(b"+PONG") && !answer.starts_with(b"-"), "{answer:?}");
        }
        run_retire(&mut fixture, from, to);
    }
    stop_and_check(&mut writers, &fixture, 0);
}

#[test]
fn dunlin_accepts_only_certificates_of_the_ca_for_the_address() {
    let (ca, other) = (TestCa::new("the cluster's CA"), TestCa::new("another CA"));
    let mut fixture = tls_fixture(&ca);
    fixture.provision_primary(0).unwrap();
    assert_eq!(observe_error(&fixture, 0, Some(&ca.pem)), None);
    let refused = observe_error(&fixture, 0, Some(&other.pem)).unwrap();
    // Of rustls: its reason is shown.
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    assert!(observe_error(&fixture, 0, None).is_some(), "in clear");

    // From now on the instance answers with the certificate of another host.
    let other_host = |name: &str| fixture.instance_root(1).join("tls").join(name).display().to_string();
    let mut cmd = redis::cmd("CONFIG");
    cmd.arg("SET").arg("tls-cert-file").arg(other_host("server.crt"));
    cmd.arg("tls-key-file").arg(other_host("server.key"));
    cmd.exec(&mut connect_admin(&fixture.address(0)).unwrap()).unwrap();
    let refused = observe_error(&fixture, 0, Some(&ca.pem)).unwrap();
    // Of rustls, too.
    assert!(refused.contains("not valid for name"), "{refused}");
}

#[test]
fn instances_with_tls_are_provisioned_once() {
    let ca = TestCa::new("the cluster's CA");
    let mut fixture = tls_fixture(&ca);
    fixture.provision_primary(0).unwrap();
    redis::cmd("CONFIG").arg("REWRITE").exec(&mut connect_admin(&fixture.address(0)).unwrap()).unwrap();
    let again = fixture.provision_primary(0).unwrap();
    assert_eq!(again.action, Action::None, "{again:?}");
}

fn process_number(fixture: &MoveFixture, n: u8) -> i32 {
    fixture.read_pid(n).unwrap().as_raw_nonzero().get()
}

#[test]
fn new_certificates_are_loaded_without_a_restart() {
    let ca = TestCa::new("the cluster's CA");
    let mut fixture = tls_fixture(&ca);
    fixture.provision_primary(0).unwrap();
    let mut open_connection = connect_admin(&fixture.address(0)).unwrap();
    redis::cmd("SET").arg("key").arg("value").exec(&mut open_connection).unwrap();
    let process = process_number(&fixture, 0);

    ca.write_certificate(&fixture, 0, "127.0.0.2");
    let step = (dunlin::resources::find_kind("redis_shard").unwrap().parse)(fixture.instance_spec(0)).unwrap();
    let planned = fixture.plan_step(&*step).unwrap();
    assert_eq!(planned.action, Action::Change, "{planned:?}");
    assert_eq!(planned.changes.iter().map(|c| c.attribute.as_str()).collect::<Vec<_>>(), ["TLS files"]);
    assert!(!step.needs_handlers(&planned.changes), "a handler would restart a replica");
    fixture.provision_primary(0).unwrap();
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
    // The comment survives CONFIG REWRITE, and the connection survived the reload.
    redis::cmd("CONFIG").arg("REWRITE").exec(&mut open_connection).unwrap();
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
    redis::cmd("GET").arg("key").exec(&mut open_connection).unwrap();

    // A second CA, as --new-ca adds it: the certificate stays the same, and only the comment tells.
    let ca_file = fixture.instance_root(0).join("tls/ca.crt");
    fs::write(&ca_file, format!("{}{}", ca.pem, TestCa::new("another CA").pem)).unwrap();
    assert_eq!(fixture.provision_primary(0).unwrap().changes[0].attribute, "TLS files");
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
    assert_eq!(process_number(&fixture, 0), process);

    fixture.kill_instance(0);
    fixture.restart_instance(0);
    fixture.wait_until_ready(0);
    assert_ne!(process_number(&fixture, 0), process);
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None, "the new process loaded all of them");
}

#[test]
fn files_that_redis_rejects_stay_pending() {
    let ca = TestCa::new("the cluster's CA");
    let mut fixture = tls_fixture(&ca);
    fixture.provision_primary(0).unwrap();
    let key_file = fixture.instance_root(0).join("tls/server.key");
    let key = fs::read(&key_file).unwrap();
    ca.write_certificate(&fixture, 0, "127.0.0.2");
    fs::write(&key_file, key).unwrap();
    let refused = format!("{:#}", fixture.provision_primary(0).unwrap_err());
    // What Redis says about it differs between its versions.
    let ours = refused.split(": ").filter(|part| part.contains("certificate")).collect::<Vec<_>>().join(": ");
    messages::check("certificate-of-another-key", [("provision", ours)]);
    assert_eq!(observe_error(&fixture, 0, Some(&ca.pem)), None, "it still serves the old certificate");
    ca.write_certificate(&fixture, 0, "127.0.0.2");
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::Change);
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
}

/// Has the running instance load its TLS files again, over a connection that is open.
fn load_tls_files(fixture: &MoveFixture, n: u8, connection: &mut redis::Connection) {
    let file = |name: &str| fixture.instance_root(n).join("tls").join(name).display().to_string();
    let mut cmd = redis::cmd("CONFIG");
    cmd.arg("SET").arg("tls-cert-file").arg(file("server.crt")).arg("tls-key-file").arg(file("server.key"));
    cmd.exec(connection).unwrap();
}

fn has_link(replica: &mut redis::Connection) -> bool {
    let info: String = redis::cmd("INFO").arg("replication").query(replica).unwrap();
    info.contains("master_link_status:up")
}

#[test]
fn an_expired_certificate_is_replaced_without_a_restart() {
    let ca = TestCa::new("the cluster's CA");
    let mut fixture = tls_fixture(&ca);
    fixture.provision_primary(0).unwrap();
    let mut primary = connect_admin(&fixture.address(0)).unwrap();
    redis::cmd("SET").arg("key").arg("value").exec(&mut primary).unwrap();
    fixture.provision_replica(1, 0).unwrap();
    let mut replica = connect_admin(&fixture.address(1)).unwrap();
    wait_until(Duration::from_secs(30), || has_link(&mut replica));
    let process = process_number(&fixture, 0);

    ca.write_certificate_until(&fixture, 0, "127.0.0.2", 2021);
    load_tls_files(&fixture, 0, &mut primary);
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("replica").exec(&mut primary).unwrap();
    wait_until(Duration::from_secs(30), || !has_link(&mut replica));
    let refused = observe_error(&fixture, 0, Some(&ca.pem)).unwrap();
    assert!(refused.contains("expired"), "{refused}");

    ca.write_certificate(&fixture, 0, "127.0.0.2");
    assert_eq!(fixture.provision_primary(0).unwrap().changes[0].attribute, "TLS files");
    assert_eq!(observe_error(&fixture, 0, Some(&ca.pem)), None);
    wait_until(Duration::from_secs(30), || has_link(&mut replica));
    assert_eq!(process_number(&fixture, 0), process);
    assert_eq!(redis::cmd("GET").arg("key").query::<String>(&mut replica).unwrap(), "value");
}

#[test]
fn an_expired_certificate_of_another_ca_or_address_gets_no_password() {
    let ca = TestCa::new("the cluster's CA");
    let mut fixture = tls_fixture(&ca);
    fixture.provision_primary(0).unwrap();
    let mut open_connection = connect_admin(&fixture.address(0)).unwrap();
    let other = TestCa::new("another CA");
    for (signer, address) in [(&other, "127.0.0.2"), (&ca, "127.0.0.9")] {
        signer.write_certificate_until(&fixture, 0, address, 2021);
        load_tls_files(&fixture, 0, &mut open_connection);
        ca.write_certificate(&fixture, 0, "127.0.0.2");
        let refused = format!("{:#}", fixture.provision_primary(0).unwrap_err());
        assert!(refused.contains("restart the instance"), "{refused}");
    }
    load_tls_files(&fixture, 0, &mut open_connection);
    assert_eq!(observe_error(&fixture, 0, Some(&ca.pem)), None);
}

#[test]
fn without_the_password_new_certificates_need_a_restart() {
    let ca = TestCa::new("the cluster's CA");
    let mut fixture = tls_fixture(&ca);
    fixture.provision_primary(0).unwrap();
    redis::cmd("SET").arg("key").arg("value").exec(&mut connect_admin(&fixture.address(0)).unwrap()).unwrap();
    ca.write_certificate(&fixture, 0, "127.0.0.2");
    let mut spec = fixture.instance_spec(0);
    spec.as_object_mut().unwrap().remove("admin_password");
    let step = (dunlin::resources::find_kind("redis_shard").unwrap().parse)(spec).unwrap();
    let planned = fixture.plan_step(&*step).unwrap();
    assert_eq!(planned.action, Action::RestartRequired);
    assert!(planned.reason.unwrap().starts_with("TLS files changed"));
}

#[test]
fn a_target_without_tls_is_an_issue() {
    let ca = TestCa::new("the cluster's CA");
    let mut fixture = tls_fixture(&ca);
    fixture.provision_primary(0).unwrap();
    let mut spec = fixture.move_spec(0, 1);
    for key in ["tls_ca_file", "tls_cert_file", "tls_key_file"] {
        spec.record.instance[key] = "".into();
    }
    let request = PreflightRequest::for_relocation(spec);
    let ShardReply::Preflight(issues) = fixture.run_request(ShardRequest::Preflight(request)).unwrap() else {
        panic!()
    };
    let settings = issues.issues.iter().filter(|issue| issue.rule == PreflightRule::Setting);
    messages::check("preflight-target-without-tls", settings.map(|issue| ("setting", &issue.reason)));
}

/// Writes through the client of services, and says what stopped it.
async fn write_with_ca(map: &std::path::Path, tls_ca: Option<&str>) -> Result<(), String> {
    let options = ConnectionOptions {
        password: Some(APP_PASSWORD.to_owned()),
        tls_ca: tls_ca.map(str::to_owned),
        retry_for: Duration::from_millis(200),
        ..ConnectionOptions::default()
    };
    let shards = ShardConnections::open(map, options).await.map_err(|error| format!("{error:?}"))?;
    let mut set = redis::cmd("SET");
    set.arg("key").arg("value");
    let written: Result<String, _> = shards.query_shard(b"key", &set, RetryPolicy::Idempotent).await;
    written.map(drop).map_err(|error| format!("{error:?}"))
}

#[tokio::test]
async fn clients_of_services_verify_the_ca() {
    let (ca, other) = (TestCa::new("the cluster's CA"), TestCa::new("another CA"));
    let mut fixture = tls_fixture(&ca);
    fixture.provision_primary(0).unwrap();
    let map = fixture.folder.path().join("published.toml");
    let shard = format!("id = {SHARD_ID}, slots = \"0-16383\", primary = \"{}\"", fixture.address(0));
    let text = format!("cluster = \"t\"\nepoch = 1\nshard = [{{ {shard}, user = \"{APP_USER}\" }}]\n");
    fs::write(&map, text).unwrap();
    assert_eq!(write_with_ca(&map, Some(&ca.pem)).await, Ok(()));
    let refused = write_with_ca(&map, Some(&other.pem)).await.unwrap_err();
    // Of rustls, and a variant of our error below.
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    assert!(write_with_ca(&map, None).await.is_err(), "in clear");
    let refused = write_with_ca(&map, Some("no certificate")).await.unwrap_err();
    assert!(refused.contains("InvalidCa"), "{refused}");
}
