//! The main loop of the agent: receives requests, runs them, and streams events back.
//!
//! One thread per request, so that moves and a cancellation can run at the same time. When the controller goes
//! away, every request is asked to stop and ends at a consistent point; only then does the process end.

mod audit;
mod blob_store;
mod facts;
mod frame_receiver;
mod frame_sender;
mod installation;
mod request_pool;

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::fs::Mode;

use crate::lock;
use crate::plan::Digest;
pub use crate::process::{enable_guards, run_guard};
use crate::protocol::frame::Frame;
use crate::protocol::{AgentMessage, ControllerMessage, Hello, KEEPALIVE_INTERVAL, PROTOCOL_VERSION, SILENCE_TIMEOUT};
pub use crate::rebalance::host::run_copy_watch;
use frame_receiver::FrameReceiver;
use frame_sender::FrameSender;
use request_pool::RequestPool;

/// Serves one controller on standard input and output until it closes its side or times out. A binary that
/// was `just_pushed` is first compared with the hash in its name, then renamed to the name that later runs look for.
///
/// # Errors
/// Returns an error if the input is not dunlin's protocol, or if the binary is incomplete or cannot be read.
pub fn serve_controller(just_pushed: bool) -> io::Result<()> {
    // The umask of the login would decide who can write what is created without a mode, by commands too.
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    let binary = Digest::of_reader(std::fs::File::open("/proc/self/exe")?)?;
    let path = std::env::current_exe()?;
    if just_pushed {
        installation::install_self(&path, &binary)?
    } else {
        installation::mark_used(&path)
    }
    // Where it cannot be changed, what needs the folder reports that.
    lock::make_private_folder(&lock::state_folder()).ok();
    let sender = Arc::new(FrameSender::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)));
    sender.send_message(&AgentMessage::Hello(build_hello(binary)));
    std::thread::Builder::new().spawn({
        let sender = Arc::clone(&sender);
        move || send_keepalives(&sender)
    })?;
    let requests = RequestPool::new(Arc::clone(&sender));
    let receiver = FrameReceiver::start_reading(io::stdin(), SILENCE_TIMEOUT)?;
    let result = loop {
        let frame = match receiver.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        if let Err(error) = handle_frame(&frame, &requests) {
            break Err(error);
        }
    };
    sender.mark_closed();
    requests.mark_controller_gone();
    requests.join_threads();
    requests.end_run();
    result
}

fn handle_frame(frame: &Frame, requests: &RequestPool) -> io::Result<()> {
    if let Frame::Blob(blob) = frame {
        return requests.blob_store().accept_blob(blob);
    }
    match frame.parse_message::<ControllerMessage>()? {
        ControllerMessage::Request { id, request } => requests.start_request(id, request)?,
        ControllerMessage::Cancel { id } => requests.cancel_request(id),
        ControllerMessage::KeepAlive => {}
    }
    Ok(())
}

/// Sends keepalive messages until the controller is gone. A controller that reads slowly delays them.
fn send_keepalives(sender: &FrameSender) {
    while !sender.is_closed() {
        std::thread::sleep(KEEPALIVE_INTERVAL);
        sender.send_message(&AgentMessage::KeepAlive);
    }
}

fn build_hello(binary: Digest) -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        binary_digest: binary,
        uid: rustix::process::geteuid().as_raw(),
        facts: facts::read_facts(),
        load: facts::read_pressure(),
    }
}
