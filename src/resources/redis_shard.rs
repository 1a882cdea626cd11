//! `redis_shard`: one Redis instance that serves a shard: its configuration, its ACL users, its folder, its process.
//!
//! Does not change: the data, and the role. The role (`replicaof`, `min-replicas-to-write`) belongs to moves and
//! failovers; if the role in the file contradicts the map, planning stops with an error. A second run is a no-op
//! because both files are compared by their meaning: `CONFIG REWRITE` may have changed their form.
//!
//! A changed file takes effect when the instance is restarted, which is a handler's work (`notify`), except for a
//! primary that has data: its handlers do not run, and `dunlin shards restart` does it by moves. The rights of the
//! `default` user are the exception: an ACL file that lacks them loses transactions at a restart, so the running
//! instance gets them at once (`live_acl`), before the file is written and before anything restarts. New passwords are
//! the second: a primary with data accepts them at once, beside the old ones. Changed TLS files are the third: the
//! running instance loads them again (`tls_reload`), and no handler runs for them.

pub mod acl;
mod changes;
pub mod conf;
mod data_files;
mod files;
mod lifecycle;
mod live_acl;
mod marks;
mod pending_restart;
mod process;
mod replication_files;
mod role;
pub mod server;
mod tls;
mod tls_connection;
mod tls_reload;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    ApplyContext, BlobSource, Content, ContentKey, ContentSource, Diff, HostView, InvalidContent, PathMeta, PathState,
    Prefetch, ReadOutcome, Resource, UnitState, atomic_file,
};
use crate::plan::{Action, AttributeChange, Digest};
use acl::AclFile;
use conf::{NormalizedConf, RedisConf};
use marks::Mark;
use pending_restart::RestartMark;
use process::RunningProcess;

/// Name of the attribute that shows the primary of a new replica in a plan.
pub const REPLICA_OF_ATTRIBUTE: &str = "replica of";

/// Desired state of an instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisShard {
    /// The shard's number; text, since templates give text.
    pub id: String,
    /// Its port; text for the same reason.
    pub port: String,
    /// The address that it is reached at; for messages only.
    #[serde(default)]
    pub address: Option<String>,
    /// The configuration: `conf = "a template"`. Its `dir` must be `data_dir`, its `aclfile` the ACL file.
    pub conf: Content,
    /// The ACL users: `acl = "a template"`. It contains passwords as `#sha256` only.
    pub acl: Content,
    /// The password of the ACL user `dunlin`, as which a running instance's ACL is fixed: `admin_password = "…"`.
    /// Without one only the file is fixed.
    #[serde(default)]
    pub admin_password: Option<Content>,
    /// The data folder.
    pub data_dir: PathBuf,
    /// Path of the CA file on the host, owned by root: the instance uses TLS only. `conf` must have `port 0`, the port
    /// as `tls-port`, `tls-replication yes`, and this file as `tls-ca-cert-file`. Empty: TCP in clear.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tls_ca_file: String,
    /// Path of the certificate, the `tls-cert-file` of `conf`. A running instance loads it again when it changes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tls_cert_file: String,
    /// Path of the certificate's key, the `tls-key-file` of `conf`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tls_key_file: String,
    /// The systemd unit; without one the instance is started as a process of its own, and `conf` must daemonize.
    #[serde(default)]
    pub unit: Option<String>,
    /// The server program: `redis-server` or `valkey-server`, by name or by absolute path. A unit must start the same
    /// one.
    #[serde(default = "default_server")]
    pub server: String,
    /// `ip:port` of the primary where this is a replica by the map; empty for a primary.
    #[serde(default)]
    pub replica_of: String,
    /// Number of connected replicas that a primary requires to accept writes (`min-replicas-to-write`); empty for none.
    /// Like `replica_of`, it is only used in a new configuration file: `dunlin shards repair` sets it on a running
    /// primary once its replicas are connected.
    #[serde(default)]
    pub min_replicas: String,
    /// Folder of `redis.conf` and `users.acl`; default `/etc/redis/shard-<id>`. The instance replaces both files in it,
    /// so it is the instance's own.
    #[serde(default)]
    pub conf_dir: Option<PathBuf>,
    /// The user that the instance runs as, and its group.
    #[serde(default = "default_user")]
    pub user: String,
}

fn default_server() -> String {
    server::SERVER_PROGRAMS[0].to_owned()
}

fn default_user() -> String {
    "redis".to_owned()
}

/// Observed state: the meaning of the files, without values that change by themselves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObservedShardFiles {
    /// Permissions and meaning; absent where there is no such file.
    conf: Option<(PathMeta, NormalizedConf)>,
    acl: Option<(PathMeta, AclFile)>,
    conf_dir: PathState,
    /// Reason why Redis would not load the ACL file.
    acl_error: Option<String>,
    /// The configuration enables the append-only file.
    is_append_only: bool,
    data_dir: PathState,
    /// Contents from which the files were last written and their meaning then, from the marks in the file.
    source_stamps: Vec<Mark>,
    /// Primary in the configuration file.
    configured_primary: Option<String>,
    is_running: bool,
    /// The instance starts at boot. Always true without a unit, because nothing starts such an instance at boot.
    is_enabled: bool,
    /// A running primary with data, which only `dunlin shards restart` restarts.
    serves_data: bool,
    /// Changes that such a primary has not read yet.
    restart_reasons: Vec<String>,
    /// An earlier run could not set users in the memory of such a primary.
    #[serde(default)]
    is_live_acl_pending: bool,
    /// The TLS files changed since the running instance loaded them.
    has_old_tls_files: bool,
}

impl Resource for RedisShard {
    const KIND: &'static str = "redis_shard";
    const SECRET_FIELDS: &'static [&'static str] = &["conf", "acl", "admin_password"];
    const CONTENTS: &'static [ContentKey] = &[
        ContentKey { playbook_key: "conf", field: "conf", source: ContentSource::Template },
        ContentKey { playbook_key: "acl", field: "acl", source: ContentSource::Template },
        ContentKey { playbook_key: "admin_password", field: "admin_password", source: ContentSource::Inline },
    ];
    type Observed = ObservedShardFiles;

    fn key(&self) -> String {
        self.id.clone()
    }

    fn started_unit(&self) -> Option<String> {
        self.unit.clone()
    }

    fn enabled_unit(&self) -> Option<String> {
        self.unit.clone()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        let paths = [self.conf_dir(), self.conf_path(), self.acl_path(), self.data_dir.clone()];
        let mut owned: Vec<String> = paths.iter().map(|path| format!("path {}", path.display())).collect();
        owned.extend(self.unit.iter().map(|unit| format!("unit {unit}")));
        owned
    }

    fn validate(&self) -> Result<(), String> {
        if self.id.parse::<u32>().is_err() {
            return Err(format!("id must be a shard's number, not \"{}\"", self.id));
        }
        if !self.min_replicas.is_empty() && self.min_replicas.parse::<u32>().is_err() {
            return Err(format!("min_replicas must be a number, not \"{}\"", self.min_replicas));
        }
        self.validate_server()?;
        self.validate_tls_paths()?;
        if self.port.parse::<u16>().is_ok_and(|port| port > 0) {
            return if self.data_dir.is_absolute() {
                Ok(())
            } else {
                Err("data_dir must be an absolute path".to_owned())
            };
        }
        Err(format!("port must be a number from 1 to 65535, not \"{}\"", self.port))
    }

    fn validate_contents(&self, contents: &dyn BlobSource) -> Result<(), InvalidContent> {
        let text =
            |content: &Content| contents.read_blob(&content.digest).map(|b| String::from_utf8_lossy(&b).into_owned());
        let (Ok(conf), Ok(acl)) = (text(&self.conf), text(&self.acl)) else { return Ok(()) };
        let conf = RedisConf::parse(&conf);
        self.validate_tls_directives(&conf).map_err(|message| InvalidContent { key: "conf", message })?;
        let said = match conf.is_append_only() {
            true => acl::require_replay_rights(&acl),
            false => AclFile::parse(&acl).map(drop),
        };
        said.map_err(|error| InvalidContent { key: "acl", message: format!("the rendered ACL file, {error}") })
    }

    fn collect_prefetch(&self, wants: &mut Prefetch) {
        wants.units.extend(self.unit.clone());
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedShardFiles>> {
        let text = |path: &Path, view: &HostView| -> Result<Option<String>> {
            Ok(view.read_content(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let (conf, acl) = (text(&self.conf_path(), view)?, text(&self.acl_path(), view)?);
        let parsed = RedisConf::parse(conf.as_deref().unwrap_or_default());
        let (users, acl_error) = match acl.as_deref().map(AclFile::parse).transpose() {
            Ok(users) => (users, None),
            // The instance would not start with it; a new file replaces it anyway.
            Err(error) => (Some(AclFile::default()), Some(error.to_string())),
        };
        let configured_primary = parsed.replica_of().map(|primary| primary.to_string());
        let (is_running, is_enabled) = match &self.unit {
            Some(unit) => {
                let state = view.unit_state(unit)?;
                (matches!(state.active.as_str(), "active" | "reloading" | "activating"), state.enabled == "enabled")
            }
            None => (process::is_running(&self.data_dir), true),
        };
        let serves_data = is_running && configured_primary.is_none() && data_files::has_data(&self.data_dir);
        let conf_text = conf.as_deref().unwrap_or_default();
        let process = RunningProcess::of_instance(&self.data_dir);
        let has_old_tls_files = is_running && self.has_old_tls_files(view, conf_text, process.as_ref())?;
        let mut restart_reasons = match process.filter(|_| serves_data) {
            Some(process) => self.restart_reasons(conf_text, &process)?,
            None => Vec::new(),
        };
        let is_live_acl_pending = restart_reasons.iter().any(|reason| reason == live_acl::ACL_IN_MEMORY);
        restart_reasons.retain(|reason| reason != live_acl::ACL_IN_MEMORY);
        if serves_data && has_old_tls_files && self.admin_password.is_none() {
            restart_reasons.push(tls_reload::TLS_FILES.to_owned());
        }
        Ok(ReadOutcome::Known(ObservedShardFiles {
            conf: files::read_file_meta(view, &self.conf_path())?.zip(conf.as_ref().map(|_| parsed.normalize())),
            acl: files::read_file_meta(view, &self.acl_path())?.zip(users),
            conf_dir: view.path_state(&self.conf_dir())?,
            acl_error,
            is_append_only: parsed.is_append_only(),
            data_dir: view.path_state(&self.data_dir)?,
            source_stamps: Mark::read(conf.as_deref().unwrap_or_default()),
            configured_primary,
            is_running,
            is_enabled,
            serves_data,
            restart_reasons,
            is_live_acl_pending,
            has_old_tls_files,
        }))
    }

    fn required_blobs(&self, observed: &ObservedShardFiles) -> Vec<Digest> {
        let mut needs = self.required_files(observed);
        if self.needs_live_acl(observed) || observed.is_running && observed.has_old_tls_files {
            needs.extend(self.admin_password.as_ref().map(|password| password.digest.clone()));
        }
        needs
    }

    fn diff(&self, observed: &ObservedShardFiles, blobs: &dyn BlobSource) -> Result<Diff> {
        self.ensure_role_matches(observed)?;
        let mut changes = self.conf_changes(observed, blobs)?;
        changes.extend(self.live_acl_change(observed));
        changes.extend(self.acl_changes(observed, blobs)?);
        let is_restarted_later = !changes.is_empty() && observed.is_running;
        changes.extend(self.pending_acl_change(observed));
        changes.extend(self.tls_change(observed));
        changes.extend(self.folder_changes("conf_dir", &self.conf_dir(), &observed.conf_dir)?);
        changes.extend(self.folder_changes("data_dir", &self.data_dir, &observed.data_dir)?);
        if observed.conf.is_none() && !self.replica_of.is_empty() {
            changes.push(AttributeChange::from_absent(REPLICA_OF_ATTRIBUTE, &self.replica_of));
        }
        if !observed.is_enabled {
            changes.push(AttributeChange::new("enabled", false, true));
        }
        if !observed.is_running {
            changes.push(AttributeChange::new("running", false, true));
        }
        let mut diff = if observed.conf.is_none() { Diff::add(changes) } else { Diff::change(changes) };
        let command = format!("dunlin shards restart --shard {}", self.id);
        if is_restarted_later {
            diff.reason = Some(match observed.serves_data {
                true => format!("takes effect after a restart: run {command}"),
                false => "takes effect when the instance is restarted".to_owned(),
            });
        } else if diff.action == Action::None && !observed.restart_reasons.is_empty() {
            diff = Diff::restart_required(format!("{} changed: run {command}", observed.restart_reasons.join(", ")));
        }
        Ok(diff)
    }

    fn refuses_restart(&self, observed: &ObservedShardFiles) -> bool {
        observed.serves_data
    }

    fn needs_handlers(&self, changes: &[AttributeChange]) -> bool {
        let is_read_live =
            |change: &AttributeChange| [tls_reload::TLS_FILES, live_acl::ACL_IN_MEMORY].contains(&&*change.attribute);
        !changes.iter().all(is_read_live)
    }

    fn predict_state(&self, view: &mut HostView) {
        let file = |content: &Content| PathState::File { digest: content.digest.clone(), meta: self.file_meta() };
        view.predict_path(&self.conf_dir(), PathState::Directory { meta: self.folder_meta() });
        view.predict_path(&self.conf_path(), file(&self.conf));
        view.predict_path(&self.acl_path(), file(&self.acl));
        view.predict_path(&self.data_dir, PathState::Directory { meta: self.folder_meta() });
        if let Some(unit) = &self.unit {
            let (enabled, active) = ("enabled".to_owned(), "active".to_owned());
            view.predict_unit(unit, UnitState { found: true, masked: false, enabled, active });
        }
    }

    fn apply(&self, observed: &ObservedShardFiles, context: &mut ApplyContext) -> Result<()> {
        self.create_folders()?;
        if !self.required_files(observed).is_empty() {
            let acl =
                String::from_utf8(context.read_content(&self.acl.digest)?).context("the ACL file is not UTF-8")?;
            // The file is written even where this fails: a restart loads the file, not what is in memory.
            let live = self.fix_live_acl(observed, &acl, context.blobs());
            let mark = self.restart_mark(observed, &live, context.blobs())?;
            let running = format!("{mark}{}{}", self.tls_mark_line(), self.running_lines(observed)?);
            self.write_files(&acl, &running, context.blobs())?;
            live?;
        } else {
            atomic_file::set_ownership(&self.conf_path(), &self.file_meta())?;
            atomic_file::set_ownership(&self.acl_path(), &self.file_meta())?;
        }
        if let Some(unit) = self.unit.as_ref().filter(|_| !observed.is_enabled) {
            context.enable_unit(unit)?;
        }
        context.flush_unit_changes()?;
        self.start_instance()?;
        self.reload_tls_files(observed, context.blobs())
    }
}

impl RedisShard {
    /// Returns the contents that writing the two files needs; none if both files are as desired.
    fn required_files(&self, observed: &ObservedShardFiles) -> Vec<Digest> {
        let mut needs = Vec::new();
        if self.retries_live_acl(observed) {
            return vec![self.conf.digest.clone(), self.acl.digest.clone()];
        }
        if !self.is_unchanged(observed.conf.as_ref(), &self.conf, &observed.source_stamps) {
            needs.push(self.conf.digest.clone());
        }
        if !self.is_unchanged(observed.acl.as_ref(), &self.acl, &observed.source_stamps) {
            needs.push(self.acl.digest.clone());
        }
        // The mark is part of the configuration file, so a new ACL file means a new configuration file too.
        if needs == [self.acl.digest.clone()] {
            needs.push(self.conf.digest.clone());
        }
        needs
    }

    /// Returns the line that names the changes for the process that has not read them; empty if a handler restarts it.
    /// The `default` user is not among them if it was set in the running instance (`live`).
    fn restart_mark(
        &self,
        observed: &ObservedShardFiles,
        live: &Result<bool>,
        blobs: &dyn BlobSource,
    ) -> Result<String> {
        let process = RunningProcess::of_instance(&self.data_dir).filter(|_| observed.serves_data);
        let Some(process) = process else { return Ok(String::new()) };
        let mut changes = self.conf_changes(observed, blobs)?;
        changes.extend(self.acl_changes(observed, blobs)?);
        let default_user = acl::user_change(acl::DEFAULT_USER);
        let is_default_user_set = matches!(live, Ok(true));
        changes.retain(|change| {
            let is_read = is_default_user_set && change.attribute == default_user;
            !is_read && !matches!(change.attribute.as_str(), "mode" | "owner" | "group")
        });
        let is_live_pending = self.needs_live_acl(observed) && (live.is_err() || self.admin_password.is_none());
        let mut earlier = self.read_file(&self.conf_path()).ok().as_deref().and_then(RestartMark::read);
        if !is_live_pending {
            earlier = earlier.and_then(|mark| mark.without(live_acl::ACL_IN_MEMORY));
        }
        if is_default_user_set {
            earlier = earlier.and_then(|mark| mark.without(&default_user));
        }
        let names = changes.into_iter().map(|change| change.attribute);
        let names: Vec<String> = names.chain(is_live_pending.then(|| live_acl::ACL_IN_MEMORY.to_owned())).collect();
        if names.is_empty() && earlier.is_none() {
            return Ok(String::new());
        }
        Ok(RestartMark::new(&process, names, earlier).line())
    }
}
