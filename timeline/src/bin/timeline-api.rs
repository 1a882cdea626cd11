//! `timeline-api`: timelines over HTTP, from the shards of a published map.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "programs of their own: they print their figures"
)]

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use dunlin_shards::{ConnectionOptions, ShardConnections};
use timeline::{
    api, serve,
    serve::{GRACE, terminated},
    store::Store,
};
use tokio::net::TcpListener;

/// Timelines over HTTP. The password of the shards' users is read from --redis-password-file, or from the environment
/// (TIMELINE_REDIS_PASSWORD); without either, no authentication takes place.
#[derive(Parser)]
#[command(name = "timeline-api", version = timeline::VERSION)]
struct Args {
    /// Where to listen
    #[arg(long, env = "TIMELINE_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The published shard map; watched, and taken over when its epoch grows
    #[arg(long, env = "TIMELINE_SHARDS", default_value = "/etc/timeline/shards.toml", value_name = "FILE")]
    shards: PathBuf,
    /// A file that holds the password, for example a systemd credential
    #[arg(long, env = "TIMELINE_REDIS_PASSWORD_FILE", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,
    /// How long a request waits for a shard that does not accept it
    #[arg(long, env = "TIMELINE_RETRY_FOR", default_value = "5", value_name = "SECONDS")]
    retry_for: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let password = password(&args)?;
    let options =
        ConnectionOptions { password, retry_for: Duration::from_secs(args.retry_for), ..ConnectionOptions::default() };
    let shards = ShardConnections::open(&args.shards, options).await?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    eprintln!("timeline-api {} on {}, {shards:?}", timeline::VERSION, args.listen);
    serve::serve(listener, api::router(Store::new(shards)), terminated()?, GRACE).await
}

/// Never from the command line, which every user of the host can read.
fn password(args: &Args) -> anyhow::Result<Option<String>> {
    let Some(path) = &args.redis_password_file else {
        return Ok(std::env::var("TIMELINE_REDIS_PASSWORD").ok());
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("the password file {}", path.display()))?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}
