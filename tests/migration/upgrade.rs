//! An upgrade of many small shards to another server under writes, as `dunlin shards restart` does it: each shard moves
//! to an instance of the new server and back to its place, where an instance of the new server starts. `script/bench
//! upgrade` runs it.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{MoveFixture, connect_admin};
use crate::invariants::info_field;
use crate::moves::{run_copy, run_retire, run_switch};
use crate::servers::{newer_server, run_preflight};
use crate::verification::fill_all_types;
use crate::writers::MoveWriters;

/// Pause of a shard's writer between two writes: 64 of them make about 3,000 writes per second.
const WRITE_PAUSE: Duration = Duration::from_millis(20);

/// A shard with its writer.
struct WrittenShard {
    fixture: MoveFixture,
    writers: MoveWriters,
}

/// Figures of some moves.
#[derive(Clone, Copy, Debug, Default)]
struct UpgradeFigures {
    moves: usize,
    longest_pause: Duration,
}

impl WrittenShard {
    fn start() -> Self {
        let mut fixture = MoveFixture::with_appendfsync(2, "always");
        fixture.provision_primary(0).unwrap();
        fill_all_types(&fixture);
        let writers = MoveWriters::start_with_pause(1, &fixture.address(0), WRITE_PAUSE);
        Self { fixture, writers }
    }

    /// Moves the shard to an instance of the new server, and back to a new one at its place.
    fn upgrade(&mut self, server: &str) -> UpgradeFigures {
        let mut figures = UpgradeFigures::default();
        for (from, to) in [(0, 1), (1, 0)] {
            self.fixture.set_server(to, server);
            assert_eq!(run_preflight(&mut self.fixture, from, to), []);
            let spec = self.fixture.move_spec(from, to);
            let copied = run_copy(&self.fixture, spec.clone()).unwrap();
            assert!(copied.verification.is_equal(), "{copied:?}");
            let switched = run_switch(&self.fixture, spec).unwrap();
            assert_eq!(switched.follow_ups, Vec::<String>::new());
            self.writers.publish_address(&self.fixture.address(to));
            self.writers.wait_for_writes(3);
            run_retire(&mut self.fixture, from, to);
            figures.moves += 1;
            figures.longest_pause = figures.longest_pause.max(Duration::from_micros(switched.gap_us));
        }
        figures
    }

    fn version(&self) -> String {
        let mut connection = connect_admin(&self.fixture.address(0)).unwrap();
        match info_field(&mut connection, "server", "valkey_version") {
            valkey if !valkey.is_empty() => format!("valkey-{valkey}"),
            _ => format!("redis-{}", info_field(&mut connection, "server", "redis_version")),
        }
    }
}

fn number_from_env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

#[test]
#[ignore = "takes minutes and needs a second server: script/bench upgrade"]
fn an_upgrade_of_many_shards_loses_no_write() {
    let (count, concurrent) =
        (number_from_env("DUNLIN_UPGRADE_SHARDS", 64), number_from_env("DUNLIN_UPGRADE_CONCURRENT", 2));
    let server = newer_server();
    let waiting: Mutex<VecDeque<WrittenShard>> = Mutex::new((0..count).map(|_| WrittenShard::start()).collect());
    let (old, waits_before) = {
        let shards = waiting.lock().unwrap();
        // The first writes connect.
        for writes in [5, 50] {
            shards.iter().for_each(|shard| shard.writers.reset_gaps());
            shards.iter().for_each(|shard| shard.writers.wait_for_writes(writes));
        }
        let wait = shards.iter().map(|shard| shard.writers.longest_wait()).max().unwrap();
        shards.iter().for_each(|shard| shard.writers.reset_gaps());
        (shards[0].version(), wait)
    };
    let started = Instant::now();
    let upgraded = Mutex::new((Vec::new(), Vec::new()));
    thread::scope(|scope| {
        for _ in 0..concurrent {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap().pop_front();
                    let Some(mut shard) = next else { return };
                    let figures = shard.upgrade(&server);
                    let mut upgraded = upgraded.lock().unwrap();
                    upgraded.0.push(shard);
                    upgraded.1.push(figures);
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let (mut shards, figures) = upgraded.into_inner().unwrap();
    assert_eq!(shards.len(), count);
    let new = shards[0].version();
    let (mut acked, mut lost) = (0, 0);
    for shard in &mut shards {
        assert_eq!(shard.version(), new);
        assert_eq!(shard.fixture.writable_instances(), [0]);
        shard.writers.stop_writers();
        acked += shard.writers.acked_count();
        lost += shard.writers.lost_writes(&shard.fixture.address(0)).len();
        shard.writers.check_counters(&shard.fixture.address(0));
    }
    let moves: usize = figures.iter().map(|figures| figures.moves).sum();
    let longest_pause = figures.iter().map(|figures| figures.longest_pause).max().unwrap();
    let longest_wait = shards.iter().map(|shard| shard.writers.longest_wait()).max().unwrap();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    // Past the capture of the test harness: this line is the result of the benchmark.
    writeln!(
        std::io::stdout(),
        "bench upgrade: shards={count} moves={moves} from={old} to={new} acked={acked} lost={lost} \
         longest_pause_ms={:.1} longest_wait_ms={:.1} longest_wait_before_ms={:.1} seconds={seconds:.1}",
        milliseconds(longest_pause),
        milliseconds(longest_wait),
        milliseconds(waits_before),
    )
    .unwrap();
    assert_eq!(lost, 0);
}
