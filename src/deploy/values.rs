//! Small values of a recipe: spans of time, permission bits, batches.

use serde::{Deserialize, Deserializer, de};

use crate::inventory::parse_duration;

/// A duration in milliseconds, written `"250ms"`, `"30s"`, `"10m"` or `"1h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

/// Permission bits, written as an octal string (`"0755"`), without set-id and sticky bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Octal(pub u32);

/// How many hosts a batch brings the rollout to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// That many hosts in this batch: `"1"`.
    Count(usize),
    /// So many percent of all hosts are done when this batch is, rounded up: `"25%"`.
    Percent(u8),
}

impl Span {
    fn parse(text: &str) -> Result<Self, String> {
        let milliseconds = u64::try_from(parse_duration(text)?.as_millis());
        match milliseconds {
            Ok(0) => Err(format!("`{text}` is too short: at least 1ms, for example 250ms or 30s")),
            Ok(milliseconds) => Ok(Self(milliseconds)),
            Err(_) => Err(format!("`{text}` is too long")),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)
            .map_err(|_| de::Error::custom("a duration is a string such as \"250ms\", \"30s\" or \"10m\""))?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

impl Octal {
    fn parse(text: &str) -> Option<Self> {
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        octal.then(|| u32::from_str_radix(text, 8).ok()).flatten().filter(|&bits| bits <= 0o777).map(Self)
    }
}

impl Batch {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| (1..=100).contains(percent)).map(Self::Percent),
            None => text.parse().ok().filter(|&count| count > 0).map(Self::Count),
        }
    }
}

/// Both are strings in TOML; what is no such string is told by what would be right.
macro_rules! from_text {
    ($name:ident, $expected:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer).map_err(|_| de::Error::custom($expected))?;
                Self::parse(&text).ok_or_else(|| de::Error::custom(format!("{}, not {text:?}", $expected)))
            }
        }
    };
}

from_text!(Octal, "a mode is an octal string such as \"0644\", without set-id bits");
from_text!(Batch, "a batch is a number of hosts such as \"1\" or a share such as \"25%\"");

/// Cuts the hosts of a rollout into batches, in order.
///
/// A share is of all hosts and counts those of earlier batches, so `["1", "25%", "100%"]` of 8 hosts is 1, 1, 6. A
/// batch that would be empty is left out; hosts that no batch reaches form the last one. No batches: all at once.
pub fn rollout<T: Clone>(hosts: &[T], batches: &[Batch]) -> Vec<Vec<T>> {
    let (mut done, mut cut) = (0, Vec::new());
    for batch in batches.iter().chain([&Batch::Percent(100)]) {
        let until = match *batch {
            Batch::Count(count) => done + count,
            Batch::Percent(percent) => (hosts.len() * usize::from(percent)).div_ceil(100),
        };
        let until = until.min(hosts.len());
        if until > done {
            cut.push(hosts[done..until].to_vec());
            done = until;
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(hosts: usize, batches: &[&str]) -> Vec<usize> {
        let hosts: Vec<usize> = (0..hosts).collect();
        let batches: Vec<Batch> = batches.iter().map(|text| Batch::parse(text).unwrap()).collect();
        let cut = rollout(&hosts, &batches);
        assert_eq!(cut.concat(), hosts, "every host once, in order");
        cut.iter().map(Vec::len).collect()
    }

    #[test]
    fn batches_reach_every_host_once() {
        assert_eq!(sizes(8, &["1", "25%", "100%"]), [1, 1, 6]);
        assert_eq!(sizes(1, &["1", "25%", "100%"]), [1]);
        assert_eq!(sizes(3, &["1", "25%", "100%"]), [1, 2]);
        assert_eq!(sizes(40, &["1", "25%", "100%"]), [1, 9, 30]);
        assert_eq!(sizes(5, &["2", "2"]), [2, 2, 1]);
        assert_eq!(sizes(5, &["50%", "10%"]), [3, 2]);
        assert_eq!(sizes(4, &[]), [4]);
        assert_eq!(sizes(0, &["1"]), Vec::<usize>::new());
    }

    #[test]
    fn values_are_read_and_others_refused() {
        assert_eq!(Span::parse("250ms"), Ok(Span(250)));
        assert_eq!(Span::parse("10m"), Ok(Span(600_000)));
        for bad in ["", "s", "30", "0s", "1us", "-1s", "99999999999999999999h"] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Octal::parse("0755"), Some(Octal(0o755)));
        for bad in ["4755", "75", "rwx", "0888", "+755"] {
            assert_eq!(Octal::parse(bad), None, "{bad}");
        }
        for bad in ["0", "0%", "101%", "", "%", "a"] {
            assert_eq!(Batch::parse(bad), None, "{bad}");
        }
    }
}
