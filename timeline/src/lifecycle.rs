//! From a listener to a graceful end with a time limit, under systemd or by hand.

use std::{future::Future, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use axum::Router;
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Time that requests in progress may go on after the signal to end.
pub const GRACE: Duration = Duration::from_secs(10);

/// The two steps of a shutdown.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// True once the process is to get no new requests: `/readyz` answers 503.
    pub draining: watch::Receiver<bool>,
    /// True once it accepts no more connections.
    pub ended: watch::Receiver<bool>,
}

/// Starts to wait for SIGTERM or SIGINT. `drain_delay` passes between the two steps, so that load balancers notice.
///
/// # Errors
/// Returns an error if the signal handlers cannot be installed.
pub fn start_shutdown(drain_delay: Duration) -> anyhow::Result<Shutdown> {
    let (drain, draining) = watch::channel(false);
    let (end, ended) = watch::channel(false);
    let terminated = terminated()?;
    tokio::spawn(async move {
        terminated.await;
        tracing::info!("draining");
        notify(&[NotifyState::Stopping]);
        drain.send_replace(true);
        tokio::time::sleep(drain_delay).await;
        end.send_replace(true);
        // receivers see the values, not the end of their sender
        drain.closed().await;
        end.closed().await;
    });
    Ok(Shutdown { draining, ended })
}

/// Tells systemd that the service is ready, and feeds the watchdog where there is one.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(limit / 2);
            loop {
                ticks.tick().await;
                notify(&[NotifyState::Watchdog]);
            }
        });
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(error = %error, "cannot notify systemd");
    }
}

/// Takes the listeners that systemd has passed, in the order of `addresses`; opens those that it has not.
///
/// # Errors
/// Returns an error if an address cannot be listened on.
pub async fn open_listeners(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::with_capacity(addresses.len());
    for (index, address) in addresses.iter().enumerate() {
        let socket = if index < passed.len() { passed.take_tcp_listener(index)? } else { None };
        listeners.push(match socket {
            Some(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket)?
            }
            None => TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?,
        });
    }
    Ok(listeners)
}

/// Serves until `end` completes, then lets requests in progress finish for `grace` at most: graceful shutdown has no
/// limit of its own, and a client that never finishes must not hold up a restart.
///
/// # Errors
/// Returns an error if the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    end: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> anyhow::Result<()> {
    let (ended, mut over) = watch::channel(false);
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        end.await;
        // there is no receiver only if the server has already ended
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

/// Completes once a watched value becomes true.
pub async fn becomes_true(mut watched: watch::Receiver<bool>) {
    // an error means that the sender has ended
    let _ = watched.wait_for(|value| *value).await;
}

/// Completes on SIGTERM or SIGINT.
///
/// # Errors
/// Returns an error if the handlers cannot be installed.
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
