//! `dunlin provision-new-host`.

use anyhow::Context;
use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::confirm::{require_answer, require_confirmation};
use super::exit::Exit;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment};
use super::provision::{ProvisionArgs, provision_hosts};
use super::runtime::build_fleet;
use crate::inventory::{ByteSize, HostKey, NewHost};
use crate::project::Project;
use crate::provision::{NewHostChange, ensure_eligible, scan_host_key};
use crate::report::report_host_facts;
use crate::resources::text_diff::{Disclosure, content_change};

/// The next step where the host key is not confirmed.
const FINGERPRINT_HINT: &str = "read the fingerprint on the host's console (ssh-keygen -lf \
    /etc/ssh/ssh_host_ed25519_key.pub), then add --fingerprint SHA256:…";

/// Add a new host to the inventory, pin its host key and provision it
#[derive(Debug, Args)]
pub struct ProvisionNewHostCommand {
    /// Name of the host in the inventory
    name: String,
    /// IP address or DNS name
    #[arg(long)]
    address: String,
    /// Groups of the host, comma-separated
    #[arg(long, value_delimiter = ',', required = true)]
    groups: Vec<String>,
    /// SSH port (default: 22)
    #[arg(long)]
    port: Option<u16>,
    /// Failure zone
    #[arg(long)]
    zone: Option<String>,
    /// Memory that shards may use (e.g. 16GiB)
    #[arg(long)]
    memory: Option<ByteSize>,
    /// Expected fingerprint of the host key (SHA256:…), as shown on the host's console
    #[arg(long)]
    fingerprint: Option<String>,
    #[command(flatten)]
    args: ProvisionArgs,
}

impl ProvisionNewHostCommand {
    /// Checks the host, pins its key, adds it to the inventory, and provisions it.
    ///
    /// # Errors
    /// Returns an error if the host does not answer or cannot be provisioned, or its key is not confirmed. The
    /// inventory is not changed then.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let project = find_project(&self.args.connect.inventory, common)?;
        let loaded = load_environment(&project, common)?;
        let reporter = common.new_reporter();
        let pinned = loaded.inventory.find_host(&self.name).and_then(|host| host.host_keys.first());
        let is_pinned = pinned.is_some();
        if self.args.yes && self.fingerprint.is_none() && !is_pinned {
            // Checked before the first connection: any host that answers at this address would be trusted.
            return Err(CommandError::with_message(
                Exit::Refused,
                "--yes does not accept an unknown host key; no changes were made",
            )
            .with_hint(FINGERPRINT_HINT));
        }
        let key = match pinned {
            Some(pinned) => pinned.value.clone(),
            None => self.scan_host_key().await?,
        };
        reporter.print_status(&format!("host key of {}: {} ({})", self.address, key.fingerprint(), key.algorithm()));
        match &self.fingerprint {
            Some(expected) if *expected != key.fingerprint() => {
                return Err(CommandError::with_message(Exit::Refused, format!("the host key is not {expected}; no changes were made"))
                    .with_hint("the connection may be intercepted; compare on the host's console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"));
            }
            Some(_) => {}
            None if is_pinned => {}
            None => require_answer("Is this the key that the host's console shows?", FINGERPRINT_HINT)?,
        }
        let change = NewHostChange::plan(&project, &self.to_inventory_host(key))?;
        self.check_host_eligible(&project, &change, common).await?;
        if !change.is_empty() {
            let shown = Disclosure { is_sensitive: false, key: None };
            let content = content_change(Some(change.before.as_bytes()), change.after.as_bytes(), shown);
            reporter.print_block(&format!("{}\n{}", change.path.display(), content.diff.unwrap_or_default()));
            if self.args.dry_run {
                reporter.print_status(
                    "dry run: the inventory is not changed; the host can be planned once the inventory has it",
                );
                return Ok(CommandOutcome::from(if self.args.detailed_exitcode { Exit::Pending } else { Exit::Done }));
            }
            require_confirmation("Add this host to the inventory?", self.args.yes)?;
            change.write()?;
        }
        provision_hosts(Some(&self.name), &self.args, common).await
    }

    fn to_inventory_host(&self, key: HostKey) -> NewHost {
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

    /// Fetches the key of the host.
    async fn scan_host_key(&self) -> Result<HostKey, CommandError> {
        crate::inventory::validate::check_address(&self.address)
            .map_err(|error| CommandError::with_message(Exit::Usage, error))?;
        let port = self.port.unwrap_or(22);
        let key = scan_host_key(self.address.clone(), port).await?;
        key.ok_or_else(|| {
            CommandError::with_message(
                Exit::Error,
                format!("{} (port {port}) offers no ed25519 host key", self.address),
            )
            .with_hint("check that the host is up and sshd listens on this port: ssh-keyscan -t ed25519 ADDRESS")
        })
    }

    /// Logs in with the new inventory, and checks that the host can be provisioned.
    async fn check_host_eligible(
        &self,
        project: &Project,
        change: &NewHostChange,
        common: &CommonArgs,
    ) -> Result<(), CommandError> {
        let inventory_after = change.load_changed();
        let Some(inventory) = inventory_after.inventory else {
            return Err(CommandError::from_diagnostics(&inventory_after.diagnostics, common.stderr_color()));
        };
        let host = inventory
            .find_host(&self.name)
            .with_context(|| format!("{} in {}", self.name, project.inventory.display()))?;
        let session = build_fleet(&inventory, &[host], &self.args.connect, common)?
            .connect(&self.name)
            .await
            .map_err(|error| CommandError::with_message(Exit::Error, &error).with_hint(error.hint()))?;
        ensure_eligible(&self.name, &session.hello).map_err(|error| CommandError::new(Exit::Refused, error))?;
        report_host_facts(&self.name, &session.hello.facts, &common.new_reporter());
        Ok(())
    }
}
