//! The way of a copy that is to spare its source: the target follows a relay in this process, which follows the source
//! and lets bytes pass as a throttle allows. Redis has no setting for that.
//!
//! A relay listens on a loopback address of the shard's own, `127.77.x.y` for shard 256·x + y, so that a target which
//! was left behind can never meet the relay of another shard. Port 0 of that address is a dead end, where nobody can
//! listen: it is what the target's file says until the copy is whole. So a target that starts anew, or whose relay
//! went away with its agent, waits; it neither becomes a master nor copies past the cap.
//!
//! The source sees the target's own handshake, with the port and the address that the target announces.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt;

use super::pace::Throttle;
use crate::wire::shard::{MoveSpec, Role};

/// Longest time to reach the source.
const CONNECT: Duration = Duration::from_secs(2);
/// Bytes that pass at once: what a cap allows in a fiftieth of a second, within these bounds. A target that hears nothing for
/// half a minute gives up.
const PART: (u64, u64) = (1 << 10, 64 << 10);
/// What the kernel may take in ahead of a cap: what passes in a tenth of a second, within these bounds.
const AHEAD: (u64, u64) = (64 << 10, 4 << 20);

/// Where a shard's relays listen.
fn lane(shard: u32) -> Ipv4Addr {
    let [_, _, high, low] = shard.to_be_bytes();
    Ipv4Addr::new(127, 77, high, low)
}

/// What the file of a target says that is copied to through a relay: `ip:port`, and nobody is there.
pub fn dead_end(shard: u32) -> String {
    format!("{}:0", lane(shard))
}

/// Is this address a shard's dead end, or one of its relays?
pub fn is_of(shard: u32, address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(ip, _)| ip == lane(shard).to_string())
}

/// The target's role as roles are compared: one that follows its relay, or waits for one, follows the source.
pub fn seen(role: Role, spec: &MoveSpec) -> Role {
    match role {
        Role::Replica { of, linked, offset } if is_of(spec.job.shard, &of) => {
            Role::Replica { of: spec.from.clone(), linked, offset }
        }
        role => role,
    }
}

/// A relay; dropped, it cuts its connections.
pub struct Relay {
    /// Where it listens, `ip:port`.
    pub address: String,
    way: Arc<Way>,
    accepting: Option<JoinHandle<()>>,
}

struct Way {
    from: SocketAddr,
    cap: u64,
    throttle: Throttle,
    is_closed: AtomicBool,
    /// Both ends of the connection that is carried.
    ends: Mutex<Option<[TcpStream; 2]>>,
}

impl Relay {
    /// Opens one to the source of a move.
    ///
    /// # Errors
    /// The source's address is none, or no port is free.
    pub fn open(spec: &MoveSpec, throttle: Throttle) -> Result<Self> {
        let found = spec.from.to_socket_addrs().ok().and_then(|mut found| found.next());
        let from = found.with_context(|| format!("the address {} of the source", spec.from))?;
        let listener = TcpListener::bind((lane(spec.job.shard), 0)).context("opening a relay")?;
        let address = listener.local_addr().context("opening a relay")?.to_string();
        let cap = spec.limits.sparing.bandwidth;
        let way = Way { from, cap, throttle, is_closed: AtomicBool::new(false), ends: Mutex::new(None) };
        let way = Arc::new(way);
        let accepting = std::thread::spawn({
            let way = Arc::clone(&way);
            move || way.accept(&listener)
        });
        Ok(Self { address, way, accepting: Some(accepting) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.way.is_closed.store(true, Ordering::SeqCst);
        self.way.carry_only(None);
        // Wakes the one that accepts; where even that fails, the process has no sockets left, and it ends with it.
        let woken = self.address.parse().map(|address: SocketAddr| TcpStream::connect_timeout(&address, CONNECT));
        if let (Ok(Ok(_)), Some(accepting)) = (woken, self.accepting.take()) {
            accepting.join().ok();
        }
    }
}

impl Way {
    fn is_open(&self) -> bool {
        !self.is_closed.load(Ordering::SeqCst)
    }

    /// Serves one target at a time: one that connects again has given its earlier connection up. Where the source is
    /// not reached, the target's connection ends, and it tries again within a second.
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for target in listener.incoming() {
            if !self.is_open() {
                return;
            }
            if let Ok(target) = target
                && let Ok(source) = self.reach()
            {
                target.set_nodelay(true).ok();
                self.carry(&source, &target).ok();
            }
        }
    }

    fn reach(&self) -> std::io::Result<TcpStream> {
        let source = TcpStream::connect_timeout(&self.from, CONNECT)?;
        source.set_nodelay(true)?;
        if self.cap > 0 {
            // Or else the kernel takes in megabytes at once, cap or no cap.
            let ahead = (self.cap / 10).clamp(AHEAD.0, AHEAD.1);
            sockopt::set_socket_recv_buffer_size(&source, usize::try_from(ahead).unwrap_or(usize::MAX))?;
        }
        Ok(source)
    }

    fn carry(self: &Arc<Self>, source: &TcpStream, target: &TcpStream) -> std::io::Result<()> {
        self.carry_only(Some([source.try_clone()?, target.try_clone()?]));
        for (mut from, mut to, is_paid) in
            [(source.try_clone()?, target.try_clone()?, true), (target.try_clone()?, source.try_clone()?, false)]
        {
            let way = Arc::clone(self);
            std::thread::spawn(move || {
                // An end that went away ends both directions; the target comes again.
                way.pass(&mut from, &mut to, is_paid).ok();
                from.shutdown(Shutdown::Both).ok();
                to.shutdown(Shutdown::Both).ok();
            });
        }
        // A relay that was closed meanwhile has not seen these ends.
        if !self.is_open() {
            self.carry_only(None);
        }
        Ok(())
    }

    /// Cuts what was carried before.
    fn carry_only(&self, ends: Option<[TcpStream; 2]>) {
        let before = std::mem::replace(&mut *self.ends.lock().unwrap_or_else(PoisonError::into_inner), ends);
        for end in before.iter().flatten() {
            end.shutdown(Shutdown::Both).ok();
        }
    }

    fn pass(&self, from: &mut TcpStream, to: &mut TcpStream, is_paid: bool) -> std::io::Result<()> {
        let part = if self.cap > 0 { (self.cap / 50).clamp(PART.0, PART.1) } else { PART.1 };
        let mut part = vec![0; usize::try_from(part).map_err(std::io::Error::other)?];
        loop {
            let read = from.read(&mut part)?;
            if read == 0 {
                return Ok(());
            }
            if is_paid {
                self.throttle.take(read as u64, &|| self.is_open());
            }
            to.write_all(&part[..read])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_addresses_of_its_own() {
        assert_eq!(dead_end(17), "127.77.0.17:0");
        assert_eq!(dead_end(65_535), "127.77.255.255:0");
        assert!(is_of(256, "127.77.1.0:40000") && !is_of(256, "127.77.0.1:40000"));
        assert!(!is_of(17, "10.0.0.1:7017") && !is_of(17, "127.0.0.1:0") && !is_of(17, ""));
    }
}
