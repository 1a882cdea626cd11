//! The connection under a response, read up to a deadline.

use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::HttpError;

/// The longest head of a response, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// The end of the whole exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self { at: Instant::now() + timeout, timeout }
    }

    pub(super) fn left(self) -> Result<Duration, HttpError> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(HttpError::TimedOut(self.timeout)) } else { Ok(left) }
    }

    pub(super) fn classify(self, error: io::Error) -> HttpError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => HttpError::TimedOut(self.timeout),
            _ => HttpError::Io(error),
        }
    }
}

#[derive(Debug)]
pub(super) struct HttpConnection {
    stream: TcpStream,
    deadline: Deadline,
    /// Read, not yet used.
    pub(super) buffer: Vec<u8>,
}

impl HttpConnection {
    pub(super) fn new(stream: TcpStream, deadline: Deadline) -> Self {
        Self { stream, deadline, buffer: Vec::new() }
    }

    /// Reads more; `false` at the end of the stream.
    pub(super) fn fill(&mut self) -> Result<bool, HttpError> {
        let mut chunk = [0; 4096];
        loop {
            self.stream.set_read_timeout(Some(self.deadline.left()?)).map_err(HttpError::Io)?;
            match self.stream.read(&mut chunk) {
                Ok(read) => {
                    self.buffer.extend_from_slice(&chunk[..read]);
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.deadline.classify(error)),
            }
        }
    }

    /// Takes the head off the stream, without the empty line behind it.
    pub(super) fn read_head(&mut self) -> Result<String, HttpError> {
        loop {
            if !b"HTTP/1.".starts_with(&self.buffer[..self.buffer.len().min(7)]) {
                return Err(malformed(first_line(&self.buffer)));
            }
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 4);
                return Ok(head);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(malformed(format!("the head is longer than {MAX_HEAD} bytes")));
            }
            if !self.fill()? {
                return Err(HttpError::Closed);
            }
        }
    }

    pub(super) fn read_line(&mut self, max: usize) -> Result<String, HttpError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            if self.buffer.len() > max {
                return Err(malformed(first_line(&self.buffer)));
            }
            if !self.fill()? {
                return Err(HttpError::Closed);
            }
        }
    }

    /// Moves that many bytes of the stream to `body`; those that arrived also where it ends with an error.
    pub(super) fn move_to(&mut self, body: &mut Vec<u8>, mut count: u64) -> Result<(), HttpError> {
        while count > 0 {
            if self.buffer.is_empty() && !self.fill()? {
                return Err(HttpError::Closed);
            }
            let now = usize::try_from(count).unwrap_or(usize::MAX).min(self.buffer.len());
            body.extend(self.buffer.drain(..now));
            count -= now as u64;
        }
        Ok(())
    }
}

/// Connects to `HOST:PORT`, to the first of its addresses that answers.
///
/// # Errors
/// Returns an error if none does within `timeout`.
pub fn connect(address: &str, timeout: Duration) -> Result<TcpStream, HttpError> {
    connect_by(address, Deadline::after(timeout))
}

pub(super) fn connect_by(address: &str, deadline: Deadline) -> Result<TcpStream, HttpError> {
    let mut last = HttpError::NoAddress;
    for address in address.to_socket_addrs().map_err(HttpError::Io)? {
        match TcpStream::connect_timeout(&address, deadline.left()?) {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => last = HttpError::Refused,
            Err(error) => last = deadline.classify(error),
        }
    }
    Err(last)
}

pub(super) fn malformed(reason: String) -> HttpError {
    HttpError::Malformed(reason)
}

fn first_line(bytes: &[u8]) -> String {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).trim().chars().take(100).collect()
}
