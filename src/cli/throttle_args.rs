//! The flags that limit the impact of moves on the clients of their sources.

use clap::Args;

use crate::duration::parse_duration;
use crate::inventory::ByteSize;
use crate::protocol::throttle::{MemoryLimit, ThrottleLimits, ThrottleOverrides};
use crate::rebalance::plan::TransferLimits;

/// Minimum bandwidth: below it, a replica would wait for data longer than its timeout.
const MIN_BANDWIDTH: u64 = 64 << 10;

/// Limits of moves. A limit applies only if it is given; 0 removes a limit of the run that is resumed.
#[derive(Clone, Debug, Default, Args)]
pub struct ThrottleArgs {
    /// Limit the total copy bandwidth per target host (bytes per second, e.g. 50MiB)
    #[arg(long, value_name = "BYTES", help_heading = "Limiting impact on the source", value_parser = parse_bandwidth)]
    bandwidth: Option<u64>,
    /// Throttle copying and start no new copy or cutover while the source's p99 latency is above this (e.g. 20ms)
    #[arg(long, value_name = "TIME", help_heading = "Limiting impact on the source", value_parser = parse_milliseconds)]
    max_p99: Option<u64>,
    /// Throttle copying while a replica of the source lags by more than this (e.g. 64MiB)
    #[arg(long, value_name = "BYTES", help_heading = "Limiting impact on the source", value_parser = parse_bytes)]
    max_replica_lag: Option<u64>,
    /// Abort and retry a copy when the source's copy-on-write memory exceeds this (2GiB, or 10% of used memory)
    #[arg(long, value_name = "BYTES|PERCENT", help_heading = "Limiting impact on the source", value_parser = parse_memory_limit)]
    max_cow_memory: Option<MemoryLimit>,
    /// Maximum number of moves in progress at a time (default: all of a wave)
    #[arg(long, value_name = "N", help_heading = "Limiting impact on the source", value_parser = clap::value_parser!(u16).range(1..))]
    max_concurrent_moves: Option<u16>,
}

impl ThrottleArgs {
    /// Returns the limits that were given.
    pub fn to_overrides(&self) -> ThrottleOverrides {
        ThrottleOverrides {
            bandwidth: self.bandwidth,
            max_p99_ms: self.max_p99,
            max_lag_bytes: self.max_replica_lag,
            max_cow_memory: self.max_cow_memory,
        }
    }

    /// Returns the maximum number of concurrent moves; 0: all of a wave.
    pub fn max_concurrent(&self) -> usize {
        self.max_concurrent_moves.unwrap_or(0).into()
    }

    /// Returns the transfer rates for estimates. A copy is transferred once and verified in place.
    pub fn to_transfer_limits(&self) -> TransferLimits {
        let defaults = TransferLimits { max_concurrent: self.max_concurrent(), ..TransferLimits::default() };
        match self.to_overrides().apply_to(ThrottleLimits::default()).bandwidth {
            0 => defaults,
            bandwidth => TransferLimits {
                move_rate: defaults.move_rate.min(bandwidth),
                host_rate: defaults.host_rate.min(bandwidth),
                ..defaults
            },
        }
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    if text.trim() == "0" {
        return Ok(0);
    }
    let bytes: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    Ok(bytes.0)
}

/// Parses a bandwidth in bytes per second, such as `50MiB`; 0 means no limit.
pub fn parse_bandwidth(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        too_few @ 1..MIN_BANDWIDTH => {
            Err(format!("{too_few} bytes per second is too low: the minimum is 64KiB, and 0 means no limit"))
        }
        bytes => Ok(bytes),
    }
}

/// Parses a duration in milliseconds, or 0.
fn parse_milliseconds(text: &str) -> Result<u64, String> {
    if text.trim() == "0" {
        return Ok(0);
    }
    let duration = parse_duration(text)?;
    match u64::try_from(duration.as_millis()) {
        Ok(0) if !duration.is_zero() => Err("the minimum is 1ms; 0 removes the limit".to_owned()),
        Ok(milliseconds) => Ok(milliseconds),
        Err(_) => Err(format!("`{text}` is too long")),
    }
}

/// Parses `2GiB`, `10%` or 0.
fn parse_memory_limit(text: &str) -> Result<MemoryLimit, String> {
    let Some(percent) = text.trim().strip_suffix('%') else { return parse_bytes(text).map(MemoryLimit::Bytes) };
    let percent = percent.trim().parse().map_err(|_| format!("`{text}` is not a percentage such as 10%"))?;
    Ok(MemoryLimit::Percent(percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_percentages_need_units_except_0() {
        assert_eq!(parse_milliseconds("20ms"), Ok(20));
        assert_eq!(parse_milliseconds("1.5s"), Ok(1500));
        assert_eq!(parse_milliseconds("0"), Ok(0));
        for wrong in ["20", "ms", "-1s", "0.1ms"] {
            assert!(parse_milliseconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!((parse_bandwidth("0"), parse_bandwidth("64KiB")), (Ok(0), Ok(MIN_BANDWIDTH)));
        assert!(parse_bandwidth("1KiB").is_err());
        assert_eq!(parse_memory_limit("10%"), Ok(MemoryLimit::Percent(10)));
        assert_eq!(parse_memory_limit("1GiB"), Ok(MemoryLimit::Bytes(1 << 30)));
        assert!(parse_memory_limit("a%").is_err() && parse_bytes("50").is_err());
    }

    #[test]
    fn a_plan_accounts_for_the_bandwidth_limit() {
        let pace = |bandwidth| ThrottleArgs { bandwidth, ..ThrottleArgs::default() }.to_transfer_limits();
        assert_eq!(pace(None), TransferLimits::default());
        assert_eq!((pace(Some(8 << 20)).move_rate, pace(Some(8 << 20)).host_rate), (8 << 20, 8 << 20));
        assert_eq!(pace(Some(u64::MAX)), TransferLimits::default());
    }

    #[test]
    fn an_unset_limit_stays_and_0_removes_it() {
        let before = ThrottleLimits {
            bandwidth: 5,
            max_p99_ms: 20,
            max_cow_memory: Some(MemoryLimit::Percent(10)),
            ..ThrottleLimits::default()
        };
        assert_eq!(ThrottleArgs::default().to_overrides().apply_to(before), before);
        let args = ThrottleArgs {
            bandwidth: Some(7),
            max_cow_memory: Some(MemoryLimit::Bytes(0)),
            max_replica_lag: Some(9),
            ..ThrottleArgs::default()
        };
        assert_eq!(
            args.to_overrides().apply_to(before),
            ThrottleLimits { bandwidth: 7, max_lag_bytes: 9, max_cow_memory: None, ..before }
        );
    }
}
