//! An HTTP/1.1 client with one connection that is kept, and opened again when it breaks.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use axum::body::{Body, Bytes, to_bytes};
use hyper::{
    Method, Request, StatusCode, Uri,
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::TcpStream, time::timeout};

/// Longer than the service takes to give up by itself.
const LIMIT: Duration = Duration::from_secs(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const LONGEST_BODY: usize = 1 << 20;
/// Time for which something is asked for again and again.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Address of a service: `http://host:port`.
#[derive(Debug, Clone)]
pub struct Base {
    authority: String,
}

impl FromStr for Base {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Base> {
        let uri: Uri = text.parse().context("not a URL")?;
        if uri.scheme_str() != Some("http") || !matches!(uri.path(), "" | "/") {
            bail!("write it as http://host:port");
        }
        let host = uri.host().context("no host in it")?;
        Ok(Base { authority: format!("{host}:{}", uri.port_u16().unwrap_or(80)) })
    }
}

/// A request; by default `GET` without a body and without a token.
#[derive(Debug, Clone, Default)]
pub(super) struct ApiCall {
    pub(super) method: Method,
    pub(super) path: String,
    /// The bearer token.
    pub(super) token: Option<String>,
    pub(super) idempotency_key: Option<String>,
    /// The body, JSON.
    pub(super) json: String,
}

impl ApiCall {
    pub(super) fn get(path: impl Into<String>, token: Option<&str>) -> ApiCall {
        ApiCall { path: path.into(), token: token.map(str::to_owned), ..ApiCall::default() }
    }
}

/// A client of services that are all the same: where one fails, the next is used.
pub(super) struct Client {
    bases: Vec<Base>,
    next: usize,
    connection: Option<SendRequest<Body>>,
}

impl Client {
    /// Begins with the service at `start` (modulo their number). `bases` must not be empty.
    pub(super) fn new(bases: Vec<Base>, start: usize) -> Client {
        Client { next: start % bases.len().max(1), bases, connection: None }
    }

    /// Sends a request until it succeeds or [`PATIENCE`] is over, and reads the JSON in the response.
    ///
    /// # Errors
    /// Returns an error if the service refused the request, did not answer in time, or its response is of another form.
    pub(super) async fn fetch<T: DeserializeOwned>(&mut self, call: &ApiCall) -> anyhow::Result<T> {
        let body = self.send_until_done(call).await?;
        serde_json::from_slice(&body).with_context(|| format!("the response to {}", call.path))
    }

    /// Sends a request until it succeeds or [`PATIENCE`] is over.
    ///
    /// # Errors
    /// Returns an error if the service refused the request or did not answer in time.
    pub(super) async fn send_until_done(&mut self, call: &ApiCall) -> anyhow::Result<Bytes> {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.send(call).await;
            let late = Instant::now() >= end;
            match answer {
                Ok((status, body)) if status.is_success() => return Ok(body),
                Ok((status, body)) if late || status.is_client_error() => {
                    bail!("{} answered {status}: {}", call.path, String::from_utf8_lossy(&body))
                }
                Err(error) if late => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// A single attempt; after a failure the next one goes to the next service, on a new connection.
    pub(super) async fn send(&mut self, call: &ApiCall) -> anyhow::Result<(StatusCode, Bytes)> {
        let base = self.bases.get(self.next).context("no service is named")?.clone();
        let sent = timeout(LIMIT, self.exchange(&base, call)).await;
        let result = sent.unwrap_or_else(|_| Err(anyhow::anyhow!("no response in time")));
        if result.is_err() {
            self.connection = None;
            self.next = (self.next + 1) % self.bases.len();
        }
        result.with_context(|| format!("http://{}{}", base.authority, call.path))
    }

    async fn exchange(&mut self, base: &Base, call: &ApiCall) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => open(base).await?,
        };
        connection.ready().await?;
        let mut request = Request::builder().method(&call.method).uri(&call.path).header(HOST, &base.authority);
        if let Some(token) = &call.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(key) = &call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let request = request.header(CONTENT_TYPE, "application/json").body(Body::from(call.json.clone()))?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), LONGEST_BODY).await?;
        self.connection = Some(connection);
        Ok((status, body))
    }
}

async fn open(base: &Base) -> anyhow::Result<SendRequest<Body>> {
    let stream = timeout(CONNECT_LIMIT, TcpStream::connect(&base.authority)).await??;
    stream.set_nodelay(true)?;
    let (connection, driver) = handshake(TokioIo::new(stream)).await?;
    // ends with the connection; what goes wrong in it is seen by the request
    tokio::spawn(driver);
    Ok(connection)
}
