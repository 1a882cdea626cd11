//! The schema and its versions. A release expands the schema first (both the old and the new binaries work with it) and
//! contracts it once no old binary runs: `timeline-api migrate`, later `timeline-api migrate --contract`.

use anyhow::{Context as _, bail, ensure};
use tokio_postgres::{Client, GenericClient, Transaction};

/// The schema versions that this binary knows, both ends included. It also works with a newer one that was only expanded.
pub const SUPPORTED: std::ops::RangeInclusive<i32> = 2..=2;

/// The key of the advisory lock: one migration at a time per database.
const LOCK: i64 = 0x7469_6d65_6c69_6e65;

/// The tables that belong together on one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Users, follows, flags and counters.
    Users,
    /// Tweets, idempotency keys and the queue.
    Tweets,
}

/// True if old binaries work with what a migration leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// They do.
    Expand,
    /// They do not: it runs once none of them is left.
    Contract,
}

struct Migration {
    version: i32,
    phase: Phase,
    users: &'static str,
    tweets: &'static str,
}

/// In both databases: ids, and the events that wait for the relay. Short-lived rows are vacuumed early.
const COMMON: &str = "\
create sequence if not exists id_sequence cache 1;
create or replace function next_id() returns bigint language sql volatile as $$
  select ((floor(extract(epoch from clock_timestamp()) * 1000)::bigint - 1577836800000) << 12)
         | (nextval('id_sequence') & 4095)
$$;
create table if not exists outbox (
  id bigint primary key default next_id(),
  kind text not null,
  payload text not null,
  created_at timestamptz not null default clock_timestamp(),
  claimed_until timestamptz
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);";

const MIGRATIONS: &[Migration] = &[FIRST, SHARD_REFRESHES];

/// Shards whose timelines wait to be rebuilt. Older releases park every delivery instead.
const SHARD_REFRESHES: Migration = Migration {
    version: 2,
    phase: Phase::Expand,
    users: "\
create table shard_refreshes (
  shard integer primary key,
  begun_by text,
  claimed_until timestamptz
);",
    tweets: "",
};

const FIRST: Migration = Migration {
    version: 1,
    phase: Phase::Expand,
    users: "\
create table users (
  id bigint primary key,
  name text not null,
  followers_count bigint not null default 0,
  following_count bigint not null default 0,
  tweets_count bigint not null default 0
) with (fillfactor = 80);
create table follows (
  followee_id bigint not null,
  follower_id bigint not null,
  primary key (followee_id, follower_id)
);
create index follows_reverse on follows (follower_id, followee_id);
create table user_flags (
  user_id bigint primary key,
  pull_author boolean not null,
  changed_at timestamptz not null default now()
);
create table counter_applied (
  event_id bigint not null,
  source smallint not null,
  primary key (event_id, source)
);",
    tweets: "\
create table tweets (
  id bigint primary key,
  author_id bigint not null,
  body text not null,
  deleted_at timestamptz
);
create index tweets_author on tweets (author_id, id desc) where deleted_at is null;
create table idempotency (
  key text primary key,
  response text not null,
  created_at timestamptz not null default now()
);
create table queue (
  queue text not null,
  id bigint not null generated always as identity,
  payload text not null,
  visible_at timestamptz not null default clock_timestamp(),
  attempts integer not null default 0,
  primary key (queue, id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);",
};

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Users => "users",
            Part::Tweets => "tweets",
        }
    }

    /// The name of the row with the version of the last migration that older binaries do not work with.
    fn contracted(self) -> &'static str {
        match self {
            Part::Users => "users contracted",
            Part::Tweets => "tweets contracted",
        }
    }
}

/// Brings one part of the schema to this binary's version. Contracting migrations run only with `contract`; those after
/// the first one that waits for it wait as well. Returns the version that was reached.
///
/// # Errors
/// Returns an error if the database does not answer, a statement fails (nothing of that migration remains), or the
/// schema is newer than this binary.
pub async fn migrate(client: &mut Client, part: Part, contract: bool) -> anyhow::Result<i32> {
    let transaction = client.transaction().await?;
    transaction.execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    transaction.batch_execute(COMMON).await.context("the outbox")?;
    let versions = "create table if not exists schema_version (part text primary key, version integer not null)";
    transaction.batch_execute(versions).await?;
    let mut version = read_version(&transaction, part.name()).await?.unwrap_or(0);
    let reached = version;
    ensure!(
        read_version(&transaction, part.contracted()).await?.unwrap_or(0) <= *SUPPORTED.end(),
        "the {} schema has version {version}, newer than {} of this binary: migrate with the newer release",
        part.name(),
        SUPPORTED.end()
    );
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > reached) {
        if migration.phase == Phase::Contract && !contract {
            break;
        }
        apply_migration(&transaction, part, migration).await?;
        version = migration.version;
    }
    transaction.commit().await?;
    Ok(version)
}

async fn apply_migration(transaction: &Transaction<'_>, part: Part, migration: &Migration) -> anyhow::Result<()> {
    let text = match part {
        Part::Users => migration.users,
        Part::Tweets => migration.tweets,
    };
    let context = || format!("migration {} of the {} schema", migration.version, part.name());
    transaction.batch_execute(text).await.with_context(context)?;
    let upsert = "insert into schema_version (part, version) values ($1, $2) \
                  on conflict (part) do update set version = excluded.version";
    transaction.execute(upsert, &[&part.name(), &migration.version]).await.with_context(context)?;
    if migration.phase == Phase::Contract {
        transaction.execute(upsert, &[&part.contracted(), &migration.version]).await.with_context(context)?;
    }
    Ok(())
}

async fn read_version(client: &impl GenericClient, row: &str) -> Result<Option<i32>, tokio_postgres::Error> {
    let row = client.query_opt("select version from schema_version where part = $1", &[&row]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Returns the version of a part. One that a newer release has expanded is accepted: a rollback needs no migration.
///
/// # Errors
/// Returns an error if the database does not answer, has no schema, or has one that this binary does not work with.
pub async fn check_version(client: &Client, part: Part) -> anyhow::Result<i32> {
    let exists = client.query_one("select to_regclass('schema_version') is not null", &[]).await?;
    let version = match exists.get::<_, bool>(0) {
        true => read_version(client, part.name()).await?,
        false => None,
    };
    let Some(version) = version else {
        bail!("the database has no {} schema: run `timeline-api migrate`", part.name());
    };
    let contracted = read_version(client, part.contracted()).await?.unwrap_or(0);
    let (first, last) = (SUPPORTED.start(), SUPPORTED.end());
    if version < *first || contracted > *last {
        let next = if version < *first { "run `timeline-api migrate`" } else { "start a newer release" };
        bail!("the {} schema has version {version}, this binary works with {first} to {last}: {next}", part.name());
    }
    Ok(version)
}
