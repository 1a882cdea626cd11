//! What stands in a move's way is found before anything is handed over.

use dunlin::wire::shard::{MoveSpec, Reply, Request, Verified};
use redis::Connection;

use crate::moves::{copy, switch};
use crate::places::{Places, admin};
use crate::writers::{Writers, stop_and_check};

fn verify(places: &Places, spec: &MoveSpec) -> Verified {
    match places.handle(Request::Verify(spec.clone())).unwrap() {
        Reply::Verified(verified) => verified,
        other => panic!("{other:?}"),
    }
}

pub fn run(connection: &mut Connection, line: &str) {
    let mut words = line.split(' ');
    let mut cmd = redis::cmd(words.next().unwrap());
    for word in words {
        cmd.arg(word);
    }
    cmd.exec(connection).unwrap_or_else(|error| panic!("{line}: {error}"));
}

/// Keys of every type, at the source.
pub fn fill(places: &Places) {
    let mut source = admin(&places.address(0)).unwrap();
    for n in 0..300 {
        run(&mut source, &format!("SET text:{n} value{n}"));
        run(&mut source, &format!("ZADD sorted:{n} 1.5 a 2 b{n}"));
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
        run(&mut source, line);
    }
}

/// Writes to the target behind the replication's back.
pub fn spoil(places: &Places, line: &str) {
    let mut target = admin(&places.address(1)).unwrap();
    run(&mut target, "CONFIG SET replica-read-only no");
    run(&mut target, line);
    run(&mut target, "CONFIG SET replica-read-only yes");
}

#[test]
fn one_byte_one_key_one_time_to_live() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    fill(&places);
    let spec = places.spec(0, 1);
    let copied = copy(&places, spec.clone()).unwrap();
    assert_eq!((copied.verified.keys, copied.verified.live, copied.verified.is_equal()), (607, 0, true));
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
        spoil(&places, spoiling);
        let verified = verify(&places, &spec);
        let lists = [&verified.differing, &verified.missing, &verified.extra];
        assert_eq!(lists.map(|list| list.iter().map(String::as_str).collect::<Vec<_>>()), found, "{spoiling}");
        spoil(&places, healing);
        assert!(verify(&places, &spec).is_equal(), "{healing}");
    }
    // Another encoding is no difference.
    let before = verify(&places, &spec).reencoded;
    spoil(&places, "CONFIG SET set-max-intset-entries 1");
    spoil(&places, "SADD numbers 4");
    spoil(&places, "SREM numbers 4");
    let verified = verify(&places, &spec);
    assert!(verified.is_equal() && verified.reencoded == before + 1, "{verified:?}");
}

#[test]
fn a_copy_that_differs_is_not_switched_to_and_writes_go_on() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    fill(&places);
    let mut writers = Writers::start(2, &places.address(0));
    let spec = places.spec(0, 1);
    copy(&places, spec.clone()).unwrap();
    spoil(&places, "SETRANGE text:7 5 8");
    // A restarted target is compared anew, and has kept what was spoiled in its file.
    let verified = verify(&places, &spec);
    assert_eq!(verified.differing, ["text:7"]);
    let refused = switch(&places, spec.clone()).unwrap_err();
    assert!(format!("{refused:#}").contains("text:7"), "{refused:#}");
    writers.write_on(50);
    stop_and_check(&mut writers, &places, 0);
}
