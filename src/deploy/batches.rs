//! Small values of a recipe: durations and modes; and the batches of a rollout.

use serde::{Deserialize, Deserializer, de};

use crate::duration::parse_duration;
use crate::playbook::BatchSize;
use crate::resources::mode::FileMode;

/// A duration in milliseconds, written `"250ms"`, `"30s"`, `"10m"` or `"1h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationMs(pub u64);

impl DurationMs {
    /// Parses a duration of at least 1 ms.
    ///
    /// # Errors
    /// Returns the reason and an example.
    pub fn parse_duration(text: &str) -> Result<Self, String> {
        let milliseconds = u64::try_from(parse_duration(text)?.as_millis());
        match milliseconds {
            Ok(0) => Err(format!("`{text}` is too short: at least 1ms, for example 250ms or 30s")),
            Ok(milliseconds) => Ok(Self(milliseconds)),
            Err(_) => Err(format!("`{text}` is too long")),
        }
    }
}

impl<'de> Deserialize<'de> for DurationMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)
            .map_err(|_| de::Error::custom("a duration is a string such as \"250ms\", \"30s\" or \"10m\""))?;
        Self::parse_duration(&text).map_err(de::Error::custom)
    }
}

/// Reads the mode of a file in a release: one without set-id and sticky bits.
pub fn plain_mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<FileMode>, D::Error> {
    let mode = FileMode::deserialize(deserializer)?;
    if mode.0 > 0o777 {
        let shown = FileMode::format_octal(mode.0);
        return Err(de::Error::custom(format!("a file of a release has no set-id and sticky bits, not \"{shown}\"")));
    }
    Ok(Some(mode))
}

/// Cuts the hosts of a rollout into batches, in order.
///
/// A share is of all hosts and counts those of earlier batches, so `["1", "25%", "100%"]` of 8 hosts is 1, 1, 6. A
/// batch that would be empty is left out; hosts that no batch reaches form the last one. No batches: all at once.
pub fn split_into_batches<T: Clone>(hosts: &[T], batches: &[BatchSize]) -> Vec<Vec<T>> {
    let (mut done, mut groups) = (0, Vec::new());
    for batch in batches.iter().chain([&BatchSize::Percent(100)]) {
        let until = match *batch {
            BatchSize::Count(count) => done + count,
            BatchSize::Percent(percent) => (hosts.len() * percent).div_ceil(100),
        };
        let until = until.min(hosts.len());
        if until > done {
            groups.push(hosts[done..until].to_vec());
            done = until;
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch_sizes(hosts: usize, batches: &[&str]) -> Vec<usize> {
        let hosts: Vec<usize> = (0..hosts).collect();
        let batches: Vec<BatchSize> = batches.iter().map(|text| text.parse().unwrap()).collect();
        let cut = split_into_batches(&hosts, &batches);
        assert_eq!(cut.concat(), hosts, "every host once, in order");
        cut.iter().map(Vec::len).collect()
    }

    #[test]
    fn batches_cover_every_host_once() {
        assert_eq!(batch_sizes(8, &["1", "25%", "100%"]), [1, 1, 6]);
        assert_eq!(batch_sizes(1, &["1", "25%", "100%"]), [1]);
        assert_eq!(batch_sizes(3, &["1", "25%", "100%"]), [1, 2]);
        assert_eq!(batch_sizes(40, &["1", "25%", "100%"]), [1, 9, 30]);
        assert_eq!(batch_sizes(5, &["2", "2"]), [2, 2, 1]);
        assert_eq!(batch_sizes(5, &["50%", "10%"]), [3, 2]);
        assert_eq!(batch_sizes(4, &[]), [4]);
        assert_eq!(batch_sizes(0, &["1"]), Vec::<usize>::new());
    }

    #[test]
    fn values_are_parsed_and_invalid_ones_rejected() {
        assert_eq!(DurationMs::parse_duration("250ms"), Ok(DurationMs(250)));
        assert_eq!(DurationMs::parse_duration("10m"), Ok(DurationMs(600_000)));
        for bad in ["", "s", "30", "0s", "1us", "-1s", "99999999999999999999h"] {
            assert!(DurationMs::parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_release_has_no_file_with_set_id_bits() {
        let read = |text: &str| plain_mode(toml::Value::String(text.to_owned()));
        assert_eq!(read("0755").unwrap(), Some(FileMode(0o755)));
        for bad in ["4755", "1777"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("set-id") && error.contains(bad), "{error}");
        }
    }
}
