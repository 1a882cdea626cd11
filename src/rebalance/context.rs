//! What moves stand on: the connected hosts, the map's file, and the catalogues that say what an instance is to be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use dunlin_shards::{ShardId, ShardMap, ShardPlacement};
use serde_json::Value;

use crate::fleet::{Fleet, Session};
use crate::inventory::{Diagnostics, Inventory};
use crate::playbook::{CompiledHost, Compiler, CompilerInput, Playbook, StepSelection, Templates};
use crate::protocol::shard::{self, Credentials, MoveSpec, Operation, StepHeader, call};
use crate::protocol::throttle::{ThrottleLimits, ThrottleOverrides};
use crate::protocol::{Call, Event};

/// Receives the events of a host.
pub type ProgressFn<'a> = &'a (dyn Fn(&str, &Event) + Send + Sync);

/// Hosts, files and secrets of one rebalancing.
pub struct RebalanceContext<'a> {
    /// The hosts of the run.
    pub fleet: &'a Fleet,
    /// Their sessions, by name.
    pub sessions: BTreeMap<String, Session>,
    /// Hosts that do not answer, where the run goes without them.
    pub unreachable: BTreeSet<String>,
    /// The inventory.
    pub inventory: &'a Inventory,
    /// The playbook with the `redis_shard` and `shard_map` steps.
    pub playbook: &'a Playbook,
    /// The templates.
    pub templates: &'a Templates,
    /// Folders in which files of steps are searched.
    pub file_roots: Vec<PathBuf>,
    /// The authored map.
    pub map_file: PathBuf,
    /// Credentials for the instances.
    pub credentials: Credentials,
    /// Operator, for the journals of the hosts.
    pub operator: String,
    /// The run's number on each host, once it has begun.
    pub generations: BTreeMap<String, u64>,
    /// Limits of the throttle that the command line gives.
    pub throttle: ThrottleOverrides,
    /// Move also where the target's listpack limits are other ones than the source's.
    pub allow_reencoding: bool,
}

impl RebalanceContext<'_> {
    /// Takes the run's number on these hosts, under their locks: whatever else still works there has a lower one.
    ///
    /// # Errors
    /// A host does not take it; nothing was changed but numbers.
    pub async fn start_run(&mut self, run: &str, hosts: &[String]) -> Result<()> {
        let request =
            call::StartRun(shard::RunStart { run: run.to_owned(), journal_dir: shard::default_journal_dir() });
        let generations =
            self.fleet.map_parallel(hosts, |host| self.call_host(host, request.clone(), &|_, _| {})).await;
        for (host, generation) in hosts.iter().zip(generations) {
            self.generations.insert(host.clone(), generation?);
        }
        Ok(())
    }

    /// The run's number on a host; without one, the host refuses where any run has begun.
    pub fn generation(&self, host: &str) -> u64 {
        self.generations.get(host).copied().unwrap_or(0)
    }

    /// Returns the header of a step of a run on a shard.
    pub fn step_header(&self, host: &str, shard: u32, run: &str) -> StepHeader {
        StepHeader {
            run: run.to_owned(),
            generation: self.generation(host),
            shard,
            credentials: self.credentials.clone(),
            journal_dir: shard::default_journal_dir(),
        }
    }

    /// The session of a host.
    ///
    /// # Errors
    /// The host is not connected.
    pub fn get_session(&self, host: &str) -> Result<&Session> {
        self.sessions.get(host).ok_or_else(|| anyhow!("{host} is not connected"))
    }

    /// `address:port` of a shard on a host.
    ///
    /// # Errors
    /// The inventory does not have the host.
    pub fn instance_address(&self, map: &ShardMap, shard: u32, host: &str) -> Result<String> {
        let found = self.inventory.find_host(host).with_context(|| format!("{host} is not in the inventory"))?;
        Ok(format!("{}:{}", found.address, map.port_of(to_shard_id(shard)?)))
    }

    /// The name of the host that has this address.
    pub fn host_at_address(&self, address: &str) -> Option<&str> {
        let (ip, _) = address.rsplit_once(':')?;
        self.inventory.hosts().iter().find(|host| host.address == ip).map(|host| host.name.as_str())
    }

    /// The bounds of a move that had those before.
    pub fn move_limits(&self, previous: ThrottleLimits) -> shard::MoveLimits {
        let throttle = self.throttle.apply_to(previous);
        shard::MoveLimits { throttle, allow_reencoding: self.allow_reencoding, ..shard::MoveLimits::default() }
    }

    /// A compiler for the steps of these types, under a map.
    ///
    /// # Errors
    /// Mistakes in map, inventory or playbook.
    pub fn build_compiler<'c>(&'c self, map: &'c ShardMap, kinds: &[&str]) -> Result<Compiler<'c>> {
        let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        Compiler::new(CompilerInput {
            inventory: self.inventory,
            playbook: self.playbook,
            templates: self.templates,
            shard_map: Some(map),
            file_folders: self.file_roots.clone(),
            secrets: None,
            selection: StepSelection { kinds, ..StepSelection::default() },
            digest_key: None,
        })
        .map_err(|found| to_diagnostics_error(&found))
    }

    /// The desired instance of a shard on a host under a map; its contents are offered to `on`.
    ///
    /// # Errors
    /// The playbook makes no such instance there.
    pub fn desired_instance(&self, map: &ShardMap, shard: u32, host: &str, session: &Session) -> Result<Value> {
        let facts = &self.get_session(host)?.hello.facts;
        let compiled = self
            .build_compiler(map, &["redis_shard"])?
            .compile_host(host, facts)
            .map_err(|found| to_diagnostics_error(&found))?;
        let CompiledHost { catalogue, contents, .. } = compiled;
        session.add_blobs(&contents);
        let mut steps = catalogue.plays.into_iter().flat_map(|play| play.steps);
        let desired_step =
            steps.find(|step| step.desired.get("id").and_then(Value::as_str) == Some(&shard.to_string()));
        match desired_step {
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
    pub async fn call_host<C: Call>(&self, host: &str, call: C, on_progress: ProgressFn<'_>) -> Result<C::Reply> {
        let session = self.get_session(host)?;
        Ok(session.call(call, &|event| on_progress(host, &event), &self.fleet.cancellation).await?)
    }

    /// The move of a shard as its target's host is asked for it.
    ///
    /// # Errors
    /// The playbook makes no such instance there.
    pub fn move_spec(&self, map: &ShardMap, run: &str, shard: u32, to: &str) -> Result<MoveSpec> {
        let from = map.find_shard(to_shard_id(shard)?).with_context(|| format!("there is no shard {shard}"))?;
        let after = map_after_move(map, shard, to)?;
        let others = from.replicas.iter().filter(|replica| *replica != to);
        Ok(MoveSpec {
            header: self.step_header(to, shard, run),
            operator: self.operator.clone(),
            from: self.instance_address(map, shard, &from.host)?,
            to: self.instance_address(map, shard, to)?,
            operation: Operation::Relocate {
                other_replicas: others.map(|host| self.instance_address(map, shard, host)).collect::<Result<_>>()?,
            },
            epoch: after.epoch.0,
            app_user: from.id.acl_user(),
            instance: self.desired_instance(&after, shard, to, self.get_session(to)?)?,
            source_file_requires_replicas: false,
            limits: self.move_limits(ThrottleLimits::default()),
        })
    }
}

/// The map as it is after a move.
///
/// # Errors
/// There is no such shard.
pub fn map_after_move(map: &ShardMap, shard: u32, to: &str) -> Result<ShardMap> {
    let mut after = map.clone();
    let id = to_shard_id(shard)?;
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
pub fn placement_after_move(map: &ShardMap, shard: u32, to: &str) -> Result<ShardPlacement> {
    let entry = map.find_shard(to_shard_id(shard)?).with_context(|| format!("there is no shard {shard}"))?;
    Ok(ShardPlacement { host: to.to_owned(), ..entry.placement() })
}

/// A shard's number as the map has it.
///
/// # Errors
/// It is over 65,535.
pub fn to_shard_id(shard: u32) -> Result<ShardId> {
    Ok(ShardId(u16::try_from(shard).with_context(|| format!("there is no shard {shard}"))?))
}

/// Findings as an error.
pub fn to_diagnostics_error(diagnostics: &Diagnostics) -> anyhow::Error {
    anyhow!("{}", diagnostics.render(false))
}

/// The admin's credentials, from the secret `redis.admin`.
///
/// # Errors
/// There is no such secret.
pub fn admin_credentials(inventory: &Inventory) -> Result<Credentials> {
    let secret = inventory
        .secrets()
        .find_secret("redis.admin")
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
