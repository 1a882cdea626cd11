//! A load of everything that applications keep in a shard, and a check of each acknowledgement: lists with blocking
//! pops, streams with a consumer group, hashes with field expiry, keys with a time to live, a big string, several
//! databases, appends that would show a request that was applied twice, and a subscriber.

mod consumers;
mod record;
mod values;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis::Connection;

use self::consumers::{QueueConsumer, StreamConsumer, Subscriber};
pub use self::record::Faults;
use self::record::{Outcome, Record};
use self::values::VALUES;
use crate::fixture::{MoveFixture, app_credentials, connect_as, wait_until};
use crate::moves::{run_copy, run_retire, run_switch};
use crate::writers::PrimaryConnection;

/// What the application's user needs beyond the template's rights: pub/sub.
pub const PUBSUB_EDIT: (&str, &str) = ("~* resetchannels -@all +@read", "~* &* -@all +@pubsub +@read");

/// Pause between two requests.
const REQUEST_PAUSE: Duration = Duration::from_millis(1);

/// Kind of value that the load writes, with requests numbered from 1.
trait Value: Send + Sync {
    /// Name of the value, for messages.
    fn name(&self) -> &'static str;

    /// Prepares the primary for the first request.
    fn prepare(&self, _connection: &mut Connection) -> redis::RedisResult<()> {
        Ok(())
    }

    /// Sends the request with this number, once.
    fn send(&self, connection: &mut Connection, number: u64) -> redis::RedisResult<()>;

    /// Compares what the primary has with the record of the requests.
    fn check(&self, connection: &mut Connection, record: &Record) -> redis::RedisResult<Faults>;
}

/// The clients of a mixed load, and what they know.
pub struct MixedLoad {
    stop: Arc<AtomicBool>,
    records: Vec<Arc<Mutex<Record>>>,
    queue: QueueConsumer,
    stream: StreamConsumer,
    subscriber: Subscriber,
    threads: Vec<JoinHandle<()>>,
}

impl MixedLoad {
    /// Starts the clients; they find the primary at the published address.
    pub fn start(published: &Arc<Mutex<String>>) -> Self {
        let address = published.lock().unwrap().clone();
        let mut connection = connect_as(&address, &app_credentials()).unwrap();
        VALUES.iter().for_each(|value| value.prepare(&mut connection).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let records: Vec<Arc<Mutex<Record>>> = VALUES.iter().map(|_| Arc::default()).collect();
        let (queue, stream, subscriber) = (QueueConsumer::default(), StreamConsumer::default(), Subscriber::default());
        let connect = || PrimaryConnection::new(published.clone(), false);
        let threads = vec![
            thread::spawn({
                let (connection, records, stop) = (connect(), records.clone(), stop.clone());
                move || write_until_stopped(connection, &records, &stop)
            }),
            queue.spawn(connect(), &stop),
            stream.spawn(connect(), &stop),
            subscriber.spawn(published, &stop),
        ];
        Self { stop, records, queue, stream, subscriber, threads }
    }

    /// Returns the number of acknowledged requests.
    pub fn acknowledged_count(&self) -> usize {
        self.records.iter().map(|record| record.lock().unwrap().acknowledged_count()).sum()
    }

    /// Waits until `count` further requests for each kind of value are acknowledged.
    pub fn wait_for_requests(&self, count: usize) {
        let counts = || self.records.iter().map(|record| record.lock().unwrap().acknowledged_count());
        let before: Vec<usize> = counts().collect();
        wait_until(Duration::from_secs(30), || counts().zip(&before).all(|(now, before)| now >= before + count));
    }

    /// Compares what the primary has with what was acknowledged, while the load goes on or after it.
    pub fn find_faults(&self, address: &str) -> Faults {
        let mut connection = connect_as(address, &app_credentials()).unwrap();
        // The records come first: what is acknowledged after that is no concern of this check.
        let records: Vec<Record> = self.records.iter().map(|record| record.lock().unwrap().clone()).collect();
        let mut faults = self.subscriber.find_faults();
        faults += self.stream.find_faults(&mut connection).unwrap();
        for (value, record) in VALUES.iter().zip(&records) {
            let found = value.check(&mut connection, record).unwrap();
            faults += found.with_name(value.name());
        }
        faults
    }

    /// Stops the clients.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        let (elements, entries, messages) =
            (self.queue.consumed_count(), self.stream.consumed_count(), self.subscriber.message_count());
        eprintln!(
            "mixed load: {} requests, {elements} elements, {entries} entries and {messages} messages consumed",
            self.acknowledged_count()
        );
        assert!(elements > 0 && entries > 0 && messages > 0, "every client took part");
    }
}

impl Drop for MixedLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// Sends a request for each kind of value in turn. None is sent twice.
fn write_until_stopped(mut primary: PrimaryConnection, records: &[Arc<Mutex<Record>>], stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        for (value, record) in VALUES.iter().zip(records) {
            record.lock().unwrap().begin(number);
            let result = primary.send(|connection| value.send(connection, number));
            record.lock().unwrap().finish(number, Outcome::of(&result));
            thread::sleep(REQUEST_PAUSE);
        }
    }
}

/// Entries of the stream before the move.
const STREAM_ENTRIES: usize = 6_000;

#[test]
fn everything_that_applications_keep_moves_while_it_is_used() {
    let mut fixture = MoveFixture::with_conf_edits(2, "everysec", vec![PUBSUB_EDIT]);
    fixture.provision_primary(0).unwrap();
    let published = Arc::new(Mutex::new(fixture.address(0)));
    let mut connection = connect_as(&fixture.address(0), &app_credentials()).unwrap();
    let mut fill = redis::pipe();
    for _ in 0..STREAM_ENTRIES {
        fill.cmd("XADD").arg(consumers::STREAM).arg("*").arg("number").arg(0).ignore();
    }
    fill.exec(&mut connection).unwrap();
    let mut load = MixedLoad::start(&published);
    for (from, to) in [(0, 1), (1, 0)] {
        load.wait_for_requests(50);
        let spec = fixture.move_spec(from, to);
        let copied = run_copy(&fixture, spec.clone()).unwrap();
        assert!(copied.verification.is_equal(), "{:?}", copied.verification);
        run_switch(&fixture, spec).unwrap();
        *published.lock().unwrap() = fixture.address(to);
        load.wait_for_requests(50);
        let faults = load.find_faults(&fixture.address(to));
        assert!(faults.is_empty(), "{}", faults.describe());
        run_retire(&mut fixture, from, to);
    }
    load.stop();
    let faults = load.find_faults(&fixture.address(0));
    assert!(faults.is_empty(), "{}", faults.describe());
}
