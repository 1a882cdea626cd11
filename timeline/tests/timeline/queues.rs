//! What both queues promise: a message whose workers die one after the other does not stop the others for ever.

use std::{sync::Arc, time::Duration};

use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use timeline::{
    database::{DatabaseOptions, Databases},
    queue::{DELIVERY_LIMIT, Outgoing, Queue, QueueName, postgres::PostgresQueue, rabbit::RabbitQueue},
    worker::replay,
};

use crate::{
    servers::{Postgres, Rabbit},
    support::until,
};

const LEASE: Duration = Duration::from_millis(100);

/// Takes a message again and again, each time with a connection that ends before it is settled, as that of a worker
/// that is killed; then with one that settles the message behind it.
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

async fn open_channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("RabbitMQ accepts");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

async fn open_rabbit_queue(rabbit: &Rabbit, prefix: &str) -> RabbitQueue {
    let queue = RabbitQueue::start(rabbit.url(), prefix.to_owned());
    until("the queue answers", async || queue.ping().await.is_ok()).await;
    queue
}

fn letter(queue: QueueName, payload: &str) -> Outgoing {
    Outgoing { queue, payload: payload.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_a_deleted_queue_is_not_confirmed() {
    let rabbit = Rabbit::shared();
    let prefix = format!("deleted-{}", std::process::id());
    let queue = open_rabbit_queue(&rabbit, &prefix).await;
    queue.publish(vec![letter(QueueName::Counter, "first")]).await.expect("it is stored");
    let (_connection, channel) = open_channel(&rabbit.url()).await;
    let name = format!("{prefix}.counter");
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.expect("it is deleted");
    let result = queue.publish(vec![letter(QueueName::Counter, "second")]).await;
    assert!(result.is_err(), "nothing has stored it");
    until("the queue is there again", async || queue.publish(vec![letter(QueueName::Counter, "third")]).await.is_ok())
        .await;
    let taken = queue.receive(QueueName::Counter, 1, Duration::from_secs(5)).await.expect("it answers");
    assert_eq!(taken.iter().map(|delivery| delivery.payload.as_str()).collect::<Vec<_>>(), ["third"]);
}

/// The arguments of the queue of dead letters, with or without a delivery limit.
fn dead_arguments(limit: Option<i64>) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    table.insert("x-max-length".into(), AMQPValue::LongLongInt(QueueName::Dead.max_length()));
    table.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    if let Some(limit) = limit {
        table.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(limit));
    }
    table
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_have_a_delivery_limit_that_is_never_reached() {
    let rabbit = Rabbit::shared();
    let prefix = format!("dead-{}", std::process::id());
    let queue = open_rabbit_queue(&rabbit, &prefix).await;
    queue.publish(vec![letter(QueueName::Dead, "letter")]).await.expect("it is stored");
    // a queue can only be declared again with the arguments that it has
    let (_connection, channel) = open_channel(&rabbit.url()).await;
    let (name, options) = (format!("{prefix}.dead"), QueueDeclareOptions::durable());
    let declared = channel.queue_declare(name.into(), options, dead_arguments(Some(1_000_000_000))).await;
    assert_eq!(declared.map(|queue| queue.message_count()).ok(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_dead_letters_of_an_earlier_release_is_used_as_it_is() {
    let rabbit = Rabbit::shared();
    let prefix = format!("earlier-{}", std::process::id());
    let (_connection, channel) = open_channel(&rabbit.url()).await;
    let (name, options) = (format!("{prefix}.dead"), QueueDeclareOptions::durable());
    channel.queue_declare(name.into(), options, dead_arguments(None)).await.expect("it is declared");
    let queue = open_rabbit_queue(&rabbit, &prefix).await;
    queue.publish(vec![letter(QueueName::Dead, "letter")]).await.expect("it is stored");
    let taken = queue.receive(QueueName::Dead, 2, Duration::from_secs(5)).await.expect("it answers");
    assert_eq!(taken.len(), 1);
}

/// The policies of `playbooks/site.toml`.
fn policies() -> Vec<toml::Table> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../playbooks/site.toml");
    let playbook: toml::Table =
        std::fs::read_to_string(path).expect("the playbook").parse().expect("the playbook is TOML");
    let plays = playbook["play"].as_array().expect("plays").iter();
    let steps = plays.filter_map(|play| play.get("step")?.as_array()).flatten();
    steps.filter_map(|step| step.get("rabbitmq_policy")?.as_table().cloned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_playbook_gives_dead_letters_of_an_earlier_release_a_delivery_limit() {
    let rabbit = Rabbit::shared();
    let vhost = format!("policies-{}", std::process::id());
    rabbit.control(&["add_vhost", &vhost]);
    rabbit.control(&["set_permissions", "-p", &vhost, "guest", ".*", ".*", ".*"]);
    let (_connection, channel) = open_channel(&rabbit.url_of(&vhost)).await;
    let options = QueueDeclareOptions::durable();
    channel.queue_declare("tl.dead".into(), options, dead_arguments(None)).await.expect("it is declared");
    let queue = RabbitQueue::start(rabbit.url_of(&vhost), "tl".to_owned());
    until("the queue answers", async || queue.ping().await.is_ok()).await;
    for policy in policies() {
        let text = |key: &str| policy[key].as_str().expect("a string");
        let definition = serde_json::to_string(&policy["definition"]).expect("JSON");
        let priority = policy.get("priority").and_then(toml::Value::as_integer).unwrap_or(0).to_string();
        let flags = ["set_policy", "-p", &vhost, "--priority", &priority, "--apply-to", text("apply_to")];
        rabbit.control(&[&flags[..], &[text("name"), text("pattern"), &definition]].concat());
    }
    let setting = |queue: &str, name: &str| {
        let of_queue = format!("rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"{queue}\">>)");
        let lookup = format!("{{ok, Q}} = rabbit_amqqueue:lookup({of_queue}), rabbit_policy:get(<<\"{name}\">>, Q).");
        rabbit.control(&["eval", &lookup]).trim().to_owned()
    };
    // a policy reaches a queue a moment later
    until("the policies hold", async || setting("tl.dead", "delivery-limit") == "1000000000").await;
    until("the size is limited", async || setting("tl.dead", "max-length-bytes") == "2000000000").await;
    until("of all queues", async || setting("tl.counter", "max-length-bytes") == "2000000000").await;
    assert_eq!(setting("tl.counter", "delivery-limit"), "undefined", "it has its own");
    queue.publish(vec![letter(QueueName::Dead, "letter")]).await.expect("it is stored");
    let taken = queue.receive(QueueName::Dead, 2, Duration::from_secs(5)).await.expect("it answers");
    assert_eq!(taken.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_that_cannot_be_read_do_not_hide_those_behind_them() {
    let rabbit = Rabbit::shared();
    let prefix = format!("unreadable-{}", std::process::id());
    let queue = open_rabbit_queue(&rabbit, &prefix).await;
    // more than a consumer holds at a time
    queue.publish((0..600).map(|_| letter(QueueName::Dead, "{")).collect()).await.expect("they are stored");
    let readable = r#"{"request_id":"r","committed_ms":1,"task":"rebuild","user":7}"#;
    queue.publish(vec![letter(QueueName::Dead, readable)]).await.expect("it is stored");
    let summary = replay::replay(&queue, 100).await.expect("it answers");
    assert_eq!((summary.replayed, summary.unreadable), (1, 600));
    let taken = queue.receive(QueueName::Rebuild, 2, Duration::from_secs(5)).await.expect("it answers");
    assert_eq!(taken.iter().map(|delivery| delivery.payload.as_str()).collect::<Vec<_>>(), [readable]);
    drop(queue);
    // what a consumer holds does not count
    let queue = open_rabbit_queue(&rabbit, &prefix).await;
    until("the others stay", async || queue.depth(QueueName::Dead).await.expect("it answers") == 600).await;
}
