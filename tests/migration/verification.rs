//! What stands in a move's way is found before anything is handed over.

use dunlin::protocol::shard::{MoveSpec, ShardReply, ShardRequest, VerifyResult};
use redis::Connection;

use crate::fixture::{MoveFixture, connect_admin};
use crate::moves::{run_copy, run_switch};
use crate::writers::{MoveWriters, stop_and_check};

fn run_verify(fixture: &MoveFixture, spec: &MoveSpec) -> VerifyResult {
    match fixture.run_request(ShardRequest::Verify(spec.clone())).unwrap() {
        ShardReply::Verify(verified) => verified,
        other => panic!("{other:?}"),
    }
}

pub fn run_line(connection: &mut Connection, line: &str) {
    let mut words = line.split(' ');
    let mut cmd = redis::cmd(words.next().unwrap());
    for word in words {
        cmd.arg(word);
    }
    cmd.exec(connection).unwrap_or_else(|error| panic!("{line}: {error}"));
}

/// Keys of every type, at the source.
pub fn fill_all_types(fixture: &MoveFixture) {
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    for n in 0..300 {
        run_line(&mut source, &format!("SET text:{n} value{n}"));
        run_line(&mut source, &format!("ZADD sorted:{n} 1.5 a 2 b{n}"));
    }
    for line in [
        "SET until v PXAT 32503680000000",
        "RPUSH list a b c",
        "SADD set x y z 1",
        "SADD numbers 1 2 3",
        "HSET hash f 1 g 2",
        "XADD stream 1-1 field value",
        "XGROUP CREATE stream group 0",
        "PFADD log a b c",
    ] {
        run_line(&mut source, line);
    }
}

/// Writes to the target behind the replication's back.
pub fn change_target(fixture: &MoveFixture, line: &str) {
    let mut target = connect_admin(&fixture.address(1)).unwrap();
    run_line(&mut target, "CONFIG SET replica-read-only no");
    run_line(&mut target, line);
    run_line(&mut target, "CONFIG SET replica-read-only yes");
}

#[test]
fn single_byte_key_and_ttl_differences_are_found() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_all_types(&fixture);
    let spec = fixture.move_spec(0, 1);
    let copied = run_copy(&fixture, spec.clone()).unwrap();
    assert_eq!(
        (copied.verification.keys, copied.verification.compared_live, copied.verification.is_equal()),
        (607, 0, true)
    );
    // What is spoiled, what is found, and what makes it good again.
    let cases: [(&str, [&[&str]; 3], &str); 8] = [
        ("SETRANGE text:7 5 8", [&["text:7"], &[], &[]], "SET text:7 value7"),
        ("DEL text:7", [&[], &["text:7"], &[]], "SET text:7 value7"),
        ("SET stranger 1", [&[], &[], &["stranger"]], "DEL stranger"),
        ("PEXPIREAT until 32503680000001", [&["until"], &[], &[]], "PEXPIREAT until 32503680000000"),
        ("PERSIST until", [&["until"], &[], &[]], "PEXPIREAT until 32503680000000"),
        ("ZADD sorted:3 1.6 a", [&["sorted:3"], &[], &[]], "ZADD sorted:3 1.5 a"),
        ("HSET hash g 3", [&["hash"], &[], &[]], "HSET hash g 2"),
        ("LSET list 1 x", [&["list"], &[], &[]], "LSET list 1 b"),
    ];
    for (spoiling, found, healing) in cases {
        change_target(&fixture, spoiling);
        let verified = run_verify(&fixture, &spec);
        let lists = [&verified.differing, &verified.missing, &verified.extra];
        assert_eq!(lists.map(|list| list.iter().map(String::as_str).collect::<Vec<_>>()), found, "{spoiling}");
        change_target(&fixture, healing);
        assert!(run_verify(&fixture, &spec).is_equal(), "{healing}");
    }
    // Another encoding is no difference.
    let before = run_verify(&fixture, &spec).reencoded;
    change_target(&fixture, "CONFIG SET set-max-intset-entries 1");
    change_target(&fixture, "SADD numbers 4");
    change_target(&fixture, "SREM numbers 4");
    let verified = run_verify(&fixture, &spec);
    assert!(verified.is_equal() && verified.reencoded == before + 1, "{verified:?}");
}

#[test]
fn differing_copies_are_not_cut_over() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_all_types(&fixture);
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    change_target(&fixture, "SETRANGE text:7 5 8");
    // A restarted target is compared anew, and has kept what was spoiled in its file.
    let verified = run_verify(&fixture, &spec);
    assert_eq!(verified.differing, ["text:7"]);
    let refused = run_switch(&fixture, spec.clone()).unwrap_err();
    assert!(format!("{refused:#}").contains("text:7"), "{refused:#}");
    writers.wait_for_writes(50);
    stop_and_check(&mut writers, &fixture, 0);
}
