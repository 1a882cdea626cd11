//! The server program of an instance: `redis-server` or `valkey-server`, and what one version can read of another.

use std::fmt;

use anyhow::{Context, Result, bail};

use super::RedisShard;
use crate::plan::named_enum;
use crate::process::Program;

/// Names of the programs, as their packages install them. A process shows its program's name in its title.
pub const SERVER_PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// The last version of Redis whose data Valkey reads: Valkey continues Redis 7.2, and rejects the newer snapshot
/// formats of Redis 7.4 and later.
const LAST_REDIS_FOR_VALKEY: [u32; 2] = [7, 2];

named_enum! {
    /// The servers that dunlin knows.
    pub enum ServerProduct {
        /// Redis.
        Redis = "Redis",
        /// Valkey, the fork of Redis 7.2.
        Valkey = "Valkey",
    }
}

/// A product and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerVersion {
    /// The product.
    pub product: ServerProduct,
    /// Major, minor and patch number.
    pub numbers: Vec<u32>,
}

impl ServerVersion {
    /// Returns the version that the fields of `INFO server` state; `field` returns the empty text for an absent field.
    ///
    /// # Errors
    /// Returns an error if the fields contain no version.
    pub fn from_info<'a>(field: impl Fn(&str) -> &'a str) -> Result<Self> {
        // Valkey's `redis_version` is a constant that clients of Redis check; its own version is in `valkey_version`.
        let (product, name) = match field("server_name") {
            "valkey" => (ServerProduct::Valkey, "valkey_version"),
            _ => (ServerProduct::Redis, "redis_version"),
        };
        let numbers = parse_numbers(field(name));
        Ok(Self { product, numbers: numbers.with_context(|| format!("`INFO` contains no {name}"))? })
    }

    /// Returns the version that `redis-server --version` or `valkey-server --version` prints.
    ///
    /// # Errors
    /// Returns an error if the text names no known product or no version.
    pub fn from_version_output(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let product = match words.next() {
            Some("Redis") => ServerProduct::Redis,
            Some("Valkey") => ServerProduct::Valkey,
            _ => bail!("\"{}\" is not the version of Redis or Valkey", text.trim()),
        };
        let numbers = words.find_map(|word| word.strip_prefix("v=")).and_then(parse_numbers);
        Ok(Self { product, numbers: numbers.with_context(|| format!("\"{}\" contains no version", text.trim()))? })
    }

    /// Returns the reason why a server of this version on a move's target host cannot take over from `source`; `None`
    /// if it can.
    pub fn explain_incompatible(&self, source: &Self) -> Option<String> {
        match (source.product, self.product) {
            (from, to) if from == to => (self.numbers < source.numbers).then(|| {
                format!("{self} on the target's host is older than the source's {source}; upgrade the target")
            }),
            (ServerProduct::Redis, _) => (source.numbers.iter().take(2).gt(&LAST_REDIS_FOR_VALKEY)).then(|| {
                format!("{self} on the target's host cannot read the data of {source}: Valkey reads Redis up to 7.2")
            }),
            (ServerProduct::Valkey, _) => Some(format!(
                "{self} on the target's host cannot take over from {source}: a shard moves from Redis to Valkey, not back"
            )),
        }
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.numbers.iter().map(u32::to_string).collect();
        write!(f, "{} {}", self.product, numbers.join("."))
    }
}

/// Parses `7.0.15`.
fn parse_numbers(text: &str) -> Option<Vec<u32>> {
    text.split('.').map(|part| part.parse().ok()).collect()
}

impl RedisShard {
    /// Returns the version of the server program on this host.
    ///
    /// # Errors
    /// Returns an error if the program is not installed, or prints no known version.
    pub fn installed_version(&self) -> Result<ServerVersion> {
        let output = Program::short(&self.server).arg("--version").run();
        let output = output.with_context(|| format!("the server program {} on the target's host", self.server))?;
        ServerVersion::from_version_output(&String::from_utf8_lossy(&output))
    }

    /// Checks `server`: a known program, by its name or its absolute path.
    pub(super) fn validate_server(&self) -> Result<(), String> {
        let (folder, name) = self.server.rsplit_once('/').map_or(("/", self.server.as_str()), |parts| parts);
        let is_absolute = folder.is_empty() || folder.starts_with('/');
        if is_absolute && SERVER_PROGRAMS.contains(&name) {
            return Ok(());
        }
        Err(format!(
            "server must be {} or an absolute path of one, not \"{}\"",
            SERVER_PROGRAMS.join(" or "),
            self.server
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> ServerVersion {
        ServerVersion::from_version_output(text).unwrap()
    }

    #[test]
    fn versions_are_read_from_info_and_from_the_program() {
        let valkey =
            version("Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=384b3c0d511f998a");
        assert_eq!(valkey, ServerVersion { product: ServerProduct::Valkey, numbers: vec![8, 1, 1] });
        let info = |name: &str| match name {
            "redis_version" => "7.2.4",
            "server_name" => "valkey",
            "valkey_version" => "8.1.1",
            _ => "",
        };
        assert_eq!(ServerVersion::from_info(info).unwrap(), valkey);
        let redis = ServerVersion::from_info(|name| if name == "redis_version" { "7.0.15" } else { "" }).unwrap();
        assert_eq!(redis.to_string(), "Redis 7.0.15");
        assert_eq!(redis, version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64"));
        for text in ["", "Redis server", "KeyDB server v=6.3.4", "Redis server v=unknown"] {
            assert!(ServerVersion::from_version_output(text).is_err(), "{text}");
        }
        assert!(ServerVersion::from_info(|_| "").is_err());
    }

    #[test]
    fn shards_move_to_the_same_or_a_newer_server() {
        let reason = |from: &str, to: &str| version(to).explain_incompatible(&version(from));
        for (from, to) in [
            ("Redis v=7.0.9", "Redis v=7.0.15"),
            ("Redis v=7.0.15", "Redis v=7.2.0"),
            ("Redis v=7.0.15", "Redis v=8.0.2"),
            ("Redis v=7.0.15", "Valkey v=8.1.1"),
            ("Redis v=7.2.9", "Valkey v=7.2.5"),
            ("Valkey v=8.1.1", "Valkey v=8.1.1"),
            ("Valkey v=8.1.1", "Valkey v=10.0.0"),
        ] {
            assert_eq!(reason(from, to), None, "{from} -> {to}");
        }
        for (from, to, words) in [
            (
                "Redis v=7.0.15",
                "Redis v=7.0.9",
                "Redis 7.0.9 on the target's host is older than the source's Redis 7.0.15",
            ),
            ("Valkey v=10.0.0", "Valkey v=9.1.2", "Valkey 9.1.2 on the target's host is older"),
            ("Redis v=7.4.0", "Valkey v=9.1.2", "cannot read the data of Redis 7.4.0"),
            ("Redis v=8.0.2", "Valkey v=9.1.2", "cannot read the data of Redis 8.0.2"),
            ("Valkey v=7.2.5", "Redis v=8.0.2", "cannot take over from Valkey 7.2.5"),
        ] {
            let found = reason(from, to).unwrap_or_default();
            assert!(found.contains(words), "{from} -> {to}: {found}");
        }
    }
}
