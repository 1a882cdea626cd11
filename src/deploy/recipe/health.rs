//! `[health]` of a recipe.

use std::ops::Range;

use serde::Deserialize;

use super::reader::RecipeReader;
use crate::deploy::batches::DurationMs;
use crate::protocol::deploy::{HealthCheck, HealthProbe};

/// Default time for a release to become healthy, in milliseconds.
const DEFAULT_HEALTH_TIMEOUT_MS: u64 = 30_000;
/// Default time for which a release must stay healthy before its batch counts, in milliseconds.
const DEFAULT_STEADY_MS: u64 = 5_000;
/// Default interval between two health checks, in milliseconds.
pub(super) const DEFAULT_HEALTH_INTERVAL_MS: u64 = 250;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthTable {
    http: Option<String>,
    status: Option<u16>,
    expect: Option<String>,
    tcp: Option<String>,
    command: Option<Vec<String>>,
    timeout: Option<DurationMs>,
    interval: Option<DurationMs>,
    steady: Option<SteadyTable>,
    pub(super) hosts: Option<String>,
}

/// `steady` of a health check: a duration, or `"0s"`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct SteadyTable(u64);

impl TryFrom<String> for SteadyTable {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "0s" { Ok(Self(0)) } else { DurationMs::parse_duration(&text).map(|duration| Self(duration.0)) }
    }
}

impl RecipeReader<'_> {
    pub(super) fn read_health(&mut self, table: Option<(Range<usize>, HealthTable)>) -> HealthCheck {
        let Some((span, table)) = table else {
            return HealthCheck {
                probe: None,
                timeout_ms: DEFAULT_HEALTH_TIMEOUT_MS,
                interval_ms: DEFAULT_HEALTH_INTERVAL_MS,
                steady_ms: DEFAULT_STEADY_MS,
            };
        };
        if table.status.is_some() && table.http.is_none() {
            self.add_error(&span, "`status` goes with `http`", None);
        }
        if table.expect.is_some() && table.http.is_none() {
            self.add_error(&span, "`expect` goes with `http`", None);
        }
        if table.expect.as_deref() == Some("") {
            self.add_error(&span, "`expect` is empty", None);
        }
        if let Some(url) = &table.http {
            self.check_url(&span, url);
        }
        if let Some(address) = &table.tcp {
            self.check_address(&span, address);
        }
        if let Some(argv) = &table.command {
            self.check_argv(&span, argv);
        }
        let probe = match (table.http, table.tcp, table.command) {
            (Some(url), None, None) => {
                Some(HealthProbe::Http { url, status: table.status.unwrap_or(200), expect: table.expect })
            }
            (None, Some(address), None) => Some(HealthProbe::Tcp { address }),
            (None, None, Some(argv)) => Some(HealthProbe::Command { argv }),
            (None, None, None) => None,
            _ => {
                self.add_error(&span, "a health check is one of `http`, `tcp` and `command`", None);
                None
            }
        };
        let timeout_ms = table.timeout.map_or(DEFAULT_HEALTH_TIMEOUT_MS, |span| span.0);
        let interval_ms = table.interval.map_or(DEFAULT_HEALTH_INTERVAL_MS, |span| span.0);
        if interval_ms > timeout_ms {
            self.add_error(&span, "`interval` is longer than `timeout`", None);
        }
        let steady_ms = table.steady.map_or(DEFAULT_STEADY_MS, |steady| steady.0);
        HealthCheck { probe, timeout_ms, interval_ms, steady_ms }
    }
}
