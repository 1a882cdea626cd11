//! What a copy holds is told by the target's files; only what they leave open is asked of both servers.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use dunlin::wire::shard::{Copied, Reply, Request};
use dunlin::wire::{Event, Sink};

use crate::places::{Places, admin, within};
use crate::verification::{fill, run, spoil};

/// Does something between a copy and its comparison, and keeps the notes.
struct Between<'a> {
    act: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
    notes: Mutex<Vec<String>>,
}

impl Sink for Between<'_> {
    fn emit(&self, event: Event) {
        match event {
            Event::Progress { phase, .. } if phase == "verify" => {
                if let Some(act) = self.act.lock().unwrap().take() {
                    act();
                }
            }
            Event::Note { text } => self.notes.lock().unwrap().push(text),
            _ => {}
        }
    }

    fn cancelled(&self) -> bool {
        false
    }
}

/// Copies, with `act` before the comparison; nothing is left of the copy. Returns the notes as well.
fn copied_after(places: &mut Places, act: impl FnOnce(&Places) + Send) -> (anyhow::Result<Copied>, String) {
    let spec = places.spec(0, 1);
    let seen = &*places;
    let between = Between { act: Mutex::new(Some(Box::new(move || act(seen)))), notes: Mutex::default() };
    let copied = places.handle_with(Request::Copy(spec.clone()), &between).map(|reply| match reply {
        Reply::Copied(copied) => copied,
        other => panic!("{other:?}"),
    });
    assert!(between.act.lock().unwrap().is_none(), "it was compared");
    assert_eq!(places.handle(Request::Abort(spec)).unwrap(), Reply::Aborted);
    (copied, between.notes.into_inner().unwrap().join("\n"))
}

/// Keys in the forms that only larger ones have, and in several databases.
fn fill_more(places: &Places) {
    fill(places);
    let mut source = admin(&places.address(0)).unwrap();
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
        run(&mut source, &line);
    }
}

/// The file at the target with that beginning and end, once its append-only file is written.
fn file(places: &Places, beginning: &str, end: &str) -> PathBuf {
    let mut target = admin(&places.address(1)).unwrap();
    within(Duration::from_secs(20), || {
        let info: String = redis::cmd("INFO").arg("persistence").query(&mut target).unwrap();
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
    });
    let all = [places.data(1), places.data(1).join("appendonlydir")];
    let entries = all.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(beginning) && name.ends_with(end)
    };
    entries.into_iter().find(is_meant).unwrap()
}

fn replication_id(places: &Places) -> String {
    let info: String = redis::cmd("INFO").arg("replication").query(&mut admin(&places.address(0)).unwrap()).unwrap();
    let id = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
    id.unwrap().to_owned()
}

/// Changes the last byte of a text that stands once in a file.
fn flip(path: &PathBuf, text: &str) {
    let mut bytes = fs::read(path).unwrap();
    let found: Vec<usize> =
        (0..bytes.len() - text.len()).filter(|&at| bytes[at..].starts_with(text.as_bytes())).collect();
    assert_eq!(found.len(), 1, "{text} in {}", path.display());
    bytes[found[0] + text.len() - 1] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_untouched_copy_is_told_by_its_files_alone() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    fill_more(&places);
    let (copied, notes) = copied_after(&mut places, |_| ());
    let verified = copied.unwrap().verified;
    assert_eq!((verified.keys, verified.live, verified.is_equal()), (607 + 13, 0, true), "{notes}");
    // One byte in one of the files is seen, and that key is asked for; it is as it was in both memories.
    let marks = ["mark-plain", "mark-set", "mark-hash", "mark-list", "mark-ranked", "mark-stream", "mark-huge"];
    for mark in marks {
        let (copied, notes) = copied_after(&mut places, |places| flip(&file(places, "appendonly", ".base.rdb"), mark));
        let verified = copied.unwrap().verified;
        assert!((1..9).contains(&verified.live) && verified.is_equal(), "{mark}: {verified:?} {notes}");
    }
    let (copied, _) = copied_after(&mut places, |places| flip(&file(places, "dump", ".rdb"), "mark-plain"));
    assert!((1..9).contains(&copied.unwrap().verified.live));
}

#[test]
fn what_was_written_to_a_copy_is_found_in_its_files() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    fill(&places);
    let cases = [
        ("SETRANGE text:7 5 8", "differing: text:7;"),
        ("DEL text:7", "missing: text:7;"),
        ("SET stranger 1", "extra: stranger;"),
        ("PEXPIREAT until 32503680000001", "differing: until;"),
        ("PERSIST until", "differing: until;"),
        ("HSET hash g 3", "differing: hash;"),
        ("XGROUP CREATE stream another 0", "differing: stream;"),
        ("RENAME text:7 other", "missing: text:7; extra: other;"),
        ("ZUNIONSTORE both 2 sorted:1 sorted:2", "extra: both;"),
        ("EVAL return(redis.call('SET','by-script','1')) 0", "extra: by-script;"),
    ];
    for (spoiling, found) in cases {
        let (copied, notes) = copied_after(&mut places, |places| spoil(places, spoiling));
        let error = copied.unwrap_err().to_string();
        assert!(error.contains(found), "{spoiling}: {error}");
        assert_eq!(notes, "", "{spoiling}");
    }
    // What is written at the source meanwhile is no difference, and only that is asked for.
    let (copied, notes) = copied_after(&mut places, |places| {
        let mut source = admin(&places.address(0)).unwrap();
        for n in 0..20 {
            run(&mut source, &format!("SET text:{n} anew"));
        }
        run(&mut source, "WAIT 1 5000");
    });
    assert_eq!(copied.unwrap().verified.live, 20, "{notes}");
}

#[test]
fn where_the_files_do_not_tell_all_keys_are_compared() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    fill(&places);
    let cases = [
        ("COPY text:7 text:8 DB 2", "COPY was executed"),
        ("CONFIG SET repl-diskless-load swapdb", "repl-diskless-load"),
        ("SAVE", "written a snapshot itself"),
        ("BGREWRITEAOF", "written its append-only file anew"),
    ];
    for (act, why) in cases {
        let (copied, notes) = copied_after(&mut places, |places| {
            file(places, "appendonly", ".base.rdb");
            spoil(places, act);
        });
        assert!(notes.contains("all keys are compared live") && notes.contains(why), "{act}: {notes}");
        match copied {
            Ok(copied) => assert_eq!(copied.verified.live, 607, "{act}"),
            Err(error) => assert!(act.starts_with("COPY") && error.to_string().contains("extra: text:8"), "{error}"),
        }
    }
    let acts: [fn(&Places); 4] = [
        |places| {
            let increment = file(places, "appendonly", ".incr.aof");
            let mut source = admin(&places.address(0)).unwrap();
            run(&mut source, &format!("SET text:7 {}", "x".repeat(4096)));
            run(&mut source, "WAIT 1 5000");
            within(Duration::from_secs(5), || fs::read(&increment).unwrap().ends_with(b"xx\r\n"));
            flip(&increment, "$4");
        },
        |places| flip(&file(places, "appendonly", ".base.rdb"), "REDIS"),
        |places| fs::remove_file(file(places, "dump", ".rdb")).unwrap(),
        |places| flip(&file(places, "dump", ".rdb"), &replication_id(places)),
    ];
    for (act, why) in acts.into_iter().zip(["is damaged", "no snapshot", "dump.rdb", "another server's"]) {
        let (copied, notes) = copied_after(&mut places, act);
        assert!(notes.contains("all keys are compared live") && notes.contains(why), "{why}: {notes}");
        assert_eq!(copied.unwrap().verified.live, 607, "{why}");
    }
}
