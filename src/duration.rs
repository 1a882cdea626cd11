//! Durations as people write them: a number and a unit, such as `20ms`, `30s` or `5m`. Flags, `hosts.toml`, playbooks
//! and recipes use this one parser.

use std::time::Duration;

/// Parses a duration. A number without a unit is an error.
///
/// # Errors
/// Returns an error if the text is not a duration; the message has an example of the accepted form.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let reason = match humantime::parse_duration(text) {
        // humantime takes 0 without a unit, and `M` for a month where a minute is as likely to be meant.
        Ok(_) if !text.contains(|c: char| c.is_ascii_alphabetic()) => "the unit is missing".to_owned(),
        Ok(_) if text.contains('M') => "`M` is ambiguous".to_owned(),
        Ok(duration) => return Ok(duration),
        Err(humantime::DurationError::UnknownUnit { unit, .. }) if unit.is_empty() => "the unit is missing".to_owned(),
        Err(humantime::DurationError::UnknownUnit { unit, .. }) => format!("unknown unit `{unit}`"),
        Err(humantime::DurationError::NumberOverflow) => "the number is out of range".to_owned(),
        Err(_) => "a number and a unit are expected".to_owned(),
    };
    Err(format!("`{text}` is not a duration ({reason}); write for example 20ms, 30s, 5m or 1h"))
}

/// Parses the key `timeout` of a step, which must be longer than zero; `default` if the step has none.
///
/// # Errors
/// Returns an error if the text is not such a duration.
pub fn parse_timeout(text: Option<&str>, default: Duration) -> Result<Duration, String> {
    match text.map_or(Ok(default), parse_duration) {
        Ok(timeout) if !timeout.is_zero() => Ok(timeout),
        Ok(_) => Err("`timeout` must be longer than 0s".to_owned()),
        Err(error) => Err(format!("`timeout`: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        for (text, milliseconds) in
            [("20ms", 20), ("30s", 30_000), ("1.5s", 1500), ("5m", 300_000), ("1h", 3_600_000), ("1m 30s", 90_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for wrong in
            ["", " ", "20", "0", "1.5", "ms", "s", "-1s", "20 lightyears", "5M", "1.s", "99999999999999999999h"]
        {
            let error = parse_duration(wrong).unwrap_err();
            assert!(error.contains(&format!("`{wrong}`")) && error.contains("30s"), "{error}");
        }
    }
}
