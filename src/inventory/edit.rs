//! Changing a `hosts.toml`.
