//! Settings of both binaries: command line, `TIMELINE_*`, and files for what is secret.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use dunlin_shards::{ConnectionOptions, ShardConnections};

use crate::{
    cache::{Cache, CacheOptions, Memcached},
    database::{DatabaseOptions, Databases, PullThresholds},
    lists::{ListOptions, Lists},
    queue::{
        Queue,
        postgres::{DEFAULT_LEASE, PostgresQueue},
        rabbit::RabbitQueue,
    },
    timelines::Timelines,
    worker::WorkerOptions,
};

/// Way in which tweets reach timelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Timelines are read from Postgres; nothing else is needed
    Pull,
    /// Timelines are in Redis, written by the workers when somebody posts
    Push,
    /// Plain sorted sets in Redis, without users and without Postgres
    Entries,
}

/// Addresses of all parts.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Mode: how tweets reach timelines
    #[arg(long, env = "TIMELINE_MODE", default_value = "pull")]
    pub mode: Mode,
    /// The database, as a Postgres connection string
    #[arg(
        long,
        env = "TIMELINE_DATABASE",
        default_value = "postgres:///timeline?host=/run/postgresql",
        value_name = "URL"
    )]
    pub database: String,
    /// Another database for tweets [default: that of --database]
    #[arg(long, env = "TIMELINE_TWEETS_DATABASE", value_name = "URL")]
    pub tweets_database: Option<String>,
    /// A file that holds the databases' password
    #[arg(long, env = "TIMELINE_DATABASE_PASSWORD_FILE", value_name = "FILE")]
    pub database_password_file: Option<PathBuf>,
    /// Connections per database and process
    #[arg(long, env = "TIMELINE_DATABASE_CONNECTIONS", default_value = "16", value_name = "N")]
    pub database_connections: usize,
    /// The published shard map; a newer epoch is used as soon as it is there
    #[arg(long, env = "TIMELINE_SHARDS", default_value = "/etc/timeline/shards.toml", value_name = "FILE")]
    pub shards: PathBuf,
    /// A file that holds the password of the shards' users
    #[arg(long, env = "TIMELINE_REDIS_PASSWORD_FILE", value_name = "FILE")]
    pub redis_password_file: Option<PathBuf>,
    /// A file that holds the CA of the shards' certificates, as PEM: connections to them use TLS only
    #[arg(long, env = "TIMELINE_REDIS_CA_FILE", value_name = "FILE")]
    pub redis_ca_file: Option<PathBuf>,
    /// Time for which a request waits for a shard that does not accept it (mode entries)
    #[arg(long, env = "TIMELINE_RETRY_FOR", default_value = "5", value_name = "SECONDS")]
    pub retry_for: u64,
    /// `postgres`, or amqp://user@host:port/vhost for RabbitMQ
    #[arg(long, env = "TIMELINE_QUEUE", default_value = "postgres", value_name = "URL")]
    pub queue: String,
    /// A file that holds RabbitMQ's password
    #[arg(long, env = "TIMELINE_QUEUE_PASSWORD_FILE", value_name = "FILE")]
    pub queue_password_file: Option<PathBuf>,
    /// Prefix of the names of the queues
    #[arg(long, env = "TIMELINE_QUEUE_PREFIX", default_value = "tl", value_name = "WORD")]
    pub queue_prefix: String,
    /// memcached servers, host:port with commas between
    #[arg(long, env = "TIMELINE_MEMCACHED", value_delimiter = ',', value_name = "SERVERS")]
    pub memcached: Vec<String>,
    /// Time for which this process uses a tweet or a profile without looking again
    #[arg(long, env = "TIMELINE_LOCAL_TTL_MS", default_value = "1000", value_name = "MS")]
    pub local_ttl_ms: u64,
    /// Entries per timeline
    #[arg(long, env = "TIMELINE_CAP", default_value = "1000", value_name = "N")]
    pub cap: usize,
    /// Days after which entries leave timelines, and unread timelines leave Redis
    #[arg(long, env = "TIMELINE_MAX_AGE_DAYS", default_value = "30", value_name = "DAYS")]
    pub max_age_days: u64,
    /// Followers from which an author's tweets are merged on read
    #[arg(long, env = "TIMELINE_PULL_FOLLOWERS", default_value = "1000000", value_name = "N")]
    pub pull_followers: i64,
    /// Followers below which they are pushed again
    #[arg(long, env = "TIMELINE_PUSH_FOLLOWERS", default_value = "800000", value_name = "N")]
    pub push_followers: i64,
    /// Seconds between flagging an author and the end of pushing: longer than readers use old flags
    #[arg(long, env = "TIMELINE_PULL_GRACE", default_value = "30", value_name = "SECONDS")]
    pub pull_grace: u64,
    /// Followers above which an author's deliveries use the bulk lane
    #[arg(long, env = "TIMELINE_FAST_FOLLOWERS", default_value = "10000", value_name = "N")]
    pub fast_followers: usize,
    /// Followers per delivery
    #[arg(long, env = "TIMELINE_CHUNK", default_value = "2000", value_name = "N")]
    pub chunk: usize,
    /// Deliveries per shard that a worker parks; more are dropped, and the shard's timelines are rebuilt
    #[arg(long, env = "TIMELINE_MAX_PARKED", default_value = "20000", value_name = "N")]
    pub max_parked: usize,
    /// Timelines per second that a worker rebuilds after that
    #[arg(long, env = "TIMELINE_REFRESH_RATE", default_value = "50", value_name = "R")]
    pub refresh_rate: f64,
}

impl Settings {
    /// Checks what can be checked without a connection.
    ///
    /// # Errors
    /// Returns an error if a value is not possible, or a file cannot be read.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=10_000).contains(&self.cap), "--cap must be between 1 and 10000");
        ensure!((1..=20_000).contains(&self.chunk), "--chunk must be between 1 and 20000");
        ensure!(self.database_connections > 0, "--database-connections must be above 0");
        ensure!(self.refresh_rate > 0.0, "--refresh-rate must be above 0");
        ensure!(self.push_followers <= self.pull_followers, "--push-followers must not exceed --pull-followers");
        self.database_options()?;
        if self.mode == Mode::Push {
            self.queue_url()?;
        }
        if self.mode != Mode::Pull {
            dunlin_shards::Routing::load_file(&self.shards)?;
            read_secret(self.redis_password_file.as_ref())?;
            self.read_redis_ca()?;
        }
        Ok(())
    }

    /// Returns where the databases are.
    ///
    /// # Errors
    /// Returns an error if the password file cannot be read.
    pub fn database_options(&self) -> anyhow::Result<DatabaseOptions> {
        Ok(DatabaseOptions {
            users: self.database.clone(),
            tweets: self.tweets_database.clone().unwrap_or_else(|| self.database.clone()),
            password: read_secret(self.database_password_file.as_ref())?,
            max_connections: self.database_connections,
        })
    }

    /// Opens the lists.
    ///
    /// # Errors
    /// Returns an error if the shard map or the password cannot be read.
    pub async fn open_lists(&self) -> anyhow::Result<Lists> {
        let age = Duration::from_secs(self.max_age_days * 24 * 3600);
        let options = ListOptions { cap: self.cap, max_age: age, ttl: age, ..ListOptions::default() };
        // a call ends before that; what is sent again here is what a move refuses
        let shards = self.open_shards(options.call_timeout).await?;
        Ok(Lists::new(shards, options))
    }

    /// Opens the shards, with a time for which refused requests are sent again.
    ///
    /// # Errors
    /// Returns an error if the shard map, the password or the CA cannot be read.
    pub async fn open_shards(&self, retry_for: Duration) -> anyhow::Result<ShardConnections> {
        let password = match read_secret(self.redis_password_file.as_ref())? {
            Some(password) => Some(password),
            None => std::env::var("TIMELINE_REDIS_PASSWORD").ok(),
        };
        let tls_ca = self.read_redis_ca()?;
        let options = ConnectionOptions { password, tls_ca, retry_for, ..ConnectionOptions::default() };
        Ok(ShardConnections::open(&self.shards, options).await?)
    }

    /// Reads the CA of the shards' certificates; `None` without TLS.
    fn read_redis_ca(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.redis_ca_file else { return Ok(None) };
        Ok(Some(std::fs::read_to_string(path).with_context(|| format!("--redis-ca-file {}", path.display()))?))
    }

    /// Opens the queue.
    ///
    /// # Errors
    /// Returns an error if the URL is not one of RabbitMQ, or the password cannot be read.
    pub fn open_queue(&self, databases: &Databases) -> anyhow::Result<Arc<dyn Queue>> {
        Ok(match self.queue_url()? {
            None => Arc::new(PostgresQueue::new(databases.tweets.clone(), DEFAULT_LEASE)),
            Some(url) => Arc::new(RabbitQueue::start(url, self.queue_prefix.clone())),
        })
    }

    /// Makes the caches and the timelines on some databases.
    pub fn open_timelines(&self, databases: Databases, lists: Option<Lists>) -> Timelines {
        let memcached = (!self.memcached.is_empty()).then(|| Arc::new(Memcached::new(&self.memcached)));
        let local_ttl = Duration::from_millis(self.local_ttl_ms);
        let cache = Cache::new(databases.clone(), memcached, &CacheOptions { local_ttl, ..CacheOptions::default() });
        Timelines::new(databases, lists, cache, Duration::from_secs(self.pull_grace))
    }

    /// Returns the sizes of the worker's parts.
    pub fn worker_options(&self) -> WorkerOptions {
        WorkerOptions {
            chunk: self.chunk,
            fast_followers: self.fast_followers,
            thresholds: PullThresholds { upper: self.pull_followers, lower: self.push_followers },
            max_parked: self.max_parked,
            refresh_rate: self.refresh_rate,
            ..WorkerOptions::default()
        }
    }

    /// Returns RabbitMQ's URL with its password; `None` for the queue in Postgres.
    fn queue_url(&self) -> anyhow::Result<Option<String>> {
        if self.queue == "postgres" {
            return Ok(None);
        }
        let Some(rest) = self.queue.strip_prefix("amqp://") else {
            bail!("--queue must be `postgres` or begin with amqp://");
        };
        let Some(password) = read_secret(self.queue_password_file.as_ref())? else {
            return Ok(Some(self.queue.clone()));
        };
        let (user, host) = rest.split_once('@').context("--queue names no user, but there is a password file")?;
        Ok(Some(format!("amqp://{}:{}@{host}", user.split(':').next().unwrap_or(user), percent_encode(&password))))
    }
}

/// Reads a file that holds a secret; line ends at its end are not part of it. Secrets never come from the command line,
/// which every user of the host can read.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub fn read_secret(path: Option<&PathBuf>) -> anyhow::Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("reading the secret {}", path.display()))?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Encodes everything but letters and digits.
fn percent_encode(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::percent_encode;

    #[test]
    fn passwords_fit_into_urls() {
        assert_eq!(percent_encode("aZ09"), "aZ09");
        assert_eq!(percent_encode("p@ss/word:é"), "p%40ss%2Fword%3A%C3%A9");
    }
}
