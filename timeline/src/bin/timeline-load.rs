//! `timeline-load`: writes at a rate and notes each acknowledgement; then proves that every one of them is there.

#![allow(clippy::print_stdout, reason = "a program prints its results")]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use timeline::{
    lifecycle::terminated,
    load::{Base, verify, write},
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
        /// Number of users whose timelines are written to
        #[arg(long, default_value_t = 2000)]
        users: u64,
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
    /// Read everything back; exit code 1 if an acknowledged entry is not there
    Verify {
        /// The service, http://host:port; several may be named
        #[arg(long = "url", required = true)]
        urls: Vec<Base>,
        /// The file of acknowledgements
        #[arg(long, value_name = "FILE")]
        acks: PathBuf,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        LoadCommand::Write { urls, users, writers, rate, acks, seconds, progress } => {
            let terminated = terminated()?;
            let end = async {
                match seconds {
                    // the signal and the clock both end it
                    Some(seconds) => drop(tokio::time::timeout(Duration::from_secs(seconds), terminated).await),
                    None => terminated.await,
                }
            };
            let options = write::Options { bases: urls, users, writers, rate, acks, progress };
            let summary = write::write(options, end).await?;
            println!("{}", serde_json::to_string(&summary)?);
            Ok(ExitCode::SUCCESS)
        }
        LoadCommand::Verify { urls, acks } => {
            let summary = verify::verify(urls, &acks).await?;
            println!("{}", serde_json::to_string(&summary)?);
            Ok(if summary.lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
