//! Runs the program in a project folder of its own and takes snapshots of all that it printed.
//!
//! A snapshot is a file in `tests/cli/snapshots`: command line, exit code, standard output, standard error. A run of
//! the tests fails where the program prints something else. To accept what it prints now, and to look at the
//! difference: `INSTA_UPDATE=always cargo test --test cli`, then `git diff`.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// A folder with files. First in PATH is `tests/cli/bin/ssh`.
pub struct Project {
    folder: tempfile::TempDir,
}

/// How a run ended.
pub struct Output {
    /// The command line as a person types it.
    pub command: String,
    /// The exit code.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The text that is printed for the project's folder.
    folder: String,
}

impl Project {
    /// A project of these files: paths and texts.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        project.write("dunlin.toml", "inventory = \"inventory\"\n");
        // Plans show digests under this key; one made at random would change every output.
        let key = project.write("inventory/digest.key", &"0123456789abcdef".repeat(4));
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
        for (name, text) in files {
            project.write(name, text);
        }
        project
    }

    /// Returns where a file of the project is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Writes a file that only its owner can read.
    pub fn write_private(&self, name: &str, text: &str) {
        let path = self.write(name, text);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Was ssh started?
    pub fn connected(&self) -> bool {
        self.path("ssh-was-started").exists()
    }

    /// Runs dunlin in it.
    pub fn dunlin(&self, arguments: &[&str]) -> Output {
        self.dunlin_with(arguments, &[])
    }

    /// Returns the command that runs dunlin in it, with a cleared environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/bin:/usr/bin:/bin"))
            .env("HOME", self.folder.path())
            .env("USER", "alice")
            .env("COLUMNS", "100")
            .env("TZ", "UTC");
        command
    }

    /// Runs dunlin in it with these variables more.
    pub fn dunlin_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let output = self.command(arguments).envs(variables.iter().copied()).stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let quoted = |word: &&str| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() };
        Output {
            command: arguments.iter().map(quoted).fold("dunlin".to_owned(), |line, word| line + " " + &word),
            status: output.status.code().expect("no signal ends it"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            folder: self.folder.path().to_str().unwrap().to_owned(),
        }
    }

    /// Compares the runs of these command lines, one after the other, with the snapshot of that name.
    #[track_caller]
    pub fn snapshot(&self, name: &str, commands: &[&[&str]]) {
        let outputs: Vec<Output> = commands.iter().map(|arguments| self.dunlin(arguments)).collect();
        snapshot(name, &outputs);
    }
}

/// Compares what these runs printed with the snapshot of that name.
#[track_caller]
pub fn snapshot(name: &str, outputs: &[Output]) {
    let text: Vec<String> = outputs.iter().map(Output::transcript).collect();
    snapshot_text(name, &text.join("\n"));
}

/// Compares a text that does not differ from run to run with the snapshot of that name.
#[track_caller]
pub fn snapshot_text(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

impl Output {
    /// Compares all that was printed with the snapshot of that name.
    #[track_caller]
    pub fn matches(self, name: &str) -> Self {
        snapshot(name, std::slice::from_ref(&self));
        self
    }

    /// Panics unless stdout and stderr together contain each of these names, paths or positions. A wording is compared with
    /// a snapshot.
    #[track_caller]
    pub fn mentions(self, parts: &[&str]) -> Self {
        let printed = format!("{}{}", self.stdout, self.stderr);
        for part in parts {
            assert!(printed.contains(part), "`{part}` is not mentioned in:\n{printed}");
        }
        self
    }

    /// Panics with everything that was printed, unless this is the exit code.
    #[track_caller]
    pub fn ends(self, status: i32) -> Self {
        assert_eq!(self.status, status, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Returns the JSON events that were printed.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns the first JSON event of that name, without the time and the run.
    #[track_caller]
    pub fn event(&self, name: &str) -> Value {
        let found = self.events().into_iter().find(|event| event["event"] == name);
        let mut event = found.unwrap_or_else(|| panic!("no event `{name}` in {}", self.stdout));
        for key in ["at", "run"] {
            assert!(event.as_object_mut().unwrap().remove(key).is_some(), "the event `{name}` has no `{key}`");
        }
        event
    }

    /// Command line, exit code and both streams, without what differs from run to run.
    fn transcript(&self) -> String {
        let mut text = format!("$ {}\n[exit code {}]\n", self.command, self.status);
        let is_json = self.command.contains(" --json");
        let stdout = if is_json { self.events().iter().map(event_text).collect() } else { self.stdout.clone() };
        for (name, stream) in [("stdout", stdout), ("stderr", self.stderr.clone())] {
            if !stream.is_empty() {
                let _ = write!(text, "--- {name}\n{}", self.stable(&stream));
            }
        }
        text
    }

    /// Puts placeholders for folder, version, times, run ids and hashes.
    fn stable(&self, text: &str) -> String {
        static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
            let patterns = [
                (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "[TIME]"),
                (r"\bexpires on 20\d\d-\d\d-\d\d\b", "expires on [DATE]"),
                (r"\d{8}T\d{6}-\d+", "[RUN]"),
                (r"\b[0-9a-f]{64}\b", "[SHA256]"),
                (r"\bsha256 [0-9a-f]{8,}\b", "sha256 [SHA256]"),
                (r"/tmp/dunlin-\w+", "[RUN FOLDER]"),
            ];
            patterns.into_iter().map(|(pattern, name)| (Regex::new(pattern).unwrap(), name)).collect()
        });
        let text = text.replace(&self.folder, "[PROJECT]").replace(env!("CARGO_PKG_VERSION"), "[VERSION]");
        PATTERNS.iter().fold(text, |text, (pattern, name)| pattern.replace_all(&text, *name).into_owned())
    }
}

/// An event, spread over lines, without the two fields that every event has and that differ from run to run.
fn event_text(event: &Value) -> String {
    let mut event = event.clone();
    if let Some(fields) = event.as_object_mut() {
        fields.remove("at");
        fields.remove("run");
    }
    format!("{event:#}\n")
}
