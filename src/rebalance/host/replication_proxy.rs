//! The proxy of a throttled copy: the target replicates from a proxy in this process, which replicates from the source
//! at the rate of the limiter. Redis has no setting for that.
//!
//! A proxy listens on a loopback address per shard, `127.77.x.y` for shard 256·x + y, so that a leftover target never
//! connects to the proxy of another shard. The target's file names port 0 of that address, which is unreachable, until
//! the copy is complete: a target that restarts, or whose agent exits, waits. It neither becomes a primary nor copies
//! faster than the cap.
//!
//! The source sees the target's own handshake, with the port and the address that the target announces.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use dunlin_shards::{InstanceAddress, ShardId};
use rustix::net::sockopt;

use super::rate_limiter::RateLimiter;
use crate::protocol::shard::{MoveSpec, ReplicationRole};

/// Longest time to reach the source.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that pass at once: what a cap allows in a fiftieth of a second, within these bounds. A target that hears
/// nothing for half a minute gives up.
const CHUNK_BYTES_RANGE: (u64, u64) = (1 << 10, 64 << 10);
/// Bounds of the kernel's receive buffer, which holds about a tenth of a second of the allowed rate.
const RECV_BUFFER_RANGE: (u64, u64) = (64 << 10, 4 << 20);

/// Returns the loopback address on which the proxies of a shard listen.
fn loopback_address(shard: ShardId) -> Ipv4Addr {
    let [high, low] = shard.0.to_be_bytes();
    Ipv4Addr::new(127, 77, high, low)
}

/// Returns the unreachable address that a target's file names while its copy goes through a proxy.
pub fn placeholder_address(shard: ShardId) -> InstanceAddress {
    InstanceAddress::new(loopback_address(shard).to_string(), 0)
}

/// Returns true if the address is a shard's unreachable address or one of its proxies.
pub fn is_proxy_address(shard: ShardId, address: &InstanceAddress) -> bool {
    address.host == loopback_address(shard).to_string()
}

/// Returns the target's role for comparisons: a target that follows its proxy, or waits for one, follows the source.
pub fn proxied_role(role: ReplicationRole, spec: &MoveSpec) -> ReplicationRole {
    match role {
        ReplicationRole::Replica { primary: of, link_is_up: linked, offset }
            if is_proxy_address(spec.header.shard, &of) =>
        {
            ReplicationRole::Replica { primary: spec.record.from.clone(), link_is_up: linked, offset }
        }
        role => role,
    }
}

/// A proxy; closes its connections when dropped.
pub struct ReplicationProxy {
    /// Listening address.
    pub address: InstanceAddress,
    listener: SocketAddr,
    path: Arc<ProxyPath>,
    acceptor: Option<JoinHandle<()>>,
}

struct ProxyPath {
    source: SocketAddr,
    bandwidth: u64,
    rate_limiter: RateLimiter,
    is_closed: AtomicBool,
    /// The connections that are carried. Redis 8.0 and later send the snapshot over one and the writes over another.
    connections: Mutex<Vec<Weak<ProxiedConnection>>>,
}

/// Both ends of a connection.
struct ProxiedConnection {
    source: TcpStream,
    target: TcpStream,
}

impl ProxiedConnection {
    fn cut(&self) {
        self.source.shutdown(Shutdown::Both).ok();
        self.target.shutdown(Shutdown::Both).ok();
    }
}

impl ReplicationProxy {
    /// Opens a proxy to the source of a move.
    ///
    /// # Errors
    /// Returns an error if the source's address is not valid, or no port is free.
    pub fn open(spec: &MoveSpec, rate_limiter: RateLimiter) -> Result<Self> {
        let found = (spec.record.from.host.as_str(), spec.record.from.port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut found| found.next());
        let from = found.with_context(|| format!("the address {} of the source", spec.record.from))?;
        let listener =
            TcpListener::bind((loopback_address(spec.header.shard), 0)).context("opening the replication proxy")?;
        let local = listener.local_addr().context("opening the replication proxy")?;
        let bandwidth = spec.record.throttle.bandwidth;
        let path = ProxyPath {
            source: from,
            bandwidth,
            rate_limiter,
            is_closed: AtomicBool::new(false),
            connections: Mutex::new(Vec::new()),
        };
        let way = Arc::new(path);
        let acceptor = std::thread::spawn({
            let way = Arc::clone(&way);
            move || way.accept_targets(&listener)
        });
        let address = InstanceAddress::new(local.ip().to_string(), local.port());
        Ok(Self { address, listener: local, path: way, acceptor: Some(acceptor) })
    }
}

impl Drop for ReplicationProxy {
    fn drop(&mut self) {
        self.path.is_closed.store(true, Ordering::SeqCst);
        self.path.cut_connections();
        // Wakes the accepting thread. If that fails, the process has no sockets left, and the thread ends with it.
        let wake_up = TcpStream::connect_timeout(&self.listener, CONNECT_TIMEOUT);
        if let (Ok(_), Some(accepting)) = (wake_up, self.acceptor.take()) {
            accepting.join().ok();
        }
    }
}

impl ProxyPath {
    fn is_open(&self) -> bool {
        !self.is_closed.load(Ordering::SeqCst)
    }

    /// Serves the target's connections. If the source cannot be reached, the target's connection ends, and it tries
    /// again within a second.
    fn accept_targets(self: &Arc<Self>, listener: &TcpListener) {
        for target in listener.incoming() {
            if !self.is_open() {
                return;
            }
            if let Ok(target) = target
                && let Ok(source) = self.connect_source()
            {
                target.set_nodelay(true).ok();
                self.forward_connection(ProxiedConnection { source, target });
            }
        }
    }

    fn connect_source(&self) -> std::io::Result<TcpStream> {
        let source = TcpStream::connect_timeout(&self.source, CONNECT_TIMEOUT)?;
        source.set_nodelay(true)?;
        if self.bandwidth > 0 {
            // Or else the kernel takes in megabytes at once, cap or no cap.
            let buffer_bytes = (self.bandwidth / 10).clamp(RECV_BUFFER_RANGE.0, RECV_BUFFER_RANGE.1);
            sockopt::set_socket_recv_buffer_size(&source, usize::try_from(buffer_bytes).unwrap_or(usize::MAX))?;
        }
        Ok(source)
    }

    fn forward_connection(self: &Arc<Self>, ends: ProxiedConnection) {
        let ends = Arc::new(ends);
        self.add_connection(&ends);
        for is_to_target in [true, false] {
            let (path, ends) = (Arc::clone(self), Arc::clone(&ends));
            std::thread::spawn(move || {
                let (from, to) = if is_to_target { (&ends.source, &ends.target) } else { (&ends.target, &ends.source) };
                // An end that went away ends both directions; the target comes again.
                path.forward_bytes(from, to, is_to_target).ok();
                ends.cut();
            });
        }
        // A proxy that was closed meanwhile has not seen these ends.
        if !self.is_open() {
            self.cut_connections();
        }
    }

    /// Keeps a connection, so that it can be cut, and forgets those that have ended.
    fn add_connection(&self, ends: &Arc<ProxiedConnection>) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|other| other.strong_count() > 0);
        connections.push(Arc::downgrade(ends));
    }

    fn cut_connections(&self) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for ends in connections.iter().filter_map(Weak::upgrade) {
            ends.cut();
        }
    }

    fn forward_bytes(&self, mut from: &TcpStream, mut to: &TcpStream, is_limited: bool) -> std::io::Result<()> {
        let chunk = if self.bandwidth > 0 {
            (self.bandwidth / 50).clamp(CHUNK_BYTES_RANGE.0, CHUNK_BYTES_RANGE.1)
        } else {
            CHUNK_BYTES_RANGE.1
        };
        let mut part = vec![0; usize::try_from(chunk).map_err(std::io::Error::other)?];
        loop {
            let read = from.read(&mut part)?;
            if read == 0 {
                return Ok(());
            }
            if is_limited {
                self.rate_limiter.acquire_bytes(read as u64, &|| self.is_open());
            }
            to.write_all(&part[..read])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_has_its_own_addresses() {
        assert_eq!(placeholder_address(ShardId(17)).to_string(), "127.77.0.17:0");
        assert_eq!(placeholder_address(ShardId(65_535)).to_string(), "127.77.255.255:0");
        let is_proxy = |shard, host: &str| is_proxy_address(ShardId(shard), &InstanceAddress::new(host, 40_000));
        assert!(is_proxy(256, "127.77.1.0") && !is_proxy(256, "127.77.0.1"));
        assert!(!is_proxy(17, "10.0.0.1") && !is_proxy(17, "127.0.0.1") && !is_proxy(17, ""));
    }
}
