//! How fast data moves: whole moves of several shards in parallel, beside a bare full sync of the same instances and
//! beside `redis-cli --cluster rebalance` of the same data.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use dunlin::wire::shard::{Reply, Request};
use dunlin::wire::{Event, Sink};
use redis::Connection;

use crate::gap::timed;
use crate::places::{Places, admin, app, connect, within};

/// Members of one sorted set.
const MEMBERS: usize = 1000;
/// Shards that move at the same time.
const SHARDS: usize = 4;

/// Seconds, and bytes of data.
pub struct Bulk {
    pub bytes: u64,
    /// From the first request until all targets serve.
    pub moves: f64,
    /// Of that, until the last copy had caught up, which is all that a full sync does.
    pub copies: f64,
    /// From `REPLICAOF` until all links are up.
    pub syncs: f64,
}

/// Both ways of the same instances, one after the other; the better of two rounds of each.
pub fn measure(keys: usize) -> Bulk {
    let mut shards: Vec<Places> = (0..SHARDS).map(|_| shard()).collect();
    thread::scope(|scope| {
        for places in &mut shards {
            scope.spawn(|| {
                places.provision(0).unwrap();
                fill(&mut connect(&places.address(0), &app()).unwrap(), (0..keys / SHARDS).map(|n| format!("tl:{n}")));
            });
        }
    });
    let bytes = shards.iter().map(|places| dataset(&mut admin(&places.address(0)).unwrap())).sum();
    let mut best = Bulk { bytes, moves: f64::MAX, copies: f64::MAX, syncs: f64::MAX };
    for _ in 0..2 {
        best.syncs = best.syncs.min(full_syncs(&mut shards));
        let (copies, moves) = moves(&mut shards);
        best.copies = best.copies.min(copies);
        best.moves = best.moves.min(moves);
        // Back to the beginning: the data where they were, the other side empty.
        for places in &mut shards {
            let back = places.spec(1, 0);
            places.handle(Request::Copy(back.clone())).unwrap();
            places.handle(Request::Switch(back)).unwrap();
            let retire = places.retire(1, 0);
            places.handle(Request::Retire(retire)).unwrap();
        }
    }
    best
}

/// Large sorted sets in their large encoding, as in a Redis Cluster with its defaults.
pub fn shard() -> Places {
    let edits =
        vec![("maxmemory 256mb", "maxmemory 4gb"), ("zset-max-listpack-entries 1100", "zset-max-listpack-entries 128")];
    Places::edited(2, "everysec", edits)
}

/// Sorted sets of a thousand members.
pub fn fill(client: &mut Connection, keys: impl Iterator<Item = String>) {
    for key in keys {
        let mut add = redis::cmd("ZADD");
        add.arg(&key);
        for member in 0..MEMBERS {
            add.arg(member).arg(1_000_000_000_000_u64 + member as u64);
        }
        add.exec(client).unwrap();
    }
}

fn dataset(connection: &mut Connection) -> u64 {
    info(connection, "memory", "used_memory_dataset").parse().unwrap()
}

fn info(connection: &mut Connection, section: &str, name: &str) -> String {
    let text: String = redis::cmd("INFO").arg(section).query(connection).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().to_owned()
}

fn full_syncs(shards: &mut [Places]) -> f64 {
    for places in &mut *shards {
        places.provision(1).unwrap();
    }
    let ((), seconds) = timed(|| {
        let mut replicas: Vec<Connection> = shards.iter().map(|places| admin(&places.address(1)).unwrap()).collect();
        for (places, replica) in shards.iter().zip(&mut replicas) {
            let from = places.address(0);
            let (ip, port) = from.rsplit_once(':').unwrap();
            redis::cmd("REPLICAOF").arg(ip).arg(port).exec(replica).unwrap();
        }
        for replica in &mut replicas {
            within(Duration::from_secs(120), || info(replica, "replication", "master_link_status") == "up");
        }
    });
    for places in &*shards {
        places.kill(1);
        // Its process that writes the append-only file may outlive it for a moment.
        within(Duration::from_secs(10), || std::fs::remove_dir_all(places.data(1)).is_ok());
        std::fs::remove_file(places.conf_path(1)).unwrap();
    }
    seconds
}

fn moves(shards: &mut [Places]) -> (f64, f64) {
    let requests: Vec<_> = shards.iter_mut().map(|places| (places.spec(0, 1), &*places)).collect();
    let (copies, seconds) = timed(|| {
        let begin = Instant::now();
        let one = |(spec, places): &(_, &Places)| {
            let comparing = Comparing(begin, OnceLock::new());
            let copied = places.handle_with(Request::Copy(Clone::clone(spec)), &comparing).unwrap();
            assert!(matches!(copied, Reply::Copied(_)));
            let switched = places.handle(Request::Switch(Clone::clone(spec))).unwrap();
            assert!(matches!(switched, Reply::Switched(_)));
            comparing.1.into_inner().expect("every copy is compared")
        };
        thread::scope(|scope| {
            let running: Vec<_> = requests.iter().map(|request| scope.spawn(move || one(request))).collect();
            running.into_iter().map(|running| running.join().unwrap()).fold(0.0, f64::max)
        })
    });
    (copies, seconds)
}

/// Notes when the comparison of a copy begins, in seconds: then it has caught up.
struct Comparing(Instant, OnceLock<f64>);

impl Sink for Comparing {
    fn emit(&self, event: Event) {
        if matches!(event, Event::Progress { phase, .. } if phase == "verify") {
            self.1.get_or_init(|| self.0.elapsed().as_secs_f64());
        }
    }

    fn cancelled(&self) -> bool {
        false
    }
}

/// `redis-cli --cluster rebalance` from three nodes to four: bytes moved, and seconds.
pub fn cluster(keys: usize) -> (u64, f64) {
    let nodes = Nodes::start(4);
    let first: Vec<String> = nodes.addresses[..3].to_vec();
    cli(&[&["--cluster", "create"][..], &first.iter().map(String::as_str).collect::<Vec<_>>(), &["--cluster-yes"]]
        .concat());
    let know = |count: usize| {
        within(Duration::from_secs(30), || {
            nodes.addresses[..count].iter().all(|node| {
                let state: String = redis::cmd("CLUSTER").arg("INFO").query(&mut nodes.connect(node)).unwrap();
                state.contains("cluster_state:ok") && state.contains(&format!("cluster_known_nodes:{count}\r"))
            })
        });
    };
    know(3);
    thread::scope(|scope| {
        for (n, node) in first.iter().enumerate() {
            let mut client = nodes.connect(node);
            // The slots as `create` gives them out, in thirds.
            let own = (0..keys)
                .map(|key| format!("tl:{key}"))
                .filter(move |key| usize::from(dunlin_shards::slot_of(key.as_bytes()).0) * 3 / 16_384 == n);
            scope.spawn(move || fill_where_they_belong(&mut client, own));
        }
    });
    cli(&["--cluster", "add-node", &nodes.addresses[3], &nodes.addresses[0]]);
    know(4);
    let ((), seconds) = timed(|| cli(&["--cluster", "rebalance", &nodes.addresses[0], "--cluster-use-empty-masters"]));
    (dataset(&mut nodes.connect(&nodes.addresses[3])), seconds)
}

/// A key at the border of two thirds may belong to the neighbour: it is left out.
fn fill_where_they_belong(client: &mut Connection, keys: impl Iterator<Item = String>) {
    fill(
        client,
        keys.filter(|key| {
            let slot = dunlin_shards::slot_of(key.as_bytes()).0;
            !(5450..5470).contains(&slot) && !(10_915..10_930).contains(&slot)
        }),
    );
}

fn cli(args: &[&str]) {
    let done = Command::new("redis-cli").args(args).output().unwrap();
    assert!(done.status.success(), "redis-cli {args:?}: {}", String::from_utf8_lossy(&done.stdout));
}

/// Cluster nodes on loopback, without anything on disk.
struct Nodes {
    addresses: Vec<String>,
    running: Vec<std::process::Child>,
    _folder: tempfile::TempDir,
}

impl Nodes {
    fn start(count: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Below the ports of outgoing connections, and with room for the bus at 10,000 more.
        let first = 11_000 + u16::try_from(std::process::id() % 8000).unwrap();
        let mut nodes = Self { addresses: Vec::new(), running: Vec::new(), _folder: folder };
        for n in 0..count {
            let port = (first + n).to_string();
            let data = nodes._folder.path().join(&port);
            std::fs::create_dir(&data).unwrap();
            let mut server = Command::new("redis-server");
            server.args(["--port", &port, "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--save", "", "--dir"]);
            nodes.running.push(server.arg(&data).stdout(Stdio::null()).spawn().unwrap());
            nodes.addresses.push(format!("127.0.0.1:{port}"));
        }
        for node in &nodes.addresses {
            let client = || redis::Client::open(format!("redis://{node}")).unwrap().get_connection();
            within(Duration::from_secs(10), || client().is_ok());
        }
        nodes
    }

    fn connect(&self, node: &str) -> Connection {
        redis::Client::open(format!("redis://{node}")).unwrap().get_connection().unwrap()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.running {
            node.kill().ok();
            node.wait().ok();
        }
    }
}
