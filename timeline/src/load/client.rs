//! An HTTP/1.1 client with one connection that is kept, and opened again when it breaks.

use std::{str::FromStr, time::Duration};

use anyhow::{Context as _, bail};
use axum::body::{Body, Bytes, to_bytes};
use hyper::{
    Method, Request, StatusCode, Uri,
    client::conn::http1::{SendRequest, handshake},
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// Longer than the service takes to give up by itself.
const LIMIT: Duration = Duration::from_secs(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const LONGEST_BODY: usize = 1 << 20;

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

    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        self.send(Method::GET, path, String::new()).await
    }

    pub(super) async fn post(&mut self, path: &str, json: String) -> anyhow::Result<(StatusCode, Bytes)> {
        self.send(Method::POST, path, json).await
    }

    /// A single attempt; after a failure the next one goes to the next service, on a new connection.
    async fn send(&mut self, method: Method, path: &str, json: String) -> anyhow::Result<(StatusCode, Bytes)> {
        let base = self.bases.get(self.next).context("no service is named")?.clone();
        let sent = timeout(LIMIT, self.exchange(&base, method, path, json)).await;
        let result = sent.unwrap_or_else(|_| Err(anyhow::anyhow!("no response in time")));
        if result.is_err() {
            self.connection = None;
            self.next = (self.next + 1) % self.bases.len();
        }
        result.with_context(|| format!("http://{}{path}", base.authority))
    }

    async fn exchange(
        &mut self,
        base: &Base,
        method: Method,
        path: &str,
        json: String,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => open(base).await?,
        };
        connection.ready().await?;
        let request = Request::builder().method(method).uri(path).header(HOST, &base.authority);
        let request = request.header(CONTENT_TYPE, "application/json").body(Body::from(json))?;
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
