//! The kinds of values.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use redis::{Connection, FromRedisValue, RedisResult, ToRedisArgs};

use super::Value;
use super::consumers::{CHANNEL, GROUP, STREAM, done_key};
use super::record::{Faults, Record};

/// All kinds of values.
pub const VALUES: [&dyn Value; 8] = [
    &Appends { database: 0 },
    &Appends { database: 3 },
    &Appends { database: 9 },
    &Queue,
    &Stream,
    &HashFields,
    &ExpiringKeys,
    &BigString,
];

/// Requests per key of a value that grows.
pub const REQUESTS_PER_KEY: u64 = 2_000;
/// Keys, fields or places that requests take in turn.
const SLOTS: u64 = 400;
/// The time to live of request 0, as milliseconds since 1970; that of each further one is a second later.
const FIRST_EXPIRY_MS: u64 = 32_503_680_000_000;

fn expiry_ms(number: u64) -> u64 {
    FIRST_EXPIRY_MS + number * 1000
}

fn query<T: FromRedisValue>(connection: &mut Connection, name: &str, args: impl ToRedisArgs) -> RedisResult<T> {
    redis::cmd(name).arg(args).query(connection)
}

/// `APPEND` of the number: a request that is applied twice leaves it twice.
struct Appends {
    database: u8,
}

fn append_key(number: u64) -> String {
    format!("append:{}", number / REQUESTS_PER_KEY)
}

impl Value for Appends {
    fn name(&self) -> &'static str {
        match self.database {
            0 => "strings",
            3 => "strings of database 3",
            _ => "strings of database 9",
        }
    }

    fn send(&self, connection: &mut Connection, number: u64) -> RedisResult<()> {
        let mut requests = redis::pipe();
        requests.cmd("SELECT").arg(self.database).ignore();
        requests.cmd("APPEND").arg(append_key(number)).arg(format!("{number},")).ignore();
        requests.cmd("SELECT").arg(0).ignore().exec(connection)
    }

    fn check(&self, connection: &mut Connection, record: &Record) -> RedisResult<Faults> {
        query::<()>(connection, "SELECT", self.database)?;
        let mut text = String::new();
        for first in (0..=record.last()).step_by(REQUESTS_PER_KEY as usize) {
            text += &query::<Option<String>>(connection, "GET", append_key(first))?.unwrap_or_default();
        }
        query::<()>(connection, "SELECT", 0)?;
        let numbers: Vec<u64> = text.split_terminator(',').map(|number| number.parse().unwrap()).collect();
        Ok(record.compare_sequence(&numbers))
    }
}

/// A list that a consumer with blocking pops moves into lists of what is done.
struct Queue;

impl Value for Queue {
    fn name(&self) -> &'static str {
        "list"
    }

    fn send(&self, connection: &mut Connection, number: u64) -> RedisResult<()> {
        query(connection, "LPUSH", ("queue", number))
    }

    fn check(&self, connection: &mut Connection, record: &Record) -> RedisResult<Faults> {
        // All lists at once, since the consumer goes on.
        let mut lists = redis::pipe();
        lists.atomic();
        for first in (0..=record.last()).step_by(REQUESTS_PER_KEY as usize) {
            lists.cmd("LRANGE").arg(done_key(first)).arg(0).arg(-1);
        }
        lists.cmd("LRANGE").arg("queue").arg(0).arg(-1);
        let lists: Vec<Vec<u64>> = lists.query(connection)?;
        // The oldest element is at the end of each list.
        let numbers: Vec<u64> = lists.into_iter().flat_map(|list| list.into_iter().rev()).collect();
        Ok(record.compare_sequence(&numbers))
    }
}

/// A stream, read by a consumer group; old entries are trimmed.
struct Stream;

/// Entries of the stream that are not trimmed, at least.
const STREAM_LENGTH: usize = 3_000;

impl Value for Stream {
    fn name(&self) -> &'static str {
        "stream"
    }

    fn prepare(&self, connection: &mut Connection) -> RedisResult<()> {
        redis::cmd("XGROUP").arg("CREATE").arg(STREAM).arg(GROUP).arg("$").arg("MKSTREAM").exec(connection)
    }

    fn send(&self, connection: &mut Connection, number: u64) -> RedisResult<()> {
        let mut add = redis::cmd("XADD");
        add.arg(STREAM).arg("MAXLEN").arg("~").arg(STREAM_LENGTH).arg("*").arg("number").arg(number).exec(connection)
    }

    fn check(&self, connection: &mut Connection, record: &Record) -> RedisResult<Faults> {
        let entries: Vec<(String, BTreeMap<String, u64>)> = query(connection, "XRANGE", (STREAM, "-", "+"))?;
        // Entries from before the load have number 0.
        let numbers: Vec<u64> = entries.iter().map(|(_, fields)| fields["number"]).filter(|n| *n > 0).collect();
        let mut faults = record.since(numbers.first().copied().unwrap_or(0)).compare_sequence(&numbers);
        if entries.len() < record.acknowledged_count().min(STREAM_LENGTH) {
            faults.add_changed(format!("{} entries are left", entries.len()));
        }
        Ok(faults)
    }
}

/// Fields of a hash, each with a time to live where the server has that.
struct HashFields;

const HASH: &str = "fields";

/// Returns whether the server has times to live of fields.
fn has_field_expiry(connection: &mut Connection) -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let known: RedisResult<Vec<redis::Value>> =
            redis::cmd("COMMAND").arg("INFO").arg("HPEXPIREAT").query(connection);
        known.is_ok_and(|known| !matches!(known[..], [redis::Value::Nil] | []))
    })
}

impl Value for HashFields {
    fn name(&self) -> &'static str {
        "hash"
    }

    fn send(&self, connection: &mut Connection, number: u64) -> RedisResult<()> {
        let field = number % SLOTS;
        let has_expiry = has_field_expiry(connection);
        let mut requests = redis::pipe();
        requests.atomic().cmd("HSET").arg(HASH).arg(field).arg(number).ignore();
        if has_expiry {
            let expiry = expiry_ms(number);
            requests.cmd("HPEXPIREAT").arg(HASH).arg(expiry).arg("FIELDS").arg(1).arg(field).ignore();
        }
        requests.exec(connection)
    }

    fn check(&self, connection: &mut Connection, record: &Record) -> RedisResult<Faults> {
        let has_expiry = has_field_expiry(connection);
        let mut faults = Faults::default();
        for slot in 0..SLOTS.min(record.last() + 1) {
            let mut requests = redis::pipe();
            requests.atomic().cmd("HGET").arg(HASH).arg(slot);
            if has_expiry {
                requests.cmd("HPEXPIRETIME").arg(HASH).arg("FIELDS").arg(1).arg(slot);
            }
            let replies: Vec<redis::Value> = requests.query(connection)?;
            let number: Option<u64> = redis::from_redis_value(replies[0].clone())?;
            faults += record.compare_slot(slot, SLOTS, number);
            let expiry: Vec<u64> = match (number, replies.get(1)) {
                (Some(_), Some(expiry)) => redis::from_redis_value(expiry.clone())?,
                _ => continue,
            };
            let expected = number.map(expiry_ms);
            if expiry.first() != expected.as_ref() {
                faults.add_changed(format!("field {slot} expires at {expiry:?}, not {expected:?}"));
            }
        }
        Ok(faults)
    }
}

/// Keys with a time to live.
struct ExpiringKeys;

impl Value for ExpiringKeys {
    fn name(&self) -> &'static str {
        "times to live"
    }

    fn send(&self, connection: &mut Connection, number: u64) -> RedisResult<()> {
        query(connection, "SET", (format!("expiring:{}", number % SLOTS), number, "PXAT", expiry_ms(number)))
    }

    fn check(&self, connection: &mut Connection, record: &Record) -> RedisResult<Faults> {
        let mut faults = Faults::default();
        for slot in 0..SLOTS.min(record.last() + 1) {
            let key = format!("expiring:{slot}");
            let mut requests = redis::pipe();
            requests.atomic().cmd("GET").arg(&key).cmd("PEXPIRETIME").arg(&key);
            let (number, expiry): (Option<u64>, i64) = requests.query(connection)?;
            faults += record.compare_slot(slot, SLOTS, number);
            let expected = number.map(expiry_ms);
            if expected.is_some_and(|expected| u64::try_from(expiry) != Ok(expected)) {
                faults.add_changed(format!("{key} expires at {expiry}, not {expected:?}"));
            }
        }
        Ok(faults)
    }
}

/// A string of some megabytes whose parts are overwritten.
struct BigString;

const BIG_STRING: &str = "parts";
/// Bytes per part: a number with leading zeros.
const PART_BYTES: u64 = 10_000;
const NUMBER_DIGITS: usize = 12;

impl Value for BigString {
    fn name(&self) -> &'static str {
        "big string"
    }

    fn send(&self, connection: &mut Connection, number: u64) -> RedisResult<()> {
        let offset = number % SLOTS * PART_BYTES;
        query(connection, "SETRANGE", (BIG_STRING, offset, format!("{number:0NUMBER_DIGITS$}")))
    }

    fn check(&self, connection: &mut Connection, record: &Record) -> RedisResult<Faults> {
        let mut faults = Faults::default();
        for slot in 0..SLOTS.min(record.last() + 1) {
            let first = slot * PART_BYTES;
            let end = first + NUMBER_DIGITS as u64 - 1;
            let part: Vec<u8> = query(connection, "GETRANGE", (BIG_STRING, first, end))?;
            let number = String::from_utf8(part).ok().and_then(|part| part.parse().ok());
            faults += record.compare_slot(slot, SLOTS, number);
        }
        Ok(faults)
    }
}

/// Publishes a number; nobody is promised that it arrives.
pub fn publish(connection: &mut Connection, number: u64) -> RedisResult<()> {
    query(connection, "PUBLISH", (CHANNEL, number))
}
