//! Loads the secret key with which releases are signed.

use std::io::IsTerminal;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::{SecretKey, SecretKeyBox};

use super::command_error::CommandError;
use super::exit::Exit;
use crate::deploy::signature::SIGN_PASSWORD;
use crate::private_file::read_private_text;

/// Length of a decoded secret key, in bytes.
const KEY_BYTES: usize = 158;

/// Loads a secret key of minisign. Its password is in the environment, or is asked for on a terminal.
///
/// # Errors
/// Returns an error if the file is not a secret key, other users can read it, or the password is missing or wrong.
pub fn load_sign_key(path: &Path) -> Result<SecretKey, CommandError> {
    let with_path = |error: anyhow::Error| CommandError::from(error.context(path.display().to_string()));
    let text = read_private_text(path)?.ok_or_else(|| with_path(anyhow::anyhow!("the file does not exist")))?;
    let bytes = decode_key(&text).ok_or_else(|| with_path(anyhow::anyhow!("not a secret key of minisign")))?;
    // The algorithm of the key, then that of its encryption.
    let key = match &bytes[..4] {
        b"EdSc" => {
            let password = read_password(path)?;
            SecretKeyBox::from_string(&text).and_then(|key| key.into_secret_key(Some(password)))
        }
        // The checksum of a key without a password is zero, and not checked by minisign either.
        b"Ed\0\0" => SecretKey::from_bytes(&bytes),
        _ => return Err(with_path(anyhow::anyhow!("not a secret key of minisign"))),
    };
    key.map_err(|error| with_path(error.into()))
}

/// Makes the environment of this process unreadable for other processes of its user: a build could read the password in
/// `/proc`. Root can read it anyway.
fn hide_environment() {
    // It only fails where the kernel has no such setting.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

fn decode_key(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.lines().nth(1)?).ok().filter(|key| key.len() == KEY_BYTES)
}

fn read_password(path: &Path) -> Result<String, CommandError> {
    if let Ok(password) = std::env::var(SIGN_PASSWORD) {
        hide_environment();
        return Ok(password);
    }
    if !std::io::stdin().is_terminal() {
        let text = format!("{} has a password, and there is no terminal to ask for it", path.display());
        return Err(CommandError::with_message(Exit::Usage, text).with_hint(format!("set {SIGN_PASSWORD}")));
    }
    let prompt = format!("Password of {}", path.display());
    dialoguer::Password::new().with_prompt(prompt).interact().map_err(|error| anyhow::Error::from(error).into())
}
