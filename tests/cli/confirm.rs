//! The question before a change, on a terminal.

use crate::loopback;
use crate::terminal::TerminalRun;

#[test]
fn answers_have_their_exit_codes() {
    for (keys, code) in [("\u{3}", 130), ("\u{4}", 3), ("n", 3), ("\r", 3)] {
        let project = loopback::project();
        let mut run = TerminalRun::start(project.command(&["provision"]));
        run.wait_for("Apply this plan?");
        assert_eq!(run.answer(keys), code, "{keys:?}");
        assert_eq!(project.read("srv/greeting"), "good evening\n", "{keys:?}");
    }
}

#[test]
fn what_was_typed_before_the_question_is_no_answer() {
    let project = loopback::project();
    let mut run = TerminalRun::start(project.command(&["provision"]));
    // Nothing is on the screen yet.
    run.press("yyyy");
    run.wait_for("Apply this plan?");
    assert_eq!(run.answer("n"), 3);
    assert_eq!(project.read("srv/greeting"), "good evening\n");
}

#[test]
fn a_file_of_a_user_cannot_act_on_the_terminal() {
    let project = loopback::project();
    project.write("srv/greeting", "\u{1b}[2K\u{1b}[1A\u{1b}]0;owned\u{7}\u{202e}hidden\r\n");
    let output = project.dunlin(&["provision", "--dry-run"]).ends(0);
    assert!(output.stdout.contains("\\u{1b}[2K") && output.stdout.contains("\\u{202e}"), "{}", output.stdout);
    let is_unsafe = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
    assert!(!output.stdout.contains(is_unsafe) && !output.stderr.contains(is_unsafe), "{:?}", output.stdout);
    let json = project.dunlin(&["provision", "--dry-run", "--json"]).ends(0);
    assert!(!json.stdout.contains(is_unsafe));
    assert!(json.event("plan").to_string().contains("hidden"));
}
