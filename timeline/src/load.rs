//! Load and proof: writers that note each acknowledgement, and a reader that looks for every one of them.

mod acks;
mod client;
pub mod deliveries;
pub mod graph;
pub mod verify;
pub mod write;

pub use client::Base;
