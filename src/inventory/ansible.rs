//! An executable `hosts` that prints Ansible's dynamic inventory for `--list`: groups with `hosts`, `children`, `vars`,
//! and `_meta.hostvars`.
//!
//! These variables become fields of the host (from `hostvars`) or connection settings (from a group's `vars`); all
//! others stay variables: `ansible_host`, `ansible_port`, `ansible_user`, `ansible_become`,
//! `ansible_ssh_private_key_file`, and of the host alone `zone`, `memory`, `host_key`, `weight`, `drain`. Old names
//! (`ansible_ssh_host` …) are taken as well. Protocol:
//! <https://docs.ansible.com/ansible/latest/dev_guide/developing_inventory.html>.

pub(super) mod script;

use std::collections::HashSet;
use std::fmt::Display;
use std::path::Path;

use serde_json::Value as Json;

use super::byte_size::ByteSize;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::host_key::HostKey;
use super::hosts_toml::{host_key_error, resolve_path};
use super::raw::{ConnectionSettings, RawGroup, RawHost, RawInventory};
use super::source::{Located, Origin, SourceFile};
use super::validate;
use super::vars::{VarData, Variable, Vars, is_var_name};
pub(super) use script::run_script;

/// Parses the output of the executable `file`.
///
/// # Errors
/// Returns an error if the output is not a JSON object. What is wrong within it goes to `found`.
pub(super) fn parse_output(
    output: &[u8],
    file: &SourceFile,
    dir: &Path,
    found: &mut Diagnostics,
) -> Result<RawInventory, Diagnostic> {
    match serde_json::from_slice(output) {
        Ok(Json::Object(groups)) => Ok(read_groups_and_hosts(&groups, dir, &Origin::whole_file(file), found)),
        Ok(_) => Err(Diagnostic::error_in_file(file, "the dynamic inventory printed JSON that is not an object")),
        Err(error) => {
            Err(Diagnostic::error_in_file(file, format!("the dynamic inventory did not print JSON: {error}")))
        }
    }
}

fn read_groups_and_hosts(
    root: &serde_json::Map<String, Json>,
    dir: &Path,
    origin: &Origin,
    found: &mut Diagnostics,
) -> RawInventory {
    let mut reader = AnsibleReader { dir, origin, found, left_out: HashSet::new() };
    let mut draft = RawInventory::default();
    for (name, group) in root.iter().filter(|(name, _)| *name != "_meta") {
        if !reader.is_usable(NameKind::Group, name) {
            continue;
        }
        if let Some(group) = reader.read_group(name, group) {
            draft.groups.push(group);
        }
    }
    if let Some(hostvars) = root.get("_meta").and_then(|meta| meta.get("hostvars")).and_then(Json::as_object) {
        for (name, vars) in hostvars {
            if !reader.is_usable(NameKind::Host, name) {
                continue;
            }
            draft.hosts.push(reader.read_host(name, vars));
        }
    }
    draft
}

struct AnsibleReader<'a> {
    dir: &'a Path,
    origin: &'a Origin,
    found: &'a mut Diagnostics,
    /// Hosts and groups that were reported as left out.
    left_out: HashSet<(NameKind, String)>,
}

/// Distinguishes the names of hosts from those of groups.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum NameKind {
    Host,
    Group,
}

impl AnsibleReader<'_> {
    fn with_origin<T>(&self, value: T) -> Located<T> {
        Located::new(value, self.origin.clone())
    }

    fn report_invalid(&mut self, owner: &str, key: &str, why: impl Display) {
        self.found.push(Diagnostic::error_at(self.origin, format!("`{key}` of `{owner}`: {why}")));
    }

    /// Returns whether the name can be that of a host or group. Ansible allows more names than ssh's configuration
    /// does: what has such a name is left out with a warning, and does not fail the rest of the inventory.
    fn is_usable(&mut self, kind: NameKind, name: &str) -> bool {
        let (kind_name, checked) = match kind {
            NameKind::Host => ("host", validate::check_host(name)),
            NameKind::Group => ("group", validate::check_group(name)),
        };
        let Err(why) = checked else { return true };
        if self.left_out.insert((kind, name.to_owned())) {
            let message = format!("{kind_name} `{}` is ignored: {why}", name.escape_debug());
            self.found.push(Diagnostic::error_at(self.origin, message).as_warning());
        }
        false
    }

    /// Reads a group: a list of hosts, or an object.
    fn read_group(&mut self, name: &str, json: &Json) -> Option<RawGroup> {
        let mut group = RawGroup {
            name: self.with_origin(name.to_owned()),
            members: Vec::new(),
            children: Vec::new(),
            connection: ConnectionSettings::default(),
            vars: Vars::new(),
        };
        match json {
            Json::Array(_) => group.members = self.read_names(name, NameKind::Host, Some(json)),
            Json::Object(fields) => {
                group.members = self.read_names(name, NameKind::Host, fields.get("hosts"));
                group.children = self.read_names(name, NameKind::Group, fields.get("children"));
                match fields.get("vars") {
                    Some(Json::Object(vars)) => {
                        let connection = &mut group.connection;
                        group.vars = self.read_vars(name, vars, |reader, key, value| {
                            reader.read_connection_var(name, connection, key, value)
                        });
                    }
                    None | Some(Json::Null) => {}
                    Some(_) => self.report_invalid(name, "vars", "must be an object"),
                }
            }
            _ => {
                let message = format!("group `{name}` is neither a list nor an object");
                self.found.push(Diagnostic::error_at(self.origin, message));
                return None;
            }
        }
        Some(group)
    }

    fn read_names(&mut self, owner: &str, kind: NameKind, json: Option<&Json>) -> Vec<Located<String>> {
        let Some(json) = json.filter(|json| !json.is_null()) else { return Vec::new() };
        let names: Option<Vec<&str>> = json.as_array().and_then(|items| items.iter().map(Json::as_str).collect());
        if names.is_none() {
            let key = if kind == NameKind::Host { "hosts" } else { "children" };
            self.report_invalid(owner, key, "must be a list of strings");
        }
        // Scripts do list a host twice; Ansible takes it once.
        let mut seen = HashSet::new();
        let mut once = names.unwrap_or_default();
        once.retain(|name| seen.insert(*name) && self.is_usable(kind, name));
        once.into_iter().map(|name| self.with_origin(name.to_owned())).collect()
    }

    fn read_host(&mut self, name: &str, json: &Json) -> RawHost {
        let mut host = RawHost::with_name(self.with_origin(name.to_owned()));
        let Some(vars) = json.as_object() else {
            self.report_invalid("_meta.hostvars", name, "must be an object");
            return host;
        };
        let mut fields = RawHost::with_name(host.name.clone());
        host.vars = self.read_vars(name, vars, |reader, key, value| {
            reader.read_connection_var(name, &mut fields.connection, key, value)
                || reader.read_host_field(&mut fields, key, value)
        });
        RawHost { vars: host.vars, ..fields }
    }

    /// Reads the variables: the entries that `field` does not take.
    fn read_vars(
        &mut self,
        owner: &str,
        json: &serde_json::Map<String, Json>,
        mut field: impl FnMut(&mut Self, &str, &Json) -> bool,
    ) -> Vars {
        let mut vars = Vars::new();
        for (key, value) in json {
            if field(self, key, value) {
                continue;
            }
            if !is_var_name(key) {
                let message =
                    format!("variable `{}` of `{owner}` is ignored: a template cannot name it", key.escape_debug());
                self.found.push(Diagnostic::error_at(self.origin, message).as_warning());
                continue;
            }
            match VarData::from_json(value) {
                Ok(Some(value)) => {
                    vars.insert(key.clone(), Variable { value, origin: self.origin.clone() });
                }
                Ok(None) => {}
                Err(why) => self.report_invalid(owner, key, why),
            }
        }
        vars
    }

    fn read_connection_var(&mut self, owner: &str, into: &mut ConnectionSettings, key: &str, value: &Json) -> bool {
        match key {
            "ansible_user" | "ansible_ssh_user" => {
                let user =
                    self.parse_text(owner, key, value, |text| validate::check_user(text).map(|()| text.to_owned()));
                into.user = user;
            }
            "ansible_port" | "ansible_ssh_port" => {
                into.port = self.parse_scalar(owner, key, value, "a port, 1 to 65535", parse_port)
            }
            "ansible_become" => into.become_root = self.parse_scalar(owner, key, value, "true or false", parse_bool),
            "ansible_ssh_private_key_file" | "ansible_private_key_file" => {
                let dir = self.dir;
                into.key = self.parse_text(owner, key, value, |text| resolve_path(dir, text));
            }
            _ => return false,
        }
        true
    }

    fn read_host_field(&mut self, host: &mut RawHost, key: &str, value: &Json) -> bool {
        let owner = host.name.value.clone();
        match key {
            "ansible_host" | "ansible_ssh_host" => {
                host.has_address = true;
                host.address =
                    self.parse_text(&owner, key, value, |text| validate::check_address(text).map(|()| text.to_owned()));
            }
            "zone" => {
                host.zone =
                    self.parse_text(&owner, key, value, |text| validate::check_group(text).map(|()| text.to_owned()));
            }
            "memory" => {
                host.memory =
                    self.parse_text(&owner, key, value, |text| text.parse::<ByteSize>().map_err(|e| e.to_string()));
            }
            "weight" => host.weight = self.parse_scalar(&owner, key, value, "a number above 0", parse_weight),
            "drain" => {
                host.drain = self.parse_scalar(&owner, key, value, "true or false", parse_bool).is_some_and(|d| d.value)
            }
            "host_key" => host.host_keys = self.read_host_keys(&owner, value),
            _ => return false,
        }
        true
    }

    fn read_host_keys(&mut self, owner: &str, value: &Json) -> Vec<Located<HostKey>> {
        let items = match value {
            Json::Array(items) => items.as_slice(),
            other => std::slice::from_ref(other),
        };
        let mut keys = Vec::new();
        for item in items {
            match item.as_str().map(str::parse) {
                Some(Ok(key)) => keys.push(self.with_origin(key)),
                Some(Err(error)) => {
                    let mut diagnostic = host_key_error(self.origin, &error);
                    diagnostic.message = format!("`host_key` of `{owner}`: {}", diagnostic.message);
                    self.found.push(diagnostic);
                }
                None => self.report_invalid(owner, "host_key", "must be a string or a list of strings"),
            }
        }
        keys
    }

    fn parse_text<T>(
        &mut self,
        owner: &str,
        key: &str,
        value: &Json,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        match value.as_str().ok_or_else(|| "must be a string".to_owned()).and_then(parse) {
            Ok(value) => Some(self.with_origin(value)),
            Err(why) => {
                self.report_invalid(owner, key, why);
                None
            }
        }
    }

    fn parse_scalar<T>(
        &mut self,
        owner: &str,
        key: &str,
        value: &Json,
        wanted: &str,
        read: fn(&Json) -> Option<T>,
    ) -> Option<Located<T>> {
        let read = read(value);
        if read.is_none() {
            self.report_invalid(owner, key, format!("must be {wanted}"));
        }
        read.map(|value| self.with_origin(value))
    }
}

fn parse_port(json: &Json) -> Option<u16> {
    let number = json.as_u64().or_else(|| json.as_str()?.parse().ok())?;
    u16::try_from(number).ok().filter(|port| *port > 0)
}

/// Parses Ansible's words for true and false.
fn parse_bool(json: &Json) -> Option<bool> {
    match json {
        Json::Bool(flag) => Some(*flag),
        Json::String(word) => match word.to_lowercase().as_str() {
            "yes" | "true" | "on" | "1" => Some(true),
            "no" | "false" | "off" | "0" => Some(false),
            _ => None,
        },
        Json::Number(number) => number.as_u64().filter(|n| *n <= 1).map(|n| n == 1),
        _ => None,
    }
}

fn parse_weight(json: &Json) -> Option<f64> {
    json.as_f64().filter(|weight| weight.is_finite() && *weight > 0.0)
}
