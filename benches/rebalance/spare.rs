//! What clients wait while a shard is copied: without limits, and with `--max-p99`.

use std::time::Duration;

use dunlin::wire::shard::{MoveSpec, Reply, Request};
use dunlin::wire::sparing::Sparing;

use crate::bulk::{fill, shard};
use crate::client::Client;
use crate::gap::timed;
use crate::places::{self, app, connect};

/// Writes a second to the shard that is copied.
const RATE: u64 = 2_000;
/// What `--max-p99` is set to, in milliseconds.
pub const LIMIT: u64 = 5;
/// How long clients are looked at without a copy.
const IDLE: Duration = Duration::from_secs(5);

/// 99 of 100 writes took no longer than so many milliseconds; and the seconds that each copy took.
pub struct Spared {
    pub idle: f64,
    pub free: (f64, f64),
    pub guarded: (f64, f64),
}

/// Copies the same shard twice under the same writes.
pub fn measure(keys: usize) -> Spared {
    let mut places = shard();
    places.provision(0).unwrap();
    let address = places.address(0);
    fill(&mut connect(&address, &app()).unwrap(), (0..keys).map(|n| format!("tl:{n}")));
    let client = Client::start(places.folder.path(), &address, (places::APP, places::APP_PASSWORD), RATE);
    client.await_acked(RATE);
    let spec = places.spec(0, 1);
    let mut limits = spec.limits;
    limits.sparing = Sparing { p99_ms: LIMIT, ..Sparing::default() };
    let guarded = MoveSpec { limits, ..spec.clone() };

    client.wait_p99_ms();
    std::thread::sleep(IDLE);
    let idle = client.wait_p99_ms();
    let [free, guarded] = [spec, guarded].map(|spec| {
        std::thread::sleep(IDLE);
        client.wait_p99_ms();
        let (copied, seconds) = timed(|| places.handle(Request::Copy(spec.clone())).unwrap());
        assert!(matches!(copied, Reply::Copied(_)));
        let waited = client.wait_p99_ms();
        assert_eq!(places.handle(Request::Abort(spec)).unwrap(), Reply::Aborted);
        (waited, seconds)
    });
    Spared { idle, free, guarded }
}
