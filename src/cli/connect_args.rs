//! The flags that commands share: the inventory, and the connections to its hosts.

use std::ffi::OsString;
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

/// Moves `-i`, `--inventory` and `--parallel` from before the command to behind it, where the commands that have these
/// flags take them: `dunlin -i DIR hosts` means `dunlin hosts -i DIR`.
pub fn move_leading_flags(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let (mut before, mut moved): (Vec<OsString>, Vec<OsString>) = (arguments.next().into_iter().collect(), Vec::new());
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().unwrap_or_default();
        let has_value_inside = text.starts_with("--inventory=") || text.starts_with("--parallel=");
        if matches!(text, "-i" | "--inventory" | "--parallel") {
            moved.push(argument);
            moved.extend(arguments.next());
        } else if has_value_inside || (text.starts_with("-i") && text.len() > 2) {
            moved.push(argument);
        } else if text == "--color" {
            before.push(argument);
            before.extend(arguments.next());
        } else {
            let is_command = !text.starts_with('-');
            before.push(argument);
            if is_command {
                break;
            }
        }
    }
    before.extend(moved);
    before.extend(arguments);
    before
}

#[cfg(test)]
mod tests {
    use super::move_leading_flags;

    #[test]
    fn flags_before_the_command_go_behind_it() {
        for (given, parsed) in [
            ("dunlin -i dir hosts web", "dunlin hosts -i dir web"),
            (
                "dunlin --json --inventory=dir --parallel 4 exec web -- ls -i",
                "dunlin --json exec --inventory=dir --parallel 4 web -- ls -i",
            ),
            ("dunlin --color never -idir shards status", "dunlin --color never shards -idir status"),
            ("dunlin hosts -i dir", "dunlin hosts -i dir"),
            ("dunlin -i", "dunlin -i"),
            ("dunlin --help", "dunlin --help"),
        ] {
            let words = move_leading_flags(given.split(' ').map(Into::into));
            assert_eq!(words.join(std::ffi::OsStr::new(" ")), parsed);
        }
    }
}
