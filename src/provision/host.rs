//! Provisioning on the host: plans a catalog against the host, and applies it play by play.

mod apply;
mod pending_handlers;
mod plan;
mod secrets;

pub use apply::apply_play;
pub use plan::{PreparedCatalog, plan_catalog};
