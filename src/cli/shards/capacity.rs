//! `dunlin shards capacity`.

use clap::Args;
use serde_json::json;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::exit::Exit;
use crate::inventory::ByteSize;
use crate::rebalance::capacity::{CapacitySample, Forecast, HostUsage, forecast_capacity, measure_growth};
use crate::rebalance::observe;

/// The flags of `shards capacity`.
#[derive(Debug, Args)]
pub struct CapacityArgs {
    /// Assume this daily growth (e.g. 10GiB) instead of the rate measured over the last 30 days
    #[arg(long, value_name = "BYTES")]
    growth: Option<ByteSize>,
}

impl ShardsContext<'_> {
    /// Measures the usage, prints the forecast, and saves a sample for the next forecast.
    ///
    /// # Errors
    /// Returns an error if a host or shard does not answer.
    pub async fn show_capacity(&self, args: &CapacityArgs) -> Result<Exit, CommandError> {
        let fleet = self.files.build_fleet(self.common)?;
        let context = self.files.connect_all(&fleet, self.common).await?;
        let map = self.files.shard_map()?;
        let observed = observe::sample_primaries(&context, map, 0).await?;
        let mut hosts = Vec::new();
        for host in self.files.shard_hosts()? {
            let here: Vec<_> = map.shards_on(&host.name).filter_map(|e| observed.get(&e.id)).collect();
            let replicated: u64 = map.replicas_on(&host.name).filter_map(|e| Some(observed.get(&e.id)?.bytes)).sum();
            let bytes: u64 = here.iter().map(|shard| shard.bytes).sum();
            hosts.push(HostUsage {
                name: host.name.clone(),
                capacity: observe::shard_memory_bytes(&context, host),
                primary_bytes: bytes,
                total_bytes: bytes + replicated,
                keys: here.iter().map(|shard| shard.keys).sum(),
            });
        }
        let sum = |figure: fn(&HostUsage) -> u64| hosts.iter().map(figure).sum();
        let at = jiff::Timestamp::now().as_second();
        let sample_now = CapacitySample { at, bytes: sum(|host| host.primary_bytes), keys: sum(|host| host.keys) };
        let samples = self.files.state.add_capacity_sample(&sample_now)?;
        #[expect(clippy::cast_precision_loss, reason = "bytes of a forecast")]
        let growth_per_day = args.growth.map(|bytes| bytes.0 as f64).or_else(|| measure_growth(&samples));
        let forecast = forecast_capacity(&hosts, growth_per_day);
        self.reporter.print_json("capacity", json!({"forecast": forecast}));
        for line in format_forecast(&forecast) {
            self.reporter.print_data(&line);
        }
        Ok(Exit::Done)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures for a reader")]
fn format_forecast(forecast: &Forecast) -> Vec<String> {
    let human = |bytes: f64| ByteSize(bytes.max(0.0) as u64).to_human().to_string();
    let mut lines: Vec<String> = forecast
        .hosts
        .iter()
        .map(|host| {
            let (bytes, usable) =
                (ByteSize(host.bytes).to_human().to_string(), ByteSize(host.usable_bytes).to_human().to_string());
            let max_keys = host.max_keys.map(|max| format!(" of about {max}")).unwrap_or_default();
            let full = host.full_in_days.map_or("not growing".to_owned(), |days| format!("full {}", format_date(days)));
            format!("{:<16} {bytes:>9} of {usable:>9}  {:>8} keys{max_keys}; {full}", host.name, host.keys)
        })
        .collect();
    if let Some(bytes) = forecast.bytes_per_key {
        lines.push(format!("{} per key on average", human(bytes)));
    }
    match (forecast.growth_per_day, forecast.full_in_days, forecast.full_in_days_with_added_host) {
        (Some(growth), Some(days), Some(more)) => lines.push(format!(
            "grows by {} per day: full {} if balanced; with one more host of average size: {} per host, full {}",
            human(growth),
            format_date(days),
            ByteSize(forecast.bytes_with_added_host).to_human(),
            format_date(more)
        )),
        (None, ..) => {
            lines.push("growth is unknown: run the command again after at least one hour, or set --growth".to_owned())
        }
        _ => lines.push("the cluster is not growing".to_owned()),
    }
    lines
}

/// Formats the date in that many days.
#[expect(clippy::cast_possible_truncation, reason = "at most ten years of seconds")]
fn format_date(days: f64) -> String {
    if days > 3650.0 {
        return "in more than ten years".to_owned();
    }
    let then = jiff::Timestamp::now() + jiff::SignedDuration::from_secs((days * 86400.0) as i64);
    format!("on {}", then.strftime("%Y-%m-%d"))
}
