//! The whole service on real servers: Postgres, Redis, RabbitMQ and memcached on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

#[path = "../../../shards/tests/redis/server.rs"]
mod redis_server;

mod caches;
mod dev;
mod killed;
mod lists;
mod operating;
mod outages;
mod pages;
mod programs;
mod queues;
mod races;
mod refreshes;
mod servers;
mod setup;
mod statements;
mod suite;
mod support;
