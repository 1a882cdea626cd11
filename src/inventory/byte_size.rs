//! Sizes as people write them: `16GiB`, `512MiB`, `1.5TB`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes. Parses `16GiB` (1024-based) and `16GB` (1000-based), with a decimal fraction if wished;
/// displays exactly, in the largest 1024-based unit that divides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Error of a text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    /// There is no number in front.
    #[error("`{0}` does not begin with a number")]
    InvalidNumber(String),
    /// The unit is missing.
    #[error("`{0}` has no unit")]
    MissingUnit(String),
    /// The unit is not one of the known ones.
    #[error("`{0}` is not a unit of size")]
    UnknownUnit(String),
    /// More than 2⁶⁴ − 1 bytes.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

const BINARY_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

const SIZE_UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("kB", 1000),
    ("B", 1),
];

impl ByteSize {
    /// Formats the size for people: one decimal in the largest fitting unit, `1.2GiB`.
    pub fn to_human(self) -> String {
        match BINARY_UNITS.iter().find(|(_, factor)| self.0 >= *factor) {
            Some((unit, factor)) => format!("{:.1}{unit}", self.0 as f64 / *factor as f64),
            None => format!("{}B", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..split], text[split..].trim_start());
        let bad_number = || ByteSizeError::InvalidNumber(text.to_owned());
        let too_large = || ByteSizeError::TooLarge(text.to_owned());
        if number.is_empty() || number.starts_with('.') || number.ends_with('.') {
            return Err(bad_number());
        }
        if unit.is_empty() {
            return Err(ByteSizeError::MissingUnit(text.to_owned()));
        }
        let (_, factor) = SIZE_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| ByteSizeError::UnknownUnit(unit.to_owned()))?;
        if !number.contains('.') {
            let whole: u64 = number.parse().map_err(|_| too_large())?;
            return whole.checked_mul(*factor).map(ByteSize).ok_or_else(too_large);
        }
        let bytes = (number.parse::<f64>().map_err(|_| bad_number())? * *factor as f64).round();
        if bytes >= u64::MAX as f64 { Err(too_large()) } else { Ok(ByteSize(bytes as u64)) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BINARY_UNITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ByteSize, ByteSizeError};

    #[test]
    fn sizes_parse_and_display() {
        for (text, bytes, shown) in [
            ("16GiB", 16 << 30, "16GiB"),
            ("1.5GiB", 3 << 29, "1536MiB"),
            ("2 TiB", 2 << 40, "2TiB"),
            ("1000KB", 1_000_000, "1000000B"),
            ("4GB", 4_000_000_000, "3906250KiB"),
            ("0B", 0, "0B"),
        ] {
            let parsed: ByteSize = text.parse().unwrap();
            assert_eq!(parsed, ByteSize(bytes), "{text}");
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(shown.parse(), Ok(parsed), "what is displayed parses back");
        }
    }

    #[test]
    fn invalid_sizes_name_the_reason() {
        assert_eq!("16".parse::<ByteSize>(), Err(ByteSizeError::MissingUnit("16".into())));
        assert_eq!("16Gi".parse::<ByteSize>(), Err(ByteSizeError::UnknownUnit("Gi".into())));
        assert_eq!("-1GiB".parse::<ByteSize>(), Err(ByteSizeError::InvalidNumber("-1GiB".into())));
        assert_eq!("1.2.3GiB".parse::<ByteSize>(), Err(ByteSizeError::InvalidNumber("1.2.3GiB".into())));
        assert_eq!("99999999TiB".parse::<ByteSize>(), Err(ByteSizeError::TooLarge("99999999TiB".into())));
    }
}
