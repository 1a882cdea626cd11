//! A user who swaps a path for a link while root changes it, 200 times each.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dunlin::resources::ApplyContext;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use crate::support::{ResourceBlobs, apply_step};
use crate::user::{HostileHome, become_nobody};

const TRIES: usize = 200;
const MAX_ROUNDS: usize = 50;

/// Runs a step again and again while its user swaps the path, and every temporary file beside it, for links to what
/// belongs to root. Returns how often a swap succeeded.
fn race(home: &HostileHome, kind: &str, table: &Value, path: &Path) -> u64 {
    let (is_over, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    home.plant_link("link", &home.victim());
    let link = home.home().join("link");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            become_nobody();
            while !is_over.load(Ordering::Relaxed) {
                let entries = fs::read_dir(home.home()).into_iter().flatten().flatten();
                let temporary = entries.map(|entry| entry.file_name()).filter(is_temporary);
                let others = temporary.map(|name| home.home().join(name));
                for target in std::iter::once(path.to_owned()).chain(others) {
                    if renameat_with(CWD, &link, CWD, &target, RenameFlags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        let mut blobs = ResourceBlobs::default();
        let step = blobs.parse_step(kind, table.clone()).unwrap();
        // On a busy machine the attacker may not run at all for a while: then the tries show nothing.
        let has_attacked = || swaps.load(Ordering::Relaxed) > 0;
        for _ in (0..TRIES * MAX_ROUNDS).take_while(|tried| *tried < TRIES || !has_attacked()) {
            // It may be refused, and that is right; what must not happen is that root's files change.
            apply_step(&*step, &mut ApplyContext::new(&blobs), &blobs).ok();
            home.assert_unharmed();
            if let Ok(stat) = fs::symlink_metadata(path)
                && !stat.is_symlink()
            {
                if stat.is_dir() {
                    fs::remove_dir(path).ok()
                } else {
                    fs::remove_file(path).ok()
                };
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    home.assert_unharmed();
    swaps.load(Ordering::Relaxed)
}

fn is_temporary(name: &OsString) -> bool {
    name.to_string_lossy().starts_with(".dunlin-")
}

#[test]
fn a_folder_that_is_swapped_gives_nothing_away() {
    let home = HostileHome::create();
    let path = home.home().join("data");
    let table = json!({ "path": path, "owner": "nobody", "group": "nogroup", "mode": "0777" });
    let swaps = race(&home, "directory", &table, &path);
    assert!(swaps > 0, "the attack never came in between: it shows nothing");
    println!("{TRIES} tries, {swaps} swaps");
}

#[test]
fn a_file_that_is_swapped_gives_nothing_away() {
    let home = HostileHome::create();
    let path = home.home().join("file");
    let content = "x".repeat(1 << 20);
    let table = json!({ "dest": path, "content": content, "owner": "nobody", "group": "nogroup", "mode": "0666" });
    let swaps = race(&home, "file", &table, &path);
    assert!(swaps > 0, "the attack never came in between: it shows nothing");
    println!("{TRIES} tries, {swaps} swaps");
}

#[test]
fn a_line_in_a_file_that_is_swapped_copies_nothing() {
    let home = HostileHome::create();
    let path = home.home().join("app.ini");
    let table = json!({ "path": path, "line": "a = 1", "create": true, "owner": "nobody", "group": "nogroup" });
    let swaps = race(&home, "line", &table, &path);
    assert!(swaps > 0, "the attack never came in between: it shows nothing");
    println!("{TRIES} tries, {swaps} swaps");
    for entry in fs::read_dir(home.home()).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            assert!(!fs::read_to_string(entry.path()).unwrap().contains("root's own"), "{:?}", entry.path());
        }
    }
}
