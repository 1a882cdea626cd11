//! What the tests share besides the service: a queue that counts, SQL, HTTP, waiting.

use std::{
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

/// Counts the messages that are being handled.
#[derive(Debug)]
pub struct Tracked {
    pub queue: Arc<dyn Queue>,
    pub in_flight: Arc<AtomicI64>,
}

impl Queue for Tracked {
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<(), QueueError>> {
        self.queue.publish(messages)
    }

    fn receive(
        &self,
        queue: QueueName,
        max: usize,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        Box::pin(async move {
            let deliveries = self.queue.receive(queue, max, wait).await?;
            self.in_flight.fetch_add(deliveries.len() as i64, Ordering::Relaxed);
            Ok(deliveries)
        })
    }

    fn settle(
        &self,
        queue: QueueName,
        deliveries: Vec<(Receipt, Settlement)>,
    ) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            let count = deliveries.len() as i64;
            let settled = self.queue.settle(queue, deliveries).await;
            self.in_flight.fetch_sub(count, Ordering::Relaxed);
            settled
        })
    }

    fn depth(&self, queue: QueueName) -> BoxFuture<'_, Result<u64, QueueError>> {
        self.queue.depth(queue)
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), QueueError>> {
        self.queue.ping()
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
