//! `dunlin shards certificates`.

use clap::Args;
use serde_json::json;

use super::ShardsContext;
use super::dry_run::DryRunArgs;
use crate::certificates::{
    CertificateOptions, CertificatePlan, HostRow, SigningCa, ca_key_path, ensure_own_tables, plan_certificates,
    replace_ca_key, write_certificates,
};
use crate::cli::command_error::CommandError;
use crate::cli::exit::Exit;
use crate::inventory::TlsCertificates;

/// The flags of `shards certificates`.
#[derive(Debug, Args)]
pub struct CertificatesArgs {
    /// Also replace certificates that expire within 30 days, and those that an older CA signed
    #[arg(long)]
    renew: bool,
    /// With --renew, replace only the certificates of these hosts, even if they are valid for longer
    #[arg(long, value_name = "HOST", value_delimiter = ',', requires = "renew")]
    host: Vec<String>,
    /// Create a new CA and trust both; --renew then replaces the certificates of the hosts
    #[arg(long, conflicts_with = "renew")]
    new_ca: bool,
    #[command(flatten)]
    dry_run: DryRunArgs,
}

impl ShardsContext<'_> {
    /// Creates missing certificates, renews those that are due, and prints all of them. Connects to no host.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or written, or the CA's key is not on this machine.
    pub fn update_certificates(&self, args: &CertificatesArgs) -> Result<Exit, CommandError> {
        let hosts = self.files.cluster.shard_hosts()?;
        if let Some(unknown) = args.host.iter().find(|name| hosts.iter().all(|host| host.name != **name)) {
            return Err(CommandError::with_message(Exit::Usage, format!("--host {unknown}: not a host of shards")));
        }
        ensure_own_tables(&hosts)?;
        let inventory = &self.files.cluster.inventory;
        let certificates = TlsCertificates::from_secrets(inventory.secrets())?;
        let options = CertificateOptions { renew: args.renew, hosts: args.host.clone(), new_ca: args.new_ca };
        if !args.dry_run.dry_run {
            replace_ca_key(inventory.dir(), &certificates.cas)?;
        }
        let plan = plan_certificates(inventory.dir(), hosts, &certificates, &options)?;
        let has_work = plan.has_work();
        self.print_certificates(&certificates, &plan);
        if has_work && matches!(plan.ca, SigningCa::External) {
            let path = ca_key_path(inventory.dir());
            let text = format!("the key of the CA in `redis.tls.ca` is not in {}", path.display());
            let hint = "restore the key, create certificates with your own CA, or create a new CA with --new-ca";
            return Err(CommandError::with_message(Exit::Error, text).with_hint(hint));
        }
        if args.dry_run.dry_run || !has_work {
            return Ok(args.dry_run.exit(has_work));
        }
        write_certificates(inventory.dir(), &self.files.cluster.map.cluster, plan, &certificates)?;
        self.reporter.print_status("secrets.toml is written; next: dunlin provision");
        Ok(Exit::Done)
    }

    fn print_certificates(&self, certificates: &TlsCertificates, plan: &CertificatePlan<'_>) {
        for ca in &certificates.cas {
            self.reporter.print_data(&format!("CA: expires on {}", ca.expires_at.strftime("%Y-%m-%d")));
            self.reporter.print_json("ca", json!({ "action": "none", "expires_at": ca.expires_at.to_string() }));
        }
        if matches!(plan.ca, SigningCa::New(_)) {
            self.reporter.print_data("CA: create");
            self.reporter.print_json("ca", json!({ "action": "create" }));
        }
        for HostRow { host, current, reason } in &plan.rows {
            let name = &host.name;
            let expires_at = current.map(|certificate| certificate.expires_at);
            let expiry = expires_at.map_or("none".to_owned(), |at| format!("expires on {}", at.strftime("%Y-%m-%d")));
            self.reporter.print_data(&match (reason, current) {
                (None, _) => format!("{name}: {expiry}"),
                (Some(_), None) => format!("{name}: create a certificate for {}", host.address),
                (Some(reason), Some(_)) => format!("{name}: replace the certificate: {reason}"),
            });
            let action = match (reason, current) {
                (None, _) => "none",
                (Some(_), None) => "create",
                (Some(_), Some(_)) => "update",
            };
            let fields = json!({ "host": name, "action": action, "reason": reason, "expires_at": expires_at.map(|at| at.to_string()) });
            self.reporter.print_json("certificate", fields);
        }
    }
}
