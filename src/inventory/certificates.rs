//! The certificates of Redis among the secrets: `redis.tls.ca`, and a certificate with its key per host.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, ensure};
use jiff::{SignedDuration, Timestamp};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

use super::host::InventoryHost;
use super::secrets::Secrets;

/// A certificate that expires within this time is a problem.
const WARNING_TIME: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A parsed certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Time at which the certificate expires.
    pub expires_at: Timestamp,
    der: Vec<u8>,
    public_key: Vec<u8>,
    names: Vec<String>,
    addresses: Vec<Vec<u8>>,
}

impl Certificate {
    /// Parses the certificates of a text in PEM.
    ///
    /// # Errors
    /// Returns an error if the text has no certificate, or one that is not valid.
    pub fn parse_pem(text: &str) -> Result<Vec<Self>> {
        let blocks = Pem::iter_from_buffer(text.as_bytes()).collect::<Result<Vec<_>, _>>().context("not valid PEM")?;
        ensure!(!blocks.is_empty(), "no certificate in PEM");
        blocks.into_iter().map(|block| Self::from_der(block.contents)).collect()
    }

    fn from_der(der: Vec<u8>) -> Result<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| anyhow!("not a certificate"))?;
        let (mut names, mut addresses) = (Vec::new(), Vec::new());
        if let Some(extension) = parsed.subject_alternative_name().context("subject alternative names")? {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => addresses.push(bytes.to_vec()),
                    _ => {}
                }
            }
        }
        let expires_at = Timestamp::from_second(parsed.validity().not_after.timestamp()).context("expiry date")?;
        let public_key = parsed.public_key().subject_public_key.data.to_vec();
        Ok(Self { expires_at, public_key, names, addresses, der })
    }

    /// Returns the encoded certificate.
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// Returns whether the certificate is valid for an IP address or a DNS name.
    pub fn has_address(&self, address: &str) -> bool {
        match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => self.addresses.iter().any(|bytes| **bytes == address.octets()),
            Ok(IpAddr::V6(address)) => self.addresses.iter().any(|bytes| **bytes == address.octets()),
            Err(_) => self.names.iter().any(|name| name.eq_ignore_ascii_case(address)),
        }
    }

    /// Returns whether the certificate is for this public key.
    pub fn has_public_key(&self, key: &[u8]) -> bool {
        self.public_key == key
    }

    /// Returns whether a CA signed the certificate.
    pub fn is_signed_by(&self, ca: &Self) -> bool {
        let parsed = (x509_parser::parse_x509_certificate(&self.der), x509_parser::parse_x509_certificate(&ca.der));
        let (Ok((_, certificate)), Ok((_, ca))) = parsed else { return false };
        certificate.issuer() == ca.subject() && certificate.verify_signature(Some(ca.public_key())).is_ok()
    }
}

/// Reason why clients refuse, or soon will refuse, the certificate of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateProblem {
    /// The secrets have no certificate, or no key.
    Missing,
    /// The certificate is not valid PEM.
    Unreadable(String),
    /// The certificate lacks this address.
    LacksAddress(String),
    /// Signed by a CA that is not in `redis.tls.ca`.
    UnknownCa,
    /// The certificate expires within 30 days, or is expired.
    ExpiresSoon(Timestamp),
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no certificate and key"),
            Self::Unreadable(error) => write!(f, "the certificate cannot be read: {error}"),
            Self::LacksAddress(address) => write!(f, "the certificate is not valid for the address {address}"),
            Self::UnknownCa => f.write_str("no CA in `redis.tls.ca` signed the certificate"),
            Self::ExpiresSoon(at) if *at <= Timestamp::now() => {
                write!(f, "the certificate expired on {}", at.strftime("%Y-%m-%d"))
            }
            Self::ExpiresSoon(at) => write!(f, "the certificate expires on {}", at.strftime("%Y-%m-%d")),
        }
    }
}

/// The CAs and the hosts' certificates of the secrets.
#[derive(Clone, Debug, Default)]
pub struct TlsCertificates {
    /// The trusted CAs, in the order of `redis.tls.ca`.
    pub cas: Vec<Certificate>,
    hosts: BTreeMap<String, Result<Certificate, String>>,
}

/// Returns the key of a host's table below `redis.tls.hosts`.
pub fn certificate_table_key(host: &str) -> String {
    host.replace('-', "_")
}

impl TlsCertificates {
    /// Parses the certificates of the secrets. Without `redis.tls.ca` there are none.
    ///
    /// # Errors
    /// Returns an error if `redis.tls.ca` has no valid certificate.
    pub fn from_secrets(secrets: &Secrets) -> Result<Self> {
        let Some(ca) = secrets.find_secret("redis.tls.ca") else { return Ok(Self::default()) };
        let cas = Certificate::parse_pem(ca.expose()).context("redis.tls.ca in secrets.toml")?;
        let mut hosts = BTreeMap::new();
        for name in secrets.secret_names() {
            let table = name.strip_prefix("redis.tls.hosts.").and_then(|rest| rest.strip_suffix(".certificate"));
            let (Some(table), Some(certificate)) = (table, secrets.find_secret(name)) else { continue };
            if secrets.find_secret(&format!("redis.tls.hosts.{table}.key")).is_none() {
                continue;
            }
            let parsed = Certificate::parse_pem(certificate.expose()).map(|mut chain| chain.swap_remove(0));
            hosts.insert(table.to_owned(), parsed.map_err(|error| format!("{error:#}")));
        }
        Ok(Self { cas, hosts })
    }

    /// Returns the certificate of a host.
    pub fn find_certificate(&self, host: &str) -> Option<&Certificate> {
        self.hosts.get(&certificate_table_key(host))?.as_ref().ok()
    }

    /// Returns the most severe problem with the certificate of a host.
    pub fn find_problem(&self, host: &InventoryHost, now: Timestamp) -> Option<CertificateProblem> {
        let certificate = match self.hosts.get(&certificate_table_key(&host.name)) {
            None => return Some(CertificateProblem::Missing),
            Some(Err(error)) => return Some(CertificateProblem::Unreadable(error.clone())),
            Some(Ok(certificate)) => certificate,
        };
        if !certificate.has_address(&host.address) {
            Some(CertificateProblem::LacksAddress(host.address.clone()))
        } else if !self.cas.iter().any(|ca| certificate.is_signed_by(ca)) {
            Some(CertificateProblem::UnknownCa)
        } else {
            let expires_soon = certificate.expires_at.duration_since(now) < WARNING_TIME;
            expires_soon.then_some(CertificateProblem::ExpiresSoon(certificate.expires_at))
        }
    }
}
