//! `dunlin provision-new-host`.

use std::path::Path;

use anyhow::Context;
use clap::Args;
use tokio::process::Command;

use super::Common;
use super::confirm::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment};
use super::provision::{How, provision};
use super::run::fleet;
use crate::atomic_file::{Attributes, existing_mode, write_atomically};
use crate::inventory::{Bytes, HostKey, Inventory, NewHost, add_host};
use crate::project::Project;

/// Check a bare host, pin its key, add it to the inventory, provision it
#[derive(Debug, Args)]
pub struct ProvisionNewHost {
    /// The name it gets in the inventory
    name: String,
    /// Its address or host name
    #[arg(long)]
    address: String,
    /// The groups it joins
    #[arg(long, value_delimiter = ',', required = true)]
    groups: Vec<String>,
    /// The ssh port
    #[arg(long)]
    port: Option<u16>,
    /// The failure zone
    #[arg(long)]
    zone: Option<String>,
    /// What shards may use there: 16GiB
    #[arg(long)]
    memory: Option<Bytes>,
    /// The fingerprint its key must have (SHA256:…), as read on its console
    #[arg(long)]
    fingerprint: Option<String>,
    #[command(flatten)]
    how: How,
}

impl ProvisionNewHost {
    /// Checks, pins, adds, provisions.
    ///
    /// # Errors
    /// The host does not answer or is not fit; the key is not confirmed. The inventory is then as it was.
    pub async fn run(self, common: &Common) -> Result<CommandOutcome, Failure> {
        let project = find_project(common)?;
        let loaded = load_environment(&project, common)?;
        let reporter = common.reporter();
        let key = match loaded.inventory.host(&self.name).and_then(|host| host.host_keys.first()) {
            Some(pinned) => pinned.value.clone(),
            None => self.scan().await?,
        };
        reporter.say(&format!("{} shows the host key {} ({})", self.address, key.fingerprint(), key.algorithm()));
        match &self.fingerprint {
            Some(expected) if *expected != key.fingerprint() => {
                return Err(Failure::say(Exit::Refused, format!("the key is not the expected {expected}; nothing was changed"))
                    .hint("somebody may be in between; compare on the host's console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"));
            }
            Some(_) => {}
            None => confirm("Is that the key the host's console shows?", self.how.yes)?,
        }
        let path = project.inventory.join("hosts.toml");
        let before = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let after = add_host(&before, &self.host(key))
            .map_err(|error| Failure::say(Exit::Error, format!("{}: {error}", path.display())))?;
        self.fit(&project, &path, &after, common).await?;
        if after != before {
            let change = crate::resources::text_diff::content_change(Some(before.as_bytes()), after.as_bytes(), false);
            reporter.data(&format!("{}\n{}", path.display(), change.diff.unwrap_or_default()));
            if self.how.dry_run {
                reporter
                    .say("dry run: the inventory stays as it is, and the host cannot be planned before it is in it");
                return Ok(CommandOutcome::from(if self.how.detailed_exitcode { Exit::Pending } else { Exit::Done }));
            }
            confirm("Add it to the inventory?", self.how.yes)?;
            let mode = existing_mode(&path)?.unwrap_or(0o644);
            write_atomically(&path, after.as_bytes(), &Attributes::synced(mode))?;
        }
        provision(Some(&self.name), &self.how, common).await
    }

    fn host(&self, key: HostKey) -> NewHost {
        NewHost {
            name: self.name.clone(),
            address: self.address.clone(),
            host_keys: vec![key],
            groups: self.groups.clone(),
            port: self.port,
            zone: self.zone.clone(),
            memory: self.memory,
            ..NewHost::default()
        }
    }

    /// Asks the host for its key.
    async fn scan(&self) -> Result<HostKey, Failure> {
        crate::inventory::name::check_address(&self.address).map_err(|error| Failure::say(Exit::Usage, error))?;
        let port = self.port.unwrap_or(22).to_string();
        let output = Command::new("ssh-keyscan")
            .args(["-T", "10", "-t", "ed25519", "-p", &port, "--"])
            .arg(&self.address)
            .output()
            .await
            .context("ssh-keyscan cannot be started; it comes with the ssh client")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| !line.starts_with('#'));
        let key = line.and_then(|line| line.split_once(' ')).and_then(|(_, key)| key.trim().parse().ok());
        key.ok_or_else(|| {
            Failure::say(Exit::Error, format!("{} (port {port}) shows no ed25519 host key", self.address))
                .hint("is the host up, and does sshd listen there? ssh-keyscan -t ed25519 ADDRESS")
        })
    }

    /// Logs in with the inventory as it will be, and looks whether the host can be provisioned.
    async fn fit(&self, project: &Project, path: &Path, text: &str, common: &Common) -> Result<(), Failure> {
        let future = Inventory::from_text(path, text);
        let Some(inventory) = future.inventory else {
            return Err(Failure::findings(&future.diagnostics, common.stderr_colour()));
        };
        let host =
            inventory.host(&self.name).with_context(|| format!("{} in {}", self.name, project.inventory.display()))?;
        let session = fleet(&inventory, &[host], common)?
            .connect(&self.name)
            .await
            .map_err(|error| Failure::say(Exit::Error, &error).hint(error.hint()))?;
        let facts = &session.hello.facts;
        let mut wrong = Vec::new();
        if session.hello.uid != 0 {
            wrong.push("the agent does not run as root: set become = true and allow sudo".to_owned());
        }
        if !facts.systemd {
            wrong.push("the first process is not systemd".to_owned());
        }
        if facts.os.family != "debian" {
            wrong.push(format!("the system is {} {}, not of Debian's family", facts.os.id, facts.os.version));
        }
        if !wrong.is_empty() {
            return Err(Failure::say(Exit::Refused, format!("{} is not fit: {}", self.name, wrong.join("; "))));
        }
        common.reporter().say(&format!(
            "{}: {} {}, {} processors, {} of memory",
            self.name,
            facts.os.id,
            facts.os.version,
            facts.cpus,
            Bytes(facts.memory_bytes).human()
        ));
        Ok(())
    }
}
