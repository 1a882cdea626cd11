//! `dunlin shards status`; and what of it `shards resume` mends.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dunlin_shards::ShardMap;
use serde_json::json;

use super::Work;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::inventory::Bytes;
use crate::rebalance::copies::{Copies, State, Stray, look, settle};
use crate::rebalance::ground::read_map;
use crate::rebalance::observation::Observation;
use crate::rebalance::resume::{Stand, believed, journals};
use crate::rebalance::run::Step;
use crate::rebalance::{Ground, observe};
use crate::wire::shard::{MoveState, Observed};

impl Work<'_> {
    /// Shows where the shards are, how their copies are, and which moves are under way.
    ///
    /// # Errors
    /// A host or a primary does not answer.
    pub async fn status(&self, out: Option<PathBuf>) -> Result<Exit, Failure> {
        let pending = self.files.state.load_pending_moves()?;
        let fleet = self.files.fleet(self.common)?;
        let (ground, missing) = self.files.living(&fleet).await?;
        let (reporter, map) = (&self.reporter, self.files.map()?);
        for (host, error) in &missing {
            reporter.failed(host, &error.to_string(), Some(&error.hint()));
        }
        let found = journals(&ground).await?;
        let open = self.open(&ground, &found)?;
        reporter.data(&format!("{} at epoch {}: {} shards", map.cluster, map.epoch.0, map.shards.len()));
        let served = believed(&ground, map, &open);
        let primaries = observe::primaries(&ground, &served).await;
        let moving: Vec<&MoveState> = open.iter().map(|(state, _)| *state).collect();
        let none = BTreeMap::new();
        let copies = self.copies(&ground, &served, primaries.as_ref().unwrap_or(&none), &moving).await?;
        if let Ok(primaries) = &primaries {
            self.hosts(&served, primaries, &copies)?;
            let mut observation = observe::observation(&ground, &served, &self.files.shard_hosts()?, primaries);
            note(&mut observation, &copies);
            if let Some(file) = &out {
                std::fs::write(file, observation.to_json())
                    .map_err(|error| Failure::say(Exit::Error, format!("{}: {error}", file.display())))?;
            }
        }
        self.tell_copies(&copies);
        self.tell_lacking(map);
        self.tell(&open);
        let begun = |step: &&Step| open.iter().any(|(state, _)| state.shard == step.shard);
        let rest = pending.iter().filter(|step| !begun(step)).count();
        if rest > 0 {
            reporter.data(&format!("  {rest} moves of the plan are not begun"));
        }
        if open.is_empty() && rest == 0 {
            reporter.data("  no moves under way");
            if copies.are_open() || map.lacking().next().is_some() {
                reporter.say("next: dunlin shards resume");
            }
        } else if rest == 0 && open.iter().all(|(_, stand)| *stand == Stand::Soaking) {
            reporter
                .say("next: dunlin shards resume retires the old instances, dunlin shards reverse goes back to them");
        } else {
            reporter.say("next: dunlin shards resume, or dunlin shards abort");
        }
        reporter.line(
            "status",
            json!({
                "epoch": map.epoch.0, "open": open.len(), "not_begun": rest,
                "replicas": copies.replicas.len(),
                "replicas_good": copies.replicas.iter().filter(|replica| replica.state.is_good()).count(),
            }),
        );
        let next = match missing.first() {
            Some((host, _)) => format!("if {host} is dead: dunlin shards failover {host} --dry-run"),
            None => "dunlin shards resume".to_owned(),
        };
        primaries.map(|_| Exit::Done).map_err(|error| Failure::new(Exit::Error, error).hint(next))
    }

    fn tell_lacking(&self, map: &ShardMap) {
        for entry in map.lacking() {
            let (shard, has, wanted) = (entry.id.0, entry.replicas.len(), map.replicas.unwrap_or(0));
            self.reporter.line("lacking", json!({"shard": shard, "replicas": has, "wanted": wanted}));
            self.reporter.data(&format!("  shard {shard} has {has} of {wanted} replicas"));
        }
    }

    async fn copies(
        &self,
        ground: &Ground<'_>,
        map: &ShardMap,
        primaries: &BTreeMap<u32, Observed>,
        open: &[&MoveState],
    ) -> Result<Copies, Failure> {
        let hosts = self.files.shard_hosts()?.into_iter().map(|host| host.name.as_str());
        let hosts: Vec<&str> = hosts.filter(|host| !ground.absent.contains(*host)).collect();
        Ok(look(ground, map, (&hosts, primaries), open).await?)
    }

    fn hosts(&self, served: &ShardMap, primaries: &BTreeMap<u32, Observed>, copies: &Copies) -> Result<(), Failure> {
        for host in self.files.shard_hosts()? {
            let shards: Vec<_> = served.shards_on(&host.name).collect();
            let seen = shards.iter().filter_map(|entry| primaries.get(&u32::from(entry.id.0)));
            let bytes: u64 = seen.map(|seen| seen.bytes).sum();
            let (size, replicas) = (Bytes(bytes).human(), copies.on(&host.name));
            let mut line = format!("  {:<16} {:>3} shards {size:>10}", host.name, shards.len());
            if !copies.replicas.is_empty() {
                line += &format!(" {replicas:>4} replicas");
            }
            self.reporter.data(&line);
            self.reporter.line(
                "shards",
                json!({
                    "host": host.name, "shards": shards.len(), "bytes": bytes, "replicas": replicas,
                }),
            );
        }
        Ok(())
    }

    /// What is not in order among the copies; in JSON every replica.
    pub fn tell_copies(&self, copies: &Copies) {
        let event = |name: &str, value: serde_json::Result<serde_json::Value>| {
            self.reporter.line(name, value.unwrap_or_default());
        };
        for replica in &copies.replicas {
            event("replica", serde_json::to_value(replica));
            if let Some(what) = told(&replica.state) {
                self.reporter.data(&format!("  shard {}: the replica on {} {what}", replica.shard, replica.host));
            }
        }
        for stray in &copies.strays {
            event("stray", serde_json::to_value(stray));
            self.reporter.data(&stray_line(stray));
        }
        for unlike in &copies.unlike {
            event("unlike", serde_json::to_value(unlike));
            self.reporter.data(&format!(
                "  shard {}: its primary needs {} replicas to accept writes, the playbook says {}",
                unlike.shard, unlike.needs, unlike.wanted
            ));
        }
    }

    /// The copies as they are now; nothing where a primary does not answer, which is told.
    ///
    /// # Errors
    /// A host does not answer.
    pub async fn copies_now(&self, ground: &Ground<'_>) -> Result<Option<Copies>, Failure> {
        let (map, _) = read_map(&ground.map_file)?;
        let found = journals(ground).await?;
        let open = self.open(ground, &found)?;
        let served = believed(ground, &map, &open);
        let moving: Vec<&MoveState> = open.iter().map(|(state, _)| *state).collect();
        match observe::sampled(ground, &served, 0).await {
            Ok(primaries) => Ok(Some(self.copies(ground, &served, &primaries, &moving).await?)),
            Err(error) => {
                self.reporter.say(&format!("replicas are not looked at: {error:#}"));
                Ok(None)
            }
        }
    }

    /// Retires strays and has primaries need their replicas; returns how many of them there were.
    ///
    /// # Errors
    /// A host does not answer, or a later map is out.
    pub async fn settle_copies(&self, ground: &Ground<'_>, waiting: &mut bool) -> Result<usize, Failure> {
        let Some(copies) = self.copies_now(ground).await?.filter(Copies::are_open) else { return Ok(0) };
        self.tell_copies(&copies);
        let mut left = settle(ground, &copies, &self.id)
            .await
            .map_err(|error| Failure::new(Exit::Refused, error).hint("take over the newer map, then resume again"))?;
        left.extend(self.tidy(ground, &copies).await);
        for (shard, why) in &left {
            self.reporter.failed(&format!("shard {shard}"), why, Some("dunlin shards status, then resume again"));
        }
        *waiting |= !left.is_empty();
        Ok(copies.strays.len() + copies.unlike.len())
    }
}

/// Each shard of the observation with how its replicas are.
fn note(observation: &mut Observation, copies: &Copies) {
    for shard in &mut observation.shards {
        let here: Vec<_> = copies.replicas.iter().filter(|replica| replica.shard == shard.id).collect();
        if !here.is_empty() {
            shard.details.insert("replicas".to_owned(), json!(here));
        }
    }
}

/// What is not as it should be; nothing where it is.
fn told(state: &State) -> Option<String> {
    Some(match state {
        State::Follows { behind_bytes: 0 } => return None,
        State::Follows { behind_bytes } => format!("is {} behind", Bytes(*behind_bytes).human()),
        State::Unlinked => "has lost its primary".to_owned(),
        State::Astray { of } => format!("follows {of}, which is not its primary"),
        State::Primary => "is a primary itself".to_owned(),
        State::Missing { why } => format!("is down or was not made yet: {why}"),
    })
}

fn stray_line(stray: &Stray) -> String {
    let what = match &stray.of {
        Some(_) if stray.is_replica => "follows the primary; dunlin shards resume retires it".to_owned(),
        Some(of) => format!("follows {of}; it is for a person to decide"),
        None if stray.accepts_writes => {
            "came back as a primary, and ACCEPTS WRITES of clients with an old map; dunlin shards resume sets it aside"
                .to_owned()
        }
        None => "came back as a primary, and accepts no writes; dunlin shards resume sets it aside".to_owned(),
    };
    format!("  shard {}: an instance on {} that the map does not name {what}", stray.shard, stray.host)
}
