//! What arrives from the controller, and whether it is still there.
//!
//! A link can die without a word: an operator's laptop sleeps, a firewall forgets, a host is cut off and comes back. sshd
//! would notice after two hours, and an agent that waits so long would keep its host's lock as long. So the controller
//! says that it is there every few seconds ([`ALIVE`]), and one that was not heard for [`SILENCE`] is gone.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::wire::frame::{self, Frame};

/// How long a controller may be silent.
pub const SILENCE: Duration = crate::wire::ALIVE.saturating_mul(6);

/// The frames of a controller, read apart from those who wait for them.
pub struct Hearing {
    frames: Receiver<io::Result<Option<Frame>>>,
    clock: Clock,
    silence: Duration,
}

impl Hearing {
    /// Begins to read. A frame that is not fetched keeps the next ones from being read.
    pub fn on(input: impl Read + Send + 'static, silence: Duration) -> Self {
        let clock = Clock { begun: Instant::now(), heard: Arc::default() };
        let mut input = Noting { input, clock: clock.clone() };
        let (sender, frames) = sync_channel(0);
        std::thread::spawn(move || {
            loop {
                let frame = frame::read(&mut input);
                let is_last = !matches!(frame, Ok(Some(_)));
                if sender.send(frame).is_err() || is_last {
                    return;
                }
            }
        });
        Self { frames, clock, silence }
    }

    /// The next frame; nothing where the controller has closed its side.
    ///
    /// # Errors
    /// What arrives is no frame, or nothing has arrived for too long: the controller is gone.
    pub fn next(&self) -> io::Result<Option<Frame>> {
        loop {
            let left = self.silence.saturating_sub(self.clock.silent());
            match self.frames.recv_timeout(left) {
                Ok(frame) => return frame,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if self.clock.silent() < self.silence => {}
                Err(RecvTimeoutError::Timeout) => {
                    let text = format!("the controller was not heard for {} s", self.silence.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            }
        }
    }
}

/// When something was heard last, in milliseconds since the beginning.
#[derive(Clone)]
struct Clock {
    begun: Instant,
    heard: Arc<AtomicU64>,
}

impl Clock {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn silent(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.heard.load(Ordering::SeqCst)))
    }
}

/// Notes when bytes arrive: a large content over a slow line is no silence.
struct Noting<R> {
    input: R,
    clock: Clock,
}

impl<R: Read> Read for Noting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer);
        self.clock.heard.store(self.clock.now(), Ordering::SeqCst);
        read
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::wire::ToAgent;

    const SILENCE: Duration = Duration::from_millis(200);

    #[test]
    fn a_silent_controller_is_gone() {
        let (reader, mut writer) = io::pipe().unwrap();
        let hearing = Hearing::on(reader, SILENCE);
        writer.write_all(&frame::encode(&ToAgent::Alive).unwrap()).unwrap();
        assert!(matches!(hearing.next(), Ok(Some(Frame::Message(_)))));
        let begin = Instant::now();
        assert_eq!(hearing.next().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= SILENCE / 2);
    }

    #[test]
    fn one_that_speaks_slowly_is_there_and_one_that_ends_has_ended() {
        let (reader, mut writer) = io::pipe().unwrap();
        let hearing = Hearing::on(reader, SILENCE);
        let slow = std::thread::spawn(move || {
            for byte in frame::encode(&ToAgent::Cancel { id: 7 }).unwrap() {
                std::thread::sleep(SILENCE / 8);
                writer.write_all(&[byte]).unwrap();
            }
        });
        let frame = hearing.next().unwrap().unwrap();
        assert_eq!(frame.message::<ToAgent>().unwrap(), ToAgent::Cancel { id: 7 });
        slow.join().unwrap();
        assert!(hearing.next().unwrap().is_none());
    }
}
