//! What both queues promise: a message whose workers die one after the other does not stop the others for ever.

use std::{sync::Arc, time::Duration};

use timeline::{
    database::{DatabaseOptions, Databases},
    queue::{DELIVERY_LIMIT, Outgoing, Queue, QueueName, postgres::PostgresQueue, rabbit::RabbitQueue},
};

use crate::{
    servers::{Postgres, Rabbit},
    support::until,
};

const LEASE: Duration = Duration::from_millis(100);

/// Takes a message again and again, each time with a connection that ends before it is settled, as that of a worker that is
/// killed; then with one that settles the message behind it.
async fn a_message_that_is_never_settled_is_a_dead_letter(open: impl Fn() -> Arc<dyn Queue>) {
    let queue = open();
    until("the queue answers", async || queue.ping().await.is_ok()).await;
    let message = |payload: &str| Outgoing { queue: QueueName::Counter, payload: payload.to_owned() };
    queue.publish(vec![message("poison")]).await.expect("it is stored");
    drop(queue);
    let mut deliveries = 0;
    let dead = loop {
        assert!(deliveries <= DELIVERY_LIMIT + 1, "it is delivered for ever");
        let worker = open();
        until("the queue answers", async || worker.ping().await.is_ok()).await;
        let taken = worker.receive(QueueName::Counter, 1, Duration::from_millis(500)).await.expect("it answers");
        deliveries += u32::try_from(taken.len()).expect("one at most");
        if taken.is_empty() {
            let dead = worker.receive(QueueName::Dead, 2, Duration::from_millis(500)).await.expect("it answers");
            if !dead.is_empty() {
                break dead;
            }
        }
        drop(worker);
        // the connection ends, or the lease: not by a word of the worker
        tokio::time::sleep(2 * LEASE).await;
        drop(taken);
    };
    assert_eq!(dead.iter().map(|delivery| delivery.payload.as_str()).collect::<Vec<_>>(), ["poison"]);
    assert!((DELIVERY_LIMIT..=DELIVERY_LIMIT + 1).contains(&deliveries), "{deliveries} deliveries");
    let worker = open();
    until("the queue answers", async || worker.ping().await.is_ok()).await;
    worker.publish(vec![message("good")]).await.expect("it is stored");
    let taken = worker.receive(QueueName::Counter, 2, Duration::from_secs(5)).await.expect("it answers");
    assert_eq!(taken.iter().map(|delivery| delivery.payload.as_str()).collect::<Vec<_>>(), ["good"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_ends_a_message_that_kills_its_workers() {
    let rabbit = Rabbit::shared();
    let prefix = format!("limit-{}", std::process::id());
    a_message_that_is_never_settled_is_a_dead_letter(|| Arc::new(RabbitQueue::start(rabbit.url(), prefix.clone())))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_ends_a_message_that_kills_its_workers() {
    let postgres = Postgres::shared();
    let url = postgres.create_database();
    let options = DatabaseOptions { users: url.clone(), tweets: url, password: None, max_connections: 4 };
    let databases = Databases::new(&options).expect("connection strings");
    databases.migrate(false).await.expect("the schema");
    a_message_that_is_never_settled_is_a_dead_letter(|| Arc::new(PostgresQueue::new(databases.tweets.clone(), LEASE)))
        .await;
}
