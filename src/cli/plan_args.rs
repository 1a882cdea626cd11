//! The flags that a rebalance is planned from.

use clap::Args;
use dunlin_shards::ShardId;

use crate::inventory::ByteSize;
use crate::rebalance::plan::{Balance, PlanOptions, ShardSelection, TransferLimits};

/// Flags for balancing the fleet. They cannot be combined with selected shards.
const BALANCE_FLAGS: [&str; 5] = ["drain", "tolerance", "move_replicas", "max_moves", "max_bytes"];

/// The flags of a new plan. A saved plan has its own values.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Move all shards off this host
    #[arg(long, value_name = "HOST")]
    drain: Vec<String>,
    /// Move shards only to these hosts, comma-separated
    #[arg(long, visible_alias = "to", value_name = "HOSTS", value_delimiter = ',')]
    targets: Vec<String>,
    /// Move these shards, comma-separated, and no others
    #[arg(long, value_name = "SHARDS", value_delimiter = ',', conflicts_with_all = BALANCE_FLAGS)]
    shard: Vec<ShardId>,
    /// Move the N shards with the most operations per second, and no others [default: 1]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1", conflicts_with_all = BALANCE_FLAGS,
        conflicts_with = "shard", value_parser = clap::value_parser!(u32).range(1..))]
    hot: Option<u32>,
    /// Resources to balance: bytes, ops or bytes,ops
    #[arg(long, value_name = "WHAT", default_value_t)]
    balance: Balance,
    /// Maximum deviation of a host from its share
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = parse_percent)]
    tolerance: f64,
    /// Maximum share of a host's shard memory to use
    #[arg(long, value_name = "PERCENT", default_value = "90%", value_parser = parse_percent)]
    max_utilization: f64,
    /// Maximum number of shards per host, primaries and replicas together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_shards_per_host: Option<u32>,
    /// Also move replicas to balance hosts (default: only replicas that cannot stay)
    #[arg(long)]
    move_replicas: bool,
    /// Maximum number of moves
    #[arg(long, value_name = "N")]
    max_moves: Option<usize>,
    /// Maximum number of bytes to move (e.g. 10GiB)
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<ByteSize>,
    /// Maximum concurrent moves out of, and into, each host
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=64))]
    moves_per_host: u8,
}

impl PlanArgs {
    /// Returns the options of a plan whose moves keep these limits.
    pub fn to_options(&self, limits: TransferLimits) -> PlanOptions {
        let slots = usize::from(self.moves_per_host);
        PlanOptions {
            tolerance: self.tolerance,
            balance: self.balance,
            drain: self.drain.clone(),
            shards: self.selection(),
            targets: (!self.targets.is_empty()).then(|| self.targets.clone()),
            max_moves: self.max_moves,
            max_bytes: self.max_bytes.map(|bytes| bytes.0),
            max_utilization: self.max_utilization,
            max_shards_per_host: self.max_shards_per_host.map(|count| count as usize),
            move_replicas: self.move_replicas,
            transfer: TransferLimits { max_outgoing: slots, max_incoming: slots, max_per_link: slots, ..limits },
            ..PlanOptions::default()
        }
    }

    fn selection(&self) -> ShardSelection {
        match self.hot {
            Some(count) => ShardSelection::Hottest(count as usize),
            None if self.shard.is_empty() => ShardSelection::ForBalance,
            None => ShardSelection::Named(self.shard.clone()),
        }
    }
}

/// Parses `5%` or `0.05`.
fn parse_percent(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let error = || format!("`{text}` is not a percentage between 0% and 100%, such as 5%");
    let value = number.trim().parse::<f64>().map_err(|_| error())? / scale;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(error()) }
}
