//! A proxy between a target and its source that loses bytes: both connections stay open, and neither end notices.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What is lost of a replica's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossDirection {
    /// What the replica says.
    FromReplica,
    /// What its source sends.
    FromSource,
    /// Both.
    All,
}

/// Carries connections to an instance; dropped, it cuts them.
pub struct LossyProxy {
    /// Where it listens, `ip:port`.
    pub address: String,
    state: Arc<ProxyState>,
}

struct ProxyState {
    upstream: String,
    is_closed: AtomicBool,
    lossy: Mutex<LossSettings>,
    /// Both ends of all connections.
    ends: Mutex<Vec<TcpStream>>,
}

/// Which links of replicas lose what.
#[derive(Default)]
struct LossSettings {
    /// How many links there have been.
    count: usize,
    /// So many of them, the oldest, lose this.
    loss: Option<(usize, LossDirection)>,
}

impl LossyProxy {
    /// Opens one to an instance.
    pub fn start_proxy(to: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (is_closed, lossy, ends) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        let state = Arc::new(ProxyState { upstream: to.to_owned(), is_closed, lossy, ends });
        let accepting = Arc::clone(&state);
        thread::spawn(move || accepting.accept_connections(&listener));
        Self { address, state }
    }

    /// Loses something of the first link that a replica will have.
    pub fn lose_first_link(&self, loss: LossDirection) {
        self.state.lossy.lock().unwrap().loss = Some((1, loss));
    }

    /// From now on loses bytes of all present connections of replicas, and none of new ones.
    pub fn lose_current_links(&self, loss: LossDirection) {
        let mut lossy = self.state.lossy.lock().unwrap();
        lossy.loss = Some((lossy.count, loss));
    }

    /// How many links replicas have had.
    pub fn link_count(&self) -> usize {
        self.state.lossy.lock().unwrap().count
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.state.is_closed.store(true, Ordering::SeqCst);
        // Wakes the one that accepts.
        TcpStream::connect(&self.address).ok();
        for end in self.state.ends.lock().unwrap().drain(..) {
            end.shutdown(Shutdown::Both).ok();
        }
    }
}

impl ProxyState {
    fn accept_connections(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.is_closed.load(Ordering::SeqCst) {
                return;
            }
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(&self.upstream)) else { continue };
            let link = Arc::new(Mutex::new(None));
            for (from, to, is_stream) in [(&server, &client, true), (&client, &server, false)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                from.set_nodelay(true).unwrap();
                let (way, link) = (Arc::clone(self), Arc::clone(&link));
                thread::spawn(move || way.forward_bytes(from, to, is_stream, &link));
            }
            self.ends.lock().unwrap().extend([client, server]);
        }
    }

    /// One direction of a connection. It is a replica's link from the moment on in which its source lets it in; one
    /// that loses bytes does not report either that one end has closed it.
    fn forward_bytes(&self, mut from: TcpStream, mut to: TcpStream, is_stream: bool, link: &Mutex<Option<usize>>) {
        let mut part = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut part) {
            let part = &part[..read];
            if is_stream && (part.starts_with(b"+FULLRESYNC") || part.starts_with(b"+CONTINUE")) {
                let mut lossy = self.lossy.lock().unwrap();
                *link.lock().unwrap() = Some(lossy.count);
                lossy.count += 1;
            }
            let lost =
                [LossDirection::All, if is_stream { LossDirection::FromSource } else { LossDirection::FromReplica }];
            if self.link_loss(link).is_none_or(|loss| !lost.contains(&loss)) && to.write_all(part).is_err() {
                break;
            }
        }
        if self.link_loss(link).is_none() {
            to.shutdown(Shutdown::Both).ok();
        }
    }

    /// What the link loses, where it is one.
    fn link_loss(&self, link: &Mutex<Option<usize>>) -> Option<LossDirection> {
        let number = (*link.lock().unwrap())?;
        self.lossy.lock().unwrap().loss.filter(|(count, _)| number < *count).map(|(_, loss)| loss)
    }
}
