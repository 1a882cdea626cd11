//! The timeline service: what dunlin deploys.
//!
//! In reading order: [`store`] (timelines as sorted sets, behind the shards), [`api`] (REST in front of it), [`serve`] (from
//! a listener to a graceful end), [`load`] (writers that note each acknowledgement, and the proof that none was lost).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "programs of their own: they print their figures"
)]

pub mod api;
pub mod load;
pub mod serve;
pub mod store;

/// The version of the service: that of the release it was built for, otherwise the crate's.
pub const VERSION: &str = match option_env!("TIMELINE_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
