//! The loop that runs on a host: receives requests, hands them to the host halves, streams events back.
//!
//! One thread a request, so that several moves and a cancellation can be under way at once. When the controller goes
//! away, every request is told so and ends where nothing is left half done; only then does the process end.

mod contents;
mod facts;
mod line;
mod requests;

use std::io;
use std::sync::Arc;

use crate::plan::Digest;
use crate::wire::frame::{self, Frame};
use crate::wire::{FromAgent, Hello, PROTOCOL, ToAgent};
use line::Line;
use requests::Requests;

/// Serves one controller on standard input and output until it closes its side.
///
/// # Errors
/// What arrives is not dunlin's protocol, or the agent cannot read its own binary.
pub fn serve() -> io::Result<()> {
    let line = Arc::new(Line::new(io::stdout()));
    line.send(&FromAgent::Hello(hello()?));
    let requests = Requests::new(Arc::clone(&line));
    let mut input = io::stdin().lock();
    let result = loop {
        match frame::read(&mut input) {
            Ok(None) => break Ok(()),
            Ok(Some(Frame::Blob { digest, bytes })) => requests.contents().put(digest, bytes),
            Ok(Some(message @ Frame::Message(_))) => match message.message::<ToAgent>() {
                Ok(ToAgent::Request { id, request }) => requests.start(id, request),
                Ok(ToAgent::Cancel { id }) => requests.cancel(id),
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

fn hello() -> io::Result<Hello> {
    Ok(Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        binary: Digest::of(&std::fs::read("/proc/self/exe")?),
        uid: rustix::process::geteuid().as_raw(),
        facts: facts::read(),
    })
}
