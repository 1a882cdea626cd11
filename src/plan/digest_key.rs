//! A key under which digests are shown: without it, a digest of a secret would let anybody test guesses.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::Digest;

/// A random key of an inventory, in hexadecimal digits. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DigestKey(String);

impl DigestKey {
    /// Takes a key from random bytes.
    pub fn from_random(bytes: &[u8]) -> Self {
        Self(Digest::of_bytes(bytes).as_str().to_owned())
    }

    /// Reads a key that was written with [`DigestKey::as_str`]; `None` if the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        (text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| Self(text.to_owned()))
    }

    /// Returns the digits of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the HMAC-SHA256 (RFC 2104) of bytes under this key.
    pub fn authenticate(&self, bytes: &[u8]) -> Digest {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(bytes);
        Digest::from_hash(&mac.finalize().into_bytes())
    }

    /// Returns the HMAC of a value's JSON, which must have maps with a defined order only.
    pub fn authenticate_json<T: Serialize>(&self, value: &T) -> Digest {
        self.authenticate(&serde_json::to_vec(value).expect("observations serialize to JSON"))
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_depend_on_the_key_and_the_key_is_not_shown() {
        let (one, other) = (DigestKey::from_random(b"1"), DigestKey::from_random(b"2"));
        assert_ne!(one.authenticate(b"secret"), other.authenticate(b"secret"));
        assert_ne!(one.authenticate(b"secret"), Digest::of_bytes(b"secret"));
        assert_eq!(DigestKey::parse(&format!("{}\n", one.as_str())), Some(one.clone()));
        assert_eq!(DigestKey::parse("short"), None);
        assert_eq!(format!("{one:?}"), "***");
    }

    #[test]
    fn the_hmac_is_that_of_rfc_4231() {
        // Test case 2, with a key and data of text.
        let key = DigestKey("Jefe".to_owned());
        let digest = key.authenticate(b"what do ya want for nothing?");
        assert_eq!(digest.as_str(), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
