//! `dunlin shards certificates`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use toml_edit::{DocumentMut, Item, Table, value};

use super::ShardsContext;
use super::certificate_authority::{CaKey, IssuedCertificate, ca_key_path};
use super::dry_run::DryRunArgs;
use crate::atomic_file::replace_text;
use crate::cli::command_error::CommandError;
use crate::cli::exit::Exit;
use crate::inventory::{
    Certificate, CertificateProblem, InventoryHost, TlsCertificates, certificate_table_key, is_var_name,
};

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

/// Certificate of a host, and why it is replaced.
struct HostRow<'a> {
    host: &'a InventoryHost,
    current: Option<&'a Certificate>,
    reason: Option<String>,
}

/// The CA with which this run signs.
enum SigningCa<'a> {
    /// A CA of the secrets whose key is on this machine.
    Current(CaKey, &'a Certificate),
    /// A CA that this run creates. The key may exist: an earlier run was interrupted before it wrote the secrets.
    New(Option<CaKey>),
    /// The key is not on this machine: other programs sign.
    External,
}

impl ShardsContext<'_> {
    /// Creates missing certificates, renews those that are due, and prints all of them. Connects to no host.
    ///
    /// # Errors
    /// A file cannot be read or written, or the CA's key is not on this machine.
    pub fn update_certificates(&self, args: &CertificatesArgs) -> Result<Exit, CommandError> {
        let hosts = self.files.shard_hosts()?;
        ensure_hosts(&hosts, &args.host)?;
        let inventory = &self.files.loaded.inventory;
        let certificates = TlsCertificates::from_secrets(inventory.secrets())?;
        let ca = choose_ca(inventory.dir(), &certificates, args)?;
        let rows: Vec<_> = hosts.into_iter().map(|host| plan_host(host, &certificates, &ca, args)).collect();
        let has_work = matches!(ca, SigningCa::New(_)) || rows.iter().any(|row| row.reason.is_some());
        if has_work && matches!(ca, SigningCa::External) {
            self.print_certificates(&certificates, &ca, &rows);
            let path = ca_key_path(inventory.dir());
            let text = format!("the key of the CA in `redis.tls.ca` is not in {}", path.display());
            let hint = "restore the key, create certificates with your own CA, or create a new CA with --new-ca";
            return Err(CommandError::with_message(Exit::Error, text).with_hint(hint));
        }
        self.print_certificates(&certificates, &ca, &rows);
        if args.dry_run.dry_run || !has_work {
            return Ok(args.dry_run.exit(has_work));
        }
        write_certificates(inventory.dir(), &self.files.shard_map()?.cluster, ca, &certificates, &rows)?;
        self.reporter.print_status("secrets.toml is written; next: dunlin provision");
        Ok(Exit::Done)
    }

    fn print_certificates(&self, certificates: &TlsCertificates, ca: &SigningCa<'_>, rows: &[HostRow<'_>]) {
        for ca in &certificates.cas {
            self.reporter.print_data(&format!("CA: expires on {}", ca.expires_at.strftime("%Y-%m-%d")));
            self.reporter.print_json("ca", json!({ "action": "none", "expires_at": ca.expires_at.to_string() }));
        }
        if matches!(ca, SigningCa::New(_)) {
            self.reporter.print_data("CA: create");
            self.reporter.print_json("ca", json!({ "action": "create" }));
        }
        for HostRow { host, current, reason } in rows {
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

/// Checks the names of `--host`, and that every host has a table of its own in the secrets.
fn ensure_hosts(hosts: &[&InventoryHost], named: &[String]) -> Result<(), CommandError> {
    if let Some(unknown) = named.iter().find(|name| hosts.iter().all(|host| host.name != **name)) {
        return Err(CommandError::with_message(Exit::Usage, format!("--host {unknown}: not a host of shards")));
    }
    let mut keys = std::collections::BTreeMap::new();
    for host in hosts {
        let key = certificate_table_key(&host.name);
        if !is_var_name(&key) {
            let text = format!("{}: the name of a host with TLS is made of letters, digits, `_` and `-`", host.name);
            return Err(CommandError::with_message(Exit::Error, text));
        }
        if let Some(other) = keys.insert(key, &host.name) {
            let text = format!("{other} and {} have the same table of secrets: rename one of them", host.name);
            return Err(CommandError::with_message(Exit::Error, text));
        }
    }
    Ok(())
}

fn choose_ca<'c>(folder: &Path, known: &'c TlsCertificates, args: &CertificatesArgs) -> Result<SigningCa<'c>> {
    if args.new_ca {
        return Ok(SigningCa::New(None));
    }
    let key = CaKey::load(&ca_key_path(folder))?;
    if known.cas.is_empty() {
        return Ok(SigningCa::New(key));
    }
    Ok(match key.and_then(|key| key.find_ca(&known.cas).map(|ca| (ca, key))) {
        Some((ca, key)) => SigningCa::Current(key, ca),
        None => SigningCa::External,
    })
}

fn plan_host<'a>(
    host: &'a InventoryHost,
    known: &'a TlsCertificates,
    ca: &SigningCa<'_>,
    args: &CertificatesArgs,
) -> HostRow<'a> {
    let current = known.find_certificate(&host.name);
    let is_selected = args.host.is_empty() || args.host.contains(&host.name);
    let is_by_older_ca = || match (ca, current) {
        (SigningCa::Current(_, ca), Some(certificate)) => !certificate.is_signed_by(ca),
        _ => false,
    };
    let reason = match known.find_problem(host, jiff::Timestamp::now()) {
        // The new CA signs nothing before every host trusts it.
        _ if args.new_ca => None,
        Some(problem @ CertificateProblem::ExpiresSoon(_)) => (args.renew && is_selected).then(|| problem.to_string()),
        Some(problem) => Some(problem.to_string()),
        None if args.host.contains(&host.name) => Some("selected with --host".to_owned()),
        None if args.renew && is_selected && is_by_older_ca() => Some("an older CA signed it".to_owned()),
        None => None,
    };
    HostRow { host, current, reason }
}

/// Writes the key of a new CA, then the secrets with all new certificates at once.
fn write_certificates(
    folder: &Path,
    cluster: &str,
    ca: SigningCa<'_>,
    known: &TlsCertificates,
    rows: &[HostRow<'_>],
) -> Result<()> {
    let path = folder.join("secrets.toml");
    let mut secrets = SecretsDocument::load(&path)?;
    let (key, ca) = match ca {
        SigningCa::External => bail!("the key of the CA is missing"),
        SigningCa::Current(key, ca) => (key, ca.clone()),
        SigningCa::New(key) => {
            let key = match key {
                Some(key) => key,
                None => CaKey::generate()?,
            };
            let pem = key.create_ca(cluster)?;
            secrets.add_ca(&pem, known.cas.is_empty())?;
            key.save(&ca_key_path(folder))?;
            (key, Certificate::parse_pem(&pem)?.swap_remove(0))
        }
    };
    for row in rows.iter().filter(|row| row.reason.is_some()) {
        let issued = key.issue(&ca, &row.host.name, &row.host.address)?;
        secrets.set_certificate(&row.host.name, &issued)?;
    }
    replace_text(&path, &secrets.to_text()?)
}

/// `secrets.toml`, edited without a change to other lines.
struct SecretsDocument(DocumentMut);

impl SecretsDocument {
    fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(|| path.display().to_string())?,
        };
        // An error of the parser would show the line, which has a secret.
        text.parse().map(Self).map_err(|_| anyhow::anyhow!("{}: not valid TOML", path.display()))
    }

    /// Sets the CA, or adds it to those that the secrets have.
    fn add_ca(&mut self, pem: &str, is_first: bool) -> Result<()> {
        let table = find_table(self.0.as_table_mut(), &["redis", "tls"])?;
        let before = table.get("ca").and_then(Item::as_str).filter(|_| !is_first).unwrap_or_default().trim_end();
        let text = if before.is_empty() { pem.to_owned() } else { format!("{before}\n{pem}") };
        table.insert("ca", value(text));
        Ok(())
    }

    fn set_certificate(&mut self, host: &str, issued: &IssuedCertificate) -> Result<()> {
        let key = certificate_table_key(host);
        let table = find_table(self.0.as_table_mut(), &["redis", "tls", "hosts", &key])?;
        table.insert("certificate", value(issued.certificate.clone()));
        table.insert("key", value(issued.key.clone()));
        Ok(())
    }

    /// Returns the text, which is valid TOML.
    fn to_text(&self) -> Result<String> {
        let text = self.0.to_string();
        let is_valid = text.parse::<DocumentMut>().is_ok();
        if !is_valid {
            bail!("secrets.toml: write `redis` as tables ([redis], [redis.tls]), not with dotted keys");
        }
        Ok(text)
    }
}

fn find_table<'t>(table: &'t mut Table, path: &[&str]) -> Result<&'t mut Table> {
    path.iter().try_fold(table, |table, name| {
        let item = table.entry(name).or_insert_with(|| {
            let mut created = Table::new();
            created.set_implicit(true);
            Item::Table(created)
        });
        item.as_table_mut().with_context(|| format!("secrets.toml: write `{name}` as a table of its own, [… .{name}]"))
    })
}
