//! The address of a Redis instance: host and port, as services reach it.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// Address of an instance: `10.0.0.1:7000`, `[fd00::1]:7000` or `redis-01.example.net:7000`. The host part is what the
/// inventory has as the `address` of a host, never its inventory name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceAddress {
    /// IP address, without brackets, or DNS name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A text is not the address of an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not of the form HOST:PORT, such as 10.0.0.1:7000 or [fd00::1]:7000")]
pub struct InvalidAddress(String);

impl InstanceAddress {
    /// Returns the address of a port on a host; the host has no brackets.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

/// The unspecified address, for a result without an instance.
impl Default for InstanceAddress {
    fn default() -> Self {
        Self::new("0.0.0.0", 0)
    }
}

impl fmt::Display for InstanceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for InstanceAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|host| host.parse::<Ipv6Addr>().is_ok()),
            None => Some(host).filter(|host| !host.is_empty() && !host.contains([':', '[', ']'])),
        };
        Ok(Self::new(host.ok_or_else(invalid)?, port.parse().map_err(|_| invalid())?))
    }
}

impl TryFrom<String> for InstanceAddress {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<InstanceAddress> for String {
    fn from(address: InstanceAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::InstanceAddress;

    #[test]
    fn addresses_are_parsed_and_printed_alike() {
        for (text, host, port) in
            [("10.0.0.1:7017", "10.0.0.1", 7017), ("[fd00::1]:7000", "fd00::1", 7000), ("redis-01:1", "redis-01", 1)]
        {
            let address: InstanceAddress = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port, address.to_string()), (host, port, text.to_owned()));
        }
    }

    #[test]
    fn texts_without_host_or_port_are_rejected() {
        for text in [
            "",
            "redis-01",
            "10.0.0.1",
            ":7000",
            "a:",
            "a:x",
            "a:65536",
            "fd00::1",
            "fd00::1:7000",
            "[a]:1",
            "[fd00::1",
        ] {
            assert!(text.parse::<InstanceAddress>().is_err(), "{text}");
        }
        assert_eq!(
            "10.0.0.1".parse::<InstanceAddress>().unwrap_err().to_string(),
            "\"10.0.0.1\" is not of the form HOST:PORT, such as 10.0.0.1:7000 or [fd00::1]:7000"
        );
    }
}
