//! Slots: which of 16,384 a key belongs to, by the rule of Redis Cluster, and ranges of them as text.
//!
//! Slots are hashed, not shard counts: a shard can be split later, and the same keys fit a Redis Cluster.
//! Source of the rule: the Redis Cluster specification, "Key distribution model" and "Hash tags".

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of slots.
pub const SLOT_COUNT: u16 = 16_384;

/// A slot, `0 ..= 16383`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(
    /// The number of the slot.
    pub u16,
);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Returns the slot of a key: CRC16 (XMODEM) of the hash tag, or of the whole key if it has none, modulo 16,384.
///
/// The hash tag is the text between the first `{` and the first `}` after it, unless that is empty.
pub fn slot_for_key(key: &[u8]) -> Slot {
    Slot(crc16(hash_tag(key)) % SLOT_COUNT)
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|&byte| byte == b'}') {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

/// Computes CRC16/XMODEM: polynomial 0x1021, initial value 0, nothing reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC16_TABLE: [u16; 256] = build_crc16_table();

const fn build_crc16_table() -> [u16; 256] {
    let mut table = [0u16; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

/// Slots from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRange {
    /// The first slot of the range.
    pub first: Slot,
    /// The last slot of the range, not lower than the first.
    pub last: Slot,
}

impl SlotRange {
    /// Returns whether the range contains a slot.
    pub fn contains(&self, slot: Slot) -> bool {
        self.first <= slot && slot <= self.last
    }

    /// Returns the number of slots in the range, at least one.
    pub fn count(&self) -> u16 {
        self.last.0 - self.first.0 + 1
    }

    /// Reads `"0-255"`, `"300"`, or several with commas between. An error says which part is wrong and why.
    pub fn parse_list(text: &str) -> Result<Vec<SlotRange>, String> {
        text.split(',').map(|part| parse_range(part.trim())).collect()
    }

    /// Returns the text that [`SlotRange::parse_list`] reads.
    pub fn format_list(ranges: &[SlotRange]) -> String {
        ranges.iter().map(SlotRange::to_string).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

fn parse_range(part: &str) -> Result<SlotRange, String> {
    let (first, last) = match part.split_once('-') {
        Some((first, last)) => (parse_slot(first, part)?, parse_slot(last, part)?),
        None => (parse_slot(part, part)?, parse_slot(part, part)?),
    };
    if first > last {
        return Err(format!("the range \"{part}\" ends before it starts"));
    }
    Ok(SlotRange { first, last })
}

fn parse_slot(text: &str, part: &str) -> Result<Slot, String> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("\"{part}\" is not a slot or a range of slots"));
    }
    match text.parse() {
        Ok(number) if number < SLOT_COUNT => Ok(Slot(number)),
        _ => Err(format!("\"{part}\" is outside the slots 0-{}", SLOT_COUNT - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Slot, SlotRange, slot_for_key};

    #[test]
    fn known_keys_hash_to_known_slots() {
        // "123456789" is the check value of CRC16/XMODEM (0x31C3); the others are from the cluster specification's
        // examples and a server's CLUSTER KEYSLOT.
        for (key, slot) in [
            ("123456789", 0x31c3),
            ("foo", 12182),
            ("bar", 5061),
            ("hello", 866),
            ("somekey", 11058),
            ("", 0),
            ("foo{hash_tag}", 2515),
            ("bar{hash_tag}", 2515),
        ] {
            assert_eq!(slot_for_key(key.as_bytes()), Slot(slot), "{key}");
        }
    }

    #[test]
    fn only_the_first_complete_tag_counts() {
        assert_eq!(slot_for_key(b"{user1000}.following"), slot_for_key(b"user1000"));
        assert_eq!(slot_for_key(b"foo{{bar}}zap"), slot_for_key(b"{bar"));
        assert_eq!(slot_for_key(b"foo{bar}{zap}"), slot_for_key(b"bar"));
        assert_ne!(slot_for_key(b"foo{}{bar}"), slot_for_key(b"bar"));
        assert_ne!(slot_for_key(b"}a{b"), slot_for_key(b"b"));
    }

    #[test]
    fn ranges_parse_and_format() {
        let ranges = SlotRange::parse_list("0-255, 300").expect("two ranges");
        assert_eq!(SlotRange::format_list(&ranges), "0-255,300");
        assert_eq!(ranges.iter().map(SlotRange::count).sum::<u16>(), 257);
        assert!(ranges[0].contains(Slot(255)) && !ranges[0].contains(Slot(256)));
        for wrong in ["", "5-", "-5", "9-3", "16384", "0-16384", "a", "1 2", "1,,2", "+1", "99999999999"] {
            assert!(SlotRange::parse_list(wrong).is_err(), "{wrong:?} must not be accepted");
        }
    }
}
