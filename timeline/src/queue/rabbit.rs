//! The queue in RabbitMQ: durable quorum queues, publisher confirms, a delivery limit, dead letters.
//!
//! A supervisor owns the connection: it connects, declares the queues, and connects again when the connection breaks.
//! The client library's own recovery is not used. Deliveries of an earlier connection cannot be settled any more; the
//! broker delivers them again.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture};
use lapin::{
    Acker, BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions,
    },
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable},
};
use tokio::{
    sync::{Mutex, OnceCell},
    time::{Instant, timeout, timeout_at},
};

use super::{DELIVERY_LIMIT, Delivery, Outgoing, Queue, QueueError, QueueName, Receipt, Settlement};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that a confirm, or a reply to a declaration, may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
const MIN_BACK_OFF: Duration = Duration::from_millis(100);
const MAX_BACK_OFF: Duration = Duration::from_secs(2);
/// A session that lasted this long was good: the next connection is tried without much pause.
const STABLE_SESSION: Duration = Duration::from_secs(10);
/// Number of messages of a queue that this process holds without having settled them.
const PREFETCH: u16 = 512;
const PERSISTENT: u8 = 2;
/// Number of times that a dead letter is delivered: each replay that leaves it there counts. Versions before 4 do not
/// accept "no limit".
const DEAD_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// The queue.
pub struct RabbitQueue {
    inner: Arc<RabbitState>,
}

struct RabbitState {
    url: String,
    prefix: String,
    session: RwLock<Option<Arc<RabbitSession>>>,
}

/// A connection with its channels.
struct RabbitSession {
    connection: Connection,
    publisher: Channel,
    /// Asks for the depths of queues: an error there ends this channel, not that of the publisher.
    observer: Channel,
    /// The consumer of each queue; each is started at the first receive from the queue.
    consumers: HashMap<QueueName, OnceCell<Mutex<Consumer>>>,
    /// Set when a reply did not come: the supervisor connects again.
    is_broken: AtomicBool,
}

impl RabbitQueue {
    /// Starts the supervisor. `url` is `amqp://user:password@host:port/vhost`; all names begin with `prefix` and a dot.
    /// To be called inside a tokio runtime; the supervisor ends with the value.
    pub fn start(url: String, prefix: String) -> RabbitQueue {
        let inner = Arc::new(RabbitState { url, prefix, session: RwLock::new(None) });
        tokio::spawn(supervise(Arc::downgrade(&inner)));
        RabbitQueue { inner }
    }

    fn session(&self) -> Result<Arc<RabbitSession>, QueueError> {
        let session = self.inner.session.read().unwrap_or_else(PoisonError::into_inner).clone();
        session.ok_or_else(|| QueueError::Unavailable("no connection to RabbitMQ".to_owned()))
    }
}

/// Keeps a session open until the queue is dropped.
async fn supervise(weak: Weak<RabbitState>) {
    let mut pause = MIN_BACK_OFF;
    while let Some(inner) = weak.upgrade() {
        let begin = Instant::now();
        let opened = timeout(CONNECT_TIMEOUT + REPLY_TIMEOUT, open_session(&inner)).await;
        let result = opened.unwrap_or_else(|_| Err(unavailable("no connection in time")));
        match result {
            Ok(session) => {
                tracing::info!("connected to RabbitMQ");
                let session = Arc::new(session);
                set_session(&inner, Some(session.clone()));
                drop(inner);
                while weak.strong_count() > 0 && session.is_usable() {
                    tokio::time::sleep(CHECK_INTERVAL).await;
                }
                if let Some(inner) = weak.upgrade() {
                    tracing::warn!("lost the connection to RabbitMQ");
                    set_session(&inner, None);
                }
                // a broken connection may not answer; it is dropped either way
                let _ = timeout(CONNECT_TIMEOUT, session.connection.close(200, "closing".into())).await;
            }
            Err(error) => {
                tracing::warn!(error = %error, "cannot connect to RabbitMQ");
                drop(inner);
            }
        }
        // a session that breaks at once is no better than none
        pause = if begin.elapsed() > STABLE_SESSION { MIN_BACK_OFF } else { (pause * 2).min(MAX_BACK_OFF) };
        tokio::time::sleep(pause).await;
    }
}

fn set_session(inner: &RabbitState, session: Option<Arc<RabbitSession>>) {
    *inner.session.write().unwrap_or_else(PoisonError::into_inner) = session;
}

async fn open_session(inner: &RabbitState) -> Result<RabbitSession, QueueError> {
    let properties = ConnectionProperties::default().with_connection_name("timeline".into());
    let connection = Connection::connect(&inner.url, properties).await?;
    let publisher = connection.create_channel().await?;
    publisher.confirm_select(ConfirmSelectOptions::default()).await?;
    for queue in QueueName::ALL.into_iter().filter(|queue| *queue != QueueName::Dead) {
        let name = inner.name(queue);
        publisher.queue_declare(name.into(), QueueDeclareOptions::durable(), inner.arguments(queue)).await?;
    }
    declare_dead_letters(&connection, inner).await?;
    Ok(RabbitSession {
        publisher,
        observer: connection.create_channel().await?,
        connection,
        consumers: QueueName::ALL.into_iter().map(|queue| (queue, OnceCell::new())).collect(),
        is_broken: AtomicBool::new(false),
    })
}

/// Declares the queue of dead letters. One of an earlier release has no delivery limit, and keeps its arguments; the policy
/// `timeline-dead` of the playbook gives it one.
async fn declare_dead_letters(connection: &Connection, inner: &RabbitState) -> Result<(), QueueError> {
    // a refusal ends this channel
    let channel = connection.create_channel().await?;
    let (name, arguments) = (inner.name(QueueName::Dead), inner.arguments(QueueName::Dead));
    match channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), arguments).await {
        Err(error) if has_other_arguments(&error) => {
            tracing::warn!(
                queue = name,
                "the queue has no delivery limit of its own: RabbitMQ 4 needs a policy that gives it one (timeline-dead of \
                 playbooks/site.toml)"
            );
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(_) => {
            // otherwise it stays open until the connection ends
            let _ = channel.close(200, "declared".into()).await;
            Ok(())
        }
    }
}

fn has_other_arguments(error: &lapin::Error) -> bool {
    let refused = AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED);
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == refused)
}

impl RabbitState {
    fn name(&self, queue: QueueName) -> String {
        format!("{}.{}", self.prefix, queue.as_str())
    }

    /// Returns the arguments of a queue. They can only be changed by deleting the queue.
    fn arguments(&self, queue: QueueName) -> FieldTable {
        let mut table = FieldTable::default();
        let text = |text: &str| AMQPValue::LongString(text.into());
        table.insert("x-queue-type".into(), text("quorum"));
        table.insert("x-max-length".into(), AMQPValue::LongLongInt(queue.max_length()));
        // the publisher learns of it and tries again later: nothing is dropped
        table.insert("x-overflow".into(), text("reject-publish"));
        if queue == QueueName::Dead {
            // nothing is behind it: RabbitMQ 4 would drop what is delivered more often than its own limit of 20
            table.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DEAD_DELIVERY_LIMIT));
            return table;
        }
        let next = queue.delay().map_or(QueueName::Dead, |(_, next)| next);
        table.insert("x-dead-letter-exchange".into(), text(""));
        table.insert("x-dead-letter-routing-key".into(), text(&self.name(next)));
        table.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        let (name, number) = match queue.delay() {
            Some((delay, _)) => ("x-message-ttl", i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)),
            None => ("x-delivery-limit", DELIVERY_LIMIT.into()),
        };
        table.insert(name.into(), AMQPValue::LongLongInt(number));
        table
    }
}

impl RabbitSession {
    fn is_usable(&self) -> bool {
        self.connection.status().connected() && !self.is_broken.load(Ordering::Relaxed)
    }

    /// Waits for an answer of the broker; without one in time the session is closed.
    async fn within<T>(&self, answer: impl Future<Output = Result<T, QueueError>>) -> Result<T, QueueError> {
        match timeout(REPLY_TIMEOUT, answer).await {
            Ok(Err(error @ QueueError::Unavailable(_))) => {
                self.is_broken.store(true, Ordering::Relaxed);
                Err(error)
            }
            Ok(result) => result,
            Err(_) => {
                self.is_broken.store(true, Ordering::Relaxed);
                Err(unavailable("no reply from RabbitMQ in time"))
            }
        }
    }

    /// Returns the consumer of a queue, which is started at the first call.
    async fn consumer(&self, queue: QueueName, name: String) -> Result<&Mutex<Consumer>, QueueError> {
        let cell = self.consumers.get(&queue).ok_or_else(|| unavailable("the queue does not exist"))?;
        let start = async {
            let channel = self.connection.create_channel().await?;
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            let consumer = channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await?;
            Ok(Mutex::new(consumer))
        };
        cell.get_or_try_init(|| start).await
    }

    async fn publish(&self, messages: Vec<(String, String)>) -> Result<(), QueueError> {
        let mut confirms = Vec::with_capacity(messages.len());
        for (name, payload) in messages {
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
            // without a queue the broker would confirm the message, and drop it
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let sent = self.publisher.basic_publish("".into(), name.into(), options, payload.as_bytes(), properties);
            confirms.push(sent.await?);
        }
        let (mut is_refused, mut is_returned) = (false, false);
        for confirm in confirms {
            match confirm.await? {
                Confirmation::Ack(None) => {}
                Confirmation::Ack(Some(_)) => is_returned = true,
                Confirmation::Nack(_) | Confirmation::NotRequested => is_refused = true,
            }
        }
        match (is_returned, is_refused) {
            // the next session declares the queues again
            (true, _) => Err(unavailable("a queue does not exist")),
            (false, true) => Err(QueueError::Full),
            (false, false) => Ok(()),
        }
    }
}

/// Receives from a consumer: waits for the first message, and adds those that have already arrived.
async fn take(consumer: &mut Consumer, max: usize, end: Instant) -> Result<Vec<Delivery>, QueueError> {
    let mut deliveries = Vec::new();
    while deliveries.len() < max {
        let next = if deliveries.is_empty() {
            timeout_at(end, consumer.next()).await.ok()
        } else {
            consumer.next().now_or_never()
        };
        match next {
            None => break,
            Some(Some(Ok(delivery))) => {
                let payload = String::from_utf8_lossy(&delivery.data).into_owned();
                let unsettled = Unsettled { acker: delivery.acker, is_settled: AtomicBool::new(false) };
                deliveries.push(Delivery { payload, receipt: Receipt::Tag(Arc::new(unsettled)) });
            }
            // what was taken before cannot be settled on a broken connection
            Some(Some(Err(error))) => return Err(error.into()),
            Some(None) => return Err(unavailable("RabbitMQ has ended the consumer")),
        }
    }
    Ok(deliveries)
}

/// A delivery that the broker waits to hear about. Dropped without a settlement (its task was aborted, or has
/// panicked), it goes back to its queue; otherwise it would be stuck until the connection ends.
#[derive(Debug)]
pub struct Unsettled {
    acker: Acker,
    is_settled: AtomicBool,
}

impl Unsettled {
    async fn settle(&self, settlement: Settlement) -> Result<(), QueueError> {
        self.is_settled.store(true, Ordering::Relaxed);
        match settlement {
            Settlement::Done => self.acker.ack(BasicAckOptions::default()).await?,
            Settlement::Retry => self.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await?,
            Settlement::Dead => self.acker.nack(BasicNackOptions { requeue: false, multiple: false }).await?,
        };
        Ok(())
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if *self.is_settled.get_mut() {
            return;
        }
        // without a runtime the process is ending, and its connection with it
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let acker = self.acker.clone();
        runtime.spawn(async move {
            if let Err(error) = acker.nack(BasicNackOptions { requeue: true, multiple: false }).await {
                tracing::debug!(error = %error, "the connection of a dropped delivery is gone: the broker delivers it again");
            }
        });
    }
}

async fn settle_each(deliveries: Vec<(Receipt, Settlement)>) -> Result<(), QueueError> {
    for (receipt, settlement) in deliveries {
        if let Receipt::Tag(delivery) = receipt {
            delivery.settle(settlement).await?;
        }
    }
    Ok(())
}

impl Queue for RabbitQueue {
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            let session = self.session()?;
            let named = |message: Outgoing| (self.inner.name(message.queue), message.payload);
            session.within(session.publish(messages.into_iter().map(named).collect())).await
        })
    }

    fn receive(
        &self,
        queue: QueueName,
        max: usize,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        Box::pin(async move {
            let end = Instant::now() + wait;
            let session = self.session()?;
            let consumer = session.within(session.consumer(queue, self.inner.name(queue))).await?;
            let Ok(mut consumer) = timeout_at(end, consumer.lock()).await else { return Ok(Vec::new()) };
            let taken = take(&mut consumer, max, end).await;
            if taken.is_err() {
                session.is_broken.store(true, Ordering::Relaxed);
            }
            taken
        })
    }

    fn settle(
        &self,
        _queue: QueueName,
        deliveries: Vec<(Receipt, Settlement)>,
    ) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            // the delivery's connection can be gone: then the broker delivers it again, and there is no answer
            let settled = timeout(REPLY_TIMEOUT, settle_each(deliveries)).await;
            settled.unwrap_or_else(|_| Err(unavailable("no reply from RabbitMQ in time")))
        })
    }

    fn depth(&self, queue: QueueName) -> BoxFuture<'_, Result<u64, QueueError>> {
        Box::pin(async move {
            let session = self.session()?;
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
            let name = self.inner.name(queue);
            let declare = async {
                let queue = session.observer.queue_declare(name.into(), options, FieldTable::default()).await?;
                Ok(u64::from(queue.message_count()))
            };
            session.within(declare).await
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move { self.session().map(drop) })
    }
}

impl fmt::Debug for RabbitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RabbitQueue({}.*)", self.inner.prefix)
    }
}

impl From<lapin::Error> for QueueError {
    fn from(error: lapin::Error) -> QueueError {
        QueueError::Unavailable(error.to_string())
    }
}

fn unavailable(message: &str) -> QueueError {
    QueueError::Unavailable(message.to_owned())
}
