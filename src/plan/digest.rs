//! SHA-256 digests: of contents (blobs are addressed by them) and of observations (a plan is bound to them).

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

/// Computes the digest of bytes that arrive in pieces.
#[derive(Default)]
pub struct DigestHasher(Sha256);

impl DigestHasher {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all bytes.
    pub fn finish(self) -> Digest {
        Digest::from_hash(&self.0.finalize())
    }
}

impl Digest {
    /// Returns the digest of bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::from_hash(&Sha256::digest(bytes))
    }

    /// Returns the digest of all bytes of a reader.
    ///
    /// # Errors
    /// Returns an error if the reader fails.
    pub fn of_reader(mut reader: impl std::io::Read) -> std::io::Result<Self> {
        let (mut hasher, mut buffer) = (DigestHasher::default(), vec![0; 256 * 1024]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(hasher.finish()),
                read => hasher.update(&buffer[..read]),
            }
        }
    }

    /// Writes a hash of 32 bytes as a digest.
    pub(super) fn from_hash(hash: &[u8]) -> Self {
        let mut text = String::with_capacity(64);
        for byte in hash {
            text.push(char::from_digit(u32::from(byte >> 4), 16).expect("a nibble is a hexadecimal digit"));
            text.push(char::from_digit(u32::from(byte & 15), 16).expect("a nibble is a hexadecimal digit"));
        }
        Self(text)
    }

    /// Returns all 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first twelve digits, enough for a person to compare.
    pub fn short_hex(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

/// Lets maps be searched by the digits of a digest.
impl Borrow<str> for Digest {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short_hex())
    }
}

/// Returns the digest of a value's JSON: the fingerprint of an observation.
///
/// The value must have maps with a defined order only (structs, `BTreeMap`), so that equal values have equal digests.
pub fn digest_json<T: Serialize>(value: &T) -> Digest {
    Digest::of_bytes(&serde_json::to_vec(value).expect("observations serialize to JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_no_bytes_is_the_published_one() {
        assert_eq!(Digest::of_bytes(b"").as_str(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
