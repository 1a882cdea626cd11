//! Signatures of releases, in the format of minisign.
//!
//! The manifest is signed: it has the digest of every file. Its signature is in a file beside the artifact, since a
//! signature is another one each time, and the same sources give the same artifact. Pure; used on both sides.

use std::io::Cursor;

use anyhow::{Context, Result};
use minisign_verify::{PublicKey, Signature};

use crate::protocol::deploy::{ReleaseManifest, SignatureCheck};

/// Variable of the environment with the password of a secret key. Builds, git and other commands do not get it.
pub const SIGN_PASSWORD: &str = "DUNLIN_SIGN_PASSWORD";

/// Describes why a release is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Keys are given, and there is no signature.
    #[error("the release is not signed")]
    Missing,
    /// The text is no signature of minisign.
    #[error("the signature of the release cannot be read: {0}")]
    Malformed(String),
    /// No key fits the signature and the manifest.
    #[error("the signature of the release is not valid for any of the public keys of the recipe")]
    Invalid,
}

/// Checks that a release is signed with one of the keys; without keys, nothing is checked.
///
/// # Errors
/// See [`SignatureError`].
pub fn check_signature(manifest: &ReleaseManifest, check: &SignatureCheck) -> Result<(), SignatureError> {
    if check.public_keys.is_empty() {
        return Ok(());
    }
    let text = check.signature.as_deref().ok_or(SignatureError::Missing)?;
    let malformed = |error: &dyn std::fmt::Display| SignatureError::Malformed(error.to_string());
    let signature = Signature::decode(text).map_err(|error| malformed(&error))?;
    let json = manifest.to_json().map_err(|error| malformed(&error))?;
    let is_valid =
        |key: &String| PublicKey::from_base64(key).is_ok_and(|key| key.verify(&json, &signature, false).is_ok());
    if check.public_keys.iter().any(is_valid) { Ok(()) } else { Err(SignatureError::Invalid) }
}

/// Returns whether a text is a public key of minisign: the second line of its key file.
pub fn is_public_key(text: &str) -> bool {
    PublicKey::from_base64(text).is_ok()
}

/// Signs a manifest; returns the text of the signature's file.
///
/// # Errors
/// Returns an error if the system has no random numbers.
pub fn sign_manifest(manifest: &ReleaseManifest, key: &minisign::SecretKey) -> Result<String> {
    let comment = format!("service {} release {}", manifest.service, manifest.version);
    let json = manifest.to_json().context("writing the manifest")?;
    let public_key = minisign::PublicKey::from_secret_key(key).context("reading the secret key")?;
    let signature = minisign::sign(Some(&public_key), key, Cursor::new(json), Some(&comment), None)
        .context("signing the manifest")?;
    Ok(signature.into_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::deploy::{MANIFEST_FORMAT, ReleaseVersion, ServiceName};

    fn manifest(version: &str) -> ReleaseManifest {
        ReleaseManifest {
            format_version: MANIFEST_FORMAT,
            service: ServiceName::new("demo").unwrap(),
            version: ReleaseVersion::new(version).unwrap(),
            origin: None,
            files: Vec::new(),
            links: Vec::new(),
            folders: Vec::new(),
        }
    }

    #[test]
    fn a_signature_is_valid_for_its_manifest_and_key_only() {
        let [one, other] = [0, 1].map(|_| minisign::KeyPair::generate_unencrypted_keypair().unwrap());
        let signature = sign_manifest(&manifest("1.0"), &one.sk).unwrap();
        let check = |version: &str, keys: &[&minisign::KeyPair], signature: Option<&str>| {
            let public_keys = keys.iter().map(|pair| pair.pk.to_base64()).collect();
            let check = SignatureCheck { public_keys, signature: signature.map(str::to_owned) };
            check_signature(&manifest(version), &check)
        };
        assert_eq!(check("1.0", &[&one], Some(&signature)), Ok(()));
        assert_eq!(check("1.0", &[&other, &one], Some(&signature)), Ok(()), "one of several keys");
        assert_eq!(check("1.0", &[], None), Ok(()));
        assert_eq!(check("1.0", &[&other], Some(&signature)), Err(SignatureError::Invalid));
        assert_eq!(check("1.1", &[&one], Some(&signature)), Err(SignatureError::Invalid));
        assert_eq!(check("1.0", &[&one], None), Err(SignatureError::Missing));
        assert!(matches!(check("1.0", &[&one], Some("text")), Err(SignatureError::Malformed(_))));
        assert!(is_public_key(&one.pk.to_base64()) && !is_public_key("RWQ"));
    }
}
