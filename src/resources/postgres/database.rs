//! `postgres_database`: a database of the Postgres server on the host, with its owner.
//!
//! Does not change: tables, extensions, settings; encoding and locale of a database that is there (a difference is an
//! error). A second run is a no-op because the attributes are compared by value.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::role;
use super::server::{Server, check_name, default_port, default_socket, quote_name, quote_text};
use crate::plan::AttributeChange;
use crate::resources::mode::Presence;
use crate::resources::{ApplyContext, BlobSource, Diff, HostView, ReadOutcome, Resource, de_string};

/// Databases that the server itself needs.
const OWN_DATABASES: [&str; 3] = ["postgres", "template0", "template1"];

/// Desired state of a database.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresDatabase {
    /// Its name.
    pub name: String,
    /// The role that owns it.
    #[serde(default = "default_owner")]
    pub owner: String,
    /// Encoding of a new database.
    #[serde(default = "default_encoding")]
    pub encoding: String,
    /// Locale of a new database.
    #[serde(default = "default_locale")]
    pub locale: String,
    /// Port of the server.
    #[serde(default = "default_port", deserialize_with = "de_string::required")]
    pub port: u16,
    /// Folder of the server's socket.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// `"absent"` removes the database with all that is in it.
    #[serde(default)]
    pub state: Presence,
}

fn default_owner() -> String {
    "postgres".to_owned()
}

fn default_encoding() -> String {
    "UTF8".to_owned()
}

fn default_locale() -> String {
    "C.UTF-8".to_owned()
}

/// Observed state of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum ObservedDatabase {
    /// There is no such database.
    Absent,
    /// A database.
    Present {
        /// The role that owns it.
        owner: String,
        /// Its encoding.
        encoding: String,
        /// Its locale.
        locale: String,
    },
}

impl Resource for PostgresDatabase {
    const KIND: &'static str = "postgres_database";
    type Observed = ObservedDatabase;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![format!("{} on port {}", self.object_name(), self.port)]
    }

    fn validate(&self) -> Result<(), String> {
        check_name("name", &self.name)?;
        check_name("owner", &self.owner)?;
        self.server().check()?;
        if self.state == Presence::Absent && OWN_DATABASES.contains(&self.name.as_str()) {
            return Err(format!("the server needs the database {}; it cannot be removed", self.name));
        }
        Ok(())
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedDatabase>> {
        if let Some(predicted) = view.predicted_object(&self.object_name()) {
            let state = predicted.map_or(Ok(ObservedDatabase::Absent), |state| serde_json::from_value(state.clone()));
            return Ok(ReadOutcome::Known(state?));
        }
        // The owner is read in the same query: one start of psql per step.
        let sql = format!(
            "select json_build_object('owner_exists', exists (select from pg_roles where rolname = {}), 'database', \
             (select json_build_object('is', 'present', 'owner', pg_get_userbyid(datdba), \
             'encoding', pg_encoding_to_char(encoding), 'locale', datcollate) from pg_database where datname = {}));",
            quote_text(&self.owner),
            quote_text(&self.name)
        );
        let answer = match self.server().query(view, &sql)? {
            ReadOutcome::Known(answer) => answer,
            ReadOutcome::UnknownUntilApply(reason) => return Ok(ReadOutcome::UnknownUntilApply(reason)),
        };
        let has_owner = match view.predicted_object(&role::object_name(&self.owner)) {
            Some(predicted) => predicted.is_some(),
            None => answer["owner_exists"] == true,
        };
        if self.state == Presence::Present && !has_owner {
            bail!("there is no role {}; a `postgres_role` step before this one can create it", self.owner);
        }
        Ok(ReadOutcome::Known(match &answer["database"] {
            serde_json::Value::Null => ObservedDatabase::Absent,
            database => serde_json::from_value(database.clone())?,
        }))
    }

    fn diff(&self, observed: &ObservedDatabase, _blobs: &dyn BlobSource) -> Result<Diff> {
        Ok(match (self.state, observed) {
            (Presence::Absent, ObservedDatabase::Absent) => Diff::none(),
            (Presence::Absent, ObservedDatabase::Present { owner, .. }) => {
                Diff::remove(vec![AttributeChange::to_absent("owner", owner)])
            }
            (Presence::Present, ObservedDatabase::Absent) => Diff::add(vec![
                AttributeChange::from_absent("owner", &self.owner),
                AttributeChange::from_absent("encoding", &self.encoding),
                AttributeChange::from_absent("locale", &self.locale),
            ]),
            (Presence::Present, ObservedDatabase::Present { owner, encoding, locale }) => {
                for (key, now, wanted) in [("encoding", encoding, &self.encoding), ("locale", locale, &self.locale)] {
                    if now != wanted {
                        bail!(
                            "its {key} is {now}, not {wanted}, and cannot be changed; set {key} = \"{now}\", or make a new \
                             database and copy the data"
                        );
                    }
                }
                let owner = (*owner != self.owner).then(|| AttributeChange::new("owner", owner, &self.owner));
                Diff::change(owner.into_iter().collect())
            }
        })
    }

    fn predict_state(&self, view: &mut HostView) {
        let state = (self.state == Presence::Present)
            .then(|| json!({ "is": "present", "owner": self.owner, "encoding": self.encoding, "locale": self.locale }));
        view.predict_object(&self.object_name(), state);
    }

    fn apply(&self, observed: &ObservedDatabase, _context: &mut ApplyContext) -> Result<()> {
        let (name, owner) = (quote_name(&self.name), quote_name(&self.owner));
        let sql = match (self.state, observed) {
            (Presence::Absent, _) => format!("drop database {name};"),
            (Presence::Present, ObservedDatabase::Present { .. }) => {
                format!("alter database {name} owner to {owner};")
            }
            (Presence::Present, ObservedDatabase::Absent) => format!(
                "create database {name} owner {owner} template template0 encoding {} locale {};",
                quote_text(&self.encoding),
                quote_text(&self.locale)
            ),
        };
        self.server().execute(&sql, false)
    }
}

impl PostgresDatabase {
    fn server(&self) -> Server {
        Server::new(self.port, &self.socket)
    }

    fn object_name(&self) -> String {
        format!("postgres database {}", self.name)
    }
}
