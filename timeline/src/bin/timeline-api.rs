//! `timeline-api`: users, tweets and timelines over HTTP.

#![allow(clippy::print_stdout, reason = "a program prints its results")]

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use timeline::{
    admin::{self, Operations},
    api::{self, App},
    auth::TokenKey,
    config::{Mode, Settings},
    database::Databases,
    entries::{self, store::Store},
    lifecycle::{self, GRACE, Shutdown},
    telemetry, worker,
};
use tokio::sync::Notify;

/// Users, tweets and timelines over HTTP. Every option can be given as an environment variable; secrets are read from
/// files. With socket activation, the first socket is for --listen and the second for --admin-listen.
#[derive(Parser)]
#[command(name = "timeline-api", version = timeline::VERSION)]
struct ApiCli {
    #[command(subcommand)]
    command: Option<ApiCommand>,
    #[command(flatten)]
    settings: Settings,
    /// Address to listen on
    #[arg(long, env = "TIMELINE_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Address to listen on for operators; in the mode `entries` they use --listen
    #[arg(long, env = "TIMELINE_ADMIN_LISTEN", default_value = "127.0.0.1:8081", value_name = "ADDRESS:PORT")]
    admin_listen: SocketAddr,
    /// A file that holds the key that signs tokens
    #[arg(long, env = "TIMELINE_TOKEN_KEY_FILE", value_name = "FILE")]
    token_key_file: Option<PathBuf>,
    /// Time for which /readyz answers 503 before the process stops accepting connections
    #[arg(long, env = "TIMELINE_DRAIN_DELAY_MS", default_value = "0", value_name = "MS")]
    drain_delay_ms: u64,
    /// Check the settings and exit
    #[arg(long)]
    check_config: bool,
}

#[derive(Subcommand)]
enum ApiCommand {
    /// Bring the databases' schema to this version
    Migrate {
        /// Also what older releases cannot work with
        #[arg(long)]
        contract: bool,
    },
    /// Print a token that names a user; 0 is the registrar, who creates users
    Token {
        /// The user
        #[arg(long, value_name = "ID")]
        user: i64,
        /// Validity of the token
        #[arg(long, default_value = "30")]
        days: u64,
    },
    /// Print the OpenAPI document
    Openapi,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = ApiCli::parse();
    match &cli.command {
        Some(ApiCommand::Migrate { contract }) => {
            let databases = Databases::new(&cli.settings.database_options()?)?;
            println!("schema version {}", databases.migrate(*contract).await?);
            return Ok(());
        }
        Some(ApiCommand::Token { user, days }) => {
            println!("{}", token_key(&cli)?.issue(*user, Duration::from_secs(days * 24 * 3600)));
            return Ok(());
        }
        Some(ApiCommand::Openapi) => {
            println!("{}", api::document().to_pretty_json()?);
            return Ok(());
        }
        None => {}
    }
    cli.settings.check()?;
    if cli.settings.mode != Mode::Entries {
        token_key(&cli)?;
    }
    if cli.check_config {
        return Ok(());
    }
    telemetry::start_logs()?;
    let shutdown = lifecycle::start_shutdown(Duration::from_millis(cli.drain_delay_ms))?;
    match cli.settings.mode {
        Mode::Entries => serve_entries(&cli, shutdown).await,
        Mode::Pull | Mode::Push => serve_timelines(&cli, shutdown).await,
    }
}

fn token_key(cli: &ApiCli) -> anyhow::Result<TokenKey> {
    TokenKey::load(cli.token_key_file.as_ref().context("--token-key-file is needed: who writes must have a token")?)
}

/// Serves plain sorted sets.
async fn serve_entries(cli: &ApiCli, shutdown: Shutdown) -> anyhow::Result<()> {
    let shards = cli.settings.open_shards(Duration::from_secs(cli.settings.retry_for)).await?;
    let listener = lifecycle::open_listeners(&[cli.listen]).await?.remove(0);
    tracing::info!(version = timeline::VERSION, address = %cli.listen, shards = ?shards, "listening");
    lifecycle::notify_ready();
    let router = entries::router(Store::new(shards));
    lifecycle::serve(listener, router, lifecycle::becomes_true(shutdown.ended), GRACE).await
}

/// Serves users, tweets and timelines; in pull mode, this process also applies the counters.
async fn serve_timelines(cli: &ApiCli, shutdown: Shutdown) -> anyhow::Result<()> {
    let settings = &cli.settings;
    let metrics = telemetry::start_metrics()?;
    let databases = Databases::new(&settings.database_options()?)?;
    let schema = databases.check_schema().await?;
    databases.open_connections().await?;
    let lists = match settings.mode {
        Mode::Push => Some(settings.open_lists().await?),
        Mode::Pull | Mode::Entries => None,
    };
    let timelines = settings.open_timelines(databases.clone(), lists);
    let wake = Arc::new(Notify::new());
    let app = App { timelines: timelines.clone(), tokens: token_key(cli)?, wake: wake.clone() };
    let mut listeners = lifecycle::open_listeners(&[cli.listen, cli.admin_listen]).await?;
    let (admin_listener, listener) = (listeners.remove(1), listeners.remove(0));
    if settings.mode == Mode::Pull {
        let options = Arc::new(settings.worker_options());
        for (source, database) in databases.outboxes() {
            let ended = shutdown.ended.clone();
            let (timelines, options, wake) = (timelines.clone(), options.clone(), wake.clone());
            tokio::spawn(worker::relay::apply_events(timelines, source, database, options, wake, ended));
        }
        tokio::spawn(worker::janitor::run(timelines.clone(), None, shutdown.ended.clone()));
    }
    let operations = Operations {
        name: "timeline-api",
        timelines,
        queue: None,
        metrics,
        draining: shutdown.draining.clone(),
        schema,
    };
    let router = api::router(app).merge(admin::health_router(operations.clone()));
    tokio::spawn(async move { axum::serve(admin_listener, admin::router(operations)).await });
    tracing::info!(version = timeline::VERSION, address = %cli.listen, admin = %cli.admin_listen, mode = ?settings.mode, "listening");
    lifecycle::notify_ready();
    lifecycle::serve(listener, router, lifecycle::becomes_true(shutdown.ended), GRACE).await
}
