//! `timeline-load`: writes at a rate and notes each acknowledgement; then proves that every one of them is there.

#![allow(clippy::print_stdout, reason = "a program prints its results")]

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use timeline::{
    config::read_secret,
    lifecycle::terminated,
    load::{
        Base,
        deliveries::verify_tweets,
        graph::{Graph, create_graph},
        verify,
        write::{self, Target},
    },
};

/// Load for the timeline service, and the proof that no acknowledged write was lost.
#[derive(Parser)]
#[command(name = "timeline-load", version = timeline::VERSION)]
struct Args {
    #[command(subcommand)]
    command: LoadCommand,
}

#[derive(Subcommand)]
enum LoadCommand {
    /// Write until SIGTERM, SIGINT or --seconds; prints one line of JSON at the end
    Write {
        /// The service, http://host:port; several may be named
        #[arg(long = "url", required = true)]
        urls: Vec<Base>,
        /// Number of users whose timelines are written to (mode entries)
        #[arg(long, default_value_t = 2000, conflicts_with = "graph")]
        users: u64,
        /// Post tweets as the users of this graph, and read their home timelines (modes pull and push)
        #[arg(long, value_name = "FILE")]
        graph: Option<PathBuf>,
        /// Number of writers, each with one write at a time
        #[arg(long, default_value_t = 16)]
        writers: u64,
        /// Writes per second of all writers together
        #[arg(long, default_value_t = 2000.0)]
        rate: f64,
        /// The file that acknowledgements are appended to, "uid id" per line
        #[arg(long, value_name = "FILE")]
        acks: PathBuf,
        /// Duration of the run
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
        /// Print a line each second on stderr
        #[arg(long)]
        progress: bool,
    },
    /// Create users who follow each other, and write them to a file for `write` and `verify`
    Seed {
        /// The service, http://host:port; several may be named
        #[arg(long = "url", required = true)]
        urls: Vec<Base>,
        /// A file that holds the registrar's token (`timeline-api token --user 0`)
        #[arg(long, value_name = "FILE")]
        registrar_token_file: PathBuf,
        /// Number of users
        #[arg(long, default_value_t = 200)]
        users: usize,
        /// Number of users whom each of them follows
        #[arg(long, default_value_t = 20)]
        follows: usize,
        /// The file to create; it holds the users' tokens
        #[arg(long, value_name = "FILE")]
        graph: PathBuf,
    },
    /// Read everything back; exit code 1 if an acknowledged entry, tweet or delivery is not there
    Verify {
        /// The service, http://host:port; several may be named
        #[arg(long = "url", required = true)]
        urls: Vec<Base>,
        /// The file of acknowledgements
        #[arg(long, value_name = "FILE")]
        acks: PathBuf,
        /// The graph whose users posted tweets
        #[arg(long, value_name = "FILE")]
        graph: Option<PathBuf>,
        /// Time for which home timelines are read again until they have all deliveries
        #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "graph")]
        wait: u64,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        LoadCommand::Write { urls, users, graph, writers, rate, acks, seconds, progress } => {
            let terminated = terminated()?;
            let end = async {
                match seconds {
                    // the signal and the clock both end it
                    Some(seconds) => drop(tokio::time::timeout(Duration::from_secs(seconds), terminated).await),
                    None => terminated.await,
                }
            };
            let target = match graph {
                Some(graph) => Target::Tweets(Arc::new(Graph::load(&graph)?)),
                None => Target::Entries(users),
            };
            let options = write::Options { bases: urls, target, writers, rate, acks, progress };
            let summary = write::write(options, end).await?;
            println!("{}", serde_json::to_string(&summary)?);
            Ok(ExitCode::SUCCESS)
        }
        LoadCommand::Seed { urls, registrar_token_file, users, follows, graph } => {
            let token = read_secret(Some(&registrar_token_file))?.context("the registrar's token is needed")?;
            let created = create_graph(urls, &token, users, follows).await?;
            created.save(&graph)?;
            let most = created.followers().into_values().max().unwrap_or_default();
            println!("{}", serde_json::json!({ "users": users, "follows": users * follows, "most_followers": most }));
            Ok(ExitCode::SUCCESS)
        }
        LoadCommand::Verify { urls, acks, graph: Some(graph), wait } => {
            let summary = verify_tweets(urls, &Graph::load(&graph)?, &acks, Duration::from_secs(wait)).await?;
            println!("{}", serde_json::to_string(&summary)?);
            Ok(if summary.lost + summary.missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        LoadCommand::Verify { urls, acks, graph: None, .. } => {
            let summary = verify::verify(urls, &acks).await?;
            println!("{}", serde_json::to_string(&summary)?);
            Ok(if summary.lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
