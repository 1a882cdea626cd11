//! The half of provisioning that runs on the host: plans a catalogue against the host, and applies it play by play.

mod apply;
mod pending_handlers;
mod plan;

pub use apply::apply_play;
pub use plan::{PreparedCatalog, plan_catalog};
