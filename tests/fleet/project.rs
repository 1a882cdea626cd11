//! A project in a folder of its own, and the program run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::hosts::{HOST_NAMES, TestFleet};
use crate::output::CommandOutput;

/// A copy of this repository's playbooks and templates with the fleet's hosts as its inventory.
pub struct FleetProject {
    folder: tempfile::TempDir,
    /// `inventory/hosts.toml`, as a table that a test may change and [`write`](Self::write).
    pub hosts: toml::Table,
}

impl FleetProject {
    /// A new project; groups `redis` and `app` beside the fleet's own.
    pub fn with_fleet(fleet: &TestFleet) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["playbooks", "templates", "dunlin.toml"] {
            if root.join(name).exists() {
                let done = Command::new("cp").arg("-r").arg(root.join(name)).arg(folder.path()).status().unwrap();
                assert!(done.success());
            }
        }
        std::fs::create_dir(folder.path().join("inventory")).unwrap();
        let mut hosts = fleet.inventory.clone();
        let groups = hosts["groups"].as_table_mut().unwrap();
        for prefix in ["redis", "app"] {
            let names: Vec<toml::Value> =
                HOST_NAMES.iter().filter(|name| name.starts_with(prefix)).map(|name| (*name).into()).collect();
            groups.insert(prefix.to_owned(), toml::Table::from_iter([("hosts".to_owned(), names.into())]).into());
        }
        let project = Self { folder, hosts };
        project.write_files();
        project
    }

    /// The same files in a folder of their own, without what dunlin keeps beside them: another operator's machine.
    pub fn clone_project(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let done = Command::new("cp").arg("-a").arg(self.folder.path().join(".")).arg(folder.path()).status().unwrap();
        assert!(done.success());
        std::fs::remove_dir_all(folder.path().join(".dunlin")).ok();
        Self { folder, hosts: self.hosts.clone() }
    }

    /// Writes the inventory.
    pub fn write_files(&self) {
        std::fs::write(self.file_path("inventory/hosts.toml"), self.hosts.to_string()).unwrap();
    }

    /// A host's table in the inventory.
    pub fn host_table(&mut self, name: &str) -> &mut toml::Table {
        self.hosts["hosts"][name].as_table_mut().unwrap()
    }

    /// Writes `play.toml`: one play for the hosts, with these steps.
    pub fn write_play(&self, hosts: &str, steps: &str) {
        let text = format!("[[play]]\nname = \"test\"\nhosts = \"{hosts}\"\n{steps}");
        std::fs::write(self.file_path("play.toml"), text).unwrap();
    }

    /// A path in the project.
    pub fn file_path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// dunlin, to be run in this project: no terminal, nothing of this process's environment but PATH and HOME.
    pub fn dunlin_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(dunlin_program());
        command.current_dir(self.folder.path()).env_clear().stdin(Stdio::null());
        for name in ["PATH", "HOME"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.env("DUNLIN_INVENTORY", "inventory").args(["--color", "never"]).args(arguments);
        command
    }

    /// Runs it to its end.
    pub fn run_dunlin(&self, arguments: &[&str]) -> CommandOutput {
        let output = self.dunlin_command(arguments).output().unwrap();
        CommandOutput::new(arguments, output, self.folder.path(), &self.hosts)
    }

    /// `dunlin provision --playbook play.toml` with these arguments.
    pub fn run_provision(&self, arguments: &[&str]) -> CommandOutput {
        self.run_dunlin(&[&["provision", "--playbook", "play.toml"], arguments].concat())
    }
}

fn dunlin_program() -> PathBuf {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_dunlin"));
    // Relative to the repository, since tests run the program elsewhere.
    let named = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join(PathBuf::from(name));
    std::env::var_os("DUNLIN_BIN").map_or_else(built, named)
}
