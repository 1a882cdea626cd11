//! The program in a project folder of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A folder with files. First in PATH is `tests/cli/bin/ssh`.
pub struct Project {
    folder: tempfile::TempDir,
}

/// How a run ended.
pub struct Output {
    /// The exit code.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Project {
    /// A project of these files: paths and texts.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        project.write("dunlin.toml", "inventory = \"inventory\"\n");
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

    /// Was ssh started?
    pub fn connected(&self) -> bool {
        self.marker().exists()
    }

    /// Runs dunlin in it.
    pub fn dunlin(&self, arguments: &[&str]) -> Output {
        self.dunlin_with(arguments, &[])
    }

    /// Runs dunlin in it, with environment variables of its own.
    pub fn dunlin_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_dunlin"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/bin:/usr/bin:/bin"))
            .env("HOME", self.folder.path())
            .env("COLUMNS", "100")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Output {
            status: output.status.code().expect("no signal ends it"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    fn marker(&self) -> PathBuf {
        self.folder.path().join("ssh-was-started")
    }
}

impl Output {
    /// Panics with everything that was said, unless this is the exit code.
    #[track_caller]
    pub fn ends(self, status: i32) -> Self {
        assert_eq!(self.status, status, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Panics unless both streams together hold all of these.
    #[track_caller]
    pub fn tells(self, parts: &[&str]) -> Self {
        let said = format!("{}{}", self.stdout, self.stderr);
        for part in parts {
            assert!(said.contains(part), "`{part}` was not said:\n{said}");
        }
        self
    }
}
