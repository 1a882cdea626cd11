//! Ids of users, tweets and events: 53 bits, 41 of milliseconds and 12 of a sequence, made by Postgres (`next_id()`).
//!
//! A score of a sorted set is a double: with more bits, the page after an exclusive cursor can be empty. Numbers of
//! this size are exact in JavaScript as well.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An id, between 1 and [`MAX_ID`]. `i64` because that is Postgres' `bigint`.
pub type Id = i64;

/// The largest id: doubles are exact up to 53 bits.
pub const MAX_ID: Id = (1 << 53) - 1;

/// The milliseconds between 1970 and 2020, where ids begin.
pub const EPOCH_MS: i64 = 1_577_836_800_000;

/// The number of bits of the sequence.
pub const SEQUENCE_BITS: u32 = 12;

/// Returns the moment at which an id was made, in milliseconds since 1970.
pub fn to_unix_ms(id: Id) -> i64 {
    (id >> SEQUENCE_BITS) + EPOCH_MS
}

/// Returns the smallest id that can be made at a moment, given in milliseconds since 1970. Never negative.
pub fn first_at(unix_ms: i64) -> Id {
    (unix_ms - EPOCH_MS).max(0) << SEQUENCE_BITS
}

/// Returns the smallest id that can be made `age` before now.
pub fn first_before_now(age: Duration) -> Id {
    first_at(unix_ms_now() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX / 2))
}

/// Returns the milliseconds since 1970.
pub fn unix_ms_now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{EPOCH_MS, MAX_ID, first_at, to_unix_ms};

    #[test]
    fn ids_and_moments_convert_both_ways() {
        assert_eq!(first_at(EPOCH_MS - 5), 0);
        let moment = EPOCH_MS + 123_456_789_012;
        assert_eq!(to_unix_ms(first_at(moment)), moment);
        assert_eq!(to_unix_ms(first_at(moment) | 4095), moment);
        // the last millisecond that fits is in the year 2089
        assert_eq!(to_unix_ms(MAX_ID), EPOCH_MS + (1 << 41) - 1);
    }
}
