//! What clients wait while a shard is copied: without limits, and with `--max-p99`.

use std::time::Duration;

use dunlin::protocol::shard::{ShardReply, ShardRequest};
use dunlin::protocol::throttle::ThrottleLimits;

use crate::bulk::{fill_keys, large_set_fixture};
use crate::client::LoadClient;
use crate::fixture::{self, app_credentials, connect_as};
use crate::gap::time_call;

/// Writes a second to the shard that is copied.
const WRITE_RATE: u64 = 2_000;
/// What `--max-p99` is set to, in milliseconds.
pub const P99_LIMIT_MS: u64 = 5;
/// How long clients are looked at without a copy.
const IDLE_PERIOD: Duration = Duration::from_secs(5);

/// 99 of 100 writes took no longer than so many milliseconds; and the seconds that each copy took.
pub struct ThrottleTimes {
    pub idle: f64,
    pub unlimited: (f64, f64),
    pub limited: (f64, f64),
}

/// Copies the same shard twice under the same writes.
pub fn measure_throttle(keys: usize) -> ThrottleTimes {
    let mut fixture = large_set_fixture();
    fixture.provision_primary(0).unwrap();
    let address = fixture.address(0);
    fill_keys(&mut connect_as(&address, &app_credentials()).unwrap(), (0..keys).map(|n| format!("tl:{n}")));
    let client = LoadClient::start_writers(
        fixture.folder.path(),
        &address,
        (fixture::APP_USER, fixture::APP_PASSWORD),
        WRITE_RATE,
    );
    client.wait_for_acks(WRITE_RATE);
    let spec = fixture.move_spec(0, 1);
    let mut guarded = spec.clone();
    guarded.record.throttle = ThrottleLimits { max_p99_ms: P99_LIMIT_MS, ..ThrottleLimits::default() };

    client.wait_p99_ms();
    std::thread::sleep(IDLE_PERIOD);
    let idle = client.wait_p99_ms();
    let [free, guarded] = [spec, guarded].map(|spec| {
        std::thread::sleep(IDLE_PERIOD);
        client.wait_p99_ms();
        let (copied, seconds) = time_call(|| fixture.run_request(ShardRequest::Copy(spec.clone())).unwrap());
        assert!(matches!(copied, ShardReply::Copy(_)));
        let waited = client.wait_p99_ms();
        assert_eq!(fixture.run_request(ShardRequest::Abort(spec)).unwrap(), ShardReply::Abort(()));
        (waited, seconds)
    });
    ThrottleTimes { idle, unlimited: free, limited: guarded }
}
