//! `[[freeze]]` of a recipe: times in which no release is deployed.

use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::{DateTime, Weekday};
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::Recipe;
use super::reader::RecipeReader;

/// Minutes of a day.
const DAY_MINUTES: i32 = 24 * 60;
/// Names of the days, from Monday.
const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A time in which no release is deployed.
#[derive(Clone, Debug, PartialEq)]
pub struct FreezeWindow {
    /// Begin and end, as written.
    pub text: String,
    /// Reason for the freeze, if the recipe has one.
    pub reason: Option<String>,
    period: Period,
    zone: TimeZone,
}

#[derive(Clone, Debug, PartialEq)]
enum Period {
    /// Between two times.
    Once { from: DateTime, until: DateTime },
    /// Every week, in minutes since the beginning of Monday; from a later to an earlier one: over the end of the week.
    Weekly { from: i32, until: i32 },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FreezeTable {
    from: String,
    until: String,
    timezone: Option<String>,
    reason: Option<String>,
}

impl FreezeWindow {
    /// Returns whether a time is in the window: from its begin until before its end.
    pub fn contains(&self, time: Timestamp) -> bool {
        let local = time.to_zoned(self.zone.clone()).datetime();
        match self.period {
            Period::Once { from, until } => from <= local && local < until,
            Period::Weekly { from, until } => {
                let day = i32::from(local.weekday().to_monday_zero_offset());
                let now = day * DAY_MINUTES + i32::from(local.hour()) * 60 + i32::from(local.minute());
                if from < until { from <= now && now < until } else { now >= from || now < until }
            }
        }
    }
}

impl Recipe {
    /// Describes the freeze at a time; `None` if releases may be deployed.
    pub fn describe_freeze(&self, time: Timestamp) -> Option<String> {
        let window = self.freezes.iter().find(|window| window.contains(time))?;
        let reason = window.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        Some(format!("deploys of {} are frozen {}{reason}", self.service, window.text))
    }
}

impl RecipeReader<'_> {
    pub(super) fn read_freezes(&mut self, tables: Vec<(Range<usize>, FreezeTable)>) -> Vec<FreezeWindow> {
        let mut windows = Vec::new();
        for (span, table) in tables {
            let zone = table.timezone.as_deref().unwrap_or("UTC");
            match (parse_period(&table.from, &table.until), TimeZone::get(zone)) {
                (Ok(period), Ok(time_zone)) => windows.push(FreezeWindow {
                    text: format!("from {} until {} ({zone})", table.from, table.until),
                    reason: table.reason,
                    period,
                    zone: time_zone,
                }),
                (period, time_zone) => {
                    if let Err(error) = period {
                        self.add_error(
                            &span,
                            error,
                            Some("\"2026-12-23 18:00\" for once, \"Fri 16:00\" for every week"),
                        );
                    }
                    if time_zone.is_err() {
                        let help = "a name of the IANA time zone database, such as \"Europe/Berlin\"";
                        self.add_error(&span, format!("there is no time zone {zone:?}"), Some(help));
                    }
                }
            }
        }
        windows
    }
}

fn parse_period(from: &str, until: &str) -> Result<Period, String> {
    let period = match (parse_weekly(from), parse_weekly(until)) {
        (Some(from), Some(until)) => Period::Weekly { from, until },
        (None, None) => Period::Once { from: parse_datetime(from)?, until: parse_datetime(until)? },
        _ => return Err("`from` and `until` must both be dates, or both days of the week".to_owned()),
    };
    match &period {
        Period::Weekly { from, until } if from == until => Err("`from` and `until` are the same time".to_owned()),
        Period::Once { from, until } if from >= until => Err("`until` is not after `from`".to_owned()),
        _ => Ok(period),
    }
}

fn parse_datetime(text: &str) -> Result<DateTime, String> {
    text.parse().map_err(|_| format!("{text:?} is neither a date with time nor a day of the week with time"))
}

/// Parses a day and a time such as `Fri 16:00`, as minutes since the beginning of Monday.
fn parse_weekly(text: &str) -> Option<i32> {
    let (day, time) = text.split_once(' ')?;
    let day = WEEKDAYS.iter().position(|name| name.eq_ignore_ascii_case(day))?;
    let day = Weekday::from_monday_zero_offset(i8::try_from(day).ok()?).ok()?;
    let (hours, minutes) = time.split_once(':')?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let is_time = (0..24).contains(&hours) && (0..60).contains(&minutes);
    is_time.then(|| i32::from(day.to_monday_zero_offset()) * DAY_MINUTES + hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use crate::deploy::recipe::Recipe;

    fn parse(keys: &str) -> Result<Recipe, String> {
        let text = format!("service = \"shop\"\nhosts = \"web\"\nroot = \"/srv/shop\"\n[[freeze]]\n{keys}\n");
        Recipe::parse(&text).map_err(|errors| errors[0].message.clone())
    }

    fn is_frozen(keys: &str, at: &str) -> bool {
        parse(keys).unwrap().freezes[0].contains(at.parse().unwrap())
    }

    #[test]
    fn a_weekly_window_may_include_the_end_of_the_week() {
        let keys = "from = \"Fri 16:00\"\nuntil = \"Mon 08:00\"";
        // 2026-11-27 is a Friday.
        for (at, frozen) in [
            ("2026-11-27T15:59:59Z", false),
            ("2026-11-27T16:00:00Z", true),
            ("2026-11-29T12:00:00Z", true),
            ("2026-11-30T07:59:00Z", true),
            ("2026-11-30T08:00:00Z", false),
        ] {
            assert_eq!(is_frozen(keys, at), frozen, "{at}");
        }
        assert!(!is_frozen("from = \"Tue 10:00\"\nuntil = \"Tue 12:00\"", "2026-11-27T11:00:00Z"));
    }

    #[test]
    fn a_single_window_follows_its_time_zone() {
        let keys = "from = \"2026-12-23 18:00\"\nuntil = \"2027-01-04\"\ntimezone = \"Europe/Berlin\"";
        assert!(!is_frozen(keys, "2026-12-23T16:59:00Z"));
        assert!(is_frozen(keys, "2026-12-23T17:00:00Z"));
        assert!(is_frozen(keys, "2027-01-03T22:59:00Z"));
        assert!(!is_frozen(keys, "2027-01-03T23:00:00Z"));
    }

    #[test]
    fn wrong_windows_are_refused() {
        for (keys, message) in [
            ("from = \"Fri 16:00\"\nuntil = \"2027-01-04\"", "must both be"),
            ("from = \"2027-01-04\"\nuntil = \"2027-01-03\"", "not after"),
            ("from = \"Fri 16:00\"\nuntil = \"Fri 16:00\"", "same time"),
            ("from = \"Fri 25:00\"\nuntil = \"Friday 16:00\"", "neither a date"),
            ("from = \"Fri 16:00\"\nuntil = \"Mon 08:00\"\ntimezone = \"Nowhere\"", "no time zone"),
        ] {
            let error = parse(keys).unwrap_err();
            assert!(error.contains(message), "{keys}: {error}");
        }
    }
}
