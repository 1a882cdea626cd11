//! Receives frames from the controller and detects when it is gone.
//!
//! A link can die without a word: an operator's laptop sleeps, a firewall forgets, a host is cut off and comes back.
//! sshd would notice after two hours, and the agent would hold its host's lock for that time. So the controller sends a
//! keepalive every few seconds (`KEEPALIVE_INTERVAL`), and counts as gone after `SILENCE_TIMEOUT` without a byte.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::protocol::frame::{self, Frame, Receiver as Side};

/// The frames of a controller, read apart from those who wait for them.
pub struct FrameReceiver {
    frames: Receiver<io::Result<Option<Frame>>>,
    clock: ActivityClock,
    timeout: Duration,
}

impl FrameReceiver {
    /// Starts to read. The next frame is read only after the previous one is fetched.
    ///
    /// # Errors
    /// Returns an error if the system allows no further thread.
    pub fn start_reading(input: impl Read + Send + 'static, timeout: Duration) -> io::Result<Self> {
        let clock = ActivityClock { started: Instant::now(), last_activity_ms: Arc::default() };
        let mut input = ActivityReader { input, clock: clock.clone() };
        let (sender, frames) = sync_channel(0);
        std::thread::Builder::new().spawn(move || {
            loop {
                let frame = frame::read_frame(&mut input, Side::Agent);
                let is_last = !matches!(frame, Ok(Some(_)));
                if sender.send(frame).is_err() || is_last {
                    return;
                }
            }
        })?;
        Ok(Self { frames, clock, timeout })
    }

    /// Returns the next frame; `None` if the controller has closed its side.
    ///
    /// # Errors
    /// Returns an error if the data is not a frame, or if the controller timed out.
    pub fn next_frame(&self) -> io::Result<Option<Frame>> {
        loop {
            let remaining = self.timeout.saturating_sub(self.clock.idle_time());
            match self.frames.recv_timeout(remaining) {
                Ok(frame) => return frame,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if self.clock.idle_time() < self.timeout => {}
                Err(RecvTimeoutError::Timeout) => {
                    let text = format!("no message from the controller for {} s", self.timeout.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            }
        }
    }
}

/// Time of the last received data, in milliseconds since the start.
#[derive(Clone)]
struct ActivityClock {
    started: Instant,
    last_activity_ms: Arc<AtomicU64>,
}

impl ActivityClock {
    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn idle_time(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms().saturating_sub(self.last_activity_ms.load(Ordering::SeqCst)))
    }
}

/// Notes when bytes arrive: a large content over a slow line is no silence.
struct ActivityReader<R> {
    input: R,
    clock: ActivityClock,
}

impl<R: Read> Read for ActivityReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer);
        self.clock.last_activity_ms.store(self.clock.elapsed_ms(), Ordering::SeqCst);
        read
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::protocol::ControllerMessage;

    const TEST_TIMEOUT: Duration = Duration::from_millis(200);

    #[test]
    fn a_silent_controller_times_out() {
        let (reader, mut writer) = io::pipe().unwrap();
        let receiver = FrameReceiver::start_reading(reader, TEST_TIMEOUT).unwrap();
        writer.write_all(&frame::encode_message(&ControllerMessage::KeepAlive).unwrap()).unwrap();
        assert!(matches!(receiver.next_frame(), Ok(Some(Frame::Message(_)))));
        let begin = Instant::now();
        assert_eq!(receiver.next_frame().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= TEST_TIMEOUT / 2);
    }

    #[test]
    fn a_slow_controller_is_alive_and_a_closed_channel_ends_the_stream() {
        let (reader, mut writer) = io::pipe().unwrap();
        let receiver = FrameReceiver::start_reading(reader, TEST_TIMEOUT).unwrap();
        let slow = std::thread::spawn(move || {
            for byte in frame::encode_message(&ControllerMessage::Cancel { id: 7 }).unwrap() {
                std::thread::sleep(TEST_TIMEOUT / 8);
                writer.write_all(&[byte]).unwrap();
            }
        });
        let frame = receiver.next_frame().unwrap().unwrap();
        assert_eq!(frame.parse_message::<ControllerMessage>().unwrap(), ControllerMessage::Cancel { id: 7 });
        slow.join().unwrap();
        assert!(receiver.next_frame().unwrap().is_none());
    }
}
