//! Batch sizes of a play: `"25%"`, `"1"`, or one size after another, `["1", "25%", "100%"]`.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// The size of one batch, in a play of that batch alone, in a rollout of all batches up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// Number of hosts, at least 1.
    Count(usize),
    /// A percentage of all hosts, 1 to 100.
    Percent(usize),
}

/// Sizes one after another; the last one is repeated until all hosts had their turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSchedule(
    /// Never empty.
    pub Vec<BatchSize>,
);

impl FromStr for BatchSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is not the size of a batch; write a count (\"2\") or a share (\"25%\")");
        match text.strip_suffix('%') {
            Some(share) => match share.parse() {
                Ok(percent) if (1..=100).contains(&percent) => Ok(Self::Percent(percent)),
                _ => Err(refuse()),
            },
            None => match text.parse() {
                Ok(count) if count > 0 => Ok(Self::Count(count)),
                _ => Err(refuse()),
            },
        }
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "the size of a batch is a string: a count (\"2\") or a share (\"25%\")";
        let text = String::deserialize(deserializer).map_err(|_| de::Error::custom(expected))?;
        text.parse().map_err(de::Error::custom)
    }
}

impl BatchSize {
    /// Returns how many of a play's hosts that is: a share is rounded down, but never below one host.
    pub fn host_count(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (total * percent / 100).max(1),
        }
    }
}

impl BatchSchedule {
    /// Returns the sizes of the batches for `total` hosts; their sum is `total`.
    pub fn batch_sizes(&self, total: usize) -> Vec<usize> {
        let mut sizes = Vec::new();
        let mut left = total;
        let mut next = self.0.iter();
        let mut size = BatchSize::Percent(100);
        while left > 0 {
            size = next.next().copied().unwrap_or(size);
            let now = size.host_count(total).min(left);
            sizes.push(now);
            left -= now;
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::BatchSchedule;

    fn parse_batches(sizes: &[&str]) -> BatchSchedule {
        BatchSchedule(sizes.iter().map(|size| size.parse().unwrap()).collect())
    }

    #[test]
    fn batches_cover_all_hosts() {
        assert_eq!(parse_batches(&["25%"]).batch_sizes(10), [2, 2, 2, 2, 2]);
        assert_eq!(parse_batches(&["1", "25%", "100%"]).batch_sizes(10), [1, 2, 7]);
        assert_eq!(parse_batches(&["3"]).batch_sizes(7), [3, 3, 1]);
        assert_eq!(parse_batches(&["10%"]).batch_sizes(3), [1, 1, 1]);
        assert!(parse_batches(&["1"]).batch_sizes(0).is_empty());
    }

    #[test]
    fn invalid_sizes_are_rejected() {
        let wrong = ["", "0", "0%", "101%", "-1", "half", "1.5"];
        let errors = wrong.map(|wrong| (wrong, wrong.parse::<super::BatchSize>().unwrap_err()));
        crate::messages::check("batch-errors", errors);
    }
}
