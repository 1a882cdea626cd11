//! Many hosts at once: bounded parallelism, one session a host, requests and their events, cancellation.

mod lock;
mod run;
mod session;

pub use lock::Denied;
pub use run::Fleet;
pub use session::{OnEvent, RequestError, Session, Supply};
