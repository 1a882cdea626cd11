//! Many hosts at once: bounded parallelism, one session per host, requests and their events, cancellation.

mod content_file;
mod frame_stream;
mod lock;
mod parallel;
mod session;
mod session_reader;

pub use content_file::ContentFile;
pub use lock::LockError;
pub use parallel::Fleet;
pub use session::{BlobMap, EventCallback, RequestError, Session};
