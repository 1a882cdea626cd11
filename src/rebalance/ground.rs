//! What moves stand on: the connected hosts, the map's file, and the catalogues that say what an instance is to be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use dunlin_shards::{Placement, ShardId, ShardMap};
use serde_json::Value;

use crate::fleet::{Fleet, Session};
use crate::inventory::{Diagnostics, Inventory};
use crate::playbook::{Compiled, Compiler, Parts, Playbook, Selection, Templates};
use crate::wire::shard::{self, Credentials, Job, MoveSpec, Reply, Request};
use crate::wire::sparing::{Asked, Sparing};
use crate::wire::{self, Event};

/// Where events of a host's shard go.
pub type Watch<'a> = &'a (dyn Fn(&str, &Event) + Send + Sync);

/// Hosts, files and secrets of one rebalancing.
pub struct Ground<'a> {
    /// The hosts at work.
    pub fleet: &'a Fleet,
    /// Their sessions, by name.
    pub sessions: BTreeMap<String, Session>,
    /// Hosts that do not answer, where the run goes without them.
    pub absent: BTreeSet<String>,
    /// The inventory.
    pub inventory: &'a Inventory,
    /// The playbook with the `redis_shard` and `shard_map` steps.
    pub playbook: &'a Playbook,
    /// The templates.
    pub templates: &'a Templates,
    /// Where files of steps are looked for.
    pub folders: Vec<PathBuf>,
    /// The authored map.
    pub map_file: PathBuf,
    /// Who dunlin is to the instances.
    pub credentials: Credentials,
    /// Who runs this, for the hosts' journals.
    pub by: String,
    /// The run's number on each host, once it has begun.
    pub fences: BTreeMap<String, u64>,
    /// What moves are to leave to their sources' clients, as far as it was said.
    pub sparing: Asked,
    /// Move also where the target's listpack limits are other ones than the source's.
    pub allow_reencoding: bool,
}

impl Ground<'_> {
    /// Takes the run's number on these hosts, under their locks: whatever else still works there has a lower one.
    ///
    /// # Errors
    /// A host does not take it; nothing was changed but numbers.
    pub async fn begin(&mut self, run: &str, hosts: &[String]) -> Result<()> {
        let request = Request::Begin(shard::Begin { run: run.to_owned(), journals: shard::moves_folder() });
        let answers = self.fleet.each(hosts, |host| self.ask(host, request.clone(), &|_, _| {})).await;
        for (host, answer) in hosts.iter().zip(answers) {
            let Reply::Begun(number) = answer? else { bail!("{host}: an answer that does not fit") };
            self.fences.insert(host.clone(), number);
        }
        Ok(())
    }

    /// The run's number on a host; without one, the host refuses where any run has begun.
    pub fn fence(&self, host: &str) -> u64 {
        self.fences.get(host).copied().unwrap_or(0)
    }

    /// What a step of a run on a shard carries to a host.
    pub fn job(&self, host: &str, shard: u32, run: &str) -> Job {
        Job {
            run: run.to_owned(),
            fence: self.fence(host),
            shard,
            credentials: self.credentials.clone(),
            journals: shard::moves_folder(),
        }
    }

    /// The session of a host.
    ///
    /// # Errors
    /// The host is not connected.
    pub fn session(&self, host: &str) -> Result<&Session> {
        self.sessions.get(host).ok_or_else(|| anyhow!("{host} is not connected"))
    }

    /// `address:port` of a shard on a host.
    ///
    /// # Errors
    /// The inventory does not have the host.
    pub fn address(&self, map: &ShardMap, shard: u32, host: &str) -> Result<String> {
        let found = self.inventory.host(host).with_context(|| format!("{host} is not in the inventory"))?;
        Ok(format!("{}:{}", found.address, map.port(shard_id(shard)?)))
    }

    /// The name of the host that has this address.
    pub fn host_at(&self, address: &str) -> Option<&str> {
        let (ip, _) = address.rsplit_once(':')?;
        self.inventory.hosts().iter().find(|host| host.address == ip).map(|host| host.name.as_str())
    }

    /// The bounds of a move that had those before.
    pub fn limits(&self, before: Sparing) -> shard::Limits {
        let sparing = self.sparing.over(before);
        shard::Limits { sparing, allow_reencoding: self.allow_reencoding, ..shard::Limits::default() }
    }

    /// A compiler for the steps of these types, under a map.
    ///
    /// # Errors
    /// Mistakes in map, inventory or playbook.
    pub fn compiler<'c>(&'c self, map: &'c ShardMap, kinds: &[&str]) -> Result<Compiler<'c>> {
        let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        Compiler::new(Parts {
            inventory: self.inventory,
            playbook: self.playbook,
            templates: self.templates,
            shard_map: Some(map),
            folders: self.folders.clone(),
            secrets: None,
            selection: Selection { kinds, ..Selection::default() },
        })
        .map_err(|found| told(&found))
    }

    /// The desired instance of a shard on a host under a map; its contents are offered to `on`.
    ///
    /// # Errors
    /// The playbook makes no such instance there.
    pub fn instance(&self, map: &ShardMap, shard: u32, host: &str, on: &Session) -> Result<Value> {
        let facts = &self.session(host)?.hello.facts;
        let compiled = self.compiler(map, &["redis_shard"])?.compile(host, facts).map_err(|found| told(&found))?;
        let Compiled { catalogue, contents, .. } = compiled;
        on.offer(&contents);
        let mut steps = catalogue.plays.into_iter().flat_map(|play| play.steps);
        let wanted = steps.find(|step| step.desired.get("id").and_then(Value::as_str) == Some(&shard.to_string()));
        match wanted {
            Some(step) => Ok(step.desired),
            None => {
                bail!("the playbook makes no instance of shard {shard} on {host}: is the host in the play's group?")
            }
        }
    }

    /// A request about shards to a host.
    ///
    /// # Errors
    /// What the host answered.
    pub async fn ask(&self, host: &str, request: Request, watch: Watch<'_>) -> Result<Reply> {
        let session = self.session(host)?;
        let reply =
            session.request(wire::Request::Shard(request), &|event| watch(host, &event), &self.fleet.stop).await;
        match reply.map_err(|error| anyhow!("{error}"))? {
            wire::Reply::Shard(reply) => Ok(reply),
            _ => bail!("{host}: an answer that does not fit"),
        }
    }

    /// The move of a shard as its target's host is asked for it.
    ///
    /// # Errors
    /// The playbook makes no such instance there.
    pub fn spec(&self, map: &ShardMap, run: &str, shard: u32, to: &str) -> Result<MoveSpec> {
        let from = map.shard(shard_id(shard)?).with_context(|| format!("there is no shard {shard}"))?;
        let after = moved(map, shard, to)?;
        let others = from.replicas.iter().filter(|replica| *replica != to);
        Ok(MoveSpec {
            job: self.job(to, shard, run),
            by: self.by.clone(),
            from: self.address(map, shard, &from.host)?,
            to: self.address(map, shard, to)?,
            others: others.map(|host| self.address(map, shard, host)).collect::<Result<_>>()?,
            epoch: after.epoch.0,
            app_user: from.id.user(),
            instance: self.instance(&after, shard, to, self.session(to)?)?,
            source_is_armed: false,
            limits: self.limits(Sparing::default()),
        })
    }
}

/// The map as it is after a move.
///
/// # Errors
/// There is no such shard.
pub fn moved(map: &ShardMap, shard: u32, to: &str) -> Result<ShardMap> {
    let mut after = map.clone();
    let id = shard_id(shard)?;
    let entry =
        after.shards.iter_mut().find(|entry| entry.id == id).with_context(|| format!("there is no shard {shard}"))?;
    entry.host = to.to_owned();
    after.epoch = after.epoch.next();
    Ok(after)
}

/// A shard's copies once its primary has gone to a host; its replicas stay where they are.
///
/// # Errors
/// There is no such shard.
pub fn placed(map: &ShardMap, shard: u32, to: &str) -> Result<Placement> {
    let entry = map.shard(shard_id(shard)?).with_context(|| format!("there is no shard {shard}"))?;
    Ok(Placement { host: to.to_owned(), ..entry.placement() })
}

/// A shard's number as the map has it.
///
/// # Errors
/// It is over 65,535.
pub fn shard_id(shard: u32) -> Result<ShardId> {
    Ok(ShardId(u16::try_from(shard).with_context(|| format!("there is no shard {shard}"))?))
}

/// Findings as an error.
pub fn told(found: &Diagnostics) -> anyhow::Error {
    anyhow!("{}", found.render(false))
}

/// The admin's credentials, from the secret `redis.admin`.
///
/// # Errors
/// There is no such secret.
pub fn credentials(inventory: &Inventory) -> Result<Credentials> {
    let secret = inventory
        .secrets()
        .get("redis.admin")
        .with_context(|| format!("no secret `redis.admin` in {}", inventory.dir().join("secrets.toml").display()))?;
    Ok(Credentials { user: "dunlin".to_owned(), password: secret.expose().to_owned() })
}

/// The map in a file.
///
/// # Errors
/// It cannot be read, or has mistakes.
pub fn read_map(path: &std::path::Path) -> Result<(ShardMap, Arc<str>)> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let map = ShardMap::parse(&text).map_err(|errors| {
        anyhow!("{}: {}", path.display(), errors.iter().map(|e| e.message.as_str()).collect::<Vec<_>>().join("; "))
    })?;
    Ok((map, text.into()))
}
