//! The loop that runs on a host: receives requests, hands them to the host halves, streams events back.
//!
//! One thread a request, so that several moves and a cancellation can be under way at once. When the controller goes
//! away, every request is told so and ends where nothing is left half done; only then does the process end.

mod contents;
mod facts;
mod hearing;
mod line;
mod requests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::plan::Digest;
use crate::wire::frame::Frame;
use crate::wire::{FromAgent, Hello, PROTOCOL, ToAgent};
use hearing::{Hearing, SILENCE};
use line::Line;
use requests::Requests;

/// Serves one controller on standard input and output until it closes its side or falls silent. A binary that has just `arrived` is
/// held against the hash in its name first, and then takes the name that later runs look for.
///
/// # Errors
/// What arrives is not dunlin's protocol, the binary did not arrive whole, or it cannot be read.
pub fn serve(arrived: bool) -> io::Result<()> {
    let binary = Digest::of_reader(std::fs::File::open("/proc/self/exe")?)?;
    if arrived {
        settle(&std::env::current_exe()?, &binary)?;
    }
    let line = Arc::new(Line::new(io::stdout()));
    line.send(&FromAgent::Hello(hello(binary)));
    let requests = Requests::new(Arc::clone(&line));
    let hearing = Hearing::on(io::stdin(), SILENCE);
    let result = loop {
        match hearing.next() {
            Ok(None) => break Ok(()),
            Ok(Some(Frame::Blob { digest, bytes })) => requests.contents().put(digest, bytes),
            Ok(Some(message @ Frame::Message(_))) => match message.message::<ToAgent>() {
                Ok(ToAgent::Request { id, request }) => requests.start(id, request),
                Ok(ToAgent::Cancel { id }) => requests.cancel(id),
                Ok(ToAgent::Alive) => {}
                Err(error) => break Err(error),
            },
            Err(error) => break Err(error),
        }
    };
    line.close();
    requests.ending();
    requests.finish();
    result
}

/// `HASH.12345` becomes `HASH`, if that is its hash; otherwise it goes.
fn settle(arrived: &Path, binary: &Digest) -> io::Result<()> {
    let settled = arrived.with_extension("");
    if settled.file_name().is_some_and(|name| name == binary.as_str()) {
        return std::fs::rename(arrived, settled);
    }
    std::fs::remove_file(arrived)?;
    Err(io::Error::other("the binary did not arrive whole"))
}

fn hello(binary: Digest) -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        binary,
        uid: rustix::process::geteuid().as_raw(),
        facts: facts::read(),
        pressure: facts::pressure(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_settles_under_its_own_hash_only() {
        let folder = tempfile::tempdir().unwrap();
        let arrive = |bytes: &[u8], named: &Digest| {
            let arrived = folder.path().join(format!("{named}.4711"));
            std::fs::write(&arrived, bytes).unwrap();
            (settle(&arrived, &Digest::of(bytes)), arrived.exists(), folder.path().join(named.as_str()).exists())
        };
        let whole = Digest::of(b"whole");
        let (cut, is_left, is_settled) = arrive(b"who", &whole);
        assert!(cut.is_err() && !is_left && !is_settled);
        let (settled, is_left, is_settled) = arrive(b"whole", &whole);
        assert!(settled.is_ok() && !is_left && is_settled);
    }
}
