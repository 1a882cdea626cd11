//! What stands in a move's way is found before anything is handed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dunlin::protocol::shard::{MoveSpec, ShardReply, ShardRequest, VerifyResult};
use redis::Connection;

use crate::fixture::{MoveFixture, connect_admin};
use crate::messages;
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
    // A restarted target is compared again, and still has the damage that is in its file.
    let verified = run_verify(&fixture, &spec);
    assert_eq!(verified.differing, ["text:7"]);
    let refused = run_switch(&fixture, spec.clone()).unwrap_err();
    messages::check("cutover-of-differing-copy", [("a string", format!("{refused:#}"))]);
    writers.wait_for_writes(50);
    stop_and_check(&mut writers, &fixture, 0);
}

/// Fills one key of each type with more than a megabyte, and a small one.
fn fill_large_keys(fixture: &MoveFixture) {
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    for script in [
        "for i = 1, 20000 do redis.call('ZADD', 'big:sorted', i, 'member:' .. i .. string.rep('x', 40)) end",
        "for i = 1, 20000 do redis.call('HSET', 'big:hash', 'field:' .. i, 'value:' .. i .. string.rep('y', 40)) end",
        "for i = 1, 20000 do redis.call('SADD', 'big:set', 'member:' .. i .. string.rep('z', 40)) end",
        "for i = 1, 20000 do redis.call('RPUSH', 'big:list', 'element:' .. i .. string.rep('l', 60)) end",
        "for i = 1, 20000 do redis.call('XADD', 'big:stream', i .. '-1', 'f', 'value:' .. i .. string.rep('s', 60)) end",
        "redis.call('SET', 'big:text', string.rep('abcdefgh', 400000))",
        "redis.call('SET', 'small', 'x')",
    ] {
        redis::cmd("EVAL").arg(script).arg(0).exec(&mut source).unwrap();
    }
    run_line(&mut source, "XGROUP CREATE big:stream g 0");
    run_line(&mut source, "XREADGROUP GROUP g c1 COUNT 10 STREAMS big:stream >");
}

#[test]
fn large_keys_are_compared_in_pieces_and_every_difference_is_found() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_large_keys(&fixture);
    let spec = fixture.move_spec(0, 1);
    let copied = run_copy(&fixture, spec.clone()).unwrap();
    assert!(copied.verification.is_equal());
    let verified = run_verify(&fixture, &spec);
    assert!(verified.is_equal() && verified.keys == 7, "{verified:?}");
    let (deleted, member) = ("\u{7a}".repeat(40), "x".repeat(40));
    for (key, change, undo) in [
        (
            "big:sorted",
            format!("ZINCRBY big:sorted 1 member:17000{member}"),
            format!("ZINCRBY big:sorted -1 member:17000{member}"),
        ),
        ("big:sorted", "ZADD big:sorted 1 only-here".to_owned(), "ZREM big:sorted only-here".to_owned()),
        (
            "big:hash",
            "HSET big:hash field:1 other".to_owned(),
            format!("HSET big:hash field:1 value:1{}", "y".repeat(40)),
        ),
        ("big:set", format!("SREM big:set member:20000{deleted}"), format!("SADD big:set member:20000{deleted}")),
        (
            "big:list",
            "LSET big:list 19999 other".to_owned(),
            format!("LSET big:list 19999 element:20000{}", "l".repeat(60)),
        ),
        ("big:text", "SETRANGE big:text 3000000 X".to_owned(), "SETRANGE big:text 3000000 a".to_owned()),
        (
            "big:stream",
            "XACK big:stream g 3-1".to_owned(),
            "XCLAIM big:stream g c1 0 3-1 RETRYCOUNT 1 FORCE".to_owned(),
        ),
        (
            "big:stream",
            "XCLAIM big:stream g c2 0 3-1 RETRYCOUNT 1".to_owned(),
            "XCLAIM big:stream g c1 0 3-1 RETRYCOUNT 1 FORCE".to_owned(),
        ),
        ("big:stream", "XDEL big:stream 12345-1".to_owned(), String::new()),
    ] {
        change_target(&fixture, &change);
        assert_eq!(run_verify(&fixture, &spec).differing, [key], "{change}");
        if !undo.is_empty() {
            change_target(&fixture, &undo);
            assert!(run_verify(&fixture, &spec).is_equal(), "{undo}");
        }
    }
    let refused = run_switch(&fixture, spec).unwrap_err();
    messages::check("cutover-of-differing-large-key", [("a stream", format!("{refused:#}"))]);
}

#[test]
fn large_keys_that_are_written_to_all_the_time_move() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_large_keys(&fixture);
    let stop = Arc::new(AtomicBool::new(false));
    let address = fixture.address(0);
    let writer = {
        let stop = stop.clone();
        thread::spawn(move || {
            let mut longest = Duration::ZERO;
            let mut connection = connect_admin(&address).unwrap();
            for n in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    return (longest, n);
                }
                let begin = Instant::now();
                let member = format!("member:{}{}", n * 7919 % 20000 + 1, "x".repeat(40));
                let mut batch = redis::pipe();
                batch.cmd("ZINCRBY").arg("big:sorted").arg(1).arg(&member).ignore();
                batch.cmd("LPUSH").arg("big:list").arg(n).ignore().cmd("RPOP").arg("big:list").ignore();
                batch.cmd("HINCRBY").arg("big:hash").arg("counter").arg(1).ignore();
                batch.cmd("APPEND").arg("big:text").arg("x").ignore();
                batch.cmd("XADD").arg("big:stream").arg("*").arg("f").arg(n).ignore();
                batch.cmd("XREADGROUP").arg(&["GROUP", "g", "c2", "COUNT", "1", "STREAMS", "big:stream", ">"]).ignore();
                batch.exec(&mut connection).unwrap();
                longest = longest.max(begin.elapsed());
                thread::sleep(Duration::from_millis(2));
            }
            unreachable!()
        })
    };
    let spec = fixture.move_spec(0, 1);
    let copied = run_copy(&fixture, spec.clone());
    stop.store(true, Ordering::Relaxed);
    let (longest, rounds) = writer.join().unwrap();
    let verification = copied.unwrap().verification;
    assert!(verification.is_equal() && rounds > 0, "{verification:?} after {rounds} rounds");
    eprintln!("longest wait of the writer: {longest:?}; pause of ours: {} us", verification.longest_pause_us);
    run_switch(&fixture, spec.clone()).unwrap();
}

#[test]
fn functions_are_compared() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_all_types(&fixture);
    let library = |name: &str, result: u8| {
        format!("#!lua name={name}\nredis.register_function('{name}', function() return {result} end)")
    };
    let load = |fixture: &MoveFixture, n: u8, code: String| {
        let mut connection = connect_admin(&fixture.address(n)).unwrap();
        redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(code).exec(&mut connection).unwrap();
    };
    load(&fixture, 0, library("one", 1));
    load(&fixture, 0, library("two", 2));
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    assert!(run_verify(&fixture, &spec).is_equal());
    change_target(&fixture, "FUNCTION DELETE one");
    run_line(&mut connect_admin(&fixture.address(1)).unwrap(), "CONFIG SET replica-read-only no");
    load(&fixture, 1, library("two", 3));
    load(&fixture, 1, library("three", 3));
    let verified = run_verify(&fixture, &spec);
    assert_eq!(verified.missing, ["function library one"]);
    assert_eq!(verified.differing, ["function library two"]);
    assert_eq!(verified.extra, ["function library three"]);
}

#[test]
fn owners_of_deleted_pending_entries_of_a_large_stream_are_compared() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    let value = "v".repeat(700 << 10);
    let lines = |reader: &str| {
        [
            format!("XADD big 1-1 a {value}"),
            "XADD big 2-1 a 1".to_owned(),
            "XGROUP CREATE big g 0".to_owned(),
            format!("XREADGROUP GROUP g {reader} STREAMS big >"),
            "XCLAIM big g c1 0 1-1 RETRYCOUNT 1".to_owned(),
            "XDEL big 2-1".to_owned(),
        ]
    };
    lines("c1").iter().for_each(|line| run_line(&mut source, line));
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    assert!(run_verify(&fixture, &spec).is_equal());
    // The same stream at the target, but that another consumer has the deleted entry.
    change_target(&fixture, "DEL big");
    lines("c9").iter().for_each(|line| change_target(&fixture, line));
    assert_eq!(run_verify(&fixture, &spec).differing, ["big"]);
}

#[test]
fn a_stream_that_a_group_reads_meanwhile_moves() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_all_types(&fixture);
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    // Redis before 7.2.4 does not send its replicas how many entries a group has read.
    for line in [
        "XADD s * a 1",
        "XGROUP CREATE s g 0",
        "XREADGROUP GROUP g c1 COUNT 1 STREAMS s >",
        "XGROUP CREATECONSUMER s g idle",
        "XREADGROUP GROUP group c1 COUNT 1 STREAMS stream >",
    ] {
        run_line(&mut source, line);
    }
    let verified = run_verify(&fixture, &spec);
    assert!(verified.is_equal(), "{verified:?}");
    // The owner of a pending entry is data.
    change_target(&fixture, "XCLAIM stream group c9 0 1-1 RETRYCOUNT 1");
    assert_eq!(run_verify(&fixture, &spec).differing, ["stream"]);
    change_target(&fixture, "XCLAIM stream group c1 0 1-1 RETRYCOUNT 1");
    run_switch(&fixture, spec).unwrap();
}
