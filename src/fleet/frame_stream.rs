//! The two directions of an agent's channel: frames in, frames out, each with a limit on its size and on silence.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::protocol::frame::{Frame, FrameHeader, HEADER_BYTES, Receiver};

/// Number of bytes that one read of a frame's payload may return.
const READ_BYTES: usize = 64 << 10;

/// Reads the frames of an agent.
pub struct FrameReader {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    silence_timeout: Duration,
}

impl FrameReader {
    /// Returns a reader that fails once the agent sends no byte for `silence_timeout`.
    pub fn new(stream: Box<dyn AsyncRead + Send + Unpin>, silence_timeout: Duration) -> Self {
        Self { stream, silence_timeout }
    }

    /// Reads one frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// Returns an error if the agent sends nothing for too long, sends something that is not a frame, or closes the
    /// stream within a frame.
    pub async fn read_frame(&mut self) -> io::Result<Option<Frame>> {
        let mut header = [0; HEADER_BYTES];
        let mut filled = 0;
        while filled < HEADER_BYTES {
            match self.read_some(&mut header[filled..]).await? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ends within a frame")),
                read => filled += read,
            }
        }
        let header = FrameHeader::parse(header, Receiver::Controller)?;
        // Grows with what arrives: a length alone allocates nothing.
        let (mut payload, mut buffer) = (Vec::new(), vec![0; READ_BYTES.min(header.payload_length)]);
        while payload.len() < header.payload_length {
            let rest = (header.payload_length - payload.len()).min(buffer.len());
            match self.read_some(&mut buffer[..rest]).await? {
                0 => break,
                read => payload.extend_from_slice(&buffer[..read]),
            }
        }
        header.with_payload(payload).map(Some)
    }

    async fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        timeout(self.silence_timeout, self.stream.read(buffer)).await.unwrap_or_else(|_| {
            let text = format!("no message from the agent for {:?}", self.silence_timeout);
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
    }
}

/// Writes frames to an agent, one at a time.
pub struct FrameWriter {
    /// `None` once a frame was not written completely: what follows would be read as a part of it.
    stream: tokio::sync::Mutex<Option<Box<dyn AsyncWrite + Send + Unpin>>>,
    stall_timeout: Duration,
}

impl FrameWriter {
    /// Returns a writer that fails once the agent reads nothing for `stall_timeout`.
    pub fn new(stream: Box<dyn AsyncWrite + Send + Unpin>, stall_timeout: Duration) -> Self {
        Self { stream: tokio::sync::Mutex::new(Some(stream)), stall_timeout }
    }

    /// Writes one frame. After an error, or if the future is dropped before its end, the stream is closed.
    ///
    /// # Errors
    /// Returns an error if the stream is closed, or if the agent does not read.
    pub async fn write_frame(&self, frame: &[u8]) -> io::Result<()> {
        let mut slot = self.stream.lock().await;
        let mut stream = slot.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut rest = frame;
        while !rest.is_empty() {
            match self.limit(stream.write(rest)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => rest = &rest[written..],
            }
        }
        self.limit(stream.flush()).await?;
        *slot = Some(stream);
        Ok(())
    }

    async fn limit<T>(&self, write: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        timeout(self.stall_timeout, write).await.unwrap_or_else(|_| {
            let text = format!("the agent has not read for {:?}", self.stall_timeout);
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
    }
}
