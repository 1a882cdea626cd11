//! `redis_shard`: one Redis instance that serves a shard: its configuration, its ACL users, its folder, its process.
//!
//! Leaves alone: the data, and the role. Who follows whom (`replicaof`, `min-replicas-to-write`) belongs to the moves
//! and failovers; where the file's role is not the map's, planning stops and says so. A second run is a no-op because
//! both files are compared by what they say: `CONFIG REWRITE` may have put them into another form.
//!
//! A changed file takes effect when the instance is restarted, which is a handler's work (`notify`). The rights of the
//! `default` user are the exception: an ACL file that lacks them loses transactions at a restart, so the running
//! instance gets them at once (`live_acl`), before the file is written and before anything restarts.

pub mod acl;
pub mod conf;
mod live_acl;
mod marks;
mod process;
mod role;
mod running;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::mode::{self, Mode};
use super::{
    Blobs, Content, ContentKey, Diff, InvalidContent, Meta, PathState, Read, Resource, Site, Source, UnitState, Wants,
    World, place,
};
use crate::plan::{Change, Digest};
use acl::Acl;
use conf::{Conf, Meaning};
use marks::Mark;

/// What a plan's row says of an instance that is made as a replica.
pub const REPLICA_OF: &str = "replica of";

/// The desired state of an instance.
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
    /// The configuration: `conf = "a template"`. Its `dir` must be `folder`, its `aclfile` the ACL file.
    pub conf: Content,
    /// The ACL users: `acl = "a template"`. Passwords stand in it as `#sha256` only.
    pub acl: Content,
    /// The password of the ACL user `dunlin`, as which a running instance's ACL is fixed: `admin_password = "…"`.
    /// Without one only the file is fixed.
    #[serde(default)]
    pub admin_password: Option<Content>,
    /// The data folder.
    pub folder: PathBuf,
    /// The systemd unit; without one the instance is started as a process of its own, and `conf` must daemonize.
    #[serde(default)]
    pub unit: Option<String>,
    /// `ip:port` of the primary where this is a replica by the map; empty for a primary.
    #[serde(default)]
    pub replica_of: String,
    /// How many replicas must be attached to a primary for it to accept writes (`min-replicas-to-write`); empty for
    /// none. As with `replica_of`, only a new configuration takes it over: a live primary learns of it from
    /// `dunlin shards resume`, once its replicas are there.
    #[serde(default)]
    pub min_replicas: String,
    /// Where the configuration stands; `/etc/redis/shard-<id>.conf` where not given.
    #[serde(default)]
    pub conf_path: Option<PathBuf>,
    /// Where the ACL file stands; `/etc/redis/shard-<id>.acl` where not given.
    #[serde(default)]
    pub acl_path: Option<PathBuf>,
    /// The user that the instance runs as, and its group.
    #[serde(default = "redis")]
    pub user: String,
}

fn redis() -> String {
    "redis".to_owned()
}

/// What is there: the files by what they say, nothing that changes by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Observed {
    /// Permissions and meaning; absent where there is no such file.
    conf: Option<(Meta, Meaning)>,
    acl: Option<(Meta, Acl)>,
    /// Why Redis would not load the ACL file.
    acl_error: Option<String>,
    /// Whether it keeps an append-only file, by its configuration.
    is_append_only: bool,
    folder: PathState,
    /// The contents that were put here last and what they said then, as the file's own mark tells.
    marks: Vec<Mark>,
    /// Whom it follows by its configuration file.
    follows: Option<String>,
    is_running: bool,
    /// Does it start with the host? Always so without a unit: there, nothing does.
    is_enabled: bool,
}

impl Resource for RedisShard {
    const KIND: &'static str = "redis_shard";
    const CONTENTS: &'static [ContentKey] = &[
        ContentKey { toml: "conf", field: "conf", source: Source::Template },
        ContentKey { toml: "acl", field: "acl", source: Source::Template },
        ContentKey { toml: "admin_password", field: "admin_password", source: Source::Inline },
    ];
    type Observed = Observed;

    fn key(&self) -> String {
        self.id.clone()
    }

    fn starts(&self) -> Option<String> {
        self.unit.clone()
    }

    fn enables(&self) -> Option<String> {
        self.unit.clone()
    }

    fn owns(&self) -> Vec<String> {
        let paths = [self.conf_path(), self.acl_path(), self.folder.clone()];
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
        if self.port.parse::<u16>().is_ok_and(|port| port > 0) {
            return if self.folder.is_absolute() { Ok(()) } else { Err("folder must be an absolute path".to_owned()) };
        }
        Err(format!("port must be a number from 1 to 65535, not \"{}\"", self.port))
    }

    fn validate_contents(&self, contents: &dyn Blobs) -> Result<(), InvalidContent> {
        let text = |content: &Content| contents.get(&content.digest).map(|b| String::from_utf8_lossy(&b).into_owned());
        let (Ok(conf), Ok(acl)) = (text(&self.conf), text(&self.acl)) else { return Ok(()) };
        let said = match Conf::parse(&conf).is_append_only() {
            true => acl::require_replay_rights(&acl),
            false => Acl::parse(&acl).map(drop),
        };
        said.map_err(|error| InvalidContent { key: "acl", message: format!("the rendered ACL file, {error}") })
    }

    fn wants(&self, wants: &mut Wants) {
        wants.units.extend(self.unit.clone());
    }

    fn read(&self, world: &mut World) -> Result<Read<Observed>> {
        let text = |path: &Path, world: &World| -> Result<Option<String>> {
            Ok(world.content(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let (conf, acl) = (text(&self.conf_path(), world)?, text(&self.acl_path(), world)?);
        let parsed = Conf::parse(conf.as_deref().unwrap_or_default());
        let (users, acl_error) = match acl.as_deref().map(Acl::parse).transpose() {
            Ok(users) => (users, None),
            // The instance would not start with it; a new file replaces it all the same.
            Err(error) => (Some(Acl::default()), Some(error.to_string())),
        };
        let (is_running, is_enabled) = match &self.unit {
            Some(unit) => {
                let state = world.unit(unit)?;
                (matches!(state.active.as_str(), "active" | "reloading" | "activating"), state.enabled == "enabled")
            }
            None => (process::is_running(&self.folder), true),
        };
        Ok(Read::Known(Observed {
            conf: meta(world, &self.conf_path())?.zip(conf.as_ref().map(|_| parsed.meaning())),
            acl: meta(world, &self.acl_path())?.zip(users),
            acl_error,
            is_append_only: parsed.is_append_only(),
            folder: world.path(&self.folder)?,
            marks: Mark::read(conf.as_deref().unwrap_or_default()),
            follows: parsed.replica_of(),
            is_running,
            is_enabled,
        }))
    }

    fn needs(&self, observed: &Observed) -> Vec<Digest> {
        let mut needs = Vec::new();
        if !self.is_marked(observed.conf.as_ref(), &self.conf, &observed.marks) {
            needs.push(self.conf.digest.clone());
        }
        if !self.is_marked(observed.acl.as_ref(), &self.acl, &observed.marks) {
            needs.push(self.acl.digest.clone());
        }
        // The mark stands in the configuration file, so a new ACL file means a new configuration file too.
        if needs == [self.acl.digest.clone()] {
            needs.push(self.conf.digest.clone());
        }
        if observed.lacks_replay_rights() && observed.is_running {
            needs.extend(self.admin_password.as_ref().map(|password| password.digest.clone()));
        }
        needs
    }

    fn diff(&self, observed: &Observed, blobs: &dyn Blobs) -> Result<Diff> {
        self.refuse_other_role(observed)?;
        let mut changes = self.conf_changes(observed, blobs)?;
        changes.extend(self.live_acl_change(observed));
        changes.extend(self.acl_changes(observed, blobs)?);
        let is_restarted_later = !changes.is_empty() && observed.is_running;
        match &observed.folder {
            PathState::Absent => changes.push(Change::set("folder", self.folder.display())),
            PathState::Directory { meta } => changes.extend(mode::meta_changes(meta, &self.folder_meta())),
            _ => bail!("{} is no directory", self.folder.display()),
        }
        if observed.conf.is_none() && !self.replica_of.is_empty() {
            changes.push(Change::set(REPLICA_OF, &self.replica_of));
        }
        if !observed.is_enabled {
            changes.push(Change::new("enabled", false, true));
        }
        if !observed.is_running {
            changes.push(Change::new("running", false, true));
        }
        let mut diff = if observed.conf.is_none() { Diff::add(changes) } else { Diff::change(changes) };
        if is_restarted_later {
            diff.reason = Some("takes effect when the instance is restarted".to_owned());
        }
        Ok(diff)
    }

    fn expect(&self, world: &mut World) {
        let file = |content: &Content| PathState::File { digest: content.digest.clone(), meta: self.file_meta() };
        world.expect_path(&self.conf_path(), file(&self.conf));
        world.expect_path(&self.acl_path(), file(&self.acl));
        world.expect_path(&self.folder, PathState::Directory { meta: self.folder_meta() });
        if let Some(unit) = &self.unit {
            let (enabled, active) = ("enabled".to_owned(), "active".to_owned());
            world.expect_unit(unit, UnitState { found: true, masked: false, enabled, active });
        }
    }

    fn apply(&self, observed: &Observed, site: &mut Site) -> Result<()> {
        if !matches!(observed.folder, PathState::Directory { .. }) {
            fs::create_dir_all(&self.folder).with_context(|| format!("making {}", self.folder.display()))?;
        }
        place::own(&self.folder, &self.folder_meta())?;
        if !self.needs(observed).is_empty() {
            let acl = String::from_utf8(site.content(&self.acl.digest)?).context("the ACL file is no text")?;
            // The file is written even where this fails: a restart loads the file, not what is in memory.
            let live = self.fix_live_acl(observed, &acl, site.blobs());
            self.write(&acl, &self.running_lines(observed)?, site.blobs())?;
            live?;
        } else {
            place::own(&self.conf_path(), &self.file_meta())?;
            place::own(&self.acl_path(), &self.file_meta())?;
        }
        if let Some(unit) = self.unit.as_ref().filter(|_| !observed.is_enabled) {
            site.enable(unit)?;
        }
        site.settle_units()?;
        self.start()
    }
}

impl RedisShard {
    /// Where the configuration stands.
    pub fn conf_path(&self) -> PathBuf {
        self.conf_path.clone().unwrap_or_else(|| PathBuf::from(format!("/etc/redis/shard-{}.conf", self.id)))
    }

    /// Where the ACL file stands.
    pub fn acl_path(&self) -> PathBuf {
        self.acl_path.clone().unwrap_or_else(|| PathBuf::from(format!("/etc/redis/shard-{}.acl", self.id)))
    }

    /// The configuration as it stands on the disk; `None` where there is none.
    ///
    /// # Errors
    /// It could not be read.
    pub fn current(&self) -> Result<Option<Conf>> {
        let bytes = World::now().content(&self.conf_path())?;
        Ok(bytes.map(|bytes| Conf::parse(&String::from_utf8_lossy(&bytes))))
    }

    /// The users of the ACL file as it is on the disk.
    ///
    /// # Errors
    /// It could not be read, or is not valid.
    pub fn current_acl(&self) -> Result<Acl> {
        let path = self.acl_path();
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Acl::parse(&text).with_context(|| path.display().to_string())
    }

    /// The ACL file first: a configuration names it.
    fn write(&self, acl: &str, running: &str, blobs: &dyn Blobs) -> Result<()> {
        let conf = String::from_utf8(blobs.get(&self.conf.digest)?).context("the configuration is no text")?;
        let plain = String::from_utf8(blobs.get(&self.acl.digest)?).context("the ACL file is no text")?;
        let users = Acl::parse(&plain).context("the ACL file")?;
        let marks = [Mark::of(&self.conf, &Conf::parse(&conf).meaning()), Mark::of(&self.acl, &users)];
        let marks: String = marks.iter().map(Mark::line).collect();
        let separate = if conf.ends_with('\n') { "" } else { "\n" };
        place::write(&self.acl_path(), acl.as_bytes(), &self.file_meta())?;
        place::write(&self.conf_path(), format!("{marks}{conf}{separate}{running}").as_bytes(), &self.file_meta())
    }

    /// What stands in the file of the running state; in a new file, what the map has it begin with.
    fn running_lines(&self, observed: &Observed) -> Result<String> {
        match (&observed.conf, self.current()?) {
            (Some(_), Some(conf)) => Ok(conf.running_lines()),
            _ => self.new_lines(&self.replica_of),
        }
    }

    /// Whom a new instance follows, and how many replicas it needs once it is a primary.
    fn new_lines(&self, replica_of: &str) -> Result<String> {
        let follows = if replica_of.is_empty() { String::new() } else { follow_line(replica_of)? };
        Ok(match self.needed() {
            0 => follows,
            needed => format!("{follows}min-replicas-to-write {needed}\n"),
        })
    }

    /// How many replicas it is to need as a primary.
    pub fn needed(&self) -> u32 {
        self.min_replicas.parse().unwrap_or(0)
    }

    fn refuse_other_role(&self, observed: &Observed) -> Result<()> {
        let wanted = (!self.replica_of.is_empty()).then_some(&self.replica_of);
        if observed.conf.is_none() || observed.follows.as_ref() == wanted {
            return Ok(());
        }
        let says = |follows: Option<&String>| follows.map_or("is primary".to_owned(), |of| format!("follows {of}"));
        bail!(
            "shard {} {} here, the map says it {} here: a move or a failover is under way; see `dunlin shards status`",
            self.id,
            says(observed.follows.as_ref()),
            says(wanted)
        )
    }

    fn conf_changes(&self, observed: &Observed, blobs: &dyn Blobs) -> Result<Vec<Change>> {
        let Some((meta, meaning)) = &observed.conf else {
            return Ok(vec![Change::set("configuration", self.conf_path().display())]);
        };
        let mut changes = mode::meta_changes(meta, &self.file_meta());
        if !self.is_marked(observed.conf.as_ref(), &self.conf, &observed.marks) {
            let desired = Conf::parse(&String::from_utf8_lossy(&blobs.get(&self.conf.digest)?)).meaning();
            let differing = meaning.differing(&desired).into_iter();
            changes.extend(differing.map(|(name, from, to)| Change { what: name, from, to, diff: None }));
        }
        Ok(changes)
    }

    fn acl_changes(&self, observed: &Observed, blobs: &dyn Blobs) -> Result<Vec<Change>> {
        let Some((meta, acl)) = &observed.acl else {
            return Ok(vec![Change::set("ACL users", self.acl_path().display())]);
        };
        let mut changes = mode::meta_changes(meta, &self.file_meta());
        if let Some(error) = &observed.acl_error {
            changes.push(Change::new("ACL file", format!("not valid: {error}"), "as desired"));
        } else if !self.is_marked(observed.acl.as_ref(), &self.acl, &observed.marks) {
            let desired =
                Acl::parse(&String::from_utf8_lossy(&blobs.get(&self.acl.digest)?)).context("the ACL file")?;
            let differing = acl.differing(&desired).into_iter();
            changes.extend(differing.map(|(user, what)| Change::new(&format!("ACL user {user}"), what, "as desired")));
        }
        Ok(changes)
    }

    /// Does the file say what this very content said when it was put here? Then the content itself is not needed.
    fn is_marked<T: Serialize>(&self, now: Option<&(Meta, T)>, content: &Content, marks: &[Mark]) -> bool {
        now.is_some_and(|(_, meaning)| marks.contains(&Mark::of(content, meaning)))
    }

    fn file_meta(&self) -> Meta {
        mode::meta(Mode(0o640), &self.user, None)
    }

    fn folder_meta(&self) -> Meta {
        mode::meta(Mode(0o750), &self.user, None)
    }
}

fn meta(world: &mut World, path: &Path) -> Result<Option<Meta>> {
    match world.path(path)? {
        PathState::Absent => Ok(None),
        PathState::File { meta, .. } => Ok(Some(meta)),
        _ => bail!("{} is no regular file", path.display()),
    }
}

/// The directive that makes an instance follow `ip:port`.
fn follow_line(address: &str) -> Result<String> {
    let (host, port) = host_and_port(address)?;
    Ok(format!("replicaof {host} {port}\n"))
}

fn host_and_port(address: &str) -> Result<(&str, &str)> {
    address.rsplit_once(':').with_context(|| format!("\"{address}\" is not of the form ip:port"))
}
