//! How long writes are held: moves back and forth under 10,000 writes a second, and `FAILOVER TO` beside them.

use std::time::{Duration, Instant};

use dunlin::wire::shard::{MoveSpec, Reply, Request};

use crate::client::{Client, Seen};
use crate::places::{self, Places, admin, within};

/// Writes a second to the moving shard.
const RATE: u64 = 10_000;
/// Writes around a switch, about 100 ms of them.
const WINDOW: u64 = RATE / 10;

/// Gaps in milliseconds.
pub struct Gaps {
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

pub fn measure(moves: usize, failovers: usize, appendfsync: &'static str) -> Gaps {
    let mut places = Places::with(2, appendfsync);
    places.provision(0).unwrap();
    let address = places.address(0);
    let mut client = Client::start(places.folder.path(), &address, (places::APP, places::APP_PASSWORD), RATE);
    client.await_acked(RATE);
    let mut gaps = Gaps {
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
    client.total();
    let begin = Instant::now();
    for _ in 0..moves {
        one(&mut places, &mut client, &mut gaps, (from, to));
        (from, to) = (to, from);
    }
    gaps.acked = client.total();
    gaps.rate = gaps.acked as f64 / begin.elapsed().as_secs_f64();
    if failovers > 0 {
        await_replica(&mut admin(&places.address(from)).unwrap());
    }
    for _ in 0..failovers {
        let seen = failover(&places, &mut client, from, to);
        gaps.failover.push(ms(seen.gap));
        (from, to) = (to, from);
    }
    gaps
}

/// One move, as a run makes it: copy, arm, switch. Both windows are as long.
fn one(places: &mut Places, client: &mut Client, gaps: &mut Gaps, (from, to): (u8, u8)) {
    let spec = MoveSpec { source_is_armed: true, ..places.spec(from, to) };
    places.handle(Request::Copy(spec.clone())).unwrap();
    let arm = places.arm(from, 1);
    client.seen();
    client.await_acked(WINDOW);
    gaps.idle.push(ms(client.seen().gap));
    places.handle(arm).unwrap();
    let Reply::Switched(switched) = places.handle(Request::Switch(spec)).unwrap() else { panic!() };
    client.await_acked(WINDOW / 2);
    let seen = client.seen();
    client.publish(&places.address(to));
    gaps.client.push(ms(seen.gap));
    gaps.slowest.push(ms(seen.slowest));
    gaps.host.push(switched.gap_us as f64 / 1000.0);
    gaps.retries += switched.retries;
}

/// Redis' own planned failover between the same two instances.
fn failover(places: &Places, client: &mut Client, from: u8, to: u8) -> Seen {
    let mut source = admin(&places.address(from)).unwrap();
    let target = places.address(to);
    let (host, port) = target.rsplit_once(':').unwrap();
    client.seen();
    redis::cmd("FAILOVER").arg("TO").arg(host).arg(port).arg("TIMEOUT").arg(5000).exec(&mut source).unwrap();
    let mut heir = admin(&target).unwrap();
    within(Duration::from_secs(10), || {
        let (there, here) = (info(&mut heir), info(&mut source));
        there.contains("role:master") && here.contains("role:slave") && here.contains("master_link_status:up")
    });
    client.await_acked(RATE / 10);
    let seen = client.seen();
    client.publish(&target);
    // The next one starts from an attached replica.
    await_replica(&mut heir);
    seen
}

fn await_replica(primary: &mut redis::Connection) {
    within(Duration::from_secs(10), || info(primary).contains("state=online"));
}

fn info(connection: &mut redis::Connection) -> String {
    redis::cmd("INFO").arg("replication").query(connection).unwrap()
}

fn ms(time: Duration) -> f64 {
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
pub fn told(name: &str, values: &[f64]) {
    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| percentile(values, share));
    eprintln!("{name}: {} times, p50 {p50:.2} ms, p99 {p99:.2} ms, longest {most:.2} ms", values.len());
}

pub fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begin = Instant::now();
    let done = work();
    (done, begin.elapsed().as_secs_f64())
}
