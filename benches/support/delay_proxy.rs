//! A TCP proxy that delays every byte: a network with a longer round-trip time, for benchmarks.
//!
//! `delay_proxy TARGET MS` listens on a free port of 127.0.0.1, prints it, and passes connections on to `TARGET`
//! (`address:port`), with a delay of half of `MS` milliseconds per direction.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for measurements: it stops at what is missing, and prints its figures"
)]

use std::error::Error;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, delay] = arguments.as_slice() else { return Err("usage: delay_proxy ADDRESS:PORT MS".into()) };
    let half = Duration::from_millis(delay.parse()?) / 2;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (near, _) = listener.accept().await?;
        let target = target.clone();
        tokio::spawn(async move {
            // The handshake takes its way there and back, too.
            tokio::time::sleep(2 * half).await;
            let Ok(far) = TcpStream::connect(target).await else { return };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::join!(forward_delayed(near_in, far_out, half), forward_delayed(far_in, near_out, half));
        });
    }
}

/// Passes on what arrives, each piece by `delay` later than it came.
async fn forward_delayed(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut chunks) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + delay, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = chunks.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        to.shutdown().await.ok();
    };
    tokio::join!(reading, writing);
}
