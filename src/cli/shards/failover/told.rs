//! What `dunlin shards failover` tells: hosts that are missing, the plan, how it went.

use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::shards::Work;
use crate::rebalance::failover::FailoverPlan;
use crate::rebalance::failover::run::{Outcome, set_aside};
use crate::rebalance::ground::read_map;
use crate::rebalance::{Ground, publish};
use crate::report::failover_text;
use crate::transport::{Cause, ConnectError};

impl Work<'_> {
    /// Names the hosts that do not answer. A host of shards that answers, but does not let us in, is not dead.
    ///
    /// # Errors
    /// There is such a host.
    pub fn tell_missing(&self, missing: &[(String, ConnectError)]) -> Result<(), Failure> {
        for (host, error) in missing {
            self.reporter.line("missing", json!({"host": host, "error": error.to_string()}));
            self.reporter.say(&error.to_string());
        }
        let hosts = self.files.shard_hosts()?;
        let is_closed = |(name, error): &&(String, ConnectError)| {
            error.cause != Cause::Unreachable && hosts.iter().any(|host| host.name == *name)
        };
        match missing.iter().find(is_closed) {
            None => Ok(()),
            Some((host, error)) => {
                let text = format!("{host} answers, but cannot be entered: it is not dead; nothing was changed");
                Err(Failure::say(Exit::Refused, text).hint(error.hint()))
            }
        }
    }

    /// Names the consumers of the map that do not answer.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn tell_unreached(&self, ground: &Ground<'_>) -> Result<(), Failure> {
        let (map, _) = read_map(&ground.map_file)?;
        for host in publish::unreached(ground, &map)? {
            let next = "once it is back: dunlin provision, before its services start";
            self.reporter.failed(&host, "it keeps the map that it has", Some(next));
        }
        Ok(())
    }

    /// Shows the plan.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn show_plan(&self, planned: &FailoverPlan) -> Result<(), Failure> {
        if self.reporter.json {
            self.reporter.line("plan", serde_json::to_value(planned).map_err(anyhow::Error::from)?);
        } else {
            self.reporter.data(failover_text(planned, self.reporter.style).trim_end());
        }
        Ok(())
    }

    /// How it went; and old primaries whose hosts answer are set aside.
    ///
    /// # Errors
    /// The map cannot be read.
    pub async fn tell_failover(
        &self,
        ground: &Ground<'_>,
        planned: &FailoverPlan,
        outcome: &Outcome,
    ) -> Result<(), Failure> {
        let reporter = &self.reporter;
        for promotion in planned.promotions.iter().filter(|p| outcome.promoted.contains_key(&p.shard)) {
            let (shard, to) = (promotion.shard, &promotion.to);
            let promoted = &outcome.promoted[&shard];
            reporter.line(
                "failed_over",
                json!({
                    "shard": shard, "from": promotion.from, "to": to, "offset": promoted.offset,
                    "waited_ms": promoted.waited_ms, "already": promoted.already,
                }),
            );
            reporter.data(&format!("  shard {shard} serves at {to}"));
            if outcome.unpublished.is_none() && !ground.absent.contains(&promotion.from) {
                match set_aside(ground, (shard, &promotion.from), &self.id).await {
                    Ok(aside) => self.tell_aside(shard, &promotion.from, &aside),
                    Err(error) => {
                        let next = Some("dunlin shards resume");
                        reporter.failed(&format!("shard {shard}"), &format!("the old instance stays: {error:#}"), next);
                    }
                }
            }
        }
        for freed in planned.freed.iter().filter(|freed| outcome.freed.contains(&freed.shard)) {
            reporter.line("freed", json!({"shard": freed.shard, "host": freed.host}));
        }
        for (shard, error) in &outcome.failed {
            reporter.failed(&format!("shard {shard}"), error, Some("run it again, or dunlin shards resume"));
        }
        if let Some(why) = &outcome.unpublished {
            reporter.failed("map", why, Some("run it again, or dunlin shards resume"));
        }
        self.tell_unreached(ground)?;
        for stranded in &planned.stranded {
            reporter.failed(&format!("shard {}", stranded.shard), &stranded.why, None);
        }
        let (promoted, freed) = (outcome.promoted.len(), outcome.freed.len());
        let epoch = outcome.epoch.map(|epoch| format!(", epoch {epoch}")).unwrap_or_default();
        reporter.data(&format!("Done: {promoted} promoted, {freed} freed of a dead replica{epoch}"));
        Ok(())
    }
}
