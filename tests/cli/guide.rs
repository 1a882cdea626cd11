//! The guide to deploying: its files make a project in which its commands work.

use std::os::unix::fs::PermissionsExt;

use crate::program::Project;

const GUIDE: &str = include_str!("../../docs/guides/deploying.md");

/// A block of code of the guide: the words behind its fence, and its text.
fn code_blocks() -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut is_inside = false;
    for line in GUIDE.lines() {
        match line.strip_prefix("```") {
            Some(_) if is_inside => is_inside = false,
            Some(words) => {
                is_inside = true;
                blocks.push((words.to_owned(), String::new()));
            }
            None if is_inside => {
                let (_, text) = blocks.last_mut().unwrap();
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    blocks
}

#[test]
fn the_commands_of_the_guide_to_deploying_work() {
    let blocks = code_blocks();
    let files: Vec<(&str, &str)> =
        blocks.iter().filter_map(|(words, text)| Some((words.split_once("file=")?.1, text.as_str()))).collect();
    assert_eq!(files.len(), 19);
    let project = Project::new(&files);
    let secrets = project.path("inventory/secrets.toml");
    std::fs::set_permissions(&secrets, PermissionsExt::from_mode(0o600)).unwrap();
    // The compiler is beside the cargo of these tests.
    let tools = std::path::Path::new(env!("CARGO")).parent().unwrap();
    let path = format!("{}/tests/cli/bin:{}:/usr/bin:/bin", env!("CARGO_MANIFEST_DIR"), tools.display());
    let (mut commands, mut packaged) = (0, Vec::new());
    for line in blocks.iter().filter(|(words, _)| words == "console").flat_map(|(_, text)| text.lines()) {
        let arguments: Vec<&str> = line.strip_prefix("$ dunlin ").expect("a command").split(' ').collect();
        let output = project.dunlin_with(&arguments, &[("PATH", &path)]);
        // The hosts do not exist: a command that needs them is understood, and fails to connect.
        match arguments[0] {
            "check" => drop(output.ends(0)),
            "package" => {
                output.ends(0);
                packaged.push(arguments[1]);
            }
            // Whether a task has run is unknown then: 3 instead of 4.
            _ => assert!([3, 4].contains(&output.mentions(&["cannot be reached"]).status), "{line}"),
        }
        commands += 1;
    }
    assert_eq!((commands, packaged.as_slice()), (16, &["shop", "resizer"][..]));
}
