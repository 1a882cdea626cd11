//! Programs that end, hang, write too much, and leave processes behind.

use std::io;

use super::output::MAX_LINE_CHARS;
use super::*;

const LIMIT: Duration = Duration::from_secs(60);

fn sh(script: &str) -> Program<'static> {
    Program::new("sh").args(["-c", script])
}

/// Waits until the process whose number a script wrote into that file is gone.
fn is_gone(file: &Path) -> bool {
    let number = std::fs::read_to_string(file).unwrap();
    let path = format!("/proc/{}/cmdline", number.trim());
    let check = || Ok::<_, ()>(std::fs::read(&path).unwrap_or_default().is_empty().then_some(()));
    crate::poll::poll_until(Instant::now() + LIMIT, Duration::from_millis(5), check).unwrap().is_some()
}

#[test]
fn a_short_program_has_a_limit() {
    assert_eq!(Program::short("true").timeout, Some(SHORT_TIMEOUT));
    assert!(Program::new("true").timeout.is_none());
}

#[test]
fn a_failure_has_the_last_lines_of_the_output() {
    let text = sh("echo no such thing >&2; exit 3").run().unwrap_err().to_string();
    assert!(text.contains("exit status: 3: no such thing"), "{text}");
    let completed = sh("echo out; echo no >&2; exit 3").timeout(LIMIT).complete().unwrap();
    assert_eq!((completed.is_success(), completed.code()), (false, Some(3)));
    assert_eq!(completed.describe(), "ended with exit status: 3: out\nno");
    let error = Program::new("no-such-program").run().unwrap_err();
    assert_eq!(error.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::NotFound);
}

#[test]
fn input_reaches_the_program() {
    assert_eq!(Program::new("cat").input(b"abc".to_vec()).run().unwrap(), b"abc");
    // More than a pipe holds, and a program that does not read it.
    assert!(Program::new("true").input(vec![0; 1 << 20]).succeeds().unwrap());
}

#[test]
fn the_time_limit_ends_the_program_and_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let script = "sleep 600 & echo $! > child; echo waiting; wait";
    // Until the file exists, not for a fixed time.
    let child = folder.path().join("child");
    let is_ready = || std::fs::read_to_string(&child).is_ok_and(|text| text.ends_with('\n'));
    let completed = sh(script).folder(folder.path()).cancel_when(&is_ready).complete().unwrap();
    assert_eq!((completed.end, completed.code()), (End::Cancelled, None));
    assert!(is_gone(&child));
    let completed = sh("sleep 600; true").timeout(Duration::from_millis(50)).complete().unwrap();
    assert_eq!(completed.describe(), "did not end within 50ms");
    let error = sh("sleep 600; true").timeout(Duration::from_millis(50)).run().unwrap_err().to_string();
    assert!(error.contains("did not end within 50ms"), "{error}");
    assert!(begin.elapsed() < LIMIT);
}

#[test]
fn a_program_may_leave_a_process_that_keeps_its_output_open() {
    let begin = Instant::now();
    let program = sh("sleep 600 & echo $!").timeout(LIMIT).drain_timeout(Duration::from_millis(50));
    let completed = program.complete().unwrap();
    assert!(completed.is_success());
    assert!(begin.elapsed() < LIMIT);
    let left = String::from_utf8(completed.stdout.bytes).unwrap();
    sh(&format!("kill {left}")).run().unwrap();
}

#[test]
fn only_the_end_of_a_long_output_is_kept() {
    let completed = sh("seq 1 100000; echo last").max_output(1000).complete().unwrap();
    assert_eq!(completed.stdout.bytes.len(), 1000);
    assert_eq!(completed.stdout.omitted, 588_895 + 5 - 1000);
    assert!(completed.stdout.bytes.ends_with(b"\nlast\n"));
    let error = sh("echo 123456").max_output(3).run().unwrap_err().to_string();
    assert!(error.contains("wrote too much"), "{error}");
}

#[test]
fn a_program_that_writes_for_ever_is_ended() {
    let begin = Instant::now();
    let completed = sh("yes 0123456789").output_limit(1 << 20).complete().unwrap();
    assert_eq!((completed.end, completed.code()), (End::WroteTooMuch(1 << 20), None));
    assert!(completed.stdout.bytes.len() < 4 << 20, "{} bytes were kept", completed.stdout.bytes.len());
    let error = sh("yes").output_limit(100).run().unwrap_err().to_string();
    assert!(error.contains("wrote more than 100 bytes"), "{error}");
    assert!(begin.elapsed() < LIMIT);
}

#[test]
fn a_message_quotes_the_beginning_of_long_lines() {
    let error = sh("head -c 100000 /dev/zero | tr '\\0' x; exit 1").run().unwrap_err().to_string();
    assert!(error.len() < 2 * MAX_LINE_CHARS && error.ends_with("xxx…"), "{}", error.len());
}

#[test]
fn a_stream_is_passed_on_as_it_comes() {
    let mut said = String::new();
    let status = sh("echo a; echo b >&2; kill -9 $$").stream(&mut |is_error, text| {
        said += &format!("{is_error} {text}");
    });
    assert_eq!(status.unwrap(), 137);
    assert!(said.contains("false a\n") && said.contains("true b\n"), "{said}");
}
