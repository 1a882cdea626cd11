//! `postgres_role`: a role of the Postgres server on the host, with its password and rights.
//!
//! Does not change: memberships, what the role owns, settings of the role. A removed role must own nothing. A second
//! run is a no-op because attributes are compared by value, and the password with the verifier that the server stores.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::scram;
use super::server::{Server, check_name, default_port, default_socket, quote_name, quote_text};
use crate::plan::AttributeChange;
use crate::resources::mode::Presence;
use crate::resources::{ApplyContext, BlobSource, Diff, HostView, ReadOutcome, Resource, de_string};

/// Desired state of a role.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresRole {
    /// Its name.
    pub name: String,
    /// Its password, in printable ASCII characters; the stored one stays where none is given.
    pub password: Option<String>,
    /// The role may log in.
    #[serde(default = "yes", deserialize_with = "de_string::required")]
    pub login: bool,
    /// The role has all rights.
    #[serde(default, deserialize_with = "de_string::required")]
    pub superuser: bool,
    /// The role may create databases.
    #[serde(default, deserialize_with = "de_string::required")]
    pub createdb: bool,
    /// Largest number of connections; -1: no limit.
    #[serde(default = "no_limit", deserialize_with = "de_string::required")]
    pub connection_limit: i32,
    /// Port of the server.
    #[serde(default = "default_port", deserialize_with = "de_string::required")]
    pub port: u16,
    /// Folder of the server's socket.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// `"absent"` removes the role.
    #[serde(default)]
    pub state: Presence,
}

fn yes() -> bool {
    true
}

fn no_limit() -> i32 {
    -1
}

/// Result of the comparison of the desired password with the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PasswordMatch {
    /// The server stores it, or the step gives none.
    Same,
    /// The server stores another one, or another kind of verifier.
    Other,
    /// The server stores none.
    Missing,
}

/// Observed state of the role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum ObservedRole {
    /// There is no such role.
    Absent,
    /// A role.
    Present {
        /// The role may log in.
        login: bool,
        /// The role has all rights.
        superuser: bool,
        /// The role may create databases.
        createdb: bool,
        /// Largest number of connections.
        connection_limit: i32,
        /// The stored password.
        password: PasswordMatch,
    },
}

/// A row of `pg_authid`.
#[derive(Deserialize)]
struct RoleRow {
    login: bool,
    superuser: bool,
    createdb: bool,
    connection_limit: i32,
    verifier: Option<String>,
}

impl Resource for PostgresRole {
    const KIND: &'static str = "postgres_role";
    const SECRET_FIELDS: &'static [&'static str] = &["password"];
    type Observed = ObservedRole;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![format!("{} on port {}", object_name(&self.name), self.port)]
    }

    fn validate(&self) -> Result<(), String> {
        check_name("name", &self.name)?;
        self.server().check()?;
        if self.connection_limit < -1 {
            return Err("connection_limit must be -1 (no limit) or more".to_owned());
        }
        let Some(password) = &self.password else { return Ok(()) };
        if password.is_empty() || !password.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err("password must have printable ASCII characters only, and at least one".to_owned());
        }
        Ok(())
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedRole>> {
        if let Some(predicted) = view.predicted_object(&object_name(&self.name)) {
            let state = predicted.map_or(Ok(ObservedRole::Absent), |state| serde_json::from_value(state.clone()));
            return Ok(ReadOutcome::Known(state?));
        }
        let sql = format!(
            "select json_build_object('login', rolcanlogin, 'superuser', rolsuper, 'createdb', rolcreatedb, \
             'connection_limit', rolconnlimit, 'verifier', rolpassword) from pg_authid where rolname = {};",
            quote_text(&self.name)
        );
        let row = match self.server().query(view, &sql)? {
            ReadOutcome::Known(row) => row,
            ReadOutcome::UnknownUntilApply(reason) => return Ok(ReadOutcome::UnknownUntilApply(reason)),
        };
        let row: Option<RoleRow> = serde_json::from_value(row)?;
        Ok(ReadOutcome::Known(row.map_or(ObservedRole::Absent, |row| self.compare(row))))
    }

    fn diff(&self, observed: &ObservedRole, _blobs: &dyn BlobSource) -> Result<Diff> {
        let ObservedRole::Present { login, superuser, createdb, connection_limit, password } = observed else {
            return Ok(match self.state {
                Presence::Absent => Diff::none(),
                Presence::Present => Diff::add(self.new_attributes()),
            });
        };
        if self.state == Presence::Absent {
            if *superuser && self.name == "postgres" {
                bail!("dunlin itself uses the role postgres; it cannot be removed");
            }
            return Ok(Diff::remove(vec![AttributeChange::to_absent("login", login)]));
        }
        let mut changes = Vec::new();
        let flags = [
            ("login", *login, self.login),
            ("superuser", *superuser, self.superuser),
            ("createdb", *createdb, self.createdb),
        ];
        for (name, now, wanted) in flags {
            if now != wanted {
                changes.push(AttributeChange::new(name, now, wanted));
            }
        }
        if *connection_limit != self.connection_limit {
            changes.push(AttributeChange::new("connection_limit", connection_limit, self.connection_limit));
        }
        match password {
            PasswordMatch::Same => {}
            PasswordMatch::Other => changes.push(AttributeChange::new("password", "another one", "the one given")),
            PasswordMatch::Missing => changes.push(AttributeChange::from_absent("password", "the one given")),
        }
        Ok(Diff::change(changes))
    }

    fn predict_state(&self, view: &mut HostView) {
        let state = (self.state == Presence::Present).then(|| {
            json!({
                "is": "present",
                "login": self.login,
                "superuser": self.superuser,
                "createdb": self.createdb,
                "connection_limit": self.connection_limit,
                "password": PasswordMatch::Same,
            })
        });
        view.predict_object(&object_name(&self.name), state);
    }

    fn apply(&self, observed: &ObservedRole, _context: &mut ApplyContext) -> Result<()> {
        let name = quote_name(&self.name);
        if self.state == Presence::Absent {
            return self.server().execute(&format!("drop role {name};"), false);
        }
        let (verb, needs_password) = match observed {
            ObservedRole::Absent => ("create", true),
            ObservedRole::Present { password, .. } => ("alter", *password != PasswordMatch::Same),
        };
        let no = |flag: bool| if flag { "" } else { "no" };
        let mut sql = format!(
            "{verb} role {name} {}login {}superuser {}createdb connection limit {}",
            no(self.login),
            no(self.superuser),
            no(self.createdb),
            self.connection_limit
        );
        if let Some(password) = self.password.as_ref().filter(|_| needs_password) {
            sql.push_str(&format!(" password {}", quote_text(&scram::make_verifier(password)?)));
        }
        sql.push(';');
        self.server().execute(&sql, self.password.is_some())
    }
}

impl PostgresRole {
    fn server(&self) -> Server {
        Server::new(self.port, &self.socket)
    }

    fn compare(&self, row: RoleRow) -> ObservedRole {
        let password = match (&self.password, row.verifier) {
            (None, _) => PasswordMatch::Same,
            (Some(_), None) => PasswordMatch::Missing,
            (Some(password), Some(verifier)) if scram::is_verifier_of(&verifier, password) => PasswordMatch::Same,
            (Some(_), Some(_)) => PasswordMatch::Other,
        };
        let RoleRow { login, superuser, createdb, connection_limit, .. } = row;
        ObservedRole::Present { login, superuser, createdb, connection_limit, password }
    }

    fn new_attributes(&self) -> Vec<AttributeChange> {
        let mut changes = vec![AttributeChange::from_absent("login", self.login)];
        for (name, flag) in [("superuser", self.superuser), ("createdb", self.createdb)] {
            if flag {
                changes.push(AttributeChange::from_absent(name, flag));
            }
        }
        if self.connection_limit != no_limit() {
            changes.push(AttributeChange::from_absent("connection_limit", self.connection_limit));
        }
        if self.password.is_some() {
            changes.push(AttributeChange::from_absent("password", "the one given"));
        }
        changes
    }
}

/// Returns the name under which the role's state is predicted.
pub(super) fn object_name(role: &str) -> String {
    format!("postgres role {role}")
}
