//! Requests in an open loop, and their latencies.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes, to_bytes};
use hyper::{
    Request,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

/// How long requests took, in milliseconds.
pub struct Latencies {
    pub count: usize,
    pub failed: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Latencies {
    fn of(mut times: Vec<f64>, failed: usize) -> Latencies {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
            times.get(index).copied().unwrap_or(0.0)
        };
        Latencies { count: times.len(), failed, p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latencies { count, failed, p50, p99, max } = self;
        write!(f, "{count} requests, {failed} failed, p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms")
    }
}

/// Connections that are kept.
#[derive(Clone)]
pub struct Pool {
    address: SocketAddr,
    idle: Arc<Mutex<Vec<SendRequest<Body>>>>,
}

/// A request to make.
#[derive(Clone)]
pub struct ApiCall {
    pub method: &'static str,
    pub path: String,
    pub token: String,
    pub body: String,
}

impl Pool {
    pub fn new(address: SocketAddr) -> Pool {
        Pool { address, idle: Arc::default() }
    }

    pub async fn send(&self, call: &ApiCall) -> Option<(u16, Bytes)> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle.filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.address).await.ok()?;
                stream.set_nodelay(true).ok()?;
                let (connection, driver) = handshake(TokioIo::new(stream)).await.ok()?;
                tokio::spawn(driver);
                connection
            }
        };
        connection.ready().await.ok()?;
        let request = Request::builder().method(call.method).uri(&call.path).header("host", "bench");
        let request = request.header("content-type", "application/json").header("authorization", &call.token);
        let response = connection.send_request(request.body(Body::from(call.body.clone())).ok()?).await.ok()?;
        let status = response.status().as_u16();
        let body = to_bytes(Body::new(response.into_body()), 4 << 20).await.ok()?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Some((status, body))
    }

    /// Begins `rate` calls per second for some time.
    pub async fn open_loop(&self, rate: f64, time: Duration, call: impl Fn(usize) -> ApiCall) -> Latencies {
        let start = Instant::now();
        let mut running = JoinSet::new();
        let (mut times, mut failed) = (Vec::new(), 0);
        let mut note = |result: Result<Option<f64>, tokio::task::JoinError>| match result {
            Ok(Some(ms)) => times.push(ms),
            Ok(None) | Err(_) => failed += 1,
        };
        for number in 0..(rate * time.as_secs_f64()) as usize {
            let due = start + Duration::from_secs_f64(number as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
            let (pool, call) = (self.clone(), call(number));
            running.spawn(async move {
                let (status, _) = pool.send(&call).await?;
                (status < 300).then(|| due.elapsed().as_secs_f64() * 1000.0)
            });
            while let Some(result) = running.try_join_next() {
                note(result);
            }
        }
        while let Some(result) = running.join_next().await {
            note(result);
        }
        Latencies::of(times, failed)
    }

    /// Makes calls, `concurrent` at a time.
    pub async fn closed_loop(&self, calls: Vec<ApiCall>, concurrent: usize) -> Latencies {
        let calls = Arc::new(Mutex::new(calls));
        let mut running = JoinSet::new();
        for _ in 0..concurrent {
            let (pool, calls) = (self.clone(), calls.clone());
            running.spawn(async move {
                let (mut times, mut failed) = (Vec::new(), 0);
                loop {
                    let next = calls.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(call) = next else { return (times, failed) };
                    let start = Instant::now();
                    match pool.send(&call).await {
                        Some((status, _)) if status < 300 => times.push(start.elapsed().as_secs_f64() * 1000.0),
                        _ => failed += 1,
                    }
                }
            });
        }
        let (mut times, mut failed) = (Vec::new(), 0);
        for (some, more) in running.join_all().await {
            times.extend(some);
            failed += more;
        }
        Latencies::of(times, failed)
    }
}
