//! Postgres: users with their follows and counters in one database, tweets in another; the two can be the same.
//!
//! [`sql`] has every statement, [`schema`] the tables. No other module sends SQL.

use std::{str::FromStr, time::Duration};

use anyhow::Context as _;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use tokio_postgres::{Config, NoTls, Row, types::ToSql};

mod events;
mod queue;
mod refreshes;
pub mod schema;
pub mod sql;
mod tweets;
mod users;

pub use events::{CounterChange, CounterError, CounterEvent, Event, PullThresholds};
pub use queue::QueueRow;
use schema::Part;
use sql::Statement;
pub use tweets::{Posted, Range, Tweet};
pub use users::{FlaggedAuthor, FollowerChunk, FollowerRange, Profile};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of connections that a process opens before it listens.
const FIRST_CONNECTIONS: usize = 4;
/// Time for which a request waits for a connection of the pool.
const POOL_WAIT: Duration = Duration::from_secs(5);
/// Time for which the server works on a statement.
const STATEMENT_TIMEOUT_MS: u32 = 10_000;
/// Time for which this side waits for it.
const REPLY_TIMEOUT: Duration = Duration::from_secs(12);

/// Reason why a statement has no result.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// No connection, or none in time.
    #[error("the database is not available")]
    Unavailable(#[source] PoolError),
    /// The statement failed, or its connection broke.
    #[error("the statement {statement} failed")]
    Statement {
        /// The name of the statement.
        statement: &'static str,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// There was no answer in time.
    #[error("the database did not answer the statement {statement} in time")]
    Silent {
        /// The name of the statement.
        statement: &'static str,
    },
}

impl DbError {
    /// Tells whether the server refuses the values of the statement (SQLSTATE classes 22 and 23), whatever its own
    /// state.
    pub(crate) fn is_of_data(&self) -> bool {
        let DbError::Statement { source, .. } = self else { return false };
        source.code().is_some_and(|state| ["22", "23"].contains(&&state.code()[..2]))
    }
}

/// A database: a pool of connections.
#[derive(Debug, Clone)]
pub struct Database {
    pool: Pool,
}

/// Addresses and options of the databases.
#[derive(Debug, Clone)]
pub struct DatabaseOptions {
    /// The connection string of users.
    pub users: String,
    /// The connection string of tweets; may be the same.
    pub tweets: String,
    /// The password, where the connection strings have none.
    pub password: Option<String>,
    /// The largest number of connections per database.
    pub max_connections: usize,
}

/// Both databases.
#[derive(Debug, Clone)]
pub struct Databases {
    /// Users, follows, flags and counters.
    pub users: Database,
    /// Tweets, idempotency keys and the Postgres queue.
    pub tweets: Database,
    /// True if both are the same, so that there is one outbox.
    pub is_shared: bool,
}

impl Databases {
    /// Makes the pools; connects when a connection is first needed.
    ///
    /// # Errors
    /// Returns an error if a connection string is not valid.
    pub fn new(options: &DatabaseOptions) -> anyhow::Result<Databases> {
        let users = Database::new(&options.users, options).context("the users database")?;
        if options.users == options.tweets {
            return Ok(Databases { tweets: users.clone(), users, is_shared: true });
        }
        let tweets = Database::new(&options.tweets, options).context("the tweets database")?;
        Ok(Databases { users, tweets, is_shared: false })
    }

    /// Opens connections to both databases, so that the first requests of a new process do not wait for them.
    ///
    /// # Errors
    /// Returns an error if a database does not accept them.
    pub async fn open_connections(&self) -> Result<(), DbError> {
        for database in [&self.users, &self.tweets] {
            let count = FIRST_CONNECTIONS.min(database.pool.status().max_size);
            futures_util::future::try_join_all((0..count).map(|_| database.connection())).await?;
        }
        Ok(())
    }

    /// Checks that this binary works with the schemas of both databases; returns their version.
    ///
    /// # Errors
    /// Returns an error if a database does not answer, or has a schema of another version.
    pub async fn check_schema(&self) -> anyhow::Result<i32> {
        let users = schema::check_version(&*self.users.connection().await?, Part::Users).await?;
        let tweets = schema::check_version(&*self.tweets.connection().await?, Part::Tweets).await?;
        Ok(users.min(tweets))
    }

    /// Brings both schemas to this binary's version; returns it.
    ///
    /// # Errors
    /// See [`schema::migrate`].
    pub async fn migrate(&self, contract: bool) -> anyhow::Result<i32> {
        let mut connection = self.users.connection().await?;
        let users = schema::migrate(&mut connection, Part::Users, contract).await?;
        drop(connection);
        let mut connection = self.tweets.connection().await?;
        let tweets = schema::migrate(&mut connection, Part::Tweets, contract).await?;
        Ok(users.min(tweets))
    }

    /// Returns the databases that have an outbox, each with the number that its events carry.
    pub fn outboxes(&self) -> Vec<(i16, Database)> {
        if self.is_shared {
            return vec![(0, self.users.clone())];
        }
        vec![(0, self.users.clone()), (1, self.tweets.clone())]
    }
}

impl Database {
    fn new(url: &str, options: &DatabaseOptions) -> anyhow::Result<Database> {
        let mut config = Config::from_str(url).context("not a connection string of Postgres")?;
        if let (None, Some(password)) = (config.get_password(), &options.password) {
            config.password(password);
        }
        config.application_name("timeline");
        config.connect_timeout(CONNECT_TIMEOUT);
        let flags = config.get_options().unwrap_or_default().to_owned();
        // the plans of statements with arrays must not depend on their first parameters; JIT costs more than it gives
        config.options(format!("{flags} -c statement_timeout={STATEMENT_TIMEOUT_MS} -c jit=off"));
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(options.max_connections)
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .runtime(Runtime::Tokio1)
            .build()?;
        Ok(Database { pool })
    }

    /// Takes a connection from the pool.
    ///
    /// # Errors
    /// Returns an error if no connection is free in time, or none can be opened.
    pub async fn connection(&self) -> Result<Object, DbError> {
        self.pool.get().await.map_err(DbError::Unavailable)
    }

    /// Checks that the database answers.
    ///
    /// # Errors
    /// Returns an error if the database does not answer.
    pub async fn ping(&self) -> Result<(), DbError> {
        const PING: Statement = Statement { name: "PING", text: "select 1" };
        self.query(PING, &[]).await.map(drop)
    }

    async fn query(&self, statement: Statement, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, DbError> {
        let connection = self.connection().await?;
        let run = async {
            let prepared = connection.prepare_cached(statement.text).await?;
            connection.query(&prepared, params).await
        };
        let result = within_limit(statement, run).await;
        discard_if_silent(connection, &result);
        result
    }

    async fn execute(&self, statement: Statement, params: &[&(dyn ToSql + Sync)]) -> Result<u64, DbError> {
        let connection = self.connection().await?;
        let run = async {
            let prepared = connection.prepare_cached(statement.text).await?;
            connection.execute(&prepared, params).await
        };
        let result = within_limit(statement, run).await;
        discard_if_silent(connection, &result);
        result
    }
}

/// Runs a statement with a limit of this side: a server that is gone without a word does not keep the server's own
/// limit.
async fn within_limit<T>(
    statement: Statement,
    run: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, DbError> {
    metrics::counter!("db_queries_total", "op" => statement.name).increment(1);
    match tokio::time::timeout(REPLY_TIMEOUT, run).await {
        Ok(result) => result.map_err(|source| DbError::Statement { statement: statement.name, source }),
        Err(_) => Err(DbError::Silent { statement: statement.name }),
    }
}

/// Takes a connection out of the pool on which an answer may still be on its way.
fn discard_if_silent<T>(connection: Object, result: &Result<T, DbError>) {
    if matches!(result, Err(DbError::Silent { .. })) {
        drop(Object::take(connection));
    }
}
