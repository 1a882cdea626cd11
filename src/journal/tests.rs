//! What a journal's readers and writers do with files that a crash, a full disk or a newer version left.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use serde::Deserialize;
use tempfile::TempDir;

use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Begin,
    Promote { note: String },
    Settle(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Begin),
        "\\PC{0,8}".prop_map(|note| Step::Promote { note }),
        any::<u32>().prop_map(Step::Settle),
    ]
}

/// Writes these steps into a new journal.
fn journal_of(steps: &[Step]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/shard-3.jsonl");
    let mut journal = Journal::open(&path).unwrap();
    for step in steps {
        journal.append_unsynced(step).unwrap();
    }
    (folder, path)
}

fn damaged_line(path: &Path) -> usize {
    match read_entries::<Step>(path).unwrap_err() {
        JournalError::Damaged { line, .. } => line,
        other => panic!("{other}"),
    }
}

#[test]
fn entries_are_read_back_and_a_torn_last_line_is_removed() {
    let (_folder, path) = journal_of(&[]);
    assert_eq!(read_entries::<Step>(&path.with_extension("absent")).unwrap(), []);
    Journal::open(&path).unwrap().append(&Step::Begin).unwrap();
    for torn in [&b"{\"settle\": "[..], b"\"begin\"", b"\0\0\0\0", b"\0\0\0\"}\n", b"\n"] {
        OpenOptions::new().append(true).open(&path).unwrap().write_all(torn).unwrap();
        assert_eq!(read_entries::<Step>(&path).unwrap(), [Step::Begin], "{torn:?}");
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.entries::<Step>().unwrap(), [Step::Begin], "{torn:?}");
        assert_eq!(fs::read(&path).unwrap(), b"\"begin\"\n", "{torn:?}");
    }
    Journal::open(&path).unwrap().append(&Step::Settle(3)).unwrap();
    assert_eq!(read_entries::<Step>(&path).unwrap(), [Step::Begin, Step::Settle(3)]);
}

#[test]
fn an_unknown_step_is_an_error_wherever_it_is() {
    for (text, line) in
        [("\"begin\"\n\"dance\"\n{\"settle\":1}\n", 2), ("\"begin\"\n\"dance\"\n", 2), ("\"dance\"\n", 1)]
    {
        let (_folder, path) = journal_of(&[]);
        fs::write(&path, text).unwrap();
        assert_eq!(damaged_line(&path), line);
        let message = read_entries::<Step>(&path).unwrap_err().to_string();
        assert!(message.contains(&format!("shard-3.jsonl:{line}: ")) && message.contains("dance"), "{message}");
        // Opening must not remove it either.
        assert!(Journal::open(&path).unwrap().entries::<Step>().is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_journal_is_written_by_one_at_a_time() {
    let (_folder, path) = journal_of(&[Step::Begin]);
    let first = Journal::open(&path).unwrap();
    let error = Journal::open(&path).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(JournalError::Locked { .. })), "{error:#}");
    drop(first);
    Journal::open(&path).unwrap();
}

#[test]
fn an_append_after_a_failed_one_is_not_lost() {
    let (_folder, path) = journal_of(&[Step::Begin]);
    let mut journal = Journal::open(&path).unwrap();
    // A descriptor that cannot be written to fails as a full disk does.
    let writable = std::mem::replace(&mut journal.file, File::open(&path).unwrap());
    assert!(journal.append(&Step::Settle(1)).is_err());
    journal.file = writable;
    // And a full disk leaves a part of the entry.
    journal.file.write_all(b"{\"settle\"").unwrap();
    journal.append(&Step::Settle(2)).unwrap();
    assert_eq!(journal.entries::<Step>().unwrap(), [Step::Begin, Step::Settle(2)]);
    assert_eq!(read_entries::<Step>(&path).unwrap(), [Step::Begin, Step::Settle(2)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn a_file_cut_at_any_byte_has_the_entries_whose_newline_is_left(steps in prop::collection::vec(step(), 1..5)) {
        let (_folder, path) = journal_of(&steps);
        let text = fs::read(&path).unwrap();
        for end in 0..=text.len() {
            fs::write(&path, &text[..end]).unwrap();
            let whole = text[..end].iter().filter(|&&byte| byte == b'\n').count();
            prop_assert_eq!(read_entries::<Step>(&path).unwrap(), &steps[..whole]);
            let mut journal = Journal::open(&path).unwrap();
            journal.append_unsynced(&Step::Begin).unwrap();
            let mut expected = steps[..whole].to_vec();
            expected.push(Step::Begin);
            prop_assert_eq!(read_entries::<Step>(&path).unwrap(), expected);
        }
    }

    #[test]
    fn a_damaged_line_is_an_error_unless_it_is_the_last(
        steps in prop::collection::vec(step(), 2..6), at in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(),
    ) {
        let (_folder, path) = journal_of(&steps);
        let text = fs::read(&path).unwrap();
        let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
        let line = at.index(lines.len());
        let begin: usize = lines[..line].iter().map(|line| line.len()).sum();
        // No JSON has a NUL byte in it.
        let position = begin + byte.index(lines[line].len() - 1);
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"\0", position as u64).unwrap();
        if line + 1 == lines.len() {
            prop_assert_eq!(read_entries::<Step>(&path).unwrap(), &steps[..line]);
        } else {
            prop_assert_eq!(damaged_line(&path), line + 1);
        }
    }
}
