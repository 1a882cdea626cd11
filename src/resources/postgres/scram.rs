//! Password verifiers of Postgres (SCRAM-SHA-256, RFC 5802 and RFC 7677): the server never gets the password itself.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest as _, Sha256};

const METHOD: &str = "SCRAM-SHA-256";
const ITERATIONS: u32 = 4096;
const SALT_BYTES: usize = 16;
/// More iterations than a server of ours stores: a verifier that asks for them is not compared.
const MAX_ITERATIONS: u32 = 1_000_000;

/// Makes the verifier of a password with a new salt.
///
/// # Errors
/// Returns an error if the system has no random numbers.
pub(super) fn make_verifier(password: &str) -> Result<String> {
    let mut salt = [0; SALT_BYTES];
    getrandom(&mut salt, GetRandomFlags::empty()).context("random numbers for a salt")?;
    Ok(format_verifier(password, &salt, ITERATIONS))
}

/// Returns whether a stored verifier is that of the password. Other kinds of verifiers, such as MD5, are not.
pub(super) fn is_verifier_of(verifier: &str, password: &str) -> bool {
    let Some((iterations, salt)) = parse_salt(verifier) else { return false };
    format_verifier(password, &salt, iterations) == verifier
}

fn parse_salt(verifier: &str) -> Option<(u32, Vec<u8>)> {
    let mut parts = verifier.split('$');
    let (method, salted) = (parts.next()?, parts.next()?);
    let (iterations, salt) = salted.split_once(':')?;
    let iterations = iterations.parse().ok().filter(|count| (1..=MAX_ITERATIONS).contains(count))?;
    (method == METHOD).then_some((iterations, STANDARD.decode(salt).ok()?))
}

fn format_verifier(password: &str, salt: &[u8], iterations: u32) -> String {
    let salted = salt_password(password.as_bytes(), salt, iterations);
    let stored = Sha256::digest(authenticate(&salted, b"Client Key"));
    let server = authenticate(&salted, b"Server Key");
    let (salt, stored, server) = (STANDARD.encode(salt), STANDARD.encode(stored), STANDARD.encode(server));
    format!("{METHOD}${iterations}:{salt}${stored}:{server}")
}

/// Computes PBKDF2 with one block, which is as long as the digest.
fn salt_password(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut last = authenticate(password, &[salt, &1u32.to_be_bytes()].concat());
    let mut sum = last;
    for _ in 1..iterations {
        last = authenticate(password, &last);
        sum.iter_mut().zip(last).for_each(|(sum, last)| *sum ^= last);
    }
    sum
}

fn authenticate(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifiers_are_those_of_the_standard() {
        // the example of RFC 7677: ServerKey proves "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = format_verifier("pencil", &salt, 4096);
        let auth = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let server = STANDARD.decode(verifier.rsplit(':').next().unwrap()).unwrap();
        let signature = authenticate(&server, auth.as_bytes());
        assert_eq!(STANDARD.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_verifier_belongs_to_one_password() {
        let verifier = make_verifier("secret").unwrap();
        assert!(is_verifier_of(&verifier, "secret"));
        assert!(!is_verifier_of(&verifier, "Secret"));
        assert!(!is_verifier_of("md5c40a5a9c4ae1b1a3a1ba9b9b7d07a7e9", "secret"));
        assert_ne!(verifier, make_verifier("secret").unwrap(), "each has a salt of its own");
    }
}
