//! A client of a sharded Redis: writes and reads one counter and one value per second, also while shards move.
//!
//! ```sh
//! cargo run -p dunlin-shards --example client -- /etc/timeline/shards.toml [PASSWORD-FILE]
//! ```
//!
//! The map file is the one that dunlin publishes to consumers (resource `shard_map`). Start a rebalance meanwhile: the
//! client follows each shard to its new host. At a cutover
//!
//! 1. the source pauses writes for some milliseconds; a request that arrives then waits,
//! 2. the source becomes a replica and answers `READONLY`, which means "not applied": the request is sent again,
//! 3. the source names its new primary (`ROLE`), the connection set sends the request there, and reads the map again,
//! 4. dunlin publishes the map of the next epoch, and the connection set uses it.
//!
//! The caller sees a slower reply, and no error, as long as the cutover is shorter than `ConnectionOptions::retry_for`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what happens")]

use std::error::Error as StdError;
use std::time::{Duration, Instant};

use dunlin_shards::{AppliedState, ConnectionOptions, RetryPolicy, ShardConnections, ShardError};

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let mut args = std::env::args().skip(1);
    let map = args.next().ok_or("usage: client MAP-FILE [PASSWORD-FILE]")?;
    let password = args.next().map(std::fs::read_to_string).transpose()?;
    let options =
        ConnectionOptions { password: password.map(|text| text.trim_end().to_owned()), ..ConnectionOptions::default() };

    // Reads and checks the map, and watches the file from now on. Connections open when a shard is first used.
    let shards = ShardConnections::open(&map, options).await?;
    println!("{shards:?}");

    for round in 0_u64.. {
        // Keys with the same hash tag are in the same shard.
        let (value, counter) =
            (format!("{{example-{}}}:value", round % 64), format!("{{example-{}}}:count", round % 64));
        let start = Instant::now();

        // Setting a value twice is the same as setting it once: the request may be sent again in any case.
        let mut set = redis::cmd("SET");
        set.arg(&value).arg(round);
        let written = shards.query_shard::<()>(value.as_bytes(), &set, RetryPolicy::Idempotent).await;

        // An increment must not be repeated if it may have been applied.
        let mut increment = redis::cmd("INCR");
        increment.arg(&counter);
        let counted = shards.query_shard::<u64>(counter.as_bytes(), &increment, RetryPolicy::OnlyIfNotApplied).await;

        let mut get = redis::cmd("GET");
        get.arg(&value);
        let read = shards.query_shard::<Option<u64>>(value.as_bytes(), &get, RetryPolicy::Idempotent).await;

        let shard = shards.shard_for_key(value.as_bytes());
        println!(
            "epoch {} shard {shard}: value {}, count {}, {} ms",
            shards.epoch(),
            describe(&read.map(|value| value.map_or("absent".to_owned(), |value| value.to_string()))),
            describe(&counted.map(|count| count.to_string())),
            start.elapsed().as_millis()
        );
        if let Err(error) = written {
            eprintln!("SET: {}", advice(&error));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

fn describe(result: &Result<String, ShardError>) -> String {
    match result {
        Ok(text) => text.clone(),
        Err(error) => format!("? ({})", advice(error)),
    }
}

/// Returns what a caller should do about a failed request. The message of the server is the error's source.
fn advice(error: &ShardError) -> String {
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    let next = match error.applied_state() {
        // `Unavailable`: no instance accepted the request within `retry_for`. `Refused`: the server rejected the
        // command.
        AppliedState::No => "not applied; it is safe to send it again",
        // `Unknown`: the connection broke, or no reply came in time, after the request had been sent.
        AppliedState::Unknown => "may have been applied; read the value before you send it again",
        // `UnexpectedReply`: the reply has another type than the caller asked for.
        AppliedState::Yes => "applied, but the reply has an unexpected type",
    };
    format!("{error}{source} ({next})")
}
