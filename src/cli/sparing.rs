//! The flags that say what moves leave to the clients of their sources.

use clap::Args;

use crate::inventory::{Bytes, parse_duration};
use crate::rebalance::plan::TransferLimits;
use crate::wire::sparing::{Asked, Cow, Sparing};

/// A cap below this would leave a target without a word for too long.
const LEAST: u64 = 64 << 10;

/// None of them holds unless it is given; 0 lifts one that a resumed run was begun with.
#[derive(Clone, Debug, Default, Args)]
pub struct Spare {
    /// Let all copies into one host take so many bytes a second together: 50MiB
    #[arg(long, value_name = "BYTES", help_heading = "Sparing the source", value_parser = bandwidth)]
    bandwidth: Option<u64>,
    /// Slow copies down, and begin none and no switch, while 1 of 100 commands at the source waits longer: 20ms
    #[arg(long, value_name = "TIME", help_heading = "Sparing the source", value_parser = milliseconds)]
    max_p99: Option<u64>,
    /// The same while a replica of the source is further behind: 64MiB
    #[arg(long, value_name = "BYTES", help_heading = "Sparing the source", value_parser = bytes)]
    max_lag: Option<u64>,
    /// Give a copy up, and try again later, once the source's fork has cost it more memory: 2GiB, or 10% of what it uses
    #[arg(long, value_name = "BYTES|PERCENT", help_heading = "Sparing the source", value_parser = cow)]
    max_cow: Option<Cow>,
    /// At most so many moves at the same time (default: all of a wave)
    #[arg(long, value_name = "N", help_heading = "Sparing the source", value_parser = clap::value_parser!(u16).range(1..))]
    concurrent: Option<u16>,
}

impl Spare {
    /// What was said.
    pub fn asked(&self) -> Asked {
        Asked { bandwidth: self.bandwidth, p99_ms: self.max_p99, lag_bytes: self.max_lag, cow: self.max_cow }
    }

    /// How many moves may be under way; 0: all of a wave.
    pub fn concurrent(&self) -> usize {
        self.concurrent.unwrap_or(0).into()
    }

    /// How fast a plan may expect moves to be: a copy's bytes are sent once, and compared where they are.
    pub fn pace(&self) -> TransferLimits {
        let usual = TransferLimits { max_concurrent: self.concurrent(), ..TransferLimits::default() };
        match self.asked().over(Sparing::default()).bandwidth {
            0 => usual,
            cap => TransferLimits { move_rate: usual.move_rate.min(cap), host_rate: usual.host_rate.min(cap), ..usual },
        }
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    if text.trim() == "0" {
        return Ok(0);
    }
    let bytes: Bytes = text.parse().map_err(|error| format!("{error}"))?;
    Ok(bytes.0)
}

fn bandwidth(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        few @ 1..LEAST => Err(format!("{few} bytes a second are too few; at least 64KiB, or 0 for no cap")),
        bytes => Ok(bytes),
    }
}

/// A duration of whole milliseconds, or 0.
fn milliseconds(text: &str) -> Result<u64, String> {
    if text.trim() == "0" {
        return Ok(0);
    }
    let duration = parse_duration(text)?;
    match u64::try_from(duration.as_millis()) {
        Ok(0) if !duration.is_zero() => Err("the limit is at least 1ms; 0 removes it".to_owned()),
        Ok(milliseconds) => Ok(milliseconds),
        Err(_) => Err(format!("`{text}` is too long")),
    }
}

/// `2GiB`, `10%`, or 0.
fn cow(text: &str) -> Result<Cow, String> {
    let Some(percent) = text.trim().strip_suffix('%') else { return bytes(text).map(Cow::Bytes) };
    let percent = percent.trim().parse().map_err(|_| format!("`{text}` is no percentage such as 10%"))?;
    Ok(Cow::Percent(percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_have_units_and_0_needs_none() {
        assert_eq!(milliseconds("20ms"), Ok(20));
        assert_eq!(milliseconds("1.5s"), Ok(1500));
        assert_eq!(milliseconds("0"), Ok(0));
        for wrong in ["20", "ms", "-1s", "0.1ms"] {
            assert!(milliseconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!((bandwidth("0"), bandwidth("64KiB")), (Ok(0), Ok(LEAST)));
        assert!(bandwidth("1KiB").is_err());
        assert_eq!(cow("10%"), Ok(Cow::Percent(10)));
        assert_eq!(cow("1GiB"), Ok(Cow::Bytes(1 << 30)));
        assert!(cow("a%").is_err() && bytes("50").is_err());
    }

    #[test]
    fn a_plan_knows_that_a_capped_copy_takes_longer() {
        let pace = |bandwidth| Spare { bandwidth, ..Spare::default() }.pace();
        assert_eq!(pace(None), TransferLimits::default());
        assert_eq!((pace(Some(8 << 20)).move_rate, pace(Some(8 << 20)).host_rate), (8 << 20, 8 << 20));
        assert_eq!(pace(Some(u64::MAX)), TransferLimits::default());
    }

    #[test]
    fn a_limit_that_is_not_told_stays_and_0_lifts_it() {
        let before = Sparing { bandwidth: 5, p99_ms: 20, cow: Some(Cow::Percent(10)), ..Sparing::default() };
        assert_eq!(Spare::default().asked().over(before), before);
        let told = Spare { bandwidth: Some(7), max_cow: Some(Cow::Bytes(0)), max_lag: Some(9), ..Spare::default() };
        assert_eq!(told.asked().over(before), Sparing { bandwidth: 7, lag_bytes: 9, cow: None, ..before });
    }
}
