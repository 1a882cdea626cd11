//! Windows over a list that is pushed to and popped from at both ends while it is compared.
//!
//! An index names another element after a push or a pop at the head. A window of the source is therefore looked up in a
//! wider window of the target, wherever it lies there, and each window has to begin with elements that end the one
//! before: the reader follows elements, not indexes. What was popped needs no comparison; what was pushed comes through
//! the replication stream. The ends and the length are compared at one offset, after the windows.

use redis::{Cmd, Value};
use xxhash_rust::xxh3::xxh3_128;

use super::key_state::{Key, command_with_key};

/// Elements of a window, at least: two windows have to overlap.
const MIN_WINDOW: u64 = 8;
/// Elements that a window shares with the one before, at most.
const MAX_ANCHOR: u64 = 64;
/// Positions at which the reader looks for the elements of its last window, before and behind where they should be.
const MAX_SEARCHES: u32 = 16;

/// Reads a list in windows, from the head to the tail.
#[derive(Debug)]
pub struct ListReader {
    key: Key,
    /// Elements of a window.
    step: u64,
    /// Index at which the next window begins.
    position: u64,
    /// Expected position of the next window while its beginning is searched.
    expected_position: u64,
    searches: u32,
    /// The last elements of the window before.
    anchor: Vec<u128>,
    /// Index of the anchor's end in the next window, if the list does not move.
    expected_anchor_end: u64,
    /// By how many indexes the elements moved between the last two windows, as they will go on to do.
    drift: i64,
    /// Elements to read: as many as there were at the beginning.
    remaining: u64,
    is_finished: bool,
}

/// Consecutive elements of a list, as digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListWindow {
    elements: Vec<u128>,
    /// True if the first element of the list is in it, or none before it exists.
    is_at_head: bool,
    /// True if no element follows it.
    is_at_tail: bool,
}

impl ListReader {
    /// Prepares to read a list of `length` elements in windows of `step`.
    pub fn new(key: &Key, length: u64, step: u64) -> Self {
        Self {
            key: key.clone(),
            step: step.max(MIN_WINDOW),
            position: 0,
            expected_position: 0,
            searches: 0,
            anchor: Vec::new(),
            expected_anchor_end: 0,
            drift: 0,
            remaining: length,
            is_finished: length == 0,
        }
    }

    /// Returns true if all elements have been read that the list had at the beginning.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Returns the command for the window at the source.
    pub fn source_command(&self) -> Cmd {
        range_command(&self.key, self.position, self.position + self.step - 1)
    }

    /// Returns the command for the window at the target: wider on both sides.
    pub fn target_command(&self) -> Cmd {
        range_command(&self.key, self.target_position(), self.position + self.step + self.margin() - 1)
    }

    /// Reads the answer to [`Self::source_command`]; `None` if the key is no list any more.
    pub fn parse_source(&self, answer: &Value) -> Option<ListWindow> {
        parse_window(answer, self.position, self.step)
    }

    /// Reads the answer to [`Self::target_command`]; `None` if the key is no list any more.
    pub fn parse_target(&self, answer: &Value) -> Option<ListWindow> {
        let first = self.target_position();
        parse_window(answer, first, self.position + self.step + self.margin() - first)
    }

    /// Returns true if the target had the elements of the source's window, read at about the same time.
    pub fn is_found_at(&self, source: &ListWindow, target: &ListWindow) -> bool {
        let expected = i64::try_from(self.position - self.target_position()).unwrap_or(0);
        (source.elements.is_empty() && source.is_at_tail) || find_shift(source, target, expected).is_some()
    }

    /// Returns true if both windows have the same elements at the same indexes, read at one offset.
    pub fn is_identical(&self, source: &ListWindow, target: &ListWindow) -> bool {
        let first = usize::try_from(self.position - self.target_position()).unwrap_or(usize::MAX);
        let length = source.elements.len();
        let same = target.elements.get(first..).unwrap_or_default();
        same.len() >= length && same[..length] == source.elements && (!source.is_at_tail || same.len() == length)
    }

    /// Goes on to the next window, after this one was compared.
    pub fn advance(&mut self, window: &ListWindow) {
        let Some(new_from) = self.find_new_elements(window) else {
            return self.search_again();
        };
        let (length, new_from) = (window.elements.len() as u64, new_from as u64);
        self.remaining = self.remaining.saturating_sub(length - new_from);
        self.is_finished = window.is_at_tail || self.remaining == 0;
        if !self.anchor.is_empty() {
            let signed = |index: u64| i64::try_from(index).unwrap_or(i64::MAX);
            let expected = self.expected_position + self.expected_anchor_end;
            self.drift += signed(self.position + new_from) - signed(expected);
        }
        let anchor = (self.step / 4).clamp(1, MAX_ANCHOR).min(length);
        // The list may move towards its head until the next window is read.
        let lead = self.step / 8;
        self.anchor = window.elements[usize::try_from(length - anchor).unwrap_or(0)..].to_vec();
        let next = (self.position + length).saturating_add_signed(self.drift);
        self.position = next.saturating_sub(anchor + lead);
        self.expected_anchor_end = next - self.position;
        (self.expected_position, self.searches) = (self.position, 0);
    }

    /// Returns how far the margin of the target's window reaches, on each side.
    fn margin(&self) -> u64 {
        self.step / 4
    }

    fn target_position(&self) -> u64 {
        self.position.saturating_sub(self.margin())
    }

    /// Returns the index of the first element in the window that follows the window before; `None` if the list has
    /// moved away from under the reader.
    fn find_new_elements(&self, window: &ListWindow) -> Option<usize> {
        if self.anchor.is_empty() {
            return Some(0);
        }
        let anchor = ListWindow { elements: self.anchor.clone(), is_at_head: false, is_at_tail: false };
        let moved = i64::try_from(self.expected_position).ok()? - i64::try_from(self.position).ok()?;
        let expected = i64::try_from(self.expected_anchor_end).ok()? - i64::try_from(self.anchor.len()).ok()? + moved;
        match find_shift(&anchor, window, expected) {
            Some(shift) => usize::try_from(shift + i64::try_from(self.anchor.len()).ok()?).ok(),
            // All before the window has been popped.
            None => window.is_at_head.then_some(0),
        }
    }

    /// Looks for the elements of the last window before and behind their place. If that is in vain, because something
    /// was inserted or removed among them, continues from a position before it.
    fn search_again(&mut self) {
        self.searches += 1;
        let half = self.step / 2;
        let distance = u64::from(self.searches.div_ceil(2)) * half;
        self.position = if self.searches > MAX_SEARCHES {
            self.anchor.clear();
            self.expected_position.saturating_sub(u64::from(MAX_SEARCHES) / 2 * half)
        } else if self.searches % 2 == 1 {
            self.expected_position.saturating_sub(distance)
        } else {
            self.expected_position + distance
        };
    }
}

fn range_command(key: &Key, first: u64, last: u64) -> Cmd {
    let mut cmd = command_with_key("LRANGE", key);
    cmd.arg(first).arg(last);
    cmd
}

fn parse_window(answer: &Value, first: u64, requested: u64) -> Option<ListWindow> {
    let Value::Array(values) = answer else { return None };
    let digest = |value: &Value| match value {
        Value::BulkString(bytes) => xxh3_128(bytes),
        other => xxh3_128(format!("{other:?}").as_bytes()),
    };
    Some(ListWindow {
        elements: values.iter().map(digest).collect(),
        is_at_head: first == 0,
        is_at_tail: (values.len() as u64) < requested,
    })
}

/// Returns by how many elements `part` is shifted within `whole`, the nearest to `expected`. All of it has to be there,
/// except what lies beyond an end of the list itself, which may be popped, or not yet pushed; and half of it in any
/// case.
fn find_shift(part: &ListWindow, whole: &ListWindow, expected: i64) -> Option<i64> {
    let (part_len, whole_len) = (i64::try_from(part.elements.len()).ok()?, i64::try_from(whole.elements.len()).ok()?);
    let is_match = |shift: i64| {
        let first = (-shift).max(0);
        let end = (whole_len - shift).min(part_len);
        let is_allowed = (first == 0 || whole.is_at_head) && (end == part_len || whole.is_at_tail);
        let index = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
        is_allowed
            && 2 * (end - first) >= part_len
            && part.elements.get(index(first)..index(end))
                == whole.elements.get(index(first + shift)..index(end + shift))
    };
    let reach = part_len + whole_len + expected.abs();
    (0..=reach).flat_map(|distance| [expected - distance, expected + distance]).find(|shift| is_match(*shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(elements: &[u32]) -> Value {
        Value::Array(elements.iter().map(|n| Value::BulkString(n.to_string().into_bytes())).collect())
    }

    /// Two lists and the commands of a reader.
    struct Lists {
        source: Vec<u32>,
        target: Vec<u32>,
    }

    impl Lists {
        fn range(list: &[u32], cmd: &Cmd) -> Value {
            let number = |n: usize| match cmd.args_iter().nth(n) {
                Some(redis::Arg::Simple(bytes)) => String::from_utf8_lossy(bytes).parse::<usize>().unwrap(),
                other => panic!("{other:?}"),
            };
            let end = (number(3) + 1).min(list.len());
            bulk(list.get(number(2)..end).unwrap_or_default())
        }

        /// Reads to the end, changing the lists between source and target; a window that is not found is read again.
        /// Returns the number of windows; `None` if one is not found.
        fn read_all(&mut self, mut change: impl FnMut(&mut Vec<u32>)) -> Option<usize> {
            let mut reader = ListReader::new(&b"list".to_vec(), self.source.len() as u64, 40);
            let (mut windows, mut failures) = (0, 0);
            while !reader.is_finished() {
                let source = reader.parse_source(&Self::range(&self.source, &reader.source_command())).unwrap();
                change(&mut self.source);
                change(&mut self.target);
                let target = reader.parse_target(&Self::range(&self.target, &reader.target_command())).unwrap();
                if reader.is_found_at(&source, &target) {
                    reader.advance(&source);
                    (windows, failures) = (windows + 1, 0);
                } else {
                    failures += 1;
                }
                assert!(windows < 2000, "the reader makes no progress");
                if failures == 5 {
                    return None;
                }
            }
            Some(windows)
        }
    }

    fn same_lists(length: u32) -> Lists {
        Lists { source: (0..length).collect(), target: (0..length).collect() }
    }

    #[test]
    fn a_list_that_moves_is_equal_and_read_once() {
        let rest = same_lists(2000).read_all(|_| ()).unwrap();
        assert!(rest < 90, "{rest} windows");
        for pushed in [1, 3, 7] {
            let to_tail = same_lists(2000).read_all(|list| {
                for n in 0..pushed {
                    list.insert(0, 10_000 + n);
                    list.pop();
                }
            });
            let to_head = same_lists(2000).read_all(|list| {
                for n in 0..pushed {
                    list.push(10_000 + n);
                    list.remove(0);
                }
            });
            let windows = [to_tail.unwrap(), to_head.unwrap()];
            assert!(windows.iter().all(|windows| *windows < 2 * rest), "{windows:?} windows, {pushed} at a time");
        }
    }

    #[test]
    fn a_list_that_empties_or_consists_of_one_element_is_read_to_its_end() {
        assert!(same_lists(2000).read_all(|list| drop(list.drain(..list.len().min(9)))).is_some());
        assert!(same_lists(2000).read_all(|list| list.truncate(list.len().saturating_sub(9))).is_some());
        assert!(same_lists(2000).read_all(Vec::clear).is_some());
        let mut equal = Lists { source: vec![7; 2000], target: vec![7; 2000] };
        assert!(equal.read_all(|_| ()).is_some());
    }

    #[test]
    fn a_sudden_large_shift_is_followed() {
        let mut calls = 0;
        let mut lists = same_lists(2000);
        let mut reader = ListReader::new(&b"list".to_vec(), 2000, 40);
        let mut seen = std::collections::BTreeSet::new();
        while !reader.is_finished() {
            calls += 1;
            if calls == 20 {
                lists.source.drain(..100);
            }
            let answer = Lists::range(&lists.source, &reader.source_command());
            let Value::Array(values) = &answer else { panic!() };
            seen.extend(values.iter().filter_map(|value| match value {
                Value::BulkString(bytes) => String::from_utf8_lossy(bytes).parse::<u32>().ok(),
                _ => None,
            }));
            reader.advance(&reader.parse_source(&answer).unwrap());
            assert!(calls < 2000, "the reader makes no progress");
        }
        assert_eq!(seen.len(), 2000, "no element is skipped");
    }

    #[test]
    fn a_difference_within_is_found() {
        for at in [0, 1, 39, 40, 1000, 1998, 1999] {
            let mut lists = same_lists(2000);
            lists.target[at] = 77_777;
            assert_eq!(lists.read_all(|_| ()), None, "element {at}");
        }
        let mut lists = same_lists(2000);
        lists.target.swap(1000, 1001);
        assert_eq!(lists.read_all(|_| ()), None, "another order");
        let mut lists = same_lists(2000);
        lists.target.remove(1000);
        assert_eq!(lists.read_all(|_| ()), None, "an element is missing");
    }

    #[test]
    fn at_one_offset_every_index_counts() {
        let reader = ListReader::new(&b"list".to_vec(), 20, 40);
        let window = |elements: &[u32]| reader.parse_target(&bulk(elements)).unwrap();
        let source = reader.parse_source(&bulk(&[1, 2, 3])).unwrap();
        assert!(reader.is_identical(&source, &window(&[1, 2, 3])));
        assert!(!reader.is_identical(&source, &window(&[1, 2])));
        assert!(!reader.is_identical(&source, &window(&[1, 2, 3, 4])));
        assert!(!reader.is_identical(&source, &window(&[2, 3, 1])));
        assert_eq!(reader.parse_source(&Value::Nil), None);
    }
}
