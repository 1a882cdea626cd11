//! `dunlin shards capacity`.

use clap::Args;
use serde_json::json;

use super::Work;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::inventory::Bytes;
use crate::journal::{self, Journal};
use crate::rebalance::capacity::{Forecast, HostNow, Look, forecast, growth};
use crate::rebalance::observe;
use crate::wire::shard::Sample;

/// Keys that are looked at closely on each instance.
const SAMPLED: u32 = 64;
/// How far back growth is taken from, in seconds.
const PAST: i64 = 30 * 86400;

/// What to reckon with.
#[derive(Debug, Args)]
pub struct Capacity {
    /// Reckon with this growth a day (10GiB) instead of what was seen between the looks of the last 30 days
    #[arg(long, value_name = "BYTES")]
    growth: Option<Bytes>,
}

impl Work<'_> {
    /// Measures, reckons, and keeps the look for the next time.
    ///
    /// # Errors
    /// A host or a shard does not answer.
    pub async fn capacity(&self, wish: &Capacity) -> Result<Exit, Failure> {
        let fleet = self.files.fleet(self.common)?;
        let ground = self.files.ground(&fleet, self.common).await?;
        let map = self.files.map()?;
        let seen = observe::sampled(&ground, map, SAMPLED).await?;
        let mut hosts = Vec::new();
        let mut sample = Sample::default();
        for host in self.files.shard_hosts()? {
            let here: Vec<_> = map.shards_on(&host.name).filter_map(|e| seen.get(&u32::from(e.id.0))).collect();
            let copied: u64 =
                map.replicas_on(&host.name).filter_map(|e| Some(seen.get(&u32::from(e.id.0))?.bytes)).sum();
            here.iter().for_each(|shard| sample.add(&shard.sample));
            let bytes: u64 = here.iter().map(|shard| shard.bytes).sum();
            hosts.push(HostNow {
                name: host.name.clone(),
                capacity: observe::capacity(&ground, host),
                bytes,
                held: bytes + copied,
                users: here.iter().map(|shard| shard.keys).sum(),
            });
        }
        let looks = self.look(&hosts)?;
        #[expect(clippy::cast_precision_loss, reason = "bytes of a forecast")]
        let grows = wish.growth.map(|bytes| bytes.0 as f64).or_else(|| growth(&looks));
        let told = forecast(&hosts, grows, sample.entries_each());
        self.reporter.line(&json!({"event": "capacity", "forecast": told, "sample": sample}));
        for line in lines(&told, &sample) {
            self.reporter.data(&line);
        }
        Ok(Exit::Done)
    }

    /// Adds this look to those of the last days, and returns them.
    fn look(&self, hosts: &[HostNow]) -> Result<Vec<Look>, Failure> {
        let path = self.files.looks();
        let at = jiff::Timestamp::now().as_second();
        let sum = |figure: fn(&HostNow) -> u64| hosts.iter().map(figure).sum();
        let look = Look { at, bytes: sum(|host| host.bytes), users: sum(|host| host.users) };
        Journal::open(&path)?.append(&look)?;
        let looks: Vec<Look> = journal::read(&path).map_err(anyhow::Error::from)?;
        Ok(looks.into_iter().filter(|look| look.at >= at - PAST).collect())
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures for a reader")]
fn lines(told: &Forecast, sample: &Sample) -> Vec<String> {
    let human = |bytes: f64| Bytes(bytes.max(0.0) as u64).human().to_string();
    let mut lines: Vec<String> = told
        .hosts
        .iter()
        .map(|host| {
            let (bytes, usable) = (Bytes(host.bytes).human().to_string(), Bytes(host.usable).human().to_string());
            let most = host.users_at_most.map(|most| format!(" of about {most}")).unwrap_or_default();
            let full = host
                .full_in_days
                .map_or("does not grow, as far as seen".to_owned(), |days| format!("full {}", date(days)));
            format!("{:<16} {bytes:>9} of {usable:>9}  {:>8} users{most}; {full}", host.name, host.users)
        })
        .collect();
    if let (Some(each), Some((listpack, skiplist))) = (told.bytes_per_user, told.model) {
        let entries = sample.entries_each().unwrap_or_default();
        lines.push(format!(
            "a user: {} measured; {entries:.0} entries and {} % listpacks in {} sampled sets; by the model {} as \
             listpack, {} as skiplist",
            human(each),
            sample.listpacks * 100 / sample.sets.max(1),
            sample.sets,
            human(listpack),
            human(skiplist)
        ));
    }
    match (told.growth_per_day, told.full_in_days, told.full_in_days_with_another) {
        (Some(growth), Some(days), Some(more)) => lines.push(format!(
            "grows by {} a day: full {}, evenly filled; another host of the average size: {} on each, full {}",
            human(growth),
            date(days),
            Bytes(told.bytes_with_another).human(),
            date(more)
        )),
        (None, ..) => lines.push(
            "growth is not known yet: run this again, an hour later at the least, or say --growth BYTES".to_owned(),
        ),
        _ => lines.push("the cluster does not grow".to_owned()),
    }
    lines
}

/// The day that many days from now; far off, only that.
#[expect(clippy::cast_possible_truncation, reason = "at most ten years of seconds")]
fn date(days: f64) -> String {
    if days > 3650.0 {
        return "in more than ten years".to_owned();
    }
    let then = jiff::Timestamp::now() + jiff::SignedDuration::from_secs((days * 86400.0) as i64);
    format!("on {}", then.strftime("%Y-%m-%d"))
}
