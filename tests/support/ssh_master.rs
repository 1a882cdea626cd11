//! Stands in for ssh's master: answers its clients on a socket and runs their commands as children on this machine.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Messages of ssh's multiplexing protocol (PROTOCOL.mux of OpenSSH), as far as it is spoken here.
mod message {
    pub const HELLO: u32 = 0x0000_0001;
    pub const NEW_SESSION: u32 = 0x1000_0002;
    pub const ALIVE_CHECK: u32 = 0x1000_0004;
    pub const OK: u32 = 0x8000_0001;
    pub const EXIT_MESSAGE: u32 = 0x8000_0004;
    pub const ALIVE: u32 = 0x8000_0005;
    pub const SESSION_OPENED: u32 = 0x8000_0006;
}

/// Serves as an ssh master on a socket until the process ends. `run` turns the command of a client into the one that
/// runs.
pub fn listen(socket: &Path, run: impl Fn(&str) -> Command + Send + Sync + 'static) {
    let (listener, run) = (UnixListener::bind(socket).unwrap(), Arc::new(run));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let run = Arc::clone(&run);
            thread::spawn(move || serve(stream, &*run));
        }
    });
}

/// Returns the command that runs a shell script in a cleared environment, as the login shell of a host whose users'
/// home is `home`.
pub fn shell(script: &str, home: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", script])
        .current_dir(home)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        .env("XDG_CACHE_HOME", agents());
    command
}

/// Where the agent's binary is kept: pushed once for all tests. Those of earlier builds go.
pub fn agents() -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("loopback");
    let folder = cache.join("dunlin/agent");
    let built = std::fs::metadata(env!("CARGO_BIN_EXE_dunlin")).unwrap().modified().unwrap();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.metadata().is_ok_and(|pushed| pushed.modified().unwrap() < built) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    cache
}

/// Answers one client of the master; it goes when it likes.
fn serve(mut stream: UnixStream, run: &dyn Fn(&str) -> Command) {
    while let Some(request) = read(&mut stream) {
        let (kind, id) = (number(&request, 0), number(&request, 4));
        match kind {
            message::HELLO => write(&mut stream, &[message::HELLO, 4]),
            message::ALIVE_CHECK => write(&mut stream, &[message::ALIVE, id, std::process::id()]),
            message::NEW_SESSION => {
                let [input, output, errors] = [(); 3].map(|()| Stdio::from(receive(&stream)));
                write(&mut stream, &[message::SESSION_OPENED, id, 1]);
                let status = run(&command(&request)).stdin(input).stdout(output).stderr(errors).status().unwrap();
                let code = status.code().unwrap_or(255).cast_unsigned();
                write(&mut stream, &[message::EXIT_MESSAGE, 1, code]);
            }
            _ => write(&mut stream, &[message::OK, id]),
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The command of a request for a session: after a reserved string, five numbers and the terminal's name.
fn command(request: &[u8]) -> String {
    let after = |at: usize| at + 4 + number(request, at) as usize;
    let terminal = after(8) + 5 * 4;
    let command = after(terminal);
    String::from_utf8(request[command + 4..after(command)].to_vec()).unwrap()
}

fn read(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut request = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut request).ok()?;
    Some(request)
}

/// Sends a reply; a client that went away does not want it.
fn write(stream: &mut UnixStream, numbers: &[u32]) {
    let body: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let _ = stream.write_all(&[&length[..], &body].concat());
}

/// Receives an open file with the byte that carries it.
fn receive(stream: &UnixStream) -> OwnedFd {
    let (mut byte, mut space) = ([0], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty()).unwrap();
    let files = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    files.unwrap()
}
