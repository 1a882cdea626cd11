//! Counts with their nouns.

use std::fmt::Display;

/// Formats a number with a noun, whose plural ends in `s`: `1 host`, `3 hosts`.
pub fn format_count<T: Display + PartialEq + From<u8>>(count: T, noun: &str) -> String {
    let ending = if count == T::from(1) { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!([0, 1, 2].map(|count: usize| format_count(count, "host")), ["0 hosts", "1 host", "2 hosts"]);
    }
}
