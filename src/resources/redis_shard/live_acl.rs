//! The ACL that a running instance has in memory: its `default` user gets the rights that a restart needs.
//!
//! Redis up to 8.x replays the transactions and scripts of the append-only file as the `default` user, and drops what
//! that user may not do. An instance that was provisioned with `default off -@all` therefore loses them at any restart.
//! The file decides about that; the user in memory is fixed first, so that no `ACL SAVE` writes the old rules back.
//! `ACL SETUSER` does it without a restart and without closing a connection; `ACL LOAD` would end those of all users
//! that differ from the file.
//!
//! A primary with data is not restarted by provisioning. Its users get the passwords that are new in the file at once,
//! beside the old ones, so that a client with either is let in until `dunlin shards restart` leaves the new ones alone.

use std::time::Duration;

use anyhow::{Context, Result};
use dunlin_shards::build_client;
use redis::ConnectionLike;

use super::acl::{self, AclFile, DEFAULT_USER};
use super::tls_connection::LocalTlsConnection;
use super::{ObservedShardFiles, RedisShard};
use crate::plan::AttributeChange;
use crate::resources::{BlobSource, Content};

/// The ACL user that may do everything.
const ADMIN: &str = "dunlin";
/// In the mark of a pending restart: the users in memory were not set, because the instance or the password was
/// missing.
pub(super) const ACL_IN_MEMORY: &str = "ACL users in memory";
/// Longest time to connect, and to wait for the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

impl ObservedShardFiles {
    /// Returns whether a restart with the ACL file as it is may lose transactions of the append-only file.
    pub(super) fn lacks_replay_rights(&self) -> bool {
        let lacks = self.acl.as_ref().is_some_and(|(_, acl)| !acl.missing_replay_rights().is_empty());
        self.is_append_only && (lacks || self.acl_error.is_some())
    }
}

impl RedisShard {
    /// Returns the row's change for the ACL of the running instance.
    pub(super) fn live_acl_change(&self, observed: &ObservedShardFiles) -> Option<AttributeChange> {
        if !observed.is_running || !observed.lacks_replay_rights() {
            return None;
        }
        let missing = observed.acl.as_ref().map(|(_, acl)| acl.missing_replay_rights().join(" ")).unwrap_or_default();
        let from = match missing.as_str() {
            "" => "not known".to_owned(),
            missing => format!("lacks {missing}: a restart loses transactions"),
        };
        let to = match self.admin_password {
            Some(_) => "as in the new file, set first and without a restart",
            None => "as in the new file, after the next restart (without admin_password)",
        };
        Some(AttributeChange::new("ACL user default in memory", from, to))
    }

    /// Returns the row's change where an earlier run could not set the users in memory, and this one can.
    pub(super) fn pending_acl_change(&self, observed: &ObservedShardFiles) -> Option<AttributeChange> {
        self.retries_live_acl(observed)
            .then(|| AttributeChange::new(ACL_IN_MEMORY, "not set by an earlier run", "set without a restart"))
    }

    /// Returns whether an earlier run could not set the users in memory, and this one can.
    pub(super) fn retries_live_acl(&self, observed: &ObservedShardFiles) -> bool {
        observed.is_live_acl_pending && self.admin_password.is_some()
    }

    /// Returns whether the users of the running instance may lack rights or passwords of the new ACL file.
    pub(super) fn needs_live_acl(&self, observed: &ObservedShardFiles) -> bool {
        let is_changed = || !self.is_unchanged(observed.acl.as_ref(), &self.acl, &observed.source_stamps);
        observed.is_running
            && (observed.lacks_replay_rights()
                || observed.serves_data && (observed.is_live_acl_pending || is_changed()))
    }

    /// Gives the `default` user of a running instance the rules of the new ACL file if it lacks rights, and the other
    /// users the passwords that they lack. Returns whether the `default` user was set.
    ///
    /// # Errors
    /// Returns an error if the connection to the instance fails or the instance rejects the rules.
    pub(super) fn fix_live_acl(
        &self,
        observed: &ObservedShardFiles,
        new: &str,
        blobs: &dyn BlobSource,
    ) -> Result<bool> {
        let Some(password) = self.admin_password.as_ref().filter(|_| self.needs_live_acl(observed)) else {
            return Ok(false);
        };
        let address = self.live_address()?;
        let set = self.connect_as_admin(password, blobs).and_then(|mut connection| {
            let live: Vec<String> = redis::cmd("ACL").arg("LIST").query(&mut *connection)?;
            let live = AclFile::parse(&live.join("\n"))?;
            let lacks_rights = observed.is_append_only && !live.missing_replay_rights().is_empty();
            let sets_default_user = observed.lacks_replay_rights() || lacks_rights;
            if sets_default_user {
                set_user(&mut *connection, DEFAULT_USER, &default_user_rules(new)?)?;
            }
            for (user, passwords) in live.missing_passwords(&AclFile::parse(new)?) {
                set_user(&mut *connection, &user, &passwords)?;
            }
            Ok(sets_default_user)
        });
        set.with_context(|| {
            format!(
                "setting the ACL users of the running server at {}:{}; its ACL file is right, so a restart loses nothing, but \
                 until `dunlin provision` succeeds, it refuses new passwords; do not run ACL SAVE before that",
                address.0, address.1
            )
        })
    }

    /// Connects to the running instance as the user that may do everything.
    ///
    /// # Errors
    /// Returns an error if the connection fails or the instance rejects the password.
    pub(super) fn connect_as_admin(
        &self,
        password: &Content,
        blobs: &dyn BlobSource,
    ) -> Result<Box<dyn ConnectionLike>> {
        let password = String::from_utf8(blobs.read_blob(&password.digest)?).context("admin_password is not UTF-8")?;
        let (host, port) = self.live_address()?;
        if let Some(ca) = self.read_tls_ca()? {
            return Ok(Box::new(LocalTlsConnection::open(&host, port, &ca, ADMIN, &password)?));
        }
        let login =
            redis::RedisConnectionInfo::default().set_username(ADMIN).set_password(password).set_skip_set_lib_name();
        let client = build_client(&host, port, login, None)?;
        let connection = client.get_connection_with_timeout(TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        connection.set_write_timeout(Some(TIMEOUT))?;
        Ok(Box::new(connection))
    }

    /// Returns the address that the running instance was configured with.
    ///
    /// # Errors
    /// Returns an error if the configuration file cannot be read.
    pub(super) fn live_address(&self) -> Result<(String, u16)> {
        let bound = self.read_conf()?.and_then(|conf| conf.last_value("bind"));
        let first = bound.as_deref().and_then(|bound| bound.split(' ').next()).map(|word| word.trim_start_matches('-'));
        let host = match first {
            None | Some("" | "*" | "0.0.0.0") => "127.0.0.1",
            Some(host) => host,
        };
        Ok((host.to_owned(), self.port.parse().context("the port")?))
    }
}

/// Returns the rules of the `default` user. Without a line of its own, it has all rights after a restart; until then it
/// gets no more than those.
fn default_user_rules(new: &str) -> Result<Vec<String>> {
    Ok(match acl::rules_of(new, DEFAULT_USER)? {
        Some(rules) => std::iter::once("reset".to_owned()).chain(rules).collect(),
        None => ["~*", "&*", "+@all"].map(str::to_owned).to_vec(),
    })
}

fn set_user(connection: &mut dyn ConnectionLike, user: &str, rules: &[String]) -> Result<()> {
    let set = redis::cmd("ACL").arg("SETUSER").arg(user).arg(rules).exec(connection);
    set.map_err(|error| anyhow::Error::msg(hide_passwords(&error.to_string(), rules)))
}

/// Cuts passwords and their digests out of a server's message: it quotes the rule that it rejects.
fn hide_passwords(message: &str, rules: &[String]) -> String {
    let passwords =
        rules.iter().filter_map(|rule| rule.strip_prefix(['>', '<', '#', '!'])).filter(|text| !text.is_empty());
    passwords.fold(message.to_owned(), |message, password| message.replace(password, "***"))
}

#[cfg(test)]
mod tests {
    use super::hide_passwords;

    #[test]
    fn a_rejected_rule_shows_no_password() {
        let rules = ["on", ">pw1", "#abc", "+@all"].map(str::to_owned);
        let message = "ERR Error in ACL SETUSER modifier '#abc': not 64 characters, after '>pw1'";
        let shown = hide_passwords(message, &rules);
        assert_eq!(shown, "ERR Error in ACL SETUSER modifier '#***': not 64 characters, after '>***'");
    }
}
