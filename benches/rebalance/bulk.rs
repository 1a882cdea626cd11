//! How fast data moves: whole moves of several shards in parallel, beside a bare full sync of the same instances and
//! beside `redis-cli --cluster rebalance` of the same data.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use dunlin::protocol::shard::{ShardReply, ShardRequest};
use dunlin::protocol::{Event, ProgressSink};
use redis::Connection;

use crate::fixture::{MoveFixture, app_credentials, connect_admin, connect_as, wait_until};
use crate::gap::time_call;

/// Members of one sorted set.
const SET_MEMBERS: usize = 1000;
/// Shards that move at the same time.
const SHARD_COUNT: usize = 4;

/// Seconds, and bytes of data.
pub struct BulkTimes {
    pub bytes: u64,
    /// From the first request until all targets serve.
    pub moves: f64,
    /// Of that, until the last copy had caught up, which is all that a full sync does.
    pub copies: f64,
    /// From `REPLICAOF` until all links are up.
    pub syncs: f64,
}

/// Both ways of the same instances, one after the other; the better of two rounds of each.
pub fn measure_bulk(keys: usize) -> BulkTimes {
    let mut shards: Vec<MoveFixture> = (0..SHARD_COUNT).map(|_| large_set_fixture()).collect();
    thread::scope(|scope| {
        for fixture in &mut shards {
            scope.spawn(|| {
                fixture.provision_primary(0).unwrap();
                fill_keys(
                    &mut connect_as(&fixture.address(0), &app_credentials()).unwrap(),
                    (0..keys / SHARD_COUNT).map(|n| format!("tl:{n}")),
                );
            });
        }
    });
    let bytes = shards.iter().map(|fixture| dataset_bytes(&mut connect_admin(&fixture.address(0)).unwrap())).sum();
    let mut best = BulkTimes { bytes, moves: f64::MAX, copies: f64::MAX, syncs: f64::MAX };
    for _ in 0..2 {
        best.syncs = best.syncs.min(time_full_syncs(&mut shards));
        let (copies, moves) = time_moves(&mut shards);
        best.copies = best.copies.min(copies);
        best.moves = best.moves.min(moves);
        // Back to the beginning: the data where they were, the other side empty.
        for fixture in &mut shards {
            let back = fixture.move_spec(1, 0);
            fixture.run_request(ShardRequest::Copy(back.clone())).unwrap();
            fixture.run_request(ShardRequest::CutOver(back)).unwrap();
            let retire = fixture.retire_spec(1, 0);
            fixture.run_request(ShardRequest::Retire(retire)).unwrap();
        }
    }
    best
}

/// Large sorted sets in their large encoding, as in a Redis Cluster with its defaults.
pub fn large_set_fixture() -> MoveFixture {
    let edits =
        vec![("maxmemory 256mb", "maxmemory 4gb"), ("zset-max-listpack-entries 1100", "zset-max-listpack-entries 128")];
    MoveFixture::with_conf_edits(2, "everysec", edits)
}

/// Sorted sets of a thousand members.
pub fn fill_keys(client: &mut Connection, keys: impl Iterator<Item = String>) {
    for key in keys {
        let mut add = redis::cmd("ZADD");
        add.arg(&key);
        for member in 0..SET_MEMBERS {
            add.arg(member).arg(1_000_000_000_000_u64 + member as u64);
        }
        add.exec(client).unwrap();
    }
}

fn dataset_bytes(connection: &mut Connection) -> u64 {
    info_field(connection, "memory", "used_memory_dataset").parse().unwrap()
}

fn info_field(connection: &mut Connection, section: &str, name: &str) -> String {
    let text: String = redis::cmd("INFO").arg(section).query(connection).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().to_owned()
}

fn time_full_syncs(shards: &mut [MoveFixture]) -> f64 {
    for fixture in &mut *shards {
        fixture.provision_primary(1).unwrap();
    }
    let ((), seconds) = time_call(|| {
        let mut replicas: Vec<Connection> =
            shards.iter().map(|fixture| connect_admin(&fixture.address(1)).unwrap()).collect();
        for (fixture, replica) in shards.iter().zip(&mut replicas) {
            let from = fixture.address(0);
            let (ip, port) = from.rsplit_once(':').unwrap();
            redis::cmd("REPLICAOF").arg(ip).arg(port).exec(replica).unwrap();
        }
        for replica in &mut replicas {
            wait_until(Duration::from_secs(120), || info_field(replica, "replication", "master_link_status") == "up");
        }
    });
    for fixture in &*shards {
        fixture.kill_instance(1);
        // Its process that writes the append-only file may outlive it for a moment.
        wait_until(Duration::from_secs(10), || std::fs::remove_dir_all(fixture.data_dir(1)).is_ok());
        std::fs::remove_file(fixture.conf_path(1)).unwrap();
    }
    seconds
}

fn time_moves(shards: &mut [MoveFixture]) -> (f64, f64) {
    let requests: Vec<_> = shards.iter_mut().map(|fixture| (fixture.move_spec(0, 1), &*fixture)).collect();
    let (copies, seconds) = time_call(|| {
        let begin = Instant::now();
        let one = |(spec, fixture): &(_, &MoveFixture)| {
            let comparing = VerifyTimer(begin, OnceLock::new());
            let copied = fixture.run_with_sink(ShardRequest::Copy(Clone::clone(spec)), &comparing).unwrap();
            assert!(matches!(copied, ShardReply::Copy(_)));
            let switched = fixture.run_request(ShardRequest::CutOver(Clone::clone(spec))).unwrap();
            assert!(matches!(switched, ShardReply::CutOver(_)));
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
struct VerifyTimer(Instant, OnceLock<f64>);

impl ProgressSink for VerifyTimer {
    fn emit(&self, event: Event) {
        if matches!(event, Event::Progress { phase, .. } if phase == "verify") {
            self.1.get_or_init(|| self.0.elapsed().as_secs_f64());
        }
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// `redis-cli --cluster rebalance` from three nodes to four: bytes moved, and seconds.
pub fn time_cluster_rebalance(keys: usize) -> (u64, f64) {
    let nodes = ClusterNodes::start_nodes(4);
    let first: Vec<String> = nodes.addresses[..3].to_vec();
    run_redis_cli(
        &[&["--cluster", "create"][..], &first.iter().map(String::as_str).collect::<Vec<_>>(), &["--cluster-yes"]]
            .concat(),
    );
    let wait_until_known = |count: usize| {
        wait_until(Duration::from_secs(30), || {
            nodes.addresses[..count].iter().all(|node| {
                let state: String = redis::cmd("CLUSTER").arg("INFO").query(&mut nodes.connect_node(node)).unwrap();
                state.contains("cluster_state:ok") && state.contains(&format!("cluster_known_nodes:{count}\r"))
            })
        });
    };
    wait_until_known(3);
    thread::scope(|scope| {
        for (n, node) in first.iter().enumerate() {
            let mut client = nodes.connect_node(node);
            // The slots as `create` gives them out, in thirds.
            let own = (0..keys)
                .map(|key| format!("tl:{key}"))
                .filter(move |key| usize::from(dunlin_shards::slot_for_key(key.as_bytes()).0) * 3 / 16_384 == n);
            scope.spawn(move || fill_own_slots(&mut client, own));
        }
    });
    run_redis_cli(&["--cluster", "add-node", &nodes.addresses[3], &nodes.addresses[0]]);
    wait_until_known(4);
    let ((), seconds) =
        time_call(|| run_redis_cli(&["--cluster", "rebalance", &nodes.addresses[0], "--cluster-use-empty-masters"]));
    (dataset_bytes(&mut nodes.connect_node(&nodes.addresses[3])), seconds)
}

/// A key at the border of two thirds may belong to the neighbor: it is left out.
fn fill_own_slots(client: &mut Connection, keys: impl Iterator<Item = String>) {
    fill_keys(
        client,
        keys.filter(|key| {
            let slot = dunlin_shards::slot_for_key(key.as_bytes()).0;
            !(5450..5470).contains(&slot) && !(10_915..10_930).contains(&slot)
        }),
    );
}

fn run_redis_cli(args: &[&str]) {
    let done = Command::new("redis-cli").args(args).output().unwrap();
    assert!(done.status.success(), "redis-cli {args:?}: {}", String::from_utf8_lossy(&done.stdout));
}

/// Cluster nodes on loopback, without anything on disk.
struct ClusterNodes {
    addresses: Vec<String>,
    running: Vec<std::process::Child>,
    _folder: tempfile::TempDir,
}

impl ClusterNodes {
    fn start_nodes(count: u16) -> Self {
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
            wait_until(Duration::from_secs(10), || client().is_ok());
        }
        nodes
    }

    fn connect_node(&self, node: &str) -> Connection {
        redis::Client::open(format!("redis://{node}")).unwrap().get_connection().unwrap()
    }
}

impl Drop for ClusterNodes {
    fn drop(&mut self) {
        for node in &mut self.running {
            node.kill().ok();
            node.wait().ok();
        }
    }
}
