//! Types that provision, deploy and rebalance share: actions, rows, plans, fingerprints. No I/O.

mod action;
mod count;
mod digest;
mod digest_key;
mod host_plan;
mod named_enum;
mod resource_change;
mod seal;

pub use action::Action;
pub use count::format_count;
pub use digest::{Digest, DigestHasher, digest_json};
pub use digest_key::DigestKey;
pub use host_plan::{ChangeCounts, HostPlan};
pub(crate) use named_enum::named_enum;
pub use resource_change::{AttributeChange, PlannedRow, ResourceChange, StepRef};
pub use seal::{SealError, open_sealed_json, to_sealed_json};
