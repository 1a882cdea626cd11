//! What the sender of numbered requests knows, and the faults that a comparison with the primary finds.

use std::collections::BTreeSet;
use std::ops::AddAssign;

use redis::RedisResult;

use crate::writers::is_refusal;

/// Result of a request as its sender knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    /// The server said that the request was not applied.
    Refused,
    /// The reply never came: the request was applied or not.
    Unknown,
}

impl Outcome {
    pub fn of<T>(result: &RedisResult<T>) -> Self {
        match result {
            Ok(_) => Self::Acknowledged,
            Err(error) if is_refusal(error) => Self::Refused,
            Err(_) => Self::Unknown,
        }
    }
}

/// The requests of one sender, by number.
#[derive(Clone, Debug, Default)]
pub struct Record {
    acknowledged: BTreeSet<u64>,
    unknown: BTreeSet<u64>,
    /// Number of the last request that was sent, or is about to be.
    last: u64,
}

impl Record {
    pub fn begin(&mut self, number: u64) {
        self.last = number;
        self.unknown.insert(number);
    }

    pub fn finish(&mut self, number: u64, outcome: Outcome) {
        if outcome != Outcome::Unknown {
            self.unknown.remove(&number);
        }
        if outcome == Outcome::Acknowledged {
            self.acknowledged.insert(number);
        }
    }

    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged.len()
    }

    /// Returns the number of the last request.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Returns the record of the requests from this number on.
    pub fn since(&self, number: u64) -> Self {
        let mut rest = self.clone();
        rest.acknowledged = rest.acknowledged.split_off(&number);
        rest
    }

    /// Returns whether the primary may have applied the request, by this record or after it was taken.
    fn may_be_applied(&self, number: u64) -> bool {
        number > self.last || self.acknowledged.contains(&number) || self.unknown.contains(&number)
    }

    /// Compares the numbers that the primary has, in its order: each at most once, in the order of the requests.
    pub fn compare_sequence(&self, found: &[u64]) -> Faults {
        let mut faults = Faults::default();
        let present: BTreeSet<u64> = found.iter().copied().collect();
        faults.add_lost(self.acknowledged.iter().filter(|number| !present.contains(number)));
        let repeated: Vec<u64> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[1]).collect();
        faults.add_doubled(repeated.iter());
        faults.add_doubled(present.iter().filter(|number| !self.may_be_applied(**number)));
        faults.add_disordered(found.windows(2).filter(|pair| pair[0] > pair[1]).map(|pair| &pair[1]));
        faults
    }

    /// Compares the number that one of `slots` slots has, where request N writes slot N % `slots`: it is that of the
    /// last request that was acknowledged, or of a later one.
    pub fn compare_slot(&self, slot: u64, slots: u64, found: Option<u64>) -> Faults {
        let mut faults = Faults::default();
        let newest = self.acknowledged.iter().rev().find(|number| *number % slots == slot);
        match (newest, found) {
            (Some(newest), found) if found.is_none_or(|found| found < *newest) => faults.add_lost([newest].into_iter()),
            (_, Some(found)) if !self.may_be_applied(found) => faults.add_doubled([&found].into_iter()),
            _ => {}
        }
        faults
    }
}

/// Faults that a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Number of acknowledged requests that left nothing.
    pub lost: usize,
    /// Number of requests that were applied twice, or although they were refused.
    pub doubled: usize,
    /// What was found in the wrong order, or with another time to live.
    pub changed: usize,
    details: Vec<String>,
}

impl Faults {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Describes the faults.
    pub fn describe(&self) -> String {
        self.details.join("; ")
    }

    pub fn add_lost<'n>(&mut self, numbers: impl Iterator<Item = &'n u64>) {
        self.lost += self.add_details("lost", numbers);
    }

    pub fn add_doubled<'n>(&mut self, numbers: impl Iterator<Item = &'n u64>) {
        self.doubled += self.add_details("applied twice or although refused", numbers);
    }

    pub fn add_disordered<'n>(&mut self, numbers: impl Iterator<Item = &'n u64>) {
        self.changed += self.add_details("out of order", numbers);
    }

    pub fn add_changed(&mut self, detail: String) {
        self.changed += 1;
        self.details.push(detail);
    }

    fn add_details<'n>(&mut self, fault: &str, numbers: impl Iterator<Item = &'n u64>) -> usize {
        let numbers: Vec<u64> = numbers.copied().collect();
        if !numbers.is_empty() {
            self.details.push(format!("{} {fault}: {:?}", numbers.len(), &numbers[..numbers.len().min(20)]));
        }
        numbers.len()
    }

    /// Puts the name of the value before each detail.
    pub fn with_name(mut self, name: &str) -> Self {
        self.details.iter_mut().for_each(|detail| *detail = format!("{name}: {detail}"));
        self
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.changed += other.changed;
        self.details.extend(other.details);
    }
}

#[test]
fn each_fault_is_found() {
    let mut record = Record::default();
    for (number, outcome) in
        [(1, Outcome::Acknowledged), (2, Outcome::Refused), (3, Outcome::Unknown), (4, Outcome::Acknowledged)]
    {
        record.begin(number);
        record.finish(number, outcome);
    }
    let counts = |faults: Faults| (faults.lost, faults.doubled, faults.changed);
    for found in [&[1, 4][..], &[1, 3, 4], &[1, 4, 5]] {
        assert!(record.compare_sequence(found).is_empty(), "{found:?}");
    }
    assert_eq!(counts(record.compare_sequence(&[1])), (1, 0, 0));
    assert_eq!(counts(record.compare_sequence(&[1, 1, 4])), (0, 1, 0));
    assert_eq!(counts(record.compare_sequence(&[1, 2, 4])), (0, 1, 0), "the second was refused");
    assert_eq!(counts(record.compare_sequence(&[4, 1])), (0, 0, 1));
    assert!(record.compare_slot(0, 2, Some(4)).is_empty());
    assert_eq!(counts(record.compare_slot(0, 2, None)), (1, 0, 0));
    assert!(record.compare_slot(1, 2, Some(3)).is_empty(), "its reply never came");
    assert_eq!(counts(record.compare_slot(0, 4, Some(2))), (1, 0, 0), "the fourth is newer");
    assert_eq!(counts(record.compare_slot(2, 4, Some(2))), (0, 1, 0), "the second was refused");
}
