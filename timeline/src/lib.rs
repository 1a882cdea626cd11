//! The timeline service: users post tweets and read those of the users whom they follow.
//!
//! In reading order: [`config`], [`ids`], [`auth`], [`database`] (Postgres), [`message`] and [`queue`] (RabbitMQ, or
//! Postgres again), [`lists`] (Redis, behind the shards), [`cache`] (memcached), [`timelines`] (pages of all of them),
//! [`worker`] (from the outbox to the lists), [`api`] (REST), [`admin`] (the operators' port), [`lifecycle`] (from a
//! listener to a graceful end), [`telemetry`]. [`load`] drives and checks the service. [`entries`] is the mode without
//! a database, which serves plain sorted sets.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test stops at what is missing"))]

pub mod admin;
pub mod api;
pub mod auth;
pub mod cache;
pub mod config;
pub mod database;
pub mod entries;
pub mod ids;
pub mod lifecycle;
pub mod lists;
pub mod load;
pub mod message;
pub mod queue;
pub mod telemetry;
pub mod timelines;
pub mod worker;

/// The version of the service: that of the release it was built for, otherwise the crate's.
pub const VERSION: &str = match option_env!("TIMELINE_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// The commit that the release was built from.
pub const GIT: &str = match option_env!("TIMELINE_GIT") {
    Some(git) => git,
    None => "unknown",
};

/// The hash of the lock file that the release was built with.
pub const LOCK_HASH: &str = match option_env!("TIMELINE_LOCK_HASH") {
    Some(hash) => hash,
    None => "unknown",
};

/// Joins an error and its causes to one line.
pub fn describe_error(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
