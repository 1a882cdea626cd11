//! Adding a host to the text of a `hosts.toml`: comments, order and spacing of the rest are preserved.

use toml_edit::{Array, DocumentMut, Item, RawString, Table, TableLike, Value};

use super::byte_size::ByteSize;
use super::diagnostic::nearest_words;
use super::host_key::HostKey;
use super::hosts_toml::parse_jump;
use super::{range, validate};

/// A host to be added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewHost {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its public keys; may be empty.
    pub host_keys: Vec<HostKey>,
    /// Groups that will contain it; each must exist.
    pub groups: Vec<String>,
    /// Its port, where it differs from what applies otherwise. The same goes for all fields below.
    pub port: Option<u16>,
    /// The user to log in as.
    pub user: Option<String>,
    /// Path of the private key, as written to the file.
    pub key: Option<String>,
    /// A host of the inventory, or `user@host:port`.
    pub jump: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Memory limit for shards.
    pub memory: Option<ByteSize>,
}

/// Error of adding a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostEditError {
    /// The text is not TOML.
    #[error("hosts.toml cannot be changed while it is not valid TOML: {0}")]
    Syntax(String),
    /// A field that no inventory may hold.
    #[error("`{field}`: {why}")]
    InvalidField {
        /// The field.
        field: &'static str,
        /// Reason why it is invalid.
        why: String,
    },
    /// A group that is not there.
    #[error("no group `{group}`{}", suggestion_text(similar))]
    UnknownGroup {
        /// The group.
        group: String,
        /// Groups with a name near it.
        similar: Vec<String>,
    },
    /// The host exists with another value.
    #[error("host `{host}` is there already, with another `{field}`: {existing}")]
    Conflict {
        /// The host.
        host: String,
        /// The field.
        field: &'static str,
        /// Existing entry.
        existing: String,
    },
    /// The file is laid out in a way that is not edited (an inline table, a value where a table should be).
    #[error("`{0}` is not a table of its own; add the host by hand")]
    UnsupportedLayout(String),
}

fn suggestion_text(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean `{}`?", near.join("`, `")) }
}

/// Adds `[hosts.NAME]` behind the last host, and the name to the `hosts` of each group unless an entry there (a range
/// too) already covers it. If the host exists, absent fields are filled in; adding it again changes nothing.
///
/// # Errors
/// See [`HostEditError`]; the text is then unchanged in meaning and form, since nothing is returned.
pub fn add_host(text: &str, host: &NewHost) -> Result<String, HostEditError> {
    check_new_host(host)?;
    let mut document: DocumentMut =
        text.parse().map_err(|e: toml_edit::TomlError| HostEditError::Syntax(e.to_string()))?;
    for group in &host.groups {
        add_to_group(&mut document, group, &host.name)?;
    }
    add_host_table(&mut document, host)?;
    Ok(document.to_string())
}

fn check_new_host(host: &NewHost) -> Result<(), HostEditError> {
    let field = |field: &'static str, result: Result<(), String>| {
        result.map_err(|why| HostEditError::InvalidField { field, why })
    };
    field("name", validate::check_host(&host.name))?;
    if host.name == "all" {
        return field("name", Err("`all` is reserved".to_owned()));
    }
    field("address", validate::check_address(&host.address))?;
    field("zone", host.zone.as_deref().map_or(Ok(()), validate::check_group))?;
    field("user", host.user.as_deref().map_or(Ok(()), validate::check_user))?;
    field("key", host.key.as_deref().map_or(Ok(()), validate::check_path))?;
    field("jump", host.jump.as_deref().map_or(Ok(()), |jump| parse_jump(jump).map(|_| ())))
}

fn add_to_group(document: &mut DocumentMut, group: &str, host: &str) -> Result<(), HostEditError> {
    let groups = document.get_mut("groups").and_then(Item::as_table_like_mut);
    let Some(groups) = groups else {
        return Err(HostEditError::UnknownGroup { group: group.to_owned(), similar: Vec::new() });
    };
    if groups.get(group).is_none() {
        let names: Vec<String> = groups.iter().map(|(name, _)| name.to_owned()).collect();
        let near = nearest_words(group, names.iter().map(String::as_str)).into_iter().map(str::to_owned).collect();
        return Err(HostEditError::UnknownGroup { group: group.to_owned(), similar: near });
    }
    let shape = || HostEditError::UnsupportedLayout(format!("groups.{group}"));
    let table = groups.get_mut(group).and_then(Item::as_table_like_mut).ok_or_else(shape)?;
    match table.get_mut("hosts") {
        None => {
            table.insert("hosts", Item::Value(Value::Array(Array::from_iter([host]))));
        }
        Some(hosts) => {
            let hosts = hosts.as_array_mut().ok_or_else(shape)?;
            let covered = hosts.iter().filter_map(Value::as_str).filter_map(|entry| range::expand_ranges(entry).ok());
            if !covered.flatten().any(|name| name == host) {
                push_host(hosts, host);
            }
        }
    }
    Ok(())
}

/// Appends in the style of the list: on the same line, or on a line of its own with the same indentation. A comment
/// behind the last entry stays with that entry.
fn push_host(hosts: &mut Array, host: &str) {
    let text = |raw: Option<&RawString>| raw.and_then(RawString::as_str).unwrap_or_default().to_owned();
    let prefix = hosts.iter().last().map(|last| text(last.decor().prefix())).unwrap_or_default();
    let Some(at) = prefix.rfind('\n') else {
        return hosts.push(host);
    };
    let indent = prefix[at..].to_owned();
    let mut trailing_comment = String::new();
    if let Some(last) = hosts.iter_mut().last() {
        trailing_comment = text(last.decor().suffix());
        last.decor_mut().set_suffix("");
    }
    if hosts.trailing_comma() {
        trailing_comment = text(Some(hosts.trailing()));
    }
    let mut value = Value::from(host);
    value.decor_mut().set_prefix(format!("{}{indent}", trailing_comment.trim_end()));
    hosts.push_formatted(value);
    hosts.set_trailing_comma(true);
    hosts.set_trailing("\n");
}

fn add_host_table(document: &mut DocumentMut, host: &NewHost) -> Result<(), HostEditError> {
    let mut implicit = Table::new();
    implicit.set_implicit(true);
    let hosts = document.entry("hosts").or_insert(Item::Table(implicit));
    let hosts = hosts.as_table_mut().ok_or_else(|| HostEditError::UnsupportedLayout("hosts".to_owned()))?;
    if !hosts.contains_key(&host.name) {
        let mut table = Table::new();
        table.decor_mut().set_prefix("\n");
        hosts.insert(&host.name, Item::Table(table));
    }
    let table = hosts.get_mut(&host.name).and_then(Item::as_table_like_mut);
    let table = table.ok_or_else(|| HostEditError::UnsupportedLayout(format!("hosts.{}", host.name)))?;
    let mut filler = HostTableEditor { table, host: &host.name };
    filler.set_field("address", Some(host.address.as_str().into()))?;
    filler.set_host_keys(&host.host_keys)?;
    filler.set_field("port", host.port.map(|port| i64::from(port).into()))?;
    filler.set_field("user", host.user.as_deref().map(Value::from))?;
    filler.set_field("key", host.key.as_deref().map(Value::from))?;
    filler.set_field("jump", host.jump.as_deref().map(Value::from))?;
    filler.set_field("zone", host.zone.as_deref().map(Value::from))?;
    filler.set_memory(host.memory)
}

struct HostTableEditor<'a> {
    table: &'a mut dyn TableLike,
    host: &'a str,
}

impl HostTableEditor<'_> {
    fn conflict_error(&self, field: &'static str) -> HostEditError {
        let there = self.table.get(field).map(|item| item.to_string().trim().to_owned()).unwrap_or_default();
        HostEditError::Conflict { host: self.host.to_owned(), field, existing: there }
    }

    fn set_field(&mut self, field: &'static str, value: Option<Value>) -> Result<(), HostEditError> {
        let Some(value) = value else { return Ok(()) };
        let Some(there) = self.table.get(field) else {
            self.table.insert(field, Item::Value(value));
            return Ok(());
        };
        let same = match (there.as_str(), there.as_integer()) {
            (Some(text), _) => value.as_str() == Some(text),
            (_, Some(number)) => value.as_integer() == Some(number),
            _ => false,
        };
        if same { Ok(()) } else { Err(self.conflict_error(field)) }
    }

    /// Sets the memory; `"16GiB"` and `"16384MiB"` are equal.
    fn set_memory(&mut self, memory: Option<ByteSize>) -> Result<(), HostEditError> {
        let there = self.table.get("memory").and_then(Item::as_str).and_then(|text| text.parse::<ByteSize>().ok());
        if memory.is_some() && there == memory {
            return Ok(());
        }
        self.set_field("memory", memory.map(|memory| memory.to_string().into()))
    }

    /// Sets the host keys; there may be more existing keys than new ones, not fewer.
    fn set_host_keys(&mut self, keys: &[HostKey]) -> Result<(), HostEditError> {
        if keys.is_empty() {
            return Ok(());
        }
        let Some(there) = self.table.get("host_key") else {
            let value = match keys {
                [key] => Value::from(key.to_string()),
                keys => Value::Array(keys.iter().map(HostKey::to_string).collect()),
            };
            self.table.insert("host_key", Item::Value(value));
            return Ok(());
        };
        let texts: Vec<&str> = match there.as_array() {
            Some(items) => items.iter().filter_map(Value::as_str).collect(),
            None => there.as_str().into_iter().collect(),
        };
        let known: Vec<HostKey> = texts.iter().filter_map(|text| text.parse().ok()).collect();
        if keys.iter().all(|key| known.contains(key)) { Ok(()) } else { Err(self.conflict_error("host_key")) }
    }
}
