//! What the tests share besides the service: queues that do something else, SQL, HTTP, waiting.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use serde_json::Value;
use timeline::queue::{Delivery, Outgoing, Queue, QueueError, QueueName, Receipt, Settlement};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A change to a queue: what it does not define is passed on to the queue behind it.
pub trait Intercept: Send + Sync + fmt::Debug {
    fn publish<'a>(&'a self, queue: &'a dyn Queue, messages: Vec<Outgoing>) -> BoxFuture<'a, Result<(), QueueError>> {
        queue.publish(messages)
    }

    fn receive<'a>(
        &'a self,
        queue: &'a dyn Queue,
        name: QueueName,
        max: usize,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Vec<Delivery>, QueueError>> {
        queue.receive(name, max, wait)
    }

    fn settle<'a>(
        &'a self,
        queue: &'a dyn Queue,
        name: QueueName,
        deliveries: Vec<(Receipt, Settlement)>,
    ) -> BoxFuture<'a, Result<(), QueueError>> {
        queue.settle(name, deliveries)
    }

    fn depth<'a>(&'a self, queue: &'a dyn Queue, name: QueueName) -> BoxFuture<'a, Result<u64, QueueError>> {
        queue.depth(name)
    }
}

/// A queue with an [`Intercept`] in front of it.
#[derive(Debug)]
pub struct Intercepted<I> {
    pub queue: Arc<dyn Queue>,
    pub with: I,
}

impl<I: Intercept> Queue for Intercepted<I> {
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<(), QueueError>> {
        self.with.publish(self.queue.as_ref(), messages)
    }

    fn receive(
        &self,
        queue: QueueName,
        max: usize,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        self.with.receive(self.queue.as_ref(), queue, max, wait)
    }

    fn settle(
        &self,
        queue: QueueName,
        deliveries: Vec<(Receipt, Settlement)>,
    ) -> BoxFuture<'_, Result<(), QueueError>> {
        self.with.settle(self.queue.as_ref(), queue, deliveries)
    }

    fn depth(&self, queue: QueueName) -> BoxFuture<'_, Result<u64, QueueError>> {
        self.with.depth(self.queue.as_ref(), queue)
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), QueueError>> {
        self.queue.ping()
    }
}

/// Counts the messages that are being handled.
#[derive(Debug)]
pub struct CountInFlight(pub Arc<AtomicI64>);

impl Intercept for CountInFlight {
    fn receive<'a>(
        &'a self,
        queue: &'a dyn Queue,
        name: QueueName,
        max: usize,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Vec<Delivery>, QueueError>> {
        Box::pin(async move {
            let deliveries = queue.receive(name, max, wait).await?;
            self.0.fetch_add(deliveries.len() as i64, Ordering::Relaxed);
            Ok(deliveries)
        })
    }

    fn settle<'a>(
        &'a self,
        queue: &'a dyn Queue,
        name: QueueName,
        deliveries: Vec<(Receipt, Settlement)>,
    ) -> BoxFuture<'a, Result<(), QueueError>> {
        Box::pin(async move {
            let count = deliveries.len() as i64;
            let settled = queue.settle(name, deliveries).await;
            self.0.fetch_sub(count, Ordering::Relaxed);
            settled
        })
    }
}

/// Runs SQL on a connection of its own and returns the rows as text.
pub async fn sql_rows(url: &str, text: &str) -> Vec<Vec<String>> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("Postgres accepts");
    let driver = tokio::spawn(connection);
    let messages = client.simple_query(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    drop(client);
    drop(driver.await);
    let row = |message: &tokio_postgres::SimpleQueryMessage| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

pub fn ids_of(page: &Value) -> Vec<i64> {
    let tweets = page["tweets"].as_array().unwrap_or_else(|| panic!("no page: {page}"));
    tweets.iter().map(|tweet| tweet["id"].as_i64().expect("an id")).collect()
}

pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let end = Instant::now() + Duration::from_secs(90);
    while !condition().await {
        assert!(Instant::now() < end, "not within 90 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn request(address: SocketAddr, headers: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("the service listens");
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n");
    let request = format!("{head}{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("the response is text");
    let (head, body) = response.split_once("\r\n\r\n").expect("head and body");
    (head[9..12].parse().expect("a status"), body.to_owned())
}
