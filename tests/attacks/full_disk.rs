//! A file system that somebody fills while root writes to it: no entry of a journal may vanish behind the half of
//! another.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;

use dunlin::journal::{self, Journal};
use serde_json::{Value, json};

/// A small file system of its own.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "dunlin-test"]).arg(folder.path());
        assert!(mount.status().unwrap().success(), "this test needs the right to mount");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it until no byte fits in.
    fn fill(&self) {
        let mut filler = File::create(self.path().join("filler")).unwrap();
        let filled = io::copy(&mut io::repeat(0), &mut filler);
        assert_eq!(filled.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    fn free(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(self.path()).status().ok();
    }
}

#[test]
fn an_entry_after_a_full_disk_is_not_lost() {
    let disk = SmallDisk::mount();
    let path = disk.path().join("shard-1.jsonl");
    let mut journal = Journal::open(&path).unwrap();
    journal.append(&json!({ "n": 1 })).unwrap();
    disk.fill();
    // The rest of the page of the first entry is all that is left: a part of the entry fits in.
    let large = "x".repeat(9000);
    journal.append(&json!({ "n": 2, "pad": large })).unwrap_err();
    disk.free();
    journal.append(&json!({ "n": 3 })).unwrap();
    let entries: Vec<Value> = journal::read_entries(&path).unwrap();
    let numbers: Vec<&Value> = entries.iter().map(|entry| &entry["n"]).collect();
    assert_eq!(numbers, [&json!(1), &json!(3)]);
}
