//! `hosts.toml` → draft: types, names and ranges are checked here; rules across entries are checked in the merge.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::byte_size::ByteSize;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::fields::{self, TableReader};
use super::host_key::{HOST_KEY_ALGORITHMS, HostKey, HostKeyError};
use super::raw::{ConnectionSettings, RawGroup, RawHost, RawInventory, RawJump};
use super::source::{Located, Origin, SourceFile};
use super::vars::read_vars;
use super::{range, validate};
use crate::duration::parse_duration;

/// Accepted time limits of a connection.
const CONNECT_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// Reads a `hosts.toml`; paths in it are relative to `dir`.
pub(super) fn read_hosts_toml(file: &SourceFile, dir: &Path, found: &mut Diagnostics) -> RawInventory {
    let root = fields::parse_table(file, found);
    let mut reader = HostsTomlReader { file, dir, found };
    let mut top = TableReader::new(file, root.get_ref(), root.span());
    let mut draft = RawInventory::default();
    if let Some(mut defaults) = top.take_table("defaults", reader.found) {
        draft.defaults = reader.read_connection(&mut defaults);
        draft.default_vars = read_vars(file, &mut defaults, reader.found);
        defaults.report_unknown_keys("[defaults]", reader.found);
    }
    if let Some(groups) = top.take_table("groups", reader.found) {
        for (name, fields) in groups.named_tables("group", reader.found) {
            draft.groups.push(reader.read_group(name, fields));
        }
    }
    if let Some(hosts) = top.take_table("hosts", reader.found) {
        for (name, fields) in hosts.named_tables("host", reader.found) {
            draft.hosts.push(reader.read_host(name, fields));
        }
    }
    top.report_unknown_keys("hosts.toml", reader.found);
    draft
}

struct HostsTomlReader<'a> {
    file: &'a SourceFile,
    dir: &'a Path,
    found: &'a mut Diagnostics,
}

impl HostsTomlReader<'_> {
    fn read_connection(&mut self, fields: &mut TableReader<'_, '_>) -> ConnectionSettings {
        let user = fields.take_parsed("user", self.found, |text| validate::check_user(text).map(|()| text.to_owned()));
        let become_root = fields.take_bool("become", self.found);
        let dir = self.dir;
        let key = fields.take_parsed("key", self.found, |text| resolve_path(dir, text));
        let ssh_config = fields.take_parsed("ssh_config", self.found, |text| resolve_path(dir, text));
        let port = fields.take_integer("port", 1..=65535, self.found);
        // The bounds above are those of a port.
        let port = port.map(|port| Located::new(port.value as u16, port.origin));
        let jump = self.read_jump(fields);
        let connect_timeout = self.read_timeout(fields);
        ConnectionSettings { user, become_root, key, port, jump, ssh_config, connect_timeout }
    }

    fn read_jump(&mut self, fields: &mut TableReader<'_, '_>) -> Option<Located<RawJump>> {
        let value = fields.take_raw("jump")?;
        let origin = Origin::at_span(self.file, value.span());
        match value.get_ref() {
            DeValue::Boolean(false) => Some(Located::new(RawJump::Disabled, origin)),
            DeValue::String(text) => match parse_jump(text) {
                Ok(jump) => Some(Located::new(jump, origin)),
                Err(message) => {
                    let help = "name a host of this inventory, or write user@host:port";
                    self.found.push(Diagnostic::error_at(&origin, message).with_help(help));
                    None
                }
            },
            _ => {
                let wanted = "a host of the inventory, user@host:port, or false";
                self.found.push(fields::wrong_type_error(self.file, "jump", value, wanted));
                None
            }
        }
    }

    fn read_timeout(&mut self, fields: &mut TableReader<'_, '_>) -> Option<Located<Duration>> {
        let value = fields.take_raw("connect_timeout")?;
        let DeValue::String(text) = value.get_ref() else {
            let wanted = "a duration such as \"10s\"";
            self.found.push(fields::wrong_type_error(self.file, "connect_timeout", value, wanted));
            return None;
        };
        let in_range = parse_duration(text).and_then(|timeout| match timeout {
            timeout if CONNECT_TIMEOUTS.contains(&timeout) => Ok(timeout),
            _ => Err("`connect_timeout` must be between 1s and 10m, for example 10s".to_owned()),
        });
        let origin = Origin::at_span(self.file, value.span());
        match in_range {
            Ok(timeout) => Some(Located::new(timeout, origin)),
            Err(message) => {
                self.found.push(Diagnostic::error_at(&origin, message));
                None
            }
        }
    }

    fn read_group(&mut self, name: Located<String>, mut fields: TableReader<'_, '_>) -> RawGroup {
        let mut members = Vec::new();
        for entry in fields.take_strings("hosts", self.found) {
            self.expand_members(&entry, &mut members);
        }
        let children = fields.take_strings("children", self.found);
        let connection = self.read_connection(&mut fields);
        let vars = read_vars(self.file, &mut fields, self.found);
        fields.report_unknown_keys("a group", self.found);
        RawGroup { name, members, children, connection, vars }
    }

    fn expand_members(&mut self, entry: &Located<String>, members: &mut Vec<Located<String>>) {
        let names = match range::expand_ranges(&entry.value) {
            Ok(names) => names,
            Err(message) => return self.found.push(Diagnostic::error_at(&entry.origin, message)),
        };
        // One message says enough for all the names of a range.
        match names.iter().find_map(|name| validate::check_host(name).err()) {
            Some(message) => self.found.push(Diagnostic::error_at(&entry.origin, message)),
            None => members.extend(names.into_iter().map(|name| Located::new(name, entry.origin.clone()))),
        }
    }

    fn read_host(&mut self, name: Located<String>, mut fields: TableReader<'_, '_>) -> RawHost {
        let mut host = RawHost::with_name(name);
        host.has_address = fields.take_raw("address").is_some();
        let checked = |text: &str| validate::check_address(text).map(|()| text.to_owned());
        host.address = fields.take_parsed("address", self.found, checked);
        host.host_keys = self.read_host_keys(&mut fields);
        host.connection = self.read_connection(&mut fields);
        host.zone =
            fields.take_parsed("zone", self.found, |text| validate::check_group(text).map(|()| text.to_owned()));
        host.memory = self.read_memory(&mut fields);
        host.weight = fields.take_number("weight", self.found).filter(|weight| {
            let sane = weight.value > 0.0;
            if !sane {
                let help = "to move everything off a host, set `drain = true`";
                self.found.push(Diagnostic::error_at(&weight.origin, "`weight` must be more than 0").with_help(help));
            }
            sane
        });
        host.drain = fields.take_bool("drain", self.found).is_some_and(|drain| drain.value);
        host.vars = read_vars(self.file, &mut fields, self.found);
        fields.report_unknown_keys("a host", self.found);
        host
    }

    fn read_memory(&mut self, fields: &mut TableReader<'_, '_>) -> Option<Located<ByteSize>> {
        let text = fields.take_string("memory", self.found)?;
        match text.value.parse() {
            Ok(bytes) if bytes > ByteSize(0) => Some(Located::new(bytes, text.origin)),
            Ok(_) => {
                self.found.push(Diagnostic::error_at(&text.origin, "`memory` must be more than 0"));
                None
            }
            Err(error) => {
                let help = "a number with KiB, MiB, GiB, TiB, or KB, MB, GB, TB: \"16GiB\"";
                self.found.push(Diagnostic::error_at(&text.origin, error.to_string()).with_help(help));
                None
            }
        }
    }

    fn read_host_keys(&mut self, fields: &mut TableReader<'_, '_>) -> Vec<Located<HostKey>> {
        let Some(value) = fields.take_raw("host_key") else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(items) => items.iter().filter_map(|item| self.read_host_key(item)).collect(),
            _ => self.read_host_key(value).into_iter().collect(),
        }
    }

    fn read_host_key(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Located<HostKey>> {
        let DeValue::String(text) = value.get_ref() else {
            self.found.push(fields::wrong_type_error(self.file, "host_key", value, "a string or a list of strings"));
            return None;
        };
        let origin = Origin::at_span(self.file, value.span());
        match text.parse() {
            Ok(key) => Some(Located::new(key, origin)),
            Err(error) => {
                self.found.push(host_key_error(&origin, &error));
                None
            }
        }
    }
}

/// The finding for a bad host key, with a suggestion where the type is near a known one.
pub(super) fn host_key_error(origin: &Origin, error: &HostKeyError) -> Diagnostic {
    let diagnostic = Diagnostic::error_at(origin, error.to_string());
    match error {
        HostKeyError::UnknownAlgorithm(unknown) => diagnostic.suggest_or_list(unknown, HOST_KEY_ALGORITHMS),
        _ => diagnostic,
    }
}

/// Parses `name`, `user@host` and `user@host:port`; an IPv6 address with a port needs brackets.
pub(super) fn parse_jump(text: &str) -> Result<RawJump, String> {
    let (user, place) = match text.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, text),
    };
    if let Some(user) = user {
        validate::check_user(user)?;
    }
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or("a port follows `]` after a colon")?)),
        None if place.matches(':').count() == 1 => {
            let (host, port) = place.split_once(':').unwrap_or((place, ""));
            (host, Some(port))
        }
        None => (place, None),
    };
    let port = match port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0)) {
        Some(None) => return Err("the port must be between 1 and 65535".to_owned()),
        Some(port) => port,
        None => None,
    };
    validate::check_address(host)?;
    if user.is_none() && port.is_none() && !place.starts_with('[') {
        return Ok(RawJump::Name(host.to_owned()));
    }
    Ok(RawJump::Address { user: user.map(str::to_owned), host: host.to_owned(), port })
}

/// An absolute path: relative ones start at the inventory's folder, `~/` at `HOME`.
pub(super) fn resolve_path(dir: &Path, text: &str) -> Result<PathBuf, String> {
    validate::check_path(text)?;
    let joined = match text.strip_prefix('~') {
        None => dir.join(text),
        Some(rest) => match (rest.strip_prefix('/'), std::env::home_dir()) {
            (Some(rest), Some(home)) => home.join(rest),
            (None, _) => return Err("only `~/` is supported, not another user's home".to_owned()),
            (_, None) => return Err("`~` cannot be resolved: HOME is not set".to_owned()),
        },
    };
    std::path::absolute(&joined).map_err(|error| error.to_string())
}
