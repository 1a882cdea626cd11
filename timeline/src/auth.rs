//! Bearer tokens: `v1.<user>.<expiry>.<signature>`, signed with HMAC-SHA-256. The key comes from a credential file.
//!
//! The user 0 is the registrar, which may create users. Whoever has the key can make tokens (`timeline-api token`).

use std::{fmt, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::ids::{Id, MAX_ID, unix_ms_now};

/// The user that may create users, and nothing else.
pub const REGISTRAR: Id = 0;

const MIN_KEY_BYTES: usize = 16;

/// The key that signs tokens.
#[derive(Clone)]
pub struct TokenKey {
    mac: Hmac<Sha256>,
}

/// Reason why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another form, or another key's signature.
    #[error("the token is not valid")]
    Invalid,
    /// The signature is right, but its time is over.
    #[error("the token has expired")]
    Expired,
}

impl TokenKey {
    /// Makes a key of some bytes.
    ///
    /// # Errors
    /// Returns an error if there are fewer than 16 bytes.
    pub fn new(bytes: &[u8]) -> anyhow::Result<TokenKey> {
        ensure!(bytes.len() >= MIN_KEY_BYTES, "a token key needs at least {MIN_KEY_BYTES} bytes");
        let mac = Hmac::new_from_slice(bytes).context("the token key")?;
        Ok(TokenKey { mac })
    }

    /// Reads a key from a file; a line feed at its end is not part of it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or holds fewer than 16 bytes.
    pub fn load(path: &Path) -> anyhow::Result<TokenKey> {
        let bytes = std::fs::read(path).with_context(|| format!("reading the token key {}", path.display()))?;
        let key = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        TokenKey::new(key).with_context(|| path.display().to_string())
    }

    /// Makes a token that names `user` for `validity` from now on.
    pub fn issue(&self, user: Id, validity: Duration) -> String {
        let expiry = unix_ms_now() / 1000 + i64::try_from(validity.as_secs()).unwrap_or(i64::MAX / 2);
        let claim = format!("v1.{user}.{expiry}");
        let mut mac = self.mac.clone();
        mac.update(claim.as_bytes());
        format!("{claim}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    /// Returns the user that a token names.
    ///
    /// # Errors
    /// Returns an error if the token was not signed with this key, or its time is over.
    pub fn verify(&self, token: &str) -> Result<Id, TokenError> {
        let (claim, signature) = token.rsplit_once('.').ok_or(TokenError::Invalid)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Invalid)?;
        let mut mac = self.mac.clone();
        mac.update(claim.as_bytes());
        // compares in constant time
        mac.verify_slice(&signature).map_err(|_| TokenError::Invalid)?;
        let mut parts = claim.split('.');
        let (version, user, expiry) = (parts.next(), parts.next(), parts.next());
        if version != Some("v1") || parts.next().is_some() {
            return Err(TokenError::Invalid);
        }
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok()).ok_or(TokenError::Invalid);
        let (user, expiry) = (number(user)?, number(expiry)?);
        if !(0..=MAX_ID).contains(&user) {
            return Err(TokenError::Invalid);
        }
        if expiry <= unix_ms_now() / 1000 { Err(TokenError::Expired) } else { Ok(user) }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{TokenError, TokenKey};

    #[test]
    fn tokens_name_their_user_until_they_expire() {
        let key = TokenKey::new(b"0123456789abcdef").unwrap();
        let token = key.issue(42, Duration::from_secs(60));
        assert_eq!(key.verify(&token), Ok(42));
        assert_eq!(key.verify(&key.issue(42, Duration::ZERO)), Err(TokenError::Expired));
        let other = TokenKey::new(b"0123456789abcdeg").unwrap();
        assert_eq!(other.verify(&token), Err(TokenError::Invalid));
        for forged in ["", ".", "v1.42", &token.replace("v1.42.", "v1.43."), &token.replace("v1.", "v2.")] {
            assert_eq!(key.verify(forged), Err(TokenError::Invalid), "{forged}");
        }
        assert!(TokenKey::new(b"short").is_err());
    }
}
