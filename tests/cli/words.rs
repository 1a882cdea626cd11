//! Help, usage errors, completions, the manual page.

use clap::{Arg, Command, CommandFactory};

use crate::program::{Project, snapshot};

/// The command line's definition, with the flags that subcommands inherit.
fn definition() -> Command {
    let mut command = dunlin::cli::Cli::command();
    command.build();
    command
}

/// All commands that the help lists, nested ones included, each with the words that lead to it.
fn commands() -> Vec<(Vec<String>, Command)> {
    fn collect(path: &[String], command: &Command, into: &mut Vec<(Vec<String>, Command)>) {
        into.push((path.to_vec(), command.clone()));
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
            collect(&[path, &[sub.get_name().to_owned()]].concat(), sub, into);
        }
    }
    let mut found = Vec::new();
    collect(&[], &definition(), &mut found);
    found
}

#[test]
fn the_help_of_every_command() {
    let project = Project::new(&[]);
    for (path, _) in commands() {
        let words: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let name: Vec<&str> = ["help"].into_iter().chain(path.iter().map(String::as_str)).collect();
        snapshot(&name.join("-"), &[project.dunlin(&words).ends(0)]);
    }
}

#[test]
fn every_snapshot_of_a_help_has_its_command() {
    let expected: Vec<String> = commands()
        .into_iter()
        .map(|(path, _)| ["help".to_owned()].into_iter().chain(path).collect::<Vec<_>>().join("-") + ".snap")
        .collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/snapshots");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_help = name.starts_with("help") && name.ends_with(".snap");
        assert!(!is_help || expected.contains(&name), "{name} is the help of no command: remove the file");
    }
}

/// What is wrong with a line of help, if anything is.
fn fault(line: &str) -> Option<&'static str> {
    let first = line.chars().next()?;
    if !first.is_uppercase() && !first.is_ascii_digit() {
        return Some("does not begin with a capital letter");
    }
    (line.ends_with('.') && !line.trim_end_matches('.').contains(". ")).then_some("ends with a full stop")
}

/// Checks an argument's help and names.
fn check_argument(command: &str, arg: &Arg) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let place = format!("{command}: {arg}");
    assert!(!help.is_empty(), "{place} has no help");
    assert_eq!(fault(&help), None, "{place}: {help}");
    for name in arg.get_value_names().unwrap_or_default() {
        assert_eq!(name.to_uppercase(), name.as_str(), "{place}: its value is named {name}");
    }
}

#[test]
fn every_command_and_every_flag_is_explained() {
    let mut arguments = 0;
    for (path, command) in commands() {
        let name = path.join(" ");
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(!about.is_empty(), "`{name}` does not say what it does");
        assert_eq!(fault(&about), None, "{name}: {about}");
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            check_argument(&name, arg);
            arguments += 1;
        }
    }
    assert!(arguments > commands().len(), "{arguments} arguments: the walk does not see them");
}

#[test]
fn a_fault_in_a_help_text_is_seen() {
    assert!(fault("which hosts").is_some() && fault("Ask nothing.").is_some());
    assert!(fault("Show the plan").is_none() && fault("").is_none());
}

#[test]
fn the_definition_is_sound() {
    dunlin::cli::Cli::command().debug_assert();
}

#[test]
fn a_flag_means_the_same_everywhere() {
    let mut helps = std::collections::BTreeMap::new();
    for (path, command) in commands() {
        for arg in command.get_arguments().filter(|arg| arg.is_global_set()) {
            let help = arg.get_help().map(ToString::to_string);
            let known = helps.entry(arg.get_id().to_string()).or_insert_with(|| help.clone());
            assert_eq!(*known, help, "{} of {}", arg.get_id(), path.join(" "));
        }
    }
}

#[test]
fn only_commands_that_use_the_inventory_and_connections_have_their_flags() {
    for (path, command) in commands().into_iter().filter(|(path, _)| !path.is_empty()) {
        let has = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
        let name = path.join(" ");
        let uses_inventory = !["package", "runs", "runs show", "completions", "man"].contains(&name.as_str());
        assert_eq!(has("inventory"), uses_inventory, "--inventory of {name}");
        assert_eq!(has("parallel"), uses_inventory && name != "check", "--parallel of {name}");
    }
    let project = Project::new(&[]);
    for command in [&["man"][..], &["completions", "bash"], &["package", "shop"]] {
        project.dunlin(&[command, &["--inventory", "inventory"]].concat()).ends(64);
        project.dunlin(&[command, &["--parallel", "2"]].concat()).ends(64);
    }
    // The variable is no flag: a shell that sets it may run every command.
    project.dunlin_with(&["completions", "bash"], &[("DUNLIN_INVENTORY", "inventory")]).ends(0);
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let project = Project::new(&[]);
    let outputs = [
        &["no-such-command"][..],
        &["provison"],
        &["shards", "statsu"],
        &["shards"],
        &["provision", "--no-such-flag"],
        &["provision", "--dry-runn"],
        &["provision", "--detailed-exitcode"],
        &["provision", "--plan", "a", "--out", "b"],
        &["provision-new-host"],
        &["provision-new-host", "redis-09", "--address", "192.0.2.9", "--groups", "redis", "--memory", "16"],
        &["package"],
        &["deploy"],
        &["rollback"],
        &["releases"],
        &["maintenance", "shop"],
        &["maintenance", "shop", "maybe"],
        &["undeploy"],
        &["history"],
        &["deploy", "shop", "--health", "--dry-run"],
        &["exec", "all"],
        &["exec", "--", "true"],
        &["--quiet", "--verbose", "hosts"],
        &["hosts", "--parallel", "many"],
        &["hosts", "--parallel", "0"],
        &["hosts", "--color", "pink"],
        &["completions", "tcsh"],
        &[],
    ]
    .map(|wrong| project.dunlin(wrong).ends(64));
    for output in &outputs {
        assert!(output.stdout.is_empty(), "stdout:\n{}", output.stdout);
    }
    snapshot("usage-errors", &outputs);
}

#[test]
fn the_version() {
    Project::new(&[]).snapshot("version", &[&["--version"], &["shards", "status", "--version"]]);
}

#[test]
fn the_agent_is_not_for_people() {
    let agent = definition().find_subcommand("agent").unwrap().clone();
    assert!(agent.is_hide_set());
}

#[test]
fn completions_and_the_manual_page_know_all_commands() {
    let project = Project::new(&[]);
    let names: Vec<String> = commands().into_iter().filter_map(|(path, _)| path.last().cloned()).collect();
    for (shell, first) in [("bash", "_dunlin()"), ("zsh", "#compdef dunlin"), ("fish", "#")] {
        let text = project.dunlin(&["completions", shell]).ends(0).stdout;
        assert!(text.starts_with(first), "{shell}: {:.80}", text);
        for name in &names {
            assert!(text.contains(name.as_str()), "the completions for {shell} do not know {name}");
        }
    }
    snapshot("man", &[project.dunlin(&["man"]).ends(0)]);
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_error() {
    let project = Project::new(&[]);
    for command in [&["completions", "zsh"][..], &["man"], &["--help"], &["check", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = project.command(command).stdout(writer).stdin(std::process::Stdio::null()).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!errors.contains("panicked"), "{command:?}: {errors}");
        assert!(output.status.code().is_some_and(|code| code < 2), "{command:?}: {:?}\n{errors}", output.status);
    }
}
