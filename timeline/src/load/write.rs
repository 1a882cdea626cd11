//! Writers at a given rate. Every write has an id of its own and is repeated with it until acknowledged.

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{Base, acks::Acks, client::Client};

/// Time for which writes that are not acknowledged yet are repeated after the end.
const LAST_CHANCE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// A writer that waits for its turn looks this often whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The load to write.
#[derive(Debug, Clone)]
pub struct Options {
    /// The services; writers are spread over them.
    pub bases: Vec<Base>,
    /// Number of users whose timelines are written to.
    pub users: u64,
    /// Number of writers, each with a connection of its own and one write at a time.
    pub writers: u64,
    /// Writes per second of all writers together; a writer that is late does not wait.
    pub rate: f64,
    /// The file of acknowledgements.
    pub acks: PathBuf,
    /// Print a line each second on stderr.
    pub progress: bool,
}

/// Result of the load.
#[derive(Debug, Clone, Serialize)]
pub struct WriteSummary {
    /// Writes acknowledged.
    pub acked: u64,
    /// Attempts that failed, or of which nothing was heard; each was repeated.
    pub errors: u64,
    /// Writes given up after the end without an acknowledgement.
    pub unacknowledged: u64,
    /// The longest time from a write's first attempt to its acknowledgement.
    pub longest_gap_ms: f64,
    /// The median of those times.
    pub p50_ms: f64,
    /// Their 99th percentile.
    pub p99_ms: f64,
}

/// Shared state of the writers.
struct Shared {
    options: Options,
    start: Instant,
    /// Ids grow and are new in every run: milliseconds since 1970 in the upper 41 bits, counted on from there.
    first_id: u64,
    writes: AtomicU64,
    acked: AtomicU64,
    errors: AtomicU64,
    longest_us: AtomicU64,
    ended: AtomicBool,
}

/// Writes until `end` completes. Error: a write that no repetition can bring through, or the file cannot be written.
pub async fn write(options: Options, end: impl Future<Output = ()> + Send) -> anyhow::Result<WriteSummary> {
    if options.users == 0 || options.writers == 0 || options.rate <= 0.0 || options.bases.is_empty() {
        bail!("users, writers, rate and the number of services must be above zero");
    }
    let acks = Acks::append(&options.acks)?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let shared = Arc::new(Shared {
        options,
        start: Instant::now(),
        first_id: u64::try_from(now_ms)? << 12,
        writes: AtomicU64::new(0),
        acked: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        longest_us: AtomicU64::new(0),
        ended: AtomicBool::new(false),
    });
    let mut writers = JoinSet::new();
    for number in 0..shared.options.writers {
        writers.spawn(writer(shared.clone(), number, acks.sender()));
    }
    let times = run(&shared, &mut writers, end).await;
    // whatever went wrong: what was acknowledged must be in the file
    writers.shutdown().await;
    acks.finish()?;
    Ok(summary(&shared, times?))
}

type Times = Vec<u32>;

async fn run(
    shared: &Shared,
    writers: &mut JoinSet<anyhow::Result<Times>>,
    end: impl Future<Output = ()> + Send,
) -> anyhow::Result<Times> {
    let mut end = std::pin::pin!(end);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut times = Vec::new();
    loop {
        tokio::select! {
            () = &mut end, if !shared.ended.load(Ordering::Relaxed) => shared.ended.store(true, Ordering::Relaxed),
            _ = second.tick(), if shared.options.progress => progress(shared),
            finished = writers.join_next() => match finished {
                Some(finished) => times.extend(finished??),
                None => return Ok(times),
            },
        }
    }
}

#[allow(clippy::print_stderr, reason = "--progress asks for it")]
fn progress(shared: &Shared) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let gap = read(&shared.longest_us) as f64 / 1000.0;
    let (acked, errors, seconds) = (read(&shared.acked), read(&shared.errors), shared.start.elapsed().as_secs());
    eprintln!("{seconds} s: {acked} acknowledged, {errors} errors, longest gap {gap:.1} ms");
}

/// One writer; returns how long each of its writes took, in microseconds.
async fn writer(shared: Arc<Shared>, number: u64, acks: Sender<(u64, u64)>) -> anyhow::Result<Times> {
    let mut client = Client::new(shared.options.bases.clone(), usize::try_from(number)?);
    let mut times = Vec::new();
    for turn in 0u64.. {
        let at = (turn * shared.options.writers + number) as f64 / shared.options.rate;
        if !wait_until(&shared, shared.start + Duration::from_secs_f64(at)).await {
            break;
        }
        let count = shared.writes.fetch_add(1, Ordering::Relaxed);
        let (uid, id) = (scatter(count) % shared.options.users + 1, shared.first_id + count);
        let sent = Instant::now();
        if !push(&shared, &mut client, uid, id).await? {
            break;
        }
        let took = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
        times.push(took);
        shared.longest_us.fetch_max(took.into(), Ordering::Relaxed);
        shared.acked.fetch_add(1, Ordering::Relaxed);
        if acks.send((uid, id)).is_err() {
            bail!("acknowledgements can no longer be noted");
        }
    }
    Ok(times)
}

/// Waits for a turn; `false` where the end came first.
async fn wait_until(shared: &Shared, turn: Instant) -> bool {
    while !shared.ended.load(Ordering::Relaxed) {
        let left = turn.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
    false
}

/// Repeats one write until it is acknowledged; `false` where that did not happen in time after the end.
async fn push(shared: &Shared, client: &mut Client, uid: u64, id: u64) -> anyhow::Result<bool> {
    let path = format!("/v1/timelines/{uid}/entries");
    let mut give_up_at = None;
    loop {
        match client.post(&path, format!("{{\"id\":{id}}}")).await {
            Ok((status, _)) if status.as_u16() == 201 => return Ok(true),
            Ok((status, body)) if status.is_client_error() => {
                bail!("{path} answered {status}: {}", String::from_utf8_lossy(&body));
            }
            // not applied or not known: for an entry of a sorted set the same id again is right for both
            Ok(_) | Err(_) => shared.errors.fetch_add(1, Ordering::Relaxed),
        };
        if shared.ended.load(Ordering::Relaxed) {
            let end = *give_up_at.get_or_insert_with(|| Instant::now() + LAST_CHANCE);
            if Instant::now() >= end {
                return Ok(false);
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Spreads consecutive numbers (SplitMix64's finaliser).
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn summary(shared: &Shared, mut times: Times) -> WriteSummary {
    times.sort_unstable();
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times.get(index.min(times.len().saturating_sub(1))).map_or(0.0, |us| f64::from(*us) / 1000.0)
    };
    let acked = shared.acked.load(Ordering::Relaxed);
    WriteSummary {
        acked,
        errors: shared.errors.load(Ordering::Relaxed),
        unacknowledged: shared.writes.load(Ordering::Relaxed) - acked,
        longest_gap_ms: at(1.0),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    }
}
