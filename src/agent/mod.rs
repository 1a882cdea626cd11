//! The main loop of the agent: receives requests, runs them, and streams events back.
//!
//! One thread per request, so that moves and a cancellation can run at the same time. When the controller goes
//! away, every request is asked to stop and ends at a consistent point; only then does the process end.

mod blob_store;
mod facts;
mod frame_receiver;
mod frame_sender;
mod request_pool;

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use crate::plan::Digest;
pub use crate::process::run_guard;
use crate::protocol::frame::Frame;
use crate::protocol::{AgentMessage, ControllerMessage, Hello, KEEPALIVE_INTERVAL, PROTOCOL_VERSION, SILENCE_TIMEOUT};
use frame_receiver::FrameReceiver;
use frame_sender::FrameSender;
use request_pool::RequestPool;

/// Serves one controller on standard input and output until it closes its side or times out. A binary that
/// was `just_pushed` is first compared with the hash in its name, then renamed to the name that later runs look for.
///
/// # Errors
/// Returns an error if the input is not dunlin's protocol, or if the binary is incomplete or cannot be read.
pub fn serve_controller(just_pushed: bool) -> io::Result<()> {
    crate::process::enable_guards();
    let binary = Digest::of_reader(std::fs::File::open("/proc/self/exe")?)?;
    if just_pushed {
        install_self(&std::env::current_exe()?, &binary)?;
    }
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

/// Renames `HASH.12345` to `HASH` if the hash matches; otherwise removes it.
fn install_self(pushed: &Path, binary: &Digest) -> io::Result<()> {
    let installed = pushed.with_extension("");
    if installed.file_name().is_some_and(|name| name == binary.as_str()) {
        return std::fs::rename(pushed, installed);
    }
    std::fs::remove_file(pushed)?;
    Err(io::Error::other("the binary is incomplete"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_installed_only_under_its_own_hash() {
        let folder = tempfile::tempdir().unwrap();
        let arrive = |bytes: &[u8], named: &Digest| {
            let arrived = folder.path().join(format!("{named}.4711"));
            std::fs::write(&arrived, bytes).unwrap();
            (
                install_self(&arrived, &Digest::of_bytes(bytes)),
                arrived.exists(),
                folder.path().join(named.as_str()).exists(),
            )
        };
        let whole = Digest::of_bytes(b"whole");
        let (cut, is_left, is_settled) = arrive(b"who", &whole);
        assert!(cut.is_err() && !is_left && !is_settled);
        let (settled, is_left, is_settled) = arrive(b"whole", &whole);
        assert!(settled.is_ok() && !is_left && is_settled);
    }
}
