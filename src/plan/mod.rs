//! The vocabulary that provision, deploy and rebalance share: actions, rows, plans, fingerprints. No I/O.

mod action;
mod digest;
mod host_plan;
mod row;

pub use action::Action;
pub use digest::{Digest, digest_of};
pub use host_plan::{Counts, HostPlan};
pub use row::{Change, Row, StepRef};
