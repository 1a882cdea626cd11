//! Public host keys in the form of `known_hosts`: `ssh-ed25519 AAAA…`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

/// A validated public key. Displays as `type base64`, the way `known_hosts` wants it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostKey {
    algorithm: &'static str,
    blob: Vec<u8>,
}

/// Error of a text that is not a host key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostKeyError {
    /// Not of the form `type base64`.
    #[error("a host key is `type base64`, as `ssh-keyscan` prints it after the host")]
    InvalidFormat,
    /// A type that is unknown or no longer trusted.
    #[error("`{0}` is not a host key type")]
    UnknownAlgorithm(String),
    /// The second word is not base64, so it was cut or mistyped.
    #[error("the host key's second word is not valid base64; is it truncated?")]
    InvalidBase64,
    /// The decoded key is of another type or length than its first word says.
    #[error("the host key's data does not match its type `{0}`; is it truncated?")]
    ContentMismatch(&'static str),
}

/// The types that are taken, strongest habit first.
pub const HOST_KEY_ALGORITHMS: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

impl HostKey {
    /// Returns the type, `ssh-ed25519`.
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// Returns the key in base64.
    pub fn base64(&self) -> String {
        STANDARD.encode(&self.blob)
    }

    /// Returns the fingerprint as ssh shows it: `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.blob)))
    }

    /// Returns a `known_hosts` line for a host; a port other than 22 goes into brackets, as in sshd(8).
    pub fn known_hosts_line(&self, address: &str, port: u16) -> String {
        if port == 22 { format!("{address} {self}") } else { format!("[{address}]:{port} {self}") }
    }
}

impl FromStr for HostKey {
    type Err = HostKeyError;

    /// Parses `type base64` on one line, with or without a comment after it.
    fn from_str(text: &str) -> Result<Self, HostKeyError> {
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let (Some(name), Some(encoded)) = (words.next(), words.next()) else {
            return Err(HostKeyError::InvalidFormat);
        };
        if text.contains(|c: char| c.is_control()) {
            return Err(HostKeyError::InvalidFormat);
        }
        let algorithm = *HOST_KEY_ALGORITHMS
            .iter()
            .find(|known| **known == name)
            .ok_or_else(|| HostKeyError::UnknownAlgorithm(name.escape_debug().to_string()))?;
        let blob = STANDARD.decode(encoded).map_err(|_| HostKeyError::InvalidBase64)?;
        if is_well_formed(algorithm, &blob) {
            Ok(Self { algorithm, blob })
        } else {
            Err(HostKeyError::ContentMismatch(algorithm))
        }
    }
}

/// Returns whether the blob has the form of RFC 4253 §6.6: length-prefixed strings to the very end, the first of them
/// the type's name.
fn is_well_formed(algorithm: &str, blob: &[u8]) -> bool {
    let mut rest = blob;
    let mut parts: Vec<&[u8]> = Vec::new();
    while !rest.is_empty() {
        let Some((length, tail)) = rest.split_first_chunk::<4>() else { return false };
        let Some((part, tail)) = tail.split_at_checked(u32::from_be_bytes(*length) as usize) else { return false };
        parts.push(part);
        rest = tail;
    }
    let named = parts.first().is_some_and(|name| *name == algorithm.as_bytes());
    let sized = match algorithm {
        "ssh-ed25519" => parts.len() == 2 && parts[1].len() == 32,
        "sk-ecdsa-sha2-nistp256@openssh.com" => parts.len() == 4,
        _ => parts.len() == 3,
    };
    named && sized
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, self.base64())
    }
}

#[cfg(test)]
mod tests {
    use super::{HostKey, HostKeyError};

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    #[test]
    fn keys_parse_and_display() {
        let key: HostKey = format!("{KEY} root@redis-01").parse().unwrap();
        assert_eq!(key.to_string(), KEY);
        // GitHub's published ed25519 key and fingerprint.
        assert_eq!(key.fingerprint(), "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU");
        assert_eq!(key.known_hosts_line("10.0.0.1", 22), format!("10.0.0.1 {KEY}"));
        assert_eq!(key.known_hosts_line("10.0.0.1", 2222), format!("[10.0.0.1]:2222 {KEY}"));
    }

    #[test]
    fn invalid_keys_name_the_reason() {
        let cut = &KEY[..KEY.len() - 4];
        for (text, error) in [
            ("ssh-ed25519", HostKeyError::InvalidFormat),
            ("ssh-ed25519 AAAA\nevil *", HostKeyError::InvalidFormat),
            ("ssh-dss AAAA", HostKeyError::UnknownAlgorithm("ssh-dss".into())),
            ("ssh-ed25519 AAA…", HostKeyError::InvalidBase64),
            (cut, HostKeyError::ContentMismatch("ssh-ed25519")),
            (&KEY.replace("ssh-ed25519 ", "ssh-rsa "), HostKeyError::ContentMismatch("ssh-rsa")),
        ] {
            assert_eq!(text.parse::<HostKey>(), Err(error), "{text}");
        }
    }
}
