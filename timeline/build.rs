//! Puts the commit and the hash of the lock file into the binaries, unless the environment names them.

use std::{env, fmt::Write as _, fs, process::Command};

use sha2::{Digest as _, Sha256};

const LOCK_FILE: &str = "../Cargo.lock";

fn main() {
    for path in ["build.rs", "src", "../shards/src", LOCK_FILE] {
        println!("cargo:rerun-if-changed={path}");
    }
    // Grows with every commit and checkout.
    if let Some(path) = run_git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={path}");
    }
    set("TIMELINE_GIT", run_git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]));
    set("TIMELINE_LOCK_HASH", hash_lock_file());
}

fn set(name: &str, found: Option<String>) {
    println!("cargo:rerun-if-env-changed={name}");
    if let Some(value) = env::var(name).ok().or(found) {
        println!("cargo:rustc-env={name}={value}");
    }
}

/// Returns what git prints; `None` without git or outside a repository.
fn run_git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Returns the SHA-256 of the lock file in hexadecimal digits.
fn hash_lock_file() -> Option<String> {
    let mut text = String::new();
    for byte in Sha256::digest(fs::read(LOCK_FILE).ok()?) {
        write!(text, "{byte:02x}").ok()?;
    }
    Some(text)
}
