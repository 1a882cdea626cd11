//! From a listener to a graceful end with a time limit.

use std::{future::Future, time::Duration};

use anyhow::Context as _;
use axum::Router;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How long requests under way may go on after the signal to end.
pub const GRACE: Duration = Duration::from_secs(10);

/// Serves until `end` completes, then lets requests under way finish for `grace` at most: graceful shutdown has no limit of
/// its own, and a client that never finishes must not hold up a restart.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    end: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> anyhow::Result<()> {
    let (ended, mut over) = watch::channel(false);
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        end.await;
        // nobody listens only if the server is gone already
        let _ = ended.send(true);
    });
    let limit = async {
        let _ = over.wait_for(|over| *over).await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        result = server => result.context("the HTTP server"),
        () = limit => Ok(()),
    }
}

/// Completes on SIGTERM or SIGINT. Error: the handlers cannot be installed.
pub fn terminated() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut term = signal(SignalKind::terminate()).context("the handler of SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("the handler of SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
