//! The flags that commands share: the inventory, and the connections to its hosts.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;

/// The flag of commands that read the inventory.
#[derive(Clone, Debug, Default, Args)]
pub struct InventoryArgs {
    /// Inventory folder (default: `inventory` in dunlin.toml)
    #[arg(short, long, global = true, env = "DUNLIN_INVENTORY", value_name = "FOLDER")]
    pub inventory: Option<PathBuf>,
}

/// The flags of commands that connect to hosts.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    #[command(flatten)]
    pub inventory: InventoryArgs,
    /// Maximum number of hosts to work on at a time
    #[arg(long, global = true, value_name = "N", default_value_t = Self::default().parallel, value_parser = at_least_one())]
    pub parallel: usize,
}

impl Default for ConnectArgs {
    fn default() -> Self {
        Self { inventory: InventoryArgs::default(), parallel: 32 }
    }
}

/// Returns the parser of numbers from 1.
fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}
