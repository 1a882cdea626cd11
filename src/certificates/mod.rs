//! Certificates of Redis instances: which are missing or due, and new ones signed by a CA of the cluster. Connects to
//! no host; `dunlin provision` brings the certificates to the hosts.

mod authority;
mod secrets_document;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};

use authority::new_ca_key_path;
pub use authority::{CaKey, ca_key_path, replace_ca_key};
use secrets_document::SecretsDocument;

use crate::atomic_file::replace_text;
use crate::inventory::{
    Certificate, CertificateProblem, InventoryHost, TlsCertificates, certificate_table_key, is_var_name,
};

/// Selects the certificates to replace beside those that are missing or wrong.
#[derive(Clone, Debug, Default)]
pub struct CertificateOptions {
    /// Replace certificates that expire soon, and those that an older CA signed.
    pub renew: bool,
    /// Replace the certificates of these hosts only.
    pub hosts: Vec<String>,
    /// Create a new CA, which signs nothing yet.
    pub new_ca: bool,
}

/// Certificate of a host, and why it is replaced.
pub struct HostRow<'a> {
    /// The host.
    pub host: &'a InventoryHost,
    /// Its present certificate.
    pub current: Option<&'a Certificate>,
    /// Reason for a new certificate; `None` if the present one stays.
    pub reason: Option<String>,
}

/// The CA that signs new certificates.
pub enum SigningCa<'a> {
    /// A CA of the secrets whose key is on this machine.
    Current(CaKey, &'a Certificate),
    /// A CA that this run creates. The key may exist: an earlier run was interrupted before it wrote the secrets.
    New(Option<CaKey>),
    /// The key is not on this machine: other programs sign.
    External,
}

/// The certificates of a cluster as they should be.
pub struct CertificatePlan<'a> {
    /// The CA.
    pub ca: SigningCa<'a>,
    /// The hosts in the order of the inventory.
    pub rows: Vec<HostRow<'a>>,
}

impl CertificatePlan<'_> {
    /// Returns whether a CA or a certificate is to be created.
    pub fn has_work(&self) -> bool {
        matches!(self.ca, SigningCa::New(_)) || self.rows.iter().any(|row| row.reason.is_some())
    }
}

/// Checks that every host can have a table of its own in the secrets.
///
/// # Errors
/// Returns an error if the name of a host cannot be a key, or two names are the same key.
pub fn ensure_own_tables(hosts: &[&InventoryHost]) -> Result<()> {
    let mut keys = BTreeMap::new();
    for host in hosts {
        let key = certificate_table_key(&host.name);
        if !is_var_name(&key) {
            bail!("{}: the name of a host with TLS is made of letters, digits, `_` and `-`", host.name);
        }
        if let Some(other) = keys.insert(key, &host.name) {
            bail!("{other} and {} have the same table of secrets: rename one of them", host.name);
        }
    }
    Ok(())
}

/// Plans the certificates of the hosts. `folder` is that of the inventory.
///
/// # Errors
/// Returns an error if the key of the CA cannot be read, or other users can read it.
pub fn plan_certificates<'a>(
    folder: &Path,
    hosts: Vec<&'a InventoryHost>,
    known: &'a TlsCertificates,
    options: &CertificateOptions,
) -> Result<CertificatePlan<'a>> {
    let ca = choose_ca(folder, known, options)?;
    let rows = hosts.into_iter().map(|host| plan_host(host, known, &ca, options)).collect();
    Ok(CertificatePlan { ca, rows })
}

fn choose_ca<'c>(folder: &Path, known: &'c TlsCertificates, options: &CertificateOptions) -> Result<SigningCa<'c>> {
    if options.new_ca {
        return Ok(SigningCa::New(None));
    }
    // An interrupted run may have left the key of a new CA: it counts once the secrets have the CA's certificate.
    let keys = [CaKey::load(&new_ca_key_path(folder))?, CaKey::load(&ca_key_path(folder))?];
    let mut keys = keys.into_iter().flatten();
    if known.cas.is_empty() {
        return Ok(SigningCa::New(keys.next()));
    }
    Ok(match keys.find_map(|key| key.find_ca(&known.cas).map(|ca| (ca, key))) {
        Some((ca, key)) => SigningCa::Current(key, ca),
        None => SigningCa::External,
    })
}

fn plan_host<'a>(
    host: &'a InventoryHost,
    known: &'a TlsCertificates,
    ca: &SigningCa<'_>,
    options: &CertificateOptions,
) -> HostRow<'a> {
    let current = known.find_certificate(&host.name);
    let is_selected = options.hosts.is_empty() || options.hosts.contains(&host.name);
    let is_by_older_ca = || match (ca, current) {
        (SigningCa::Current(_, ca), Some(certificate)) => !certificate.is_signed_by(ca),
        _ => false,
    };
    let reason = match known.find_problem(host, jiff::Timestamp::now()) {
        // The new CA signs nothing before every host trusts it.
        _ if options.new_ca => None,
        Some(problem @ CertificateProblem::ExpiresSoon(_)) => {
            (options.renew && is_selected).then(|| problem.to_string())
        }
        Some(problem) => Some(problem.to_string()),
        None if options.hosts.contains(&host.name) => Some("selected with --host".to_owned()),
        None if options.renew && is_selected && is_by_older_ca() => Some("an older CA signed it".to_owned()),
        None => None,
    };
    HostRow { host, current, reason }
}

/// Writes the key of a new CA, then the secrets with all new certificates at once, then replaces the key of the CA
/// before. A run that was interrupted in between loses no key: [`replace_ca_key`] completes it, or the next run starts
/// again.
///
/// # Errors
/// Returns an error if a file cannot be read or written, or the key of the CA is not in the folder.
pub fn write_certificates(
    folder: &Path,
    cluster: &str,
    plan: CertificatePlan<'_>,
    known: &TlsCertificates,
) -> Result<()> {
    let path = folder.join("secrets.toml");
    let mut secrets = SecretsDocument::load(&path)?;
    let (key, ca) = match plan.ca {
        SigningCa::External => bail!("the key of the CA is missing"),
        SigningCa::Current(key, ca) => (key, ca.clone()),
        SigningCa::New(key) => {
            let key = match key {
                Some(key) => key,
                None => CaKey::generate()?,
            };
            let pem = key.create_ca(cluster)?;
            secrets.add_ca(&pem, known.cas.is_empty())?;
            key.save(&new_ca_key_path(folder))?;
            (key, Certificate::parse_pem(&pem)?.swap_remove(0))
        }
    };
    for row in plan.rows.iter().filter(|row| row.reason.is_some()) {
        let issued = key.issue(&ca, &row.host.name, &row.host.address)?;
        secrets.set_certificate(&row.host.name, &issued)?;
    }
    replace_text(&path, &secrets.to_text()?)?;
    replace_ca_key(folder, std::slice::from_ref(&ca))
}
