//! `timeline-worker`: from the outbox to the timelines in Redis.

#![allow(clippy::print_stdout, reason = "a program prints its results")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::bail;
use clap::{Parser, Subcommand};
use timeline::{
    admin::{self, Operations},
    config::{Mode, Settings},
    database::Databases,
    lifecycle::{self, GRACE},
    lists::Lists,
    telemetry,
    timelines::Timelines,
    worker::{Worker, reconcile, replay},
};
use tokio::sync::Notify;

/// Publishes committed events and changes the timelines in Redis. Needed in the mode `push` only.
#[derive(Parser)]
#[command(name = "timeline-worker", version = timeline::VERSION)]
struct WorkerCli {
    #[command(subcommand)]
    command: Option<WorkerCommand>,
    #[command(flatten)]
    settings: Settings,
    /// Address to listen on for operators
    #[arg(long, env = "TIMELINE_WORKER_ADMIN_LISTEN", default_value = "127.0.0.1:8082", value_name = "ADDRESS:PORT")]
    admin_listen: SocketAddr,
    /// Check the settings and exit
    #[arg(long)]
    check_config: bool,
}

#[derive(Subcommand)]
enum WorkerCommand {
    /// Compare counters and timelines with the databases; prints one line of JSON
    Reconcile {
        /// Correct what differs; counters only if no event that changes them waits
        #[arg(long)]
        fix: bool,
    },
    /// Build the timelines of all users on one shard
    Rebuild {
        /// The shard
        #[arg(long, value_name = "N")]
        shard: u16,
        /// Timelines per second
        #[arg(long, default_value = "50", value_name = "R")]
        rate: f64,
    },
    /// Send dead letters to their queues again; prints one line of JSON
    Replay {
        /// Largest number
        #[arg(long, default_value = "100000", value_name = "N")]
        limit: u64,
    },
}

/// Shared input of the commands. Those that need the queue open it: the others must work without it.
struct Parts {
    databases: Databases,
    timelines: Timelines,
    lists: Lists,
    schema: i32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = WorkerCli::parse();
    let settings = &cli.settings;
    if settings.mode != Mode::Push {
        bail!("there is no work in this mode; set --mode push (TIMELINE_MODE)");
    }
    settings.check()?;
    if cli.check_config {
        return Ok(());
    }
    telemetry::start_logs()?;
    let databases = Databases::new(&settings.database_options()?)?;
    let schema = databases.check_schema().await?;
    let lists = settings.open_lists().await?;
    let timelines = settings.open_timelines(databases.clone(), Some(lists.clone()));
    let parts = Parts { databases, timelines, lists, schema };
    match &cli.command {
        Some(command) => run_command(&parts, settings, command).await,
        None => work(parts, &cli).await,
    }
}

async fn run_command(parts: &Parts, settings: &Settings, command: &WorkerCommand) -> anyhow::Result<()> {
    let line = match command {
        WorkerCommand::Reconcile { fix } => {
            let queue = settings.open_queue(&parts.databases)?;
            serde_json::to_string(&reconcile::reconcile(&parts.timelines, Some(queue.as_ref()), *fix).await?)?
        }
        WorkerCommand::Rebuild { rate, .. } if *rate <= 0.0 => bail!("--rate must be above 0"),
        WorkerCommand::Rebuild { shard, .. } if !has_shard(&parts.lists, *shard) => {
            bail!("the shard map has no shard {shard}")
        }
        WorkerCommand::Rebuild { shard, rate } => {
            let count = reconcile::rebuild_shard(&parts.timelines, *shard, *rate).await?;
            serde_json::json!({ "shard": shard, "timelines": count }).to_string()
        }
        WorkerCommand::Replay { limit } => {
            let queue = settings.open_queue(&parts.databases)?;
            serde_json::to_string(&replay::replay(queue.as_ref(), *limit).await?)?
        }
    };
    println!("{line}");
    Ok(())
}

fn has_shard(lists: &Lists, shard: u16) -> bool {
    lists.shards().routing().shards.iter().any(|route| route.id.0 == shard)
}

/// Works until SIGTERM or SIGINT.
async fn work(parts: Parts, cli: &WorkerCli) -> anyhow::Result<()> {
    let Parts { databases, timelines, lists, schema } = parts;
    let queue = cli.settings.open_queue(&databases)?;
    let shutdown = lifecycle::start_shutdown(Duration::ZERO)?;
    let operations = Operations {
        name: "timeline-worker",
        timelines: timelines.clone(),
        queue: Some(queue.clone()),
        metrics: telemetry::start_metrics()?,
        draining: shutdown.draining.clone(),
        schema,
    };
    let listener = lifecycle::open_listeners(&[cli.admin_listen]).await?.remove(0);
    tokio::spawn(async move { axum::serve(listener, admin::router(operations)).await });
    let worker = Worker::new(timelines, lists, queue, cli.settings.worker_options(), Arc::new(Notify::new()));
    tracing::info!(version = timeline::VERSION, admin = %cli.admin_listen, "working");
    lifecycle::notify_ready();
    let limit = async {
        lifecycle::becomes_true(shutdown.ended.clone()).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        () = worker.run(shutdown.ended.clone()) => {}
        // what is in progress is delivered again
        () = limit => {}
    }
    Ok(())
}
