//! Instances that came back after a failover, in `dunlin shards status` and `resume`.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::json;

use super::{Work, role};
use crate::cli::failure::Failure;
use crate::cli::shard_run::Tally;
use crate::inventory::Bytes;
use crate::rebalance::failover::look::{Stray, strays};
use crate::rebalance::failover::run::{Ended, resume, tidy};
use crate::rebalance::ground::{Watch, read_map};
use crate::rebalance::resume::Stand;
use crate::rebalance::{Ground, publish};
use crate::wire::shard::failover::Aside;
use crate::wire::shard::{MoveState, Role};

impl Work<'_> {
    /// Instances that neither the map nor a move under way knows; none where the map is behind, and so knows too little.
    ///
    /// # Errors
    /// A host that was connected does not answer.
    pub async fn strays(&self, ground: &Ground<'_>, open: &[(&MoveState, Stand)]) -> Result<Vec<Stray>, Failure> {
        let (map, _) = read_map(&ground.map_file)?;
        if publish::published(ground, &map).await? > map.epoch.0 {
            return Ok(Vec::new());
        }
        let known: BTreeSet<String> = open
            .iter()
            .flat_map(|(state, _)| [&state.from, &state.to])
            .chain(open.iter().flat_map(|(state, _)| &state.others))
            .cloned()
            .collect();
        Ok(strays(ground, &map, &self.files.shard_hosts()?, &known).await?)
    }

    /// Names them.
    pub fn tell_strays(&self, found: &[Stray]) {
        for Stray { host, seen } in found {
            let is_master = matches!(seen.role, Role::Master { .. });
            let what = match (is_master, seen.min_replicas) {
                (true, 0) => "an old instance that came back, and ACCEPTS WRITES of clients with an old map",
                (true, _) => "an old instance that came back; it accepts no writes",
                (false, _) => "a replica that the map does not know",
            };
            self.reporter.data(&format!("  shard {} on {host} ({}): {what}", seen.shard, role(&seen.role)));
            self.reporter.line(&json!({
                "event": "stray", "shard": seen.shard, "host": host, "role": seen.role, "keys": seen.keys,
                "bytes": seen.bytes,
            }));
        }
    }

    /// Stops them, and keeps their files.
    pub async fn tidy(&self, ground: &Ground<'_>, found: &[Stray], tally: &mut Tally) {
        for stray in found {
            let aside = tidy(ground, stray, &self.id).await;
            tally.failed += usize::from(aside.is_err());
            self.tell_aside(stray.seen.shard, &stray.host, aside);
        }
    }

    /// What became of an old instance.
    pub fn tell_aside(&self, shard: u32, host: &str, aside: Result<Aside>) {
        match aside {
            Ok(Aside { kept: Some(kept), ahead }) => {
                let ahead_text = match ahead {
                    Some(0) => "it had nothing that the new primary lacks".to_owned(),
                    Some(bytes) => format!("it was {} ahead of the new primary", Bytes(bytes).human()),
                    None => "what it had alone is not known".to_owned(),
                };
                let kept = kept.display();
                self.reporter
                    .data(&format!("  shard {shard}: the old instance on {host} is set aside in {kept}; {ahead_text}"));
                let path = kept.to_string();
                self.reporter.line(&json!({
                    "event": "set_aside", "shard": shard, "host": host, "kept": path, "ahead_bytes": ahead,
                }));
            }
            Ok(_) => {}
            Err(error) => {
                self.reporter.failed(&format!("shard {shard}"), &format!("{error:#}"), Some("dunlin shards status"))
            }
        }
    }

    /// Brings a failover to its end that was cut short.
    ///
    /// # Errors
    /// What a host said.
    pub async fn end_failover(&self, ground: &Ground<'_>, state: &MoveState, watch: Watch<'_>) -> Result<String> {
        Ok(match resume(ground, state, watch).await? {
            Ended::Promoted => format!("  shard {} serves at {}", state.shard, state.to),
            Ended::TakenBack => format!("  shard {} serves at {}, which is there again", state.shard, state.from),
        })
    }
}
