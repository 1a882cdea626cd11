//! The CA of a cluster's Redis instances: `redis-ca.key` beside `secrets.toml`, which no host receives.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};

use crate::atomic_file::{Attributes, sync_folder, write_atomically};
use crate::inventory::Certificate;
use crate::private_file::read_private_text;

const KEY_FILE: &str = "redis-ca.key";
/// Name of a new CA's key until the secrets have its certificate.
const NEW_KEY_FILE: &str = "redis-ca.key.new";
const KEY_MODE: u32 = 0o600;
/// Lifetime of a CA's certificate, in days.
const CA_DAYS: i64 = 3650;
/// Lifetime of a host's certificate, in days.
const HOST_DAYS: i64 = 730;

/// The key with which certificates are signed.
pub struct CaKey {
    pair: KeyPair,
}

/// A new certificate and its key, both in PEM.
pub struct IssuedCertificate {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// Returns the path of the CA's key in an inventory's folder.
pub fn ca_key_path(inventory: &Path) -> PathBuf {
    inventory.join(KEY_FILE)
}

/// Returns the path of a new CA's key until the secrets have its certificate.
pub fn new_ca_key_path(inventory: &Path) -> PathBuf {
    inventory.join(NEW_KEY_FILE)
}

/// Makes the key of a new CA the present one, if the secrets have its certificate.
///
/// # Errors
/// Returns an error if the file cannot be read or renamed, or other users can read it.
pub fn replace_ca_key(inventory: &Path, cas: &[Certificate]) -> Result<()> {
    let new_path = new_ca_key_path(inventory);
    let Some(key) = CaKey::load(&new_path)? else { return Ok(()) };
    if key.find_ca(cas).is_some() {
        std::fs::rename(&new_path, ca_key_path(inventory)).with_context(|| new_path.display().to_string())?;
        sync_folder(inventory)?;
    }
    Ok(())
}

impl CaKey {
    /// Loads the key; `None` if the file does not exist.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, is not a private key, or can be read by other users.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let Some(text) = read_private_text(path)? else { return Ok(None) };
        let pair = KeyPair::from_pem(&text).with_context(|| format!("{}: not a private key in PEM", path.display()))?;
        Ok(Some(Self { pair }))
    }

    /// Creates a key.
    ///
    /// # Errors
    /// Returns an error if the system has no random numbers.
    pub fn generate() -> Result<Self> {
        Ok(Self { pair: KeyPair::generate()? })
    }

    /// Writes the key to a file that only its owner can read.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.pair.serialize_pem().as_bytes(), &Attributes::with_mode(KEY_MODE))
    }

    /// Returns the CA among these that has this key.
    pub fn find_ca<'c>(&self, cas: &'c [Certificate]) -> Option<&'c Certificate> {
        cas.iter().find(|ca| ca.has_public_key(self.pair.der_bytes()))
    }

    /// Creates the CA's own certificate, in PEM.
    ///
    /// # Errors
    /// Returns an error if the name of the cluster does not fit into a certificate.
    pub fn create_ca(&self, cluster: &str) -> Result<String> {
        let mut params = with_lifetime(CertificateParams::default(), CA_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Two CAs of a cluster need different names.
        let name = format!("{cluster} Redis CA {}", Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ"));
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(params.self_signed(&self.pair)?.pem())
    }

    /// Creates a key and a certificate for the address of a host.
    ///
    /// # Errors
    /// Returns an error if the address does not fit into a certificate.
    pub fn issue(&self, ca: &Certificate, host: &str, address: &str) -> Result<IssuedCertificate> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![address.to_owned()]).with_context(|| format!("address {address}"))?;
        let mut params = with_lifetime(params, HOST_DAYS);
        params.distinguished_name.push(DnType::CommonName, host);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&ca.as_der().into(), &self.pair)?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(IssuedCertificate { certificate, key: key.serialize_pem() })
    }
}

/// Sets the validity: from yesterday, for hosts whose clock is slow, for this number of days from now.
fn with_lifetime(mut params: CertificateParams, days: i64) -> CertificateParams {
    let to_time =
        |date: Date| rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs());
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    params.not_before = to_time(today.saturating_sub(Span::new().days(1)));
    params.not_after = to_time(today.saturating_add(Span::new().days(days)));
    // The names of the default are those of rcgen.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}
