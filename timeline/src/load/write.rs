//! Writers at a given rate. Every write has an id or an idempotency key of its own, and is repeated with it until
//! acknowledged.

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

use anyhow::{Context as _, bail};
use hyper::{Method, body::Bytes};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{
    Base,
    acks::Acks,
    client::{ApiCall, Client},
    graph::{Graph, scatter},
};

/// Time for which writes that are not acknowledged yet are repeated after the end.
const LAST_CHANCE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// A writer that waits for its turn looks this often whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Number of tweets after which a writer also reads its author's home timeline.
const READ_EVERY: u64 = 4;

/// Kind of the writes.
#[derive(Debug, Clone)]
pub enum Target {
    /// Entries of plain sorted sets (mode `entries`), of this number of users.
    Entries(u64),
    /// Tweets of the users of a graph.
    Tweets(Arc<Graph>),
}

/// The load to write.
#[derive(Debug, Clone)]
pub struct Options {
    /// The services; writers are spread over them.
    pub bases: Vec<Base>,
    /// Kind of the writes.
    pub target: Target,
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
    /// Writes without an acknowledgement at the end.
    pub unacknowledged: u64,
    /// The longest time from a request's first attempt to its acknowledgement.
    pub longest_gap_ms: f64,
    /// The median of those times of writes.
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
    if options.target.users() == 0 || options.writers == 0 || options.rate <= 0.0 || options.bases.is_empty() {
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

/// Runs a writer; returns the duration of each of its writes, in microseconds.
async fn writer(shared: Arc<Shared>, number: u64, acks: Sender<(u64, u64)>) -> anyhow::Result<Times> {
    let mut client = Client::new(shared.options.bases.clone(), usize::try_from(number)?);
    let mut times = Vec::new();
    for turn in 0u64.. {
        let at = (turn * shared.options.writers + number) as f64 / shared.options.rate;
        if !wait_until(&shared, shared.start + Duration::from_secs_f64(at)).await {
            break;
        }
        let count = shared.writes.fetch_add(1, Ordering::Relaxed);
        let write = Write::new(&shared, count)?;
        let sent = Instant::now();
        let Some(body) = send_until_acknowledged(&shared, &mut client, &write.call, 201).await? else { break };
        let took = shared.note_time(sent);
        times.push(took);
        shared.acked.fetch_add(1, Ordering::Relaxed);
        let id = write.id.map_or_else(|| created_id(&body), Ok)?;
        if acks.send((write.user, id)).is_err() {
            bail!("acknowledgements can no longer be noted");
        }
        if turn % READ_EVERY == 0
            && let Some(token) = &write.call.token
        {
            let (read, sent) = (ApiCall::get("/v1/timelines/home", Some(token)), Instant::now());
            if send_until_acknowledged(&shared, &mut client, &read, 200).await?.is_some() {
                shared.note_time(sent);
            }
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

impl Target {
    fn users(&self) -> u64 {
        match self {
            Target::Entries(users) => *users,
            Target::Tweets(graph) => graph.users.len() as u64,
        }
    }
}

impl Shared {
    /// Notes how long a request took since its first attempt; returns it in microseconds.
    fn note_time(&self, sent: Instant) -> u32 {
        let took = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.longest_us.fetch_max(took.into(), Ordering::Relaxed);
        took
    }
}

/// Makes one write.
struct Write {
    user: u64,
    /// The entry's id; a tweet gets its id from the service.
    id: Option<u64>,
    call: ApiCall,
}

impl Write {
    /// Makes the write with a number.
    fn new(shared: &Shared, count: u64) -> anyhow::Result<Write> {
        let (id, index) = (shared.first_id + count, scatter(count) % shared.options.target.users());
        match &shared.options.target {
            Target::Entries(_) => {
                let user = index + 1;
                let path = format!("/v1/timelines/{user}/entries");
                let json = format!("{{\"id\":{id}}}");
                Ok(Write {
                    user,
                    id: Some(id),
                    call: ApiCall { method: Method::POST, path, json, ..ApiCall::default() },
                })
            }
            Target::Tweets(graph) => {
                let author = graph.users.get(usize::try_from(index)?).context("the graph has no users")?;
                let call = ApiCall {
                    method: Method::POST,
                    path: "/v1/tweets".to_owned(),
                    token: Some(author.token.clone()),
                    idempotency_key: Some(id.to_string()),
                    json: format!("{{\"body\":\"tweet {id}\"}}"),
                };
                Ok(Write { user: author.id, id: None, call })
            }
        }
    }
}

/// Reads the id in the response to a post.
fn created_id(body: &Bytes) -> anyhow::Result<u64> {
    #[derive(Deserialize)]
    struct CreatedTweet {
        id: u64,
    }
    let CreatedTweet { id } = serde_json::from_slice(body).context("the response to a post")?;
    Ok(id)
}

/// Repeats one request until it is answered with `status`; `None` where that did not happen in time after the end.
async fn send_until_acknowledged(
    shared: &Shared,
    client: &mut Client,
    call: &ApiCall,
    status: u16,
) -> anyhow::Result<Option<Bytes>> {
    let mut give_up_at = None;
    loop {
        match client.send(call).await {
            Ok((answered, body)) if answered.as_u16() == status => return Ok(Some(body)),
            Ok((answered, body)) if answered.is_client_error() => {
                bail!("{} answered {answered}: {}", call.path, String::from_utf8_lossy(&body));
            }
            // not applied or not known: the same id or key again is right for both
            Ok(_) | Err(_) => shared.errors.fetch_add(1, Ordering::Relaxed),
        };
        if shared.ended.load(Ordering::Relaxed) {
            let end = *give_up_at.get_or_insert_with(|| Instant::now() + LAST_CHANCE);
            if Instant::now() >= end {
                return Ok(None);
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
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
        longest_gap_ms: shared.longest_us.load(Ordering::Relaxed) as f64 / 1000.0,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    }
}
