//! `postgres_hba`: the rules for who may connect to a Postgres server (`pg_hba.conf`), loaded by the server.
//!
//! The step owns the whole file. A file that the server cannot read is put back. A second run is a no-op because the
//! text is compared, and the time of the file with the time at which the server loaded its configuration.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::server::{Server, default_port, default_socket, quote_text};
use crate::plan::{AttributeChange, Digest};
use crate::resources::mode::{self, FileMode};
use crate::resources::text_diff::{Disclosure, content_change};
use crate::resources::{
    ApplyContext, BlobSource, Diff, HostView, PathMeta, PathState, ReadOutcome, Resource, atomic_file, de_string,
};

/// Kinds of connection.
const TYPES: [&str; 4] = ["local", "host", "hostssl", "hostnossl"];
/// Methods of authentication that need no further settings.
const METHODS: [&str; 7] = ["scram-sha-256", "md5", "peer", "ident", "cert", "reject", "trust"];

/// A rule; the first that matches a connection decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HbaRule {
    /// `local`, `host`, `hostssl` or `hostnossl`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Names of databases, or `all`.
    pub databases: Vec<String>,
    /// Names of roles, or `all`.
    pub users: Vec<String>,
    /// Network in CIDR form, or `samehost`, `samenet`, `all`; not for `local`.
    pub address: Option<String>,
    /// Method of authentication.
    pub method: String,
}

/// Desired rules.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresHba {
    /// The file: `/etc/postgresql/15/main/pg_hba.conf`.
    pub path: PathBuf,
    /// The rules, in the order in which the server tries them.
    pub rules: Vec<HbaRule>,
    /// Owner of the file.
    #[serde(default = "default_owner")]
    pub owner: String,
    /// Port of the server.
    #[serde(default = "default_port", deserialize_with = "de_string::required")]
    pub port: u16,
    /// Folder of the server's socket.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
}

fn default_owner() -> String {
    "postgres".to_owned()
}

/// Observed state of the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedHba {
    /// The text of the file.
    text: String,
    /// The server has loaded this file. A server that does not run loads it at its start.
    is_loaded: bool,
}

impl Resource for PostgresHba {
    const KIND: &'static str = "postgres_hba";
    type Observed = ObservedHba;

    fn key(&self) -> String {
        self.path.display().to_string()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![format!("path {}", self.path.display())]
    }

    fn validate(&self) -> Result<(), String> {
        atomic_file::check_path("path", &self.path)?;
        mode::check_account("owner", &self.owner)?;
        self.server().check()?;
        for (number, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|message| format!("rule {}: {message}", number + 1))?;
        }
        let lets_dunlin_in = |rule: &HbaRule| {
            let names = |list: &[String]| list.iter().any(|name| name == "all" || name == "postgres");
            rule.kind == "local" && names(&rule.databases) && names(&rule.users)
        };
        match self.rules.iter().find(|rule| lets_dunlin_in(rule)) {
            Some(rule) if ["peer", "trust"].contains(&rule.method.as_str()) => Ok(()),
            _ => Err("no rule admits the user postgres, which dunlin uses to manage the server; put first: { type = \"local\", \
                      databases = [\"all\"], users = [\"postgres\"], method = \"peer\" }"
                .to_owned()),
        }
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedHba>> {
        match view.path_state(&self.path)? {
            PathState::File { .. } => {}
            PathState::Absent => {
                return match view.unknown_until_apply() {
                    Some(surprise) => Ok(ReadOutcome::UnknownUntilApply(format!("the file may come with {surprise}"))),
                    None => bail!("the file does not exist; a `package` step before this one can install Postgres"),
                };
            }
            _ => bail!("the path is not a regular file"),
        }
        let Some(bytes) = view.read_content(&self.path)? else {
            return Ok(ReadOutcome::UnknownUntilApply("an earlier step writes the file".to_owned()));
        };
        let text = String::from_utf8(bytes).context("the file is not UTF-8 text")?;
        let is_loaded = text != self.to_text() || self.is_loaded(view)?;
        Ok(ReadOutcome::Known(ObservedHba { text, is_loaded }))
    }

    fn diff(&self, observed: &ObservedHba, _blobs: &dyn BlobSource) -> Result<Diff> {
        let wanted = self.to_text();
        if observed.text != wanted {
            let disclosure = Disclosure { is_sensitive: false, key: None };
            return Ok(Diff::change(vec![content_change(
                Some(observed.text.as_bytes()),
                wanted.as_bytes(),
                disclosure,
            )]));
        }
        let loaded = (!observed.is_loaded).then(|| AttributeChange::new("loaded", false, true));
        Ok(Diff::change(loaded.into_iter().collect()))
    }

    fn predict_state(&self, view: &mut HostView) {
        let text = self.to_text();
        let digest = Digest::of_bytes(text.as_bytes());
        view.predict_path(&self.path, PathState::File { digest, meta: self.meta() });
        view.predict_content(&self.path, text.into_bytes());
    }

    fn apply(&self, observed: &ObservedHba, _context: &mut ApplyContext) -> Result<()> {
        let is_running = self.server().execute("select 1;", false).is_ok();
        if observed.text != self.to_text() {
            atomic_file::write_file(&self.path, self.to_text().as_bytes(), &self.meta())?;
            if is_running && let Err(error) = self.check_file() {
                atomic_file::write_file(&self.path, observed.text.as_bytes(), &self.meta())?;
                return Err(error);
            }
        }
        if is_running {
            self.server().execute("select pg_reload_conf();", false).context("loading the rules")?;
        }
        Ok(())
    }
}

impl PostgresHba {
    fn server(&self) -> Server {
        Server::new(self.port, &self.socket)
    }

    fn meta(&self) -> PathMeta {
        mode::path_meta(FileMode(0o640), &self.owner, None)
    }

    fn to_text(&self) -> String {
        let mut text = "# Written by dunlin; changes by hand are overwritten.\n".to_owned();
        for rule in &self.rules {
            text.push_str(&rule.to_line());
            text.push('\n');
        }
        text
    }

    /// Returns whether the server loaded its configuration after the file was written.
    fn is_loaded(&self, view: &HostView) -> Result<bool> {
        let sql = "select extract(epoch from pg_conf_load_time())::float8;";
        // A server that does not answer loads the file at its start.
        let Ok(ReadOutcome::Known(loaded)) = self.server().query(view, sql) else { return Ok(true) };
        let written = fs::metadata(&self.path).with_context(|| format!("reading {}", self.path.display()))?;
        let written = written.mtime() as f64 + written.mtime_nsec() as f64 / 1e9;
        Ok(loaded.as_f64().is_none_or(|loaded| loaded >= written))
    }

    /// Lets the server read the file without loading it.
    fn check_file(&self) -> Result<()> {
        let path = quote_text(&self.path.display().to_string());
        let sql = format!(
            "select json_build_object('is_used', current_setting('hba_file') = {path}, 'error', (select 'line ' || \
             line_number || ': ' || error from pg_hba_file_rules where error is not null order by line_number limit 1));"
        );
        let answer = match self.server().query(&HostView::current(), &sql)? {
            ReadOutcome::Known(answer) => answer,
            ReadOutcome::UnknownUntilApply(reason) => bail!("{reason}"),
        };
        if answer["is_used"] != true {
            bail!("the server on port {} uses another file; see `show hba_file`", self.port);
        }
        match answer["error"].as_str() {
            Some(error) => bail!("Postgres cannot read the rules: {error}; the file is unchanged"),
            None => Ok(()),
        }
    }
}

impl HbaRule {
    /// Refuses what Postgres would not read, or would read as something else.
    fn check(&self) -> Result<(), String> {
        if !TYPES.contains(&self.kind.as_str()) {
            return Err(format!("`type` must be one of {}, not \"{}\"", TYPES.join(", "), self.kind));
        }
        if !METHODS.contains(&self.method.as_str()) {
            return Err(format!("`method` must be one of {}, not \"{}\"", METHODS.join(", "), self.method));
        }
        if (self.kind == "local") != self.address.is_none() {
            return Err("`address` is needed for every `type` but \"local\", which has none".to_owned());
        }
        if self.databases.is_empty() || self.users.is_empty() {
            return Err("`databases` and `users` must not be empty; [\"all\"] stands for all".to_owned());
        }
        let names = self.databases.iter().chain(&self.users).chain(&self.address);
        let is_plain = |name: &&String| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:/+".contains(c))
        };
        match names.into_iter().find(|name| !is_plain(name)) {
            Some(name) => Err(format!("\"{name}\" has characters that separate fields in pg_hba.conf")),
            None => Ok(()),
        }
    }

    fn to_line(&self) -> String {
        let fields = [
            self.kind.clone(),
            self.databases.join(","),
            self.users.join(","),
            self.address.clone().unwrap_or_default(),
            self.method.clone(),
        ];
        let fields: Vec<String> = fields.into_iter().filter(|field| !field.is_empty()).collect();
        fields.join(" ")
    }
}
