//! The hosts of a run: their sessions, and the requests to them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow};
use dunlin_shards::{InstanceAddress, ShardId, ShardMap};

use crate::fleet::{Fleet, Session};
use crate::inventory::Inventory;
use crate::protocol::call;
use crate::protocol::shard::{self, Credentials, StepHeader};
use crate::protocol::{Call, Event};

/// Receives the events of a host.
pub type ProgressFn<'a> = &'a (dyn Fn(&str, &Event) + Send + Sync);

/// Hosts that a run has connected to.
pub struct ConnectedHosts<'a> {
    /// The hosts of the run.
    pub fleet: &'a Fleet,
    /// Their sessions, by name.
    pub sessions: BTreeMap<String, Session>,
    /// Hosts that do not answer, where the run goes without them.
    pub unreachable: BTreeSet<String>,
    /// The inventory.
    pub inventory: &'a Inventory,
    /// Credentials for the instances.
    pub credentials: Credentials,
    /// Generation of the run on each host, once it has begun.
    pub generations: BTreeMap<String, u64>,
}

impl ConnectedHosts<'_> {
    /// Takes the next generation on these hosts, under their locks: earlier runs are rejected there from now on.
    ///
    /// # Errors
    /// Returns an error if a host rejects it; only generations were changed then.
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

    /// Returns the generation of the run on a host; 0 if it has none, which hosts with any run reject.
    pub fn generation(&self, host: &str) -> u64 {
        self.generations.get(host).copied().unwrap_or(0)
    }

    /// Returns the header of a step of a run on a shard.
    pub fn step_header(&self, host: &str, shard: ShardId, run: &str) -> StepHeader {
        StepHeader {
            run: run.to_owned(),
            generation: self.generation(host),
            shard,
            credentials: self.credentials.clone(),
            journal_dir: shard::default_journal_dir(),
        }
    }

    /// Returns the session of a host.
    ///
    /// # Errors
    /// Returns an error if the host is not connected.
    pub fn get_session(&self, host: &str) -> Result<&Session> {
        self.sessions.get(host).ok_or_else(|| anyhow!("{host} is not connected"))
    }

    /// Returns the address of a shard on a host.
    ///
    /// # Errors
    /// Returns an error if the inventory does not have the host.
    pub fn instance_address(&self, map: &ShardMap, shard: ShardId, host: &str) -> Result<InstanceAddress> {
        let found = self.inventory.find_host(host).with_context(|| format!("{host} is not in the inventory"))?;
        Ok(InstanceAddress::new(found.address.as_str(), map.port_of(shard)))
    }

    /// Returns the name of the host with this address.
    pub fn host_at_address(&self, address: &InstanceAddress) -> Option<&str> {
        self.inventory.hosts().iter().find(|host| host.address == address.host).map(|host| host.name.as_str())
    }

    /// Sends a request about shards to a host.
    ///
    /// # Errors
    /// Returns the error that the host reports.
    pub async fn call_host<C: Call>(&self, host: &str, call: C, on_progress: ProgressFn<'_>) -> Result<C::Reply> {
        let session = self.get_session(host)?;
        Ok(session.call(call, &|event| on_progress(host, &event), &self.fleet.cancellation).await?)
    }
}

/// Returns the admin's credentials, from the secret `redis.admin`; with the secret `redis.tls.ca`, connections use TLS.
///
/// # Errors
/// Returns an error if there is no such secret.
pub fn admin_credentials(inventory: &Inventory) -> Result<Credentials> {
    let secret = inventory
        .secrets()
        .find_secret("redis.admin")
        .with_context(|| format!("no secret `redis.admin` in {}", inventory.dir().join("secrets.toml").display()))?;
    let tls_ca = inventory.secrets().find_secret("redis.tls.ca").map(|ca| ca.expose().to_owned());
    Ok(Credentials { user: "dunlin".to_owned(), password: secret.expose().to_owned(), tls_ca })
}
