//! `rabbitmq_user`: a user of RabbitMQ with its password, tags and permissions.
//!
//! Does not change: limits, permissions on topics. `permissions` lists all that the user has; not given, they stay. A
//! second run is a no-op because the password is compared with the stored hash, and the rest by value.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::server;
use crate::plan::AttributeChange;
use crate::resources::mode::Presence;
use crate::resources::{ApplyContext, BlobSource, Diff, HostView, ReadOutcome, Resource};

/// The only hash that is compared; the server's default.
const HASHING: &str = "rabbit_password_hashing_sha256";
const SALT_BYTES: usize = 4;

/// Desired state of a user.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RabbitUser {
    /// The name.
    pub name: String,
    /// The password; required unless `state = "absent"`.
    pub password: Option<String>,
    /// Complete list of tags, such as `administrator`.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// Complete list of permissions, one per virtual host.
    pub permissions: Option<Vec<Permission>>,
    /// `"absent"` removes the user.
    #[serde(default)]
    pub state: Presence,
}

/// Rights on the names of one virtual host, as regular expressions; an empty one gives no right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permission {
    /// The virtual host.
    pub vhost: String,
    /// Pattern of the names that the user may declare and delete.
    pub configure: String,
    /// Pattern of the names that the user may publish to.
    pub write: String,
    /// Pattern of the names that the user may consume.
    pub read: String,
}

/// Observed state of the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum ObservedRabbitUser {
    /// There is no such user.
    Absent,
    /// A user.
    Present {
        /// The server stores the desired password.
        has_password: bool,
        /// Tags of the user.
        tags: BTreeSet<String>,
        /// Permissions of the user.
        permissions: Vec<Permission>,
    },
}

impl Resource for RabbitUser {
    const KIND: &'static str = "rabbitmq_user";
    const SECRET_FIELDS: &'static [&'static str] = &["password"];
    type Observed = ObservedRabbitUser;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![self.object_name()]
    }

    fn validate(&self) -> Result<(), String> {
        server::check_name("name", &self.name)?;
        self.tags.iter().try_for_each(|tag| server::check_name("tags", tag))?;
        match (&self.password, self.state) {
            (None, Presence::Present) => return Err("a user needs `password` (or state = \"absent\")".to_owned()),
            (Some(password), _) if password.is_empty() || password.contains(char::is_control) => {
                return Err("password must not be empty and must have no control characters".to_owned());
            }
            _ => {}
        }
        let mut vhosts = BTreeSet::new();
        for permission in self.permissions.iter().flatten() {
            server::check_name("vhost", &permission.vhost)?;
            if !vhosts.insert(&permission.vhost) {
                return Err(format!("permissions has the virtual host {} twice", permission.vhost));
            }
            for pattern in [&permission.configure, &permission.write, &permission.read] {
                if pattern.starts_with('-') {
                    return Err(format!("a pattern must not begin with `-`: \"{pattern}\""));
                }
            }
        }
        Ok(())
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedRabbitUser>> {
        if let Some(predicted) = view.predicted_object(&self.object_name()) {
            let state = predicted.map_or(Ok(ObservedRabbitUser::Absent), |state| serde_json::from_value(state.clone()));
            return Ok(ReadOutcome::Known(state?));
        }
        let definitions = match server::read_definitions(view)? {
            ReadOutcome::Known(definitions) => definitions,
            ReadOutcome::UnknownUntilApply(reason) => return Ok(ReadOutcome::UnknownUntilApply(reason)),
        };
        for permission in self.permissions.iter().flatten() {
            server::require_vhost(view, &definitions, &permission.vhost)?;
        }
        let found = server::find_entries(&definitions, "users", &[("name", &self.name)]);
        let Some(user) = found.first() else { return Ok(ReadOutcome::Known(ObservedRabbitUser::Absent)) };
        let mut permissions = Vec::new();
        for entry in server::find_entries(&definitions, "permissions", &[("user", &self.name)]) {
            permissions.push(parse_permission(entry)?);
        }
        Ok(ReadOutcome::Known(ObservedRabbitUser::Present {
            has_password: self.password.as_ref().is_none_or(|password| is_hash_of(user, password)),
            tags: parse_tags(&user["tags"]),
            permissions,
        }))
    }

    fn diff(&self, observed: &ObservedRabbitUser, _blobs: &dyn BlobSource) -> Result<Diff> {
        let ObservedRabbitUser::Present { has_password, tags, permissions } = observed else {
            return Ok(match self.state {
                Presence::Absent => Diff::none(),
                Presence::Present => {
                    let mut changes = vec![AttributeChange::from_absent("password", "the one given")];
                    changes.extend(self.tag_change(&BTreeSet::new()));
                    changes.extend(self.permission_changes(&[]));
                    Diff::add(changes)
                }
            });
        };
        if self.state == Presence::Absent {
            return Ok(Diff::remove(vec![AttributeChange::to_absent("tags", join(tags))]));
        }
        let mut changes = Vec::new();
        if !has_password {
            changes.push(AttributeChange::new("password", "another one", "the one given"));
        }
        changes.extend(self.tag_change(tags));
        changes.extend(self.permission_changes(permissions));
        Ok(Diff::change(changes))
    }

    fn predict_state(&self, view: &mut HostView) {
        let state = ObservedRabbitUser::Present {
            has_password: true,
            tags: self.tags.clone(),
            permissions: self.permissions.clone().unwrap_or_default(),
        };
        let state = (self.state == Presence::Present).then(|| serde_json::to_value(state).unwrap_or_default());
        view.predict_object(&self.object_name(), state);
    }

    fn apply(&self, observed: &ObservedRabbitUser, _context: &mut ApplyContext) -> Result<()> {
        if self.state == Presence::Absent {
            return server::run(&["delete_user", &self.name]);
        }
        let password = self.password.as_deref().context("a user needs a password")?;
        let none = (BTreeSet::new(), Vec::new());
        let (tags, permissions) = match observed {
            ObservedRabbitUser::Absent => {
                server::run_with_password(&["add_user", &self.name], password)?;
                (&none.0, &none.1)
            }
            ObservedRabbitUser::Present { has_password, tags, permissions } => {
                if !has_password {
                    server::run_with_password(&["change_password", &self.name], password)?;
                }
                (tags, permissions)
            }
        };
        if *tags != self.tags {
            let mut args = vec!["set_user_tags", &self.name];
            args.extend(self.tags.iter().map(String::as_str));
            server::run(&args)?;
        }
        let Some(wanted) = &self.permissions else { return Ok(()) };
        for permission in wanted.iter().filter(|permission| !permissions.contains(permission)) {
            let Permission { vhost, configure, write, read } = permission;
            server::run(&["set_permissions", "-p", vhost, &self.name, configure, write, read])?;
        }
        for Permission { vhost, .. } in permissions {
            if !wanted.iter().any(|permission| permission.vhost == *vhost) {
                server::run(&["clear_permissions", "-p", vhost, &self.name])?;
            }
        }
        Ok(())
    }
}

impl RabbitUser {
    fn object_name(&self) -> String {
        format!("rabbitmq user {}", self.name)
    }

    fn tag_change(&self, now: &BTreeSet<String>) -> Option<AttributeChange> {
        (*now != self.tags).then(|| AttributeChange::new("tags", join(now), join(&self.tags)))
    }

    fn permission_changes(&self, now: &[Permission]) -> Vec<AttributeChange> {
        let Some(wanted) = &self.permissions else { return Vec::new() };
        let by_vhost = |list: &[Permission]| -> BTreeMap<String, String> {
            list.iter().map(|permission| (permission.vhost.clone(), permission.describe())).collect()
        };
        let (now, wanted) = (by_vhost(now), by_vhost(wanted));
        let vhosts: BTreeSet<&String> = now.keys().chain(wanted.keys()).collect();
        let change = |vhost: &String| {
            let attribute = format!("permissions on {vhost}");
            match (now.get(vhost), wanted.get(vhost)) {
                (Some(now), Some(wanted)) if now == wanted => None,
                (Some(now), Some(wanted)) => Some(AttributeChange::new(&attribute, now, wanted)),
                (None, Some(wanted)) => Some(AttributeChange::from_absent(&attribute, wanted)),
                (Some(now), None) => Some(AttributeChange::to_absent(&attribute, now)),
                (None, None) => None,
            }
        };
        vhosts.into_iter().filter_map(change).collect()
    }
}

impl Permission {
    fn describe(&self) -> String {
        format!("configure \"{}\", write \"{}\", read \"{}\"", self.configure, self.write, self.read)
    }
}

fn join(tags: &BTreeSet<String>) -> String {
    tags.iter().cloned().collect::<Vec<_>>().join(",")
}

fn parse_permission(entry: &Value) -> Result<Permission> {
    let text =
        |field: &str| entry[field].as_str().map(str::to_owned).with_context(|| format!("a permission without {field}"));
    Ok(Permission { vhost: text("vhost")?, configure: text("configure")?, write: text("write")?, read: text("read")? })
}

/// Tags are a list, in old versions a text with commas.
fn parse_tags(tags: &Value) -> BTreeSet<String> {
    let list = tags.as_array().map(|tags| tags.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    let text =
        || tags.as_str().unwrap_or_default().split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
    list.unwrap_or_else(text)
}

/// Returns whether the entry of a user has the hash of the password: a salt, and the digest of salt and password.
fn is_hash_of(user: &Value, password: &str) -> bool {
    let hash = user["password_hash"].as_str().and_then(|hash| STANDARD.decode(hash).ok()).unwrap_or_default();
    let Some((salt, digest)) = hash.split_at_checked(SALT_BYTES) else { return false };
    user["hashing_algorithm"] == HASHING && Sha256::digest([salt, password.as_bytes()].concat()).as_slice() == digest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hashes_of_the_server_are_recognized() {
        // as RabbitMQ 3.10 stored "s3cret" and "guest"
        let user = |hash: &str| json!({ "hashing_algorithm": HASHING, "password_hash": hash });
        let bob = user("+syxzr+MPWTdRiAjDttI4C7J6NSVN1y+gkJnjgM9tqhPRG7b");
        assert!(is_hash_of(&bob, "s3cret"));
        assert!(!is_hash_of(&bob, "S3cret"));
        assert!(is_hash_of(&user("n86BkGNqf2tIYzEwgeVnp5aD2i+NItbyZto1nEdkiQK10ulA"), "guest"));
        assert!(!is_hash_of(&user(""), ""));
    }
}
