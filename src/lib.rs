//! d
pub mod rebalance;
