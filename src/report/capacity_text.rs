//! The forecast of `dunlin shards capacity` as text.

use crate::inventory::ByteSize;
use crate::rebalance::capacity::Forecast;

/// Returns the lines of a forecast: one per host, then the cluster.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures for a reader")]
pub fn format_forecast(forecast: &Forecast) -> Vec<String> {
    let human = |bytes: f64| ByteSize(bytes.max(0.0) as u64).to_human().to_string();
    let mut lines: Vec<String> = forecast
        .hosts
        .iter()
        .map(|host| {
            let (bytes, usable) =
                (ByteSize(host.bytes).to_human().to_string(), ByteSize(host.usable_bytes).to_human().to_string());
            let max_keys = host.max_keys.map(|max| format!(" of about {max}")).unwrap_or_default();
            let full = host.full_in_days.map_or("not growing".to_owned(), |days| format!("full {}", format_date(days)));
            format!("{:<16} {bytes:>9} of {usable:>9}  {:>8} keys{max_keys}; {full}", host.name, host.keys)
        })
        .collect();
    if let Some(bytes) = forecast.bytes_per_key {
        lines.push(format!("{} per key on average", human(bytes)));
    }
    match (forecast.growth_per_day, forecast.full_in_days, forecast.full_in_days_with_added_host) {
        (Some(growth), Some(days), Some(more)) => lines.push(format!(
            "grows by {} per day: full {} if balanced; with one more host of average size: {} per host, full {}",
            human(growth),
            format_date(days),
            ByteSize(forecast.bytes_with_added_host).to_human(),
            format_date(more)
        )),
        (None, ..) => {
            lines.push("growth is unknown: run the command again after at least one hour, or set --growth".to_owned())
        }
        _ => lines.push("the cluster is not growing".to_owned()),
    }
    lines
}

/// Formats the date in that many days.
#[expect(clippy::cast_possible_truncation, reason = "at most ten years of seconds")]
fn format_date(days: f64) -> String {
    if days > 3650.0 {
        return "in more than ten years".to_owned();
    }
    let then = jiff::Timestamp::now() + jiff::SignedDuration::from_secs((days * 86400.0) as i64);
    format!("on {}", then.strftime("%Y-%m-%d"))
}
