//! An executable `hosts` that prints Ansible's dynamic inventory for `--list`: groups with `hosts`, `children`, `vars`,
//! and `_meta.hostvars`.
//!
//! These variables become fields of the host (from `hostvars`) or connection settings (from a group's `vars`); all others
//! stay variables: `ansible_host`, `ansible_port`, `ansible_user`, `ansible_become`, `ansible_ssh_private_key_file`, and
//! of the host alone `zone`, `memory`, `host_key`, `weight`, `drain`. Old names (`ansible_ssh_host` …) are taken as well.
//! Protocol: <https://docs.ansible.com/ansible/latest/dev_guide/developing_inventory.html>.

use std::collections::HashSet;
use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value as Json;

use super::bytes::Bytes;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::draft::{Connection, Draft, GroupDraft, HostDraft};
use super::host_key::HostKey;
use super::hosts_toml::{host_key_error, resolve_path};
use super::name;
use super::source::{Located, Origin, SourceFile};
use super::vars::{Value, VarValue, Vars, is_var_name};
use crate::process::{End, Program};

/// How long the executable may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Runs the executable and reads what it prints.
pub(super) fn run(script: &Path, dir: &Path, found: &mut Diagnostics) -> Draft {
    run_within(script, dir, TIME_LIMIT, found)
}

pub(super) fn run_within(script: &Path, dir: &Path, limit: Duration, found: &mut Diagnostics) -> Draft {
    let file = SourceFile::new(script, "");
    let output = match output_of(script, dir, limit) {
        Ok(output) => output,
        Err(message) => {
            found.push(Diagnostic::file(&file, message));
            return Draft::default();
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let with_stderr = |diagnostic: Diagnostic| match tail(&said) {
        None => diagnostic,
        Some(lines) => diagnostic.help(format!("it said:\n{lines}")),
    };
    if !output.status.success() {
        let message = format!("the dynamic inventory failed ({})", output.status);
        found.push(with_stderr(Diagnostic::file(&file, message)));
        return Draft::default();
    }
    match serde_json::from_slice(&output.stdout) {
        Ok(Json::Object(groups)) => read(&groups, dir, (&Origin::whole(&file), found)),
        Ok(_) => {
            let message = "the dynamic inventory printed JSON that is no object";
            found.push(with_stderr(Diagnostic::file(&file, message)));
            Draft::default()
        }
        Err(error) => {
            let message = format!("the dynamic inventory did not print JSON: {error}");
            found.push(with_stderr(Diagnostic::file(&file, message)));
            Draft::default()
        }
    }
}

/// The last lines of what a program said: the cause mostly stands at the end.
fn tail(said: &str) -> Option<String> {
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    (!lines.is_empty()).then(|| lines[lines.len().saturating_sub(10)..].join("\n"))
}

fn output_of(script: &Path, dir: &Path, limit: Duration) -> Result<Output, String> {
    let absolute = std::path::absolute(script).map_err(|error| error.to_string())?;
    let program = Program::with_own_environment(absolute).arg("--list").folder(dir).timeout(limit);
    let completed =
        program.complete().map_err(|error| match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(ErrorKind::NotFound) => "cannot be run: the interpreter in its first line is missing".to_owned(),
            _ => format!("cannot be run: {}", error.root_cause()),
        })?;
    let End::Exited(status) = completed.end else {
        return Err(format!("the dynamic inventory did not finish within {} s", limit.as_secs()));
    };
    if completed.stdout.omitted > 0 {
        return Err(format!("the dynamic inventory printed more than {} bytes", completed.stdout.bytes.len()));
    }
    Ok(Output { status, stdout: completed.stdout.bytes, stderr: completed.stderr.bytes })
}

fn read(root: &serde_json::Map<String, Json>, dir: &Path, (origin, found): (&Origin, &mut Diagnostics)) -> Draft {
    let mut reader = Reader { dir, origin, found };
    let mut draft = Draft::default();
    for (name, group) in root.iter().filter(|(name, _)| *name != "_meta") {
        if let Some(group) = reader.group(name, group) {
            draft.groups.push(group);
        }
    }
    if let Some(hostvars) = root.get("_meta").and_then(|meta| meta.get("hostvars")).and_then(Json::as_object) {
        for (name, vars) in hostvars {
            draft.hosts.push(reader.host(name, vars));
        }
    }
    draft
}

struct Reader<'a> {
    dir: &'a Path,
    origin: &'a Origin,
    found: &'a mut Diagnostics,
}

impl Reader<'_> {
    fn located<T>(&self, value: T) -> Located<T> {
        Located::new(value, self.origin.clone())
    }

    fn fail(&mut self, owner: &str, key: &str, why: impl Display) {
        self.found.push(Diagnostic::on(self.origin, format!("`{key}` of `{owner}`: {why}")));
    }

    /// A group is a list of hosts, or an object.
    fn group(&mut self, name: &str, json: &Json) -> Option<GroupDraft> {
        let mut group = GroupDraft {
            name: self.located(name.to_owned()),
            members: Vec::new(),
            children: Vec::new(),
            connection: Connection::default(),
            vars: Vars::new(),
        };
        match json {
            Json::Array(_) => group.members = self.names(name, "hosts", Some(json)),
            Json::Object(fields) => {
                group.members = self.names(name, "hosts", fields.get("hosts"));
                group.children = self.names(name, "children", fields.get("children"));
                match fields.get("vars") {
                    Some(Json::Object(vars)) => {
                        let connection = &mut group.connection;
                        group.vars = self
                            .vars(name, vars, |reader, key, value| reader.connection(name, connection, (key, value)));
                    }
                    None | Some(Json::Null) => {}
                    Some(_) => self.fail(name, "vars", "must be an object"),
                }
            }
            _ => {
                let message = format!("group `{name}` is neither a list nor an object");
                self.found.push(Diagnostic::on(self.origin, message));
                return None;
            }
        }
        Some(group)
    }

    fn names(&mut self, owner: &str, key: &str, json: Option<&Json>) -> Vec<Located<String>> {
        let Some(json) = json.filter(|json| !json.is_null()) else { return Vec::new() };
        let names: Option<Vec<&str>> = json.as_array().and_then(|items| items.iter().map(Json::as_str).collect());
        if names.is_none() {
            self.fail(owner, key, "must be a list of strings");
        }
        // Scripts do list a host twice; Ansible takes it once.
        let mut seen = HashSet::new();
        let once = names.unwrap_or_default().into_iter().filter(|name| seen.insert(*name));
        once.map(|name| self.located(name.to_owned())).collect()
    }

    fn host(&mut self, name: &str, json: &Json) -> HostDraft {
        let mut host = HostDraft::named(self.located(name.to_owned()));
        let Some(vars) = json.as_object() else {
            self.fail("_meta.hostvars", name, "must be an object");
            return host;
        };
        let mut fields = HostDraft::named(host.name.clone());
        host.vars = self.vars(name, vars, |reader, key, value| {
            reader.connection(name, &mut fields.connection, (key, value)) || reader.host_field(&mut fields, key, value)
        });
        HostDraft { vars: host.vars, ..fields }
    }

    /// The variables that `field` does not take for itself.
    fn vars(
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
                self.fail(owner, &key.escape_debug().to_string(), "cannot be a variable's name");
                continue;
            }
            match Value::from_json(value) {
                Ok(Some(value)) => {
                    vars.insert(key.clone(), VarValue { value, origin: self.origin.clone() });
                }
                Ok(None) => {}
                Err(why) => self.fail(owner, key, why),
            }
        }
        vars
    }

    fn connection(&mut self, owner: &str, into: &mut Connection, (key, value): (&str, &Json)) -> bool {
        match key {
            "ansible_user" | "ansible_ssh_user" => {
                let user = self.text(owner, key, value, |text| name::check_user(text).map(|()| text.to_owned()));
                into.user = user;
            }
            "ansible_port" | "ansible_ssh_port" => {
                into.port = self.scalar(owner, key, value, ("a port, 1 to 65535", port))
            }
            "ansible_become" => into.become_root = self.scalar(owner, key, value, ("true or false", truth)),
            "ansible_ssh_private_key_file" | "ansible_private_key_file" => {
                let dir = self.dir;
                into.key = self.text(owner, key, value, |text| resolve_path(dir, text));
            }
            _ => return false,
        }
        true
    }

    fn host_field(&mut self, host: &mut HostDraft, key: &str, value: &Json) -> bool {
        let owner = host.name.value.clone();
        match key {
            "ansible_host" | "ansible_ssh_host" => {
                host.has_address = true;
                host.address =
                    self.text(&owner, key, value, |text| name::check_address(text).map(|()| text.to_owned()));
            }
            "zone" => {
                host.zone = self.text(&owner, key, value, |text| name::check_group(text).map(|()| text.to_owned()));
            }
            "memory" => {
                host.memory = self.text(&owner, key, value, |text| text.parse::<Bytes>().map_err(|e| e.to_string()));
            }
            "weight" => host.weight = self.scalar(&owner, key, value, ("a number above 0", weight)),
            "drain" => host.drain = self.scalar(&owner, key, value, ("true or false", truth)).is_some_and(|d| d.value),
            "host_key" => host.host_keys = self.host_keys(&owner, value),
            _ => return false,
        }
        true
    }

    fn host_keys(&mut self, owner: &str, value: &Json) -> Vec<Located<HostKey>> {
        let items = match value {
            Json::Array(items) => items.as_slice(),
            other => std::slice::from_ref(other),
        };
        let mut keys = Vec::new();
        for item in items {
            match item.as_str().map(str::parse) {
                Some(Ok(key)) => keys.push(self.located(key)),
                Some(Err(error)) => {
                    let mut diagnostic = host_key_error(self.origin, &error);
                    diagnostic.message = format!("`host_key` of `{owner}`: {}", diagnostic.message);
                    self.found.push(diagnostic);
                }
                None => self.fail(owner, "host_key", "must be a string or a list of strings"),
            }
        }
        keys
    }

    fn text<T>(
        &mut self,
        owner: &str,
        key: &str,
        value: &Json,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        match value.as_str().ok_or_else(|| "must be a string".to_owned()).and_then(parse) {
            Ok(value) => Some(self.located(value)),
            Err(why) => {
                self.fail(owner, key, why);
                None
            }
        }
    }

    fn scalar<T>(
        &mut self,
        owner: &str,
        key: &str,
        value: &Json,
        (wanted, read): (&str, fn(&Json) -> Option<T>),
    ) -> Option<Located<T>> {
        let read = read(value);
        if read.is_none() {
            self.fail(owner, key, format!("must be {wanted}"));
        }
        read.map(|value| self.located(value))
    }
}

fn port(json: &Json) -> Option<u16> {
    let number = json.as_u64().or_else(|| json.as_str()?.parse().ok())?;
    u16::try_from(number).ok().filter(|port| *port > 0)
}

/// Ansible's words for true and false.
fn truth(json: &Json) -> Option<bool> {
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

fn weight(json: &Json) -> Option<f64> {
    json.as_f64().filter(|weight| weight.is_finite() && *weight > 0.0)
}
