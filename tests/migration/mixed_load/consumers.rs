//! The clients that wait for what others write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis::{Connection, RedisResult};

use super::record::{Faults, Outcome};
use super::values::{REQUESTS_PER_KEY, publish};
use crate::fixture::{app_credentials, connect_as};
use crate::writers::PrimaryConnection;

/// The stream and its consumer group.
pub const STREAM: &str = "stream";
pub const GROUP: &str = "readers";
/// The channel.
pub const CHANNEL: &str = "events";
/// Seconds that a blocking request waits.
const BLOCK_S: f64 = 0.2;
/// One entry in this many stays pending.
const PENDING_INTERVAL: u64 = 8;

/// Returns the list for an element that was consumed as this one in number.
pub fn done_key(count: u64) -> String {
    format!("done:{}", count / REQUESTS_PER_KEY)
}

/// Takes elements from the queue with blocking pops.
#[derive(Default)]
pub struct QueueConsumer {
    consumed: Arc<Mutex<u64>>,
}

impl QueueConsumer {
    pub fn spawn(&self, mut primary: PrimaryConnection, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
        let (consumed, stop) = (self.consumed.clone(), stop.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let done = done_key(*consumed.lock().unwrap());
                let mut pop = redis::cmd("BLMOVE");
                pop.arg("queue").arg(done).arg("RIGHT").arg("LEFT").arg(BLOCK_S);
                // An element whose reply is lost is in one of the two lists all the same.
                if let Ok(Some(_)) = primary.send(|connection| pop.query::<Option<u64>>(connection)) {
                    *consumed.lock().unwrap() += 1;
                }
            }
        })
    }

    pub fn consumed_count(&self) -> u64 {
        *self.consumed.lock().unwrap()
    }
}

/// What the reader of the group knows.
#[derive(Default)]
struct StreamRecord {
    /// Numbers as they were delivered.
    delivered: Vec<u64>,
    /// Ids whose acknowledgement the server confirmed, or may have taken.
    confirmed: BTreeSet<String>,
    unknown: BTreeSet<String>,
    /// Ids that stay pending.
    pending: BTreeSet<String>,
}

/// Reads the stream as a consumer of the group; acknowledges most entries.
#[derive(Default)]
pub struct StreamConsumer {
    record: Arc<Mutex<StreamRecord>>,
}

/// Entries of `XREADGROUP` per stream: id and fields.
type StreamReply = Option<Vec<(String, Vec<(String, BTreeMap<String, u64>)>)>>;

fn read_group(connection: &mut Connection) -> RedisResult<StreamReply> {
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg(GROUP).arg("reader").arg("COUNT").arg(10).arg("BLOCK").arg((BLOCK_S * 1000.0) as u64);
    read.arg("STREAMS").arg(STREAM).arg(">").query(connection)
}

impl StreamConsumer {
    pub fn spawn(&self, mut primary: PrimaryConnection, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
        let (record, stop) = (self.record.clone(), stop.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok(Some(streams)) = primary.send(read_group) else { continue };
                for (id, fields) in streams.into_iter().flat_map(|(_, entries)| entries) {
                    let number = fields["number"];
                    let mut record_now = record.lock().unwrap();
                    record_now.delivered.push(number);
                    if number.is_multiple_of(PENDING_INTERVAL) {
                        record_now.pending.insert(id);
                        continue;
                    }
                    record_now.unknown.insert(id.clone());
                    drop(record_now);
                    let mut acknowledge = redis::cmd("XACK");
                    acknowledge.arg(STREAM).arg(GROUP).arg(&id);
                    let result = primary.send(|connection| acknowledge.exec(connection));
                    let mut record_now = record.lock().unwrap();
                    match Outcome::of(&result) {
                        Outcome::Acknowledged => _ = record_now.confirmed.insert(id.clone()),
                        Outcome::Refused => _ = record_now.pending.insert(id.clone()),
                        Outcome::Unknown => continue,
                    }
                    record_now.unknown.remove(&id);
                }
            }
        })
    }

    pub fn consumed_count(&self) -> usize {
        self.record.lock().unwrap().confirmed.len()
    }

    /// Compares the pending entries of the group with what the reader knows.
    pub fn find_faults(&self, connection: &mut Connection) -> RedisResult<Faults> {
        let (confirmed, pending, delivered) = {
            let record = self.record.lock().unwrap();
            (record.confirmed.clone(), record.pending.clone(), record.delivered.clone())
        };
        let mut query = redis::cmd("XPENDING");
        query.arg(STREAM).arg(GROUP).arg("-").arg("+").arg(delivered.len() + 10_000);
        let listed: Vec<(String, String, u64, u64)> = query.query(connection)?;
        let listed: BTreeMap<&str, (&str, u64)> =
            listed.iter().map(|(id, consumer, _, count)| (id.as_str(), (consumer.as_str(), *count))).collect();
        let mut faults = Faults::default();
        for id in confirmed.iter().filter(|id| listed.contains_key(id.as_str())) {
            faults.add_changed(format!("{id} was acknowledged and is pending"));
        }
        for id in &pending {
            if listed.get(id.as_str()) != Some(&("reader", 1)) {
                faults.add_changed(format!(
                    "{id} is pending at {:?}, not delivered once to reader",
                    listed.get(id.as_str())
                ));
            }
        }
        faults.add_doubled(delivered.windows(2).filter(|pair| pair[0] >= pair[1]).map(|pair| &pair[1]));
        Ok(faults.with_name("consumer group"))
    }
}

/// Publishes numbers, and reads them as a subscriber that follows the published address.
#[derive(Default)]
pub struct Subscriber {
    received: Arc<Mutex<Vec<u64>>>,
}

impl Subscriber {
    pub fn spawn(&self, published: &Arc<Mutex<String>>, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
        let (received, published, stop) = (self.received.clone(), published.clone(), stop.clone());
        thread::spawn(move || {
            let publisher = thread::spawn({
                // A replica accepts messages too: only the published address shows this client that the shard moved.
                let (mut primary, stop) = (PrimaryConnection::new(published.clone(), true), stop.clone());
                move || publish_until_stopped(&mut primary, &stop)
            });
            while !stop.load(Ordering::Relaxed) {
                let address = published.lock().unwrap().clone();
                let is_current = || *published.lock().unwrap() == address && !stop.load(Ordering::Relaxed);
                if subscribe_while(&address, is_current, &received).is_err() {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            publisher.join().unwrap();
        })
    }

    pub fn message_count(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    /// Messages may be lost at a switch, never doubled.
    pub fn find_faults(&self) -> Faults {
        let received = self.received.lock().unwrap();
        let mut faults = Faults::default();
        faults.add_doubled(received.windows(2).filter(|pair| pair[0] >= pair[1]).map(|pair| &pair[1]));
        faults.with_name("subscriber")
    }
}

fn publish_until_stopped(primary: &mut PrimaryConnection, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        primary.send(|connection| publish(connection, number)).ok();
        thread::sleep(Duration::from_millis(5));
    }
}

fn subscribe_while(address: &str, is_current: impl Fn() -> bool, received: &Mutex<Vec<u64>>) -> RedisResult<()> {
    let mut connection = connect_as(address, &app_credentials())?;
    let mut messages = connection.as_pubsub();
    messages.set_read_timeout(Some(Duration::from_millis(50)))?;
    messages.subscribe(CHANNEL)?;
    while is_current() {
        match messages.get_message() {
            Ok(message) => received.lock().unwrap().push(message.get_payload()?),
            Err(error) if error.is_timeout() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
