//! The Postgres server on a host: SQL as its superuser `postgres`, over the local socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::process::Program;
use crate::resources::{HostView, ReadOutcome, atomic_file, de_string};

/// User of the operating system and of Postgres that manages the server.
const SUPERUSER: &str = "postgres";

/// psql's exit status if there is no connection.
const NO_CONNECTION: i32 = 2;

/// Time limit of one statement, and of the connection.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The keys that say which server of the host is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Port of the server.
    #[serde(deserialize_with = "de_string::required")]
    pub port: u16,
    /// Folder of its socket.
    pub socket: PathBuf,
}

/// Returns the port if a step names none.
pub(super) fn default_port() -> u16 {
    5432
}

/// Returns the folder of sockets if a step names none.
pub(super) fn default_socket() -> PathBuf {
    PathBuf::from("/run/postgresql")
}

impl Server {
    pub(super) fn new(port: u16, socket: &Path) -> Self {
        Self { port, socket: socket.to_owned() }
    }

    /// Refuses a folder that cannot be one.
    ///
    /// # Errors
    /// Returns a description of the problem.
    pub(super) fn check(&self) -> Result<(), String> {
        atomic_file::check_path("socket", &self.socket)
    }

    /// Runs a query that returns one JSON value; `null` where it returns no row. The server may not be there yet while
    /// earlier steps are pending.
    ///
    /// # Errors
    /// Returns the error of Postgres, or an error if the server does not answer and no earlier step can change that.
    pub(super) fn query(&self, view: &HostView, sql: &str) -> Result<ReadOutcome<Value>> {
        let output = match self.psql(sql).output() {
            Ok(output) => output,
            Err(_) if view.has_pending_steps() => return Ok(self.unknown()),
            Err(error) => return Err(error),
        };
        match output.status.code() {
            Some(0) => {
                let text = String::from_utf8(output.stdout).context("Postgres did not answer with UTF-8")?;
                let text = text.trim();
                let value = if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(text) };
                value.map(ReadOutcome::Known).context("reading the answer of Postgres")
            }
            // 1, 126 and 127: without the package there is no user and no psql.
            Some(1 | NO_CONNECTION | 126 | 127) if view.has_pending_steps() => Ok(self.unknown()),
            _ => bail!("Postgres on port {}: {}", self.port, String::from_utf8_lossy(&output.stderr).trim()),
        }
    }

    /// Runs statements in one transaction each, as they are.
    ///
    /// # Errors
    /// Returns the error of Postgres. With `is_secret`, the message has no text of the statements.
    pub(super) fn execute(&self, sql: &str, is_secret: bool) -> Result<()> {
        let program = self.psql(sql);
        let program = if is_secret { program.hide_output("psql") } else { program };
        program.run().map(drop)
    }

    fn unknown(&self) -> ReadOutcome<Value> {
        let reason = format!("Postgres on port {} answers only after an earlier step", self.port);
        ReadOutcome::UnknownUntilApply(reason)
    }

    /// Builds the psql command. The statements go through standard input: every user can read arguments.
    fn psql(&self, sql: &str) -> Program<'static> {
        let mut argv: Vec<String> = Vec::new();
        if geteuid().is_root() {
            argv.extend(["runuser", "-u", SUPERUSER, "--"].map(str::to_owned));
        }
        argv.extend(["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres"].map(str::to_owned));
        argv.extend(["-h".to_owned(), self.socket.display().to_string(), "-p".to_owned(), self.port.to_string()]);
        argv.extend(["-U".to_owned(), SUPERUSER.to_owned()]);
        Program::new(&argv[0])
            .args(&argv[1..])
            .env("PGCONNECT_TIMEOUT", "10")
            .folder(Path::new("/"))
            .input(format!("{sql}\n").into_bytes())
            .timeout(TIMEOUT)
    }
}

/// Quotes a name.
pub(super) fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text.
pub(super) fn quote_text(text: &str) -> String {
    // With a backslash in it, the meaning of '…' depends on a setting of the server.
    let escaped = text.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{escaped}'")
}

/// Refuses what is no plain name of a role or a database.
///
/// # Errors
/// Returns a description of the problem that begins with the key.
pub(super) fn check_name(key: &str, name: &str) -> Result<(), String> {
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let goes_on = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c));
    if begins && goes_on && name.len() <= 63 && !name.starts_with("pg_") {
        return Ok(());
    }
    Err(format!(
        "{key} must have lower-case letters, digits, `_` and `-`, at most 63, no digit first and no pg_, not \"{name}\""
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_end_their_quotes() {
        assert_eq!(quote_text("a'b\\"), "E'a''b\\\\'");
        assert_eq!(quote_name("a\"b"), "\"a\"\"b\"");
        assert!(check_name("name", "timeline_users").is_ok());
        for wrong in ["", "1a", "Ada", "pg_x", "a b", "a;b", "-a"] {
            assert!(check_name("name", wrong).is_err(), "{wrong}");
        }
    }
}
