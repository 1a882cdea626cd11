//! Measures how long writes are held: moves back and forth at 10,000 writes per second, compared with `FAILOVER TO`.

use std::time::{Duration, Instant};

use dunlin::protocol::shard::{MoveSpec, ShardReply, ShardRequest};

use crate::client::{LoadClient, WriteStats};
use crate::fixture::{self, MoveFixture, connect_admin, wait_until};

/// Writes a second to the moving shard.
const WRITE_RATE: u64 = 10_000;
/// Writes around a switch, about 100 ms of them.
const SWITCH_WINDOW: u64 = WRITE_RATE / 10;

/// Gaps in milliseconds.
pub struct GapSamples {
    /// As the writers saw it: the longest time without an acknowledgement, from the switch's beginning to its end.
    pub client: Vec<f64>,
    /// The longest time that one write took.
    pub slowest: Vec<f64>,
    /// As the host saw it: from the pause to the opening.
    pub host: Vec<f64>,
    /// Attempts that were given up.
    pub retries: u32,
    /// The longest time without an acknowledgement in as long a time before each switch: what the machine does anyway.
    pub idle: Vec<f64>,
    /// `FAILOVER TO`, as the writers saw it.
    pub failover: Vec<f64>,
    /// Acknowledged writes during the moves, and how many a second.
    pub acked: u64,
    pub rate: f64,
}

pub fn measure_gaps(moves: usize, failovers: usize, appendfsync: &'static str) -> GapSamples {
    let mut fixture = MoveFixture::with_appendfsync(2, appendfsync);
    fixture.provision_primary(0).unwrap();
    let address = fixture.address(0);
    let mut client = LoadClient::start_writers(
        fixture.folder.path(),
        &address,
        (fixture::APP_USER, fixture::APP_PASSWORD),
        WRITE_RATE,
    );
    client.wait_for_acks(WRITE_RATE);
    let mut gaps = GapSamples {
        client: Vec::new(),
        slowest: Vec::new(),
        host: Vec::new(),
        retries: 0,
        idle: Vec::new(),
        failover: Vec::new(),
        acked: 0,
        rate: 0.0,
    };
    let (mut from, mut to) = (0, 1);
    client.take_total();
    let begin = Instant::now();
    for _ in 0..moves {
        measure_move(&mut fixture, &mut client, &mut gaps, (from, to));
        (from, to) = (to, from);
    }
    gaps.acked = client.take_total();
    gaps.rate = gaps.acked as f64 / begin.elapsed().as_secs_f64();
    if failovers > 0 {
        wait_for_replica(&mut connect_admin(&fixture.address(from)).unwrap());
    }
    for _ in 0..failovers {
        let seen = measure_failover(&fixture, &mut client, from, to);
        gaps.failover.push(to_ms(seen.gap));
        (from, to) = (to, from);
    }
    gaps
}

/// One move, as a run makes it: copy, arm, switch. Both windows are as long.
fn measure_move(fixture: &mut MoveFixture, client: &mut LoadClient, gaps: &mut GapSamples, (from, to): (u8, u8)) {
    let spec = MoveSpec { source_file_requires_replicas: true, ..fixture.move_spec(from, to) };
    fixture.run_request(ShardRequest::Copy(spec.clone())).unwrap();
    let arm = fixture.min_replicas_request(from, 1);
    client.take_stats();
    client.wait_for_acks(SWITCH_WINDOW);
    gaps.idle.push(to_ms(client.take_stats().gap));
    fixture.run_request(arm).unwrap();
    let ShardReply::CutOver(switched) = fixture.run_request(ShardRequest::CutOver(spec)).unwrap() else { panic!() };
    client.wait_for_acks(SWITCH_WINDOW / 2);
    let seen = client.take_stats();
    client.publish_map(&fixture.address(to));
    gaps.client.push(to_ms(seen.gap));
    gaps.slowest.push(to_ms(seen.slowest));
    gaps.host.push(switched.gap_us as f64 / 1000.0);
    gaps.retries += switched.retries;
}

/// Redis' own planned failover between the same two instances.
fn measure_failover(fixture: &MoveFixture, client: &mut LoadClient, from: u8, to: u8) -> WriteStats {
    let mut source = connect_admin(&fixture.address(from)).unwrap();
    let target = fixture.address(to);
    let (host, port) = target.rsplit_once(':').unwrap();
    client.take_stats();
    redis::cmd("FAILOVER").arg("TO").arg(host).arg(port).arg("TIMEOUT").arg(5000).exec(&mut source).unwrap();
    let mut promoted = connect_admin(&target).unwrap();
    wait_until(Duration::from_secs(10), || {
        let (there, here) = (replication_info(&mut promoted), replication_info(&mut source));
        there.contains("role:master") && here.contains("role:slave") && here.contains("master_link_status:up")
    });
    client.wait_for_acks(WRITE_RATE / 10);
    let seen = client.take_stats();
    client.publish_map(&target);
    // The next one starts from an attached replica.
    wait_for_replica(&mut promoted);
    seen
}

fn wait_for_replica(primary: &mut redis::Connection) {
    wait_until(Duration::from_secs(10), || replication_info(primary).contains("state=online"));
}

fn replication_info(connection: &mut redis::Connection) -> String {
    redis::cmd("INFO").arg("replication").query(connection).unwrap()
}

fn to_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The value below which that share of them lies (nearest rank).
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank in a list")]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// For the reader: half of them, nearly all, the longest.
pub fn print_percentiles(name: &str, values: &[f64]) {
    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| percentile(values, share));
    eprintln!("{name}: {} times, p50 {p50:.2} ms, p99 {p99:.2} ms, longest {most:.2} ms", values.len());
}

pub fn time_call<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begin = Instant::now();
    let done = work();
    (done, begin.elapsed().as_secs_f64())
}
