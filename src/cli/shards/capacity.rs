//! `dunlin shards capacity`.

use clap::Args;
use serde_json::json;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::exit::Exit;
use crate::inventory::ByteSize;
use crate::rebalance::usage::forecast_usage;
use crate::report::format_forecast;

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
        #[expect(clippy::cast_precision_loss, reason = "bytes of a forecast")]
        let growth_per_day = args.growth.map(|bytes| bytes.0 as f64);
        let now = jiff::Timestamp::now().as_second();
        let forecast = forecast_usage(&self.files.cluster, &context, now, growth_per_day).await?;
        self.reporter.print_json("capacity", json!({"forecast": forecast}));
        for line in format_forecast(&forecast) {
            self.reporter.print_data(&line);
        }
        Ok(Exit::Done)
    }
}
