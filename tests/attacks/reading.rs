//! Files of a size that a host could not hold: a sparse file costs its user nothing.

use std::fs::File;
use std::time::{Duration, Instant};

use dunlin::plan::Action;
use dunlin::resources::{ApplyContext, HostView};
use serde_json::json;

use crate::messages;
use crate::support::{ResourceBlobs, apply_step, plan_steps};
use crate::user::HostileHome;

const SPARSE_BYTES: u64 = 4 << 40;
/// Number of empty files that a user creates in a second.
const MANY_FILES: usize = 60_000;
/// What a plan may take beside them.
const MAX_LISTING_KIB: u64 = 40 * 1024;
/// What a plan may take beside such a file.
const MAX_GROWTH_KIB: u64 = 100 * 1024;

/// The most memory that this process has had, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_sparse_file_costs_neither_memory_nor_time() {
    let home = HostileHome::create();
    let path = home.home().join("huge");
    File::create(&path).unwrap().set_len(SPARSE_BYTES).unwrap();
    let (before, started) = (peak_memory(), Instant::now());
    let mut blobs = ResourceBlobs::default();
    let steps = [
        blobs.parse_step("file", json!({ "dest": path, "content": "small\n" })).unwrap(),
        blobs.parse_step("line", json!({ "path": path, "line": "a" })).unwrap(),
    ];
    let planned = plan_steps(&steps, &blobs);
    let changes = &planned[0].as_ref().unwrap().changes;
    assert!(changes.iter().all(|change| change.diff.is_none()), "{changes:?}");
    let single = plan_steps(&steps[1..], &blobs).remove(0).unwrap_err();
    messages::check("line-of-a-huge-file", [("line", single)]);
    HostView::current().path_state(&path).unwrap();
    assert!(peak_memory() - before < MAX_GROWTH_KIB, "{} KiB more", peak_memory() - before);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_folder_with_many_files_costs_little_memory() {
    let home = HostileHome::create();
    let folder = home.home().join("many");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..MANY_FILES {
        File::create(folder.join(format!("{number:08}"))).unwrap();
    }
    let before = peak_memory();
    let mut blobs = ResourceBlobs::default();
    let table = json!({ "path": folder, "state": "absent", "recurse": true });
    let steps = [blobs.parse_step("directory", table).unwrap()];
    let shown = |blobs: &ResourceBlobs| {
        let planned = plan_steps(&steps, blobs).remove(0).unwrap();
        planned.changes[0].from.clone().unwrap()
    };
    let first = shown(&blobs);
    assert!(first.starts_with(&format!("{MANY_FILES} (listing ")), "{first}");
    std::fs::write(folder.join("00000000"), "x").unwrap();
    assert_ne!(shown(&blobs), first, "a plan is bound to every entry");
    assert!(peak_memory() - before < MAX_LISTING_KIB, "{} KiB more", peak_memory() - before);
    let row = apply_step(&*steps[0], &mut ApplyContext::new(&blobs), &blobs).unwrap();
    assert_eq!(row.action, Action::Remove);
    assert!(!folder.exists());
}
