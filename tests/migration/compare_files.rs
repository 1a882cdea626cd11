//! A copy is verified from the target's files; only keys that they leave open are read from both servers.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use dunlin::protocol::shard::{CopyResult, ShardReply, ShardRequest};
use dunlin::protocol::{Event, ProgressSink};

use crate::fixture::{MoveFixture, connect_admin, wait_until};
use crate::messages;
use crate::verification::{change_target, fill_all_types, run_line};

/// Does something between a copy and its comparison, and keeps the notes.
struct BeforeVerify<'a> {
    action: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
    notes: Mutex<Vec<String>>,
}

impl ProgressSink for BeforeVerify<'_> {
    fn emit(&self, event: Event) {
        match event {
            Event::Progress { phase, .. } if phase == "verify" => {
                if let Some(act) = self.action.lock().unwrap().take() {
                    act();
                }
            }
            Event::Note { text } => self.notes.lock().unwrap().push(text),
            _ => {}
        }
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Copies, with `act` before the comparison; nothing is left of the copy. Returns the notes as well.
fn copy_with_action(
    fixture: &mut MoveFixture,
    act: impl FnOnce(&MoveFixture) + Send,
) -> (anyhow::Result<CopyResult>, String) {
    let spec = fixture.move_spec(0, 1);
    let seen = &*fixture;
    let between = BeforeVerify { action: Mutex::new(Some(Box::new(move || act(seen)))), notes: Mutex::default() };
    let copied = fixture.run_with_sink(ShardRequest::Copy(spec.clone()), &between).map(|reply| match reply {
        ShardReply::Copy(copied) => copied,
        other => panic!("{other:?}"),
    });
    assert!(between.action.lock().unwrap().is_none(), "it was compared");
    assert_eq!(fixture.run_request(ShardRequest::Abort(spec)).unwrap(), ShardReply::Abort(()));
    (copied, between.notes.into_inner().unwrap().join("\n"))
}

/// Keys in the forms that only larger ones have, and in several databases.
fn fill_more(fixture: &MoveFixture) {
    fill_all_types(fixture);
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    let numbers =
        |from: u32, to: u32, between: &str| (from..to).map(|n| format!("{between}{n}")).collect::<Vec<_>>().join(" ");
    for line in [
        format!("ZADD ranking {}", numbers(0, 1500, "1.5 ranked")),
        format!("SADD people mark-set {}", numbers(0, 700, "person")),
        format!("HSET wide f mark-hash {}", (0..700).map(|n| format!("field{n} {n}")).collect::<Vec<_>>().join(" ")),
        format!("RPUSH long mark-list {}", numbers(0, 5000, "element-number-")),
        format!("SET huge mark-huge-{}", numbers(0, 400_000, "_").replace(' ', "")),
        "ZADD ranking 7 mark-ranked".to_owned(),
        "SET plain mark-plain".to_owned(),
        "SET 7 tiny".to_owned(),
        "SET -300 small".to_owned(),
        "SET 1234567 number".to_owned(),
        "SET timeline:user:000000000000000000000000000042 42".to_owned(),
        "XADD stream 2-1 field mark-stream".to_owned(),
        "XREADGROUP GROUP group reader COUNT 1 STREAMS stream >".to_owned(),
        "SET soon gone PX 40000".to_owned(),
        "SELECT 3".to_owned(),
        "SET elsewhere 3".to_owned(),
        "SET text:7 otherwise".to_owned(),
    ] {
        run_line(&mut source, &line);
    }
}

/// The file at the target with that beginning and end, once its append-only file is written.
fn find_target_file(fixture: &MoveFixture, beginning: &str, end: &str) -> PathBuf {
    let mut target = connect_admin(&fixture.address(1)).unwrap();
    wait_until(Duration::from_secs(20), || {
        let info: String = redis::cmd("INFO").arg("persistence").query(&mut target).unwrap();
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
    });
    let all = [fixture.data_dir(1), fixture.data_dir(1).join("appendonlydir")];
    let entries = all.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(beginning) && name.ends_with(end)
    };
    entries.into_iter().find(is_meant).unwrap()
}

fn replication_id(fixture: &MoveFixture) -> String {
    let info: String =
        redis::cmd("INFO").arg("replication").query(&mut connect_admin(&fixture.address(0)).unwrap()).unwrap();
    let id = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
    id.unwrap().to_owned()
}

/// Changes the last byte of a text that stands once in a file.
fn flip_last_byte(path: &PathBuf, text: &str) {
    let mut bytes = fs::read(path).unwrap();
    let found: Vec<usize> =
        (0..bytes.len() - text.len()).filter(|&at| bytes[at..].starts_with(text.as_bytes())).collect();
    assert_eq!(found.len(), 1, "{text} in {}", path.display());
    bytes[found[0] + text.len() - 1] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn unchanged_copies_are_verified_from_files_alone() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_more(&fixture);
    let (copied, notes) = copy_with_action(&mut fixture, |_| ());
    let verified = copied.unwrap().verification;
    assert_eq!((verified.keys, verified.compared_live, verified.is_equal()), (607 + 13, 0, true), "{notes}");
    // One byte in one of the files is seen, and that key is asked for; it is as it was in both memories.
    let marks = ["mark-plain", "mark-set", "mark-hash", "mark-list", "mark-ranked", "mark-stream", "mark-huge"];
    for mark in marks {
        let (copied, notes) = copy_with_action(&mut fixture, |fixture| {
            flip_last_byte(&find_target_file(fixture, "appendonly", ".base.rdb"), mark)
        });
        let verified = copied.unwrap().verification;
        assert!((1..9).contains(&verified.compared_live) && verified.is_equal(), "{mark}: {verified:?} {notes}");
    }
    let (copied, _) = copy_with_action(&mut fixture, |fixture| {
        flip_last_byte(&find_target_file(fixture, "dump", ".rdb"), "mark-plain")
    });
    assert!((1..9).contains(&copied.unwrap().verification.compared_live));
}

#[test]
fn changes_to_a_copy_are_found_in_its_files() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_all_types(&fixture);
    let cases = [
        "SETRANGE text:7 5 8",
        "DEL text:7",
        "SET stranger 1",
        "PEXPIREAT until 32503680000001",
        "PERSIST until",
        "HSET hash g 3",
        "XGROUP CREATE stream another 0",
        "RENAME text:7 other",
        "ZUNIONSTORE both 2 sorted:1 sorted:2",
        "EVAL return(redis.call('SET','by-script','1')) 0",
    ];
    let mut errors = Vec::new();
    for spoiling in cases {
        let (copied, notes) = copy_with_action(&mut fixture, |fixture| change_target(fixture, spoiling));
        errors.push((spoiling, copied.unwrap_err()));
        assert_eq!(notes, "", "{spoiling}");
    }
    messages::check("copy-that-differs", errors);
    // What is written at the source meanwhile is no difference, and only that is asked for.
    let (copied, notes) = copy_with_action(&mut fixture, |fixture| {
        let mut source = connect_admin(&fixture.address(0)).unwrap();
        for n in 0..20 {
            run_line(&mut source, &format!("SET text:{n} again"));
        }
        run_line(&mut source, "WAIT 1 5000");
    });
    assert_eq!(copied.unwrap().verification.compared_live, 20, "{notes}");
}

#[test]
fn all_keys_are_compared_live_when_files_are_inconclusive() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_all_types(&fixture);
    let cases = ["COPY text:7 text:8 DB 2", "CONFIG SET repl-diskless-load swapdb", "SAVE", "BGREWRITEAOF"];
    let mut reasons = Vec::new();
    for act in cases {
        let (copied, notes) = copy_with_action(&mut fixture, |fixture| {
            find_target_file(fixture, "appendonly", ".base.rdb");
            change_target(fixture, act);
        });
        reasons.push((act, notes));
        match copied {
            Ok(copied) => assert_eq!(copied.verification.compared_live, 607, "{act}"),
            Err(error) => {
                assert!(act.starts_with("COPY"), "{error}");
                reasons.push((act, error.to_string()));
            }
        }
    }
    let acts: [fn(&MoveFixture); 4] = [
        |fixture| {
            let increment = find_target_file(fixture, "appendonly", ".incr.aof");
            let mut source = connect_admin(&fixture.address(0)).unwrap();
            run_line(&mut source, &format!("SET text:7 {}", "x".repeat(4096)));
            run_line(&mut source, "WAIT 1 5000");
            wait_until(Duration::from_secs(5), || fs::read(&increment).unwrap().ends_with(b"xx\r\n"));
            flip_last_byte(&increment, "$4");
        },
        |fixture| flip_last_byte(&find_target_file(fixture, "appendonly", ".base.rdb"), "REDIS"),
        |fixture| fs::remove_file(find_target_file(fixture, "dump", ".rdb")).unwrap(),
        |fixture| flip_last_byte(&find_target_file(fixture, "dump", ".rdb"), &replication_id(fixture)),
    ];
    for (act, what) in
        acts.into_iter().zip(["length in the AOF", "magic of the base file", "no dump.rdb", "replication ID"])
    {
        let (copied, notes) = copy_with_action(&mut fixture, act);
        reasons.push((what, notes));
        assert_eq!(copied.unwrap().verification.compared_live, 607, "{what}");
    }
    messages::check("files-that-are-inconclusive", reasons);
}
