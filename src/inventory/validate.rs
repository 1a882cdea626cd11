//! Validates names of hosts, users and groups, addresses and paths. These end up in arguments and configuration of ssh,
//! so options, tokens (`%h`, `${HOME}`), quotes and line breaks are rejected here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Checks a host name: `[A-Za-z0-9][A-Za-z0-9._-]*`, at most 253 bytes.
///
/// # Errors
/// Returns a description of the problem if the value is invalid.
pub fn check_host(name: &str) -> Result<(), String> {
    check_name(
        name,
        "host name",
        253,
        |c| c.is_ascii_alphanumeric(),
        |c| c.is_ascii_alphanumeric() || "._-".contains(c),
    )
}

/// Checks a group or zone name: `[A-Za-z0-9_][A-Za-z0-9._-]*`, at most 253 bytes.
///
/// # Errors
/// Returns a description of the problem if the value is invalid.
pub fn check_group(name: &str) -> Result<(), String> {
    let rest = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    check_name(name, "name", 253, |c| c.is_ascii_alphanumeric() || c == '_', rest)
}

/// Checks a user name: `[a-z_][a-z0-9_.-]*`, at most 255 bytes.
///
/// # Errors
/// Returns a description of the problem if the value is invalid.
pub fn check_user(name: &str) -> Result<(), String> {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
    check_name(name, "user name", 255, |c| c.is_ascii_lowercase() || c == '_', rest)
}

/// Checks an address: IPv4, IPv6 (no brackets, no `%` scope) or a host name.
///
/// # Errors
/// Returns a description of the problem if the value is invalid.
pub fn check_address(address: &str) -> Result<(), String> {
    if address.parse::<Ipv6Addr>().is_ok() || address.parse::<Ipv4Addr>().is_ok() {
        return Ok(());
    }
    if address.contains(':') {
        let hint = if address.parse::<IpAddr>().is_err() && address.matches(':').count() == 1 {
            "; a port has its own key, `port`"
        } else {
            ""
        };
        return Err(format!("`{}` is not an IPv6 address{hint}", address.escape_default()));
    }
    check_host(address)
        .map_err(|e| e.replacen("a host name", "an address", 1).replacen("the host name", "the address", 1))?;
    if address.contains('.') && address.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(format!("`{address}` is not an IPv4 address"));
    }
    Ok(())
}

/// Checks the path of a key or configuration file: no leading `-`, no control characters, none of `% $ " ' \`. Blanks
/// are allowed, so it must be quoted in a configuration file.
///
/// # Errors
/// Returns a description of the problem if the value is invalid.
pub fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the path is empty".to_owned());
    }
    if path.starts_with('-') {
        return Err("a path must not begin with `-`: ssh would read it as an option".to_owned());
    }
    match path.chars().find(|c| c.is_control() || "%$\"'\\".contains(*c)) {
        Some(c) => Err(format!("a path must not contain `{}`: ssh gives it a meaning of its own", c.escape_default())),
        None => Ok(()),
    }
}

fn check_name(
    name: &str,
    what: &str,
    max: usize,
    first: impl Fn(char) -> bool,
    rest: impl Fn(char) -> bool,
) -> Result<(), String> {
    let Some(initial) = name.chars().next() else {
        return Err(format!("the {what} is empty"));
    };
    if initial == '-' {
        return Err(format!("a {what} must not begin with `-`: ssh would read it as an option"));
    }
    if let Some(bad) = name.chars().find(|c| !rest(*c)) {
        return Err(format!("a {what} must not contain `{}`", bad.escape_default()));
    }
    if !first(initial) {
        return Err(format!("a {what} must not begin with `{initial}`"));
    }
    if name.len() > max { Err(format!("a {what} has at most {max} characters")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::{check_address, check_group, check_host, check_path, check_user};

    const INJECTIONS: [&str; 14] = [
        "-oProxyCommand=touch /tmp/x",
        "-F/etc/passwd",
        "a b",
        "a\nProxyCommand x",
        "a\tb",
        "a\0b",
        "%h",
        "a%n",
        "$(id)",
        "${HOME}",
        "`id`",
        "a;b",
        "a\"b",
        "",
    ];

    #[test]
    fn names_cannot_become_ssh_options() {
        for bad in INJECTIONS {
            assert!(check_host(bad).is_err(), "host {bad:?}");
            assert!(check_group(bad).is_err(), "group {bad:?}");
            assert!(check_user(bad).is_err(), "user {bad:?}");
            assert!(check_address(bad).is_err(), "address {bad:?}");
        }
        for bad in ["-i", "", "a\nb", "%d/key", "${HOME}/key", "a\"b", "a\\b", "k'"] {
            assert!(check_path(bad).is_err(), "path {bad:?}");
        }
    }

    #[test]
    fn ordinary_names_pass() {
        for good in ["redis-01", "a", "0db", "db.example.org", "Host_1"] {
            assert!(check_host(good).is_ok(), "{good}");
        }
        for good in ["deploy", "_apt", "a.b-c_d", "u1"] {
            assert!(check_user(good).is_ok(), "{good}");
        }
        for good in ["10.0.0.1", "::1", "fe80::1", "2001:db8::2", "db.example.org", "bastion"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        assert!(check_path("keys/my key").is_ok());
    }

    #[test]
    fn malformed_addresses_are_rejected() {
        assert_eq!(check_address("10.0.0.300").unwrap_err(), "`10.0.0.300` is not an IPv4 address");
        assert_eq!(check_address("10.0.1").unwrap_err(), "`10.0.1` is not an IPv4 address");
        let port = check_address("10.0.0.1:22").unwrap_err();
        assert_eq!(port, "`10.0.0.1:22` is not an IPv6 address; a port has its own key, `port`");
        assert!(check_address("fe80::1%eth0").is_err());
        assert!(check_address("[::1]").is_err());
        assert!(check_host(&"a".repeat(254)).is_err());
    }
}
