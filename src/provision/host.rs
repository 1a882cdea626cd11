//! The half of provisioning that runs on the host: plans a catalogue against the host, and applies it play by play.

mod apply;
mod pending;
mod planned;

pub use apply::apply;
pub use planned::{Planned, plan};
