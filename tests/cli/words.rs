//! Usage, help, completions, manual page.

use crate::program::Project;

/// The commands that the help lists.
fn commands(project: &Project) -> Vec<String> {
    let help = project.dunlin(&["--help"]).ends(0).stdout;
    let part = help.split("Commands:\n").nth(1).expect("the help lists commands");
    let lines = part.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<String> = names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(names.len() >= 7, "{names:?}");
    names
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let project = Project::new(&[]);
    for wrong in [
        &["no-such-command"][..],
        &["provision", "--no-such-flag"],
        &["provision", "--detailed-exitcode"],
        &["provision", "--plan", "a", "--out", "b"],
        &["exec", "all"],
        &["--quiet", "--verbose", "hosts"],
        &["hosts", "--parallel", "many"],
        &[],
    ] {
        let output = project.dunlin(wrong).ends(64);
        assert!(output.stdout.is_empty(), "{wrong:?} wrote to stdout:\n{}", output.stdout);
        assert!(output.stderr.contains("--help") || output.stderr.contains("Usage:"), "{wrong:?}:\n{}", output.stderr);
    }
    project.dunlin(&["provison"]).ends(64).tells(&["provision"]);
}

#[test]
fn every_command_explains_itself() {
    let project = Project::new(&[]);
    for command in commands(&project) {
        if command == "help" {
            continue;
        }
        let help = project.dunlin(&[&command, "--help"]).ends(0).stdout;
        let mut paragraphs = help.lines();
        assert!(paragraphs.next().is_some_and(|line| line.len() > 10), "{command} does not say what it does:\n{help}");
        for flag in ["--inventory", "--json", "--quiet", "--verbose", "--parallel", "--color"] {
            assert!(help.contains(flag), "{command} --help does not mention {flag}");
        }
    }
    let own: &[(&str, &[&str])] = &[
        (
            "provision",
            &["--dry-run", "--detailed-exitcode", "--out", "--plan", "--yes", "--limit", "--tags", "--playbook"],
        ),
        ("provision-new-host", &["--dry-run", "--yes"]),
        ("hosts", &["--facts", "[SELECTOR]"]),
        ("exec", &["<SELECTOR>", "<CMD>"]),
        ("check", &["[PATHS]"]),
    ];
    for (command, words) in own {
        project.dunlin(&[command, "--help"]).ends(0).tells(words);
    }
    project.dunlin(&["--help"]).ends(0).tells(&["Exit codes:", "64 usage", "130 interrupted"]);
    project.dunlin(&["--version"]).ends(0).tells(&[env!("CARGO_PKG_VERSION")]);
}

#[test]
fn the_agent_is_not_for_people() {
    let project = Project::new(&[]);
    assert!(!commands(&project).iter().any(|command| command == "agent"));
}

#[test]
fn completions_and_the_manual_page_know_all_commands() {
    let project = Project::new(&[]);
    let names: Vec<String> = commands(&project).into_iter().filter(|name| name != "help").collect();
    for shell in ["bash", "zsh", "fish"] {
        let text = project.dunlin(&["completions", shell]).ends(0).stdout;
        for name in &names {
            assert!(text.contains(name.as_str()), "the completions for {shell} do not know {name}");
        }
    }
    let page = project.dunlin(&["man"]).ends(0).stdout;
    assert!(page.contains(".TH dunlin 1"), "{page}");
    for name in &names {
        assert!(page.contains(&name.replace('-', "\\-")), "the manual page does not know {name}");
    }
}
