//! One host's agent: requests by number, their events, and the contents it asks for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::content_file::ContentFile;
use super::frame_stream::{FrameReader, FrameWriter};
pub use super::session_reader::BlobMap;
use super::session_reader::{ChannelEnd, SessionEvent, SessionShared, receive_frames};
use crate::protocol::deploy::DeployRequest;
use crate::protocol::frame;
use crate::protocol::{
    AgentMessage, Call, ControllerMessage, Event, Hello, KEEPALIVE_INTERVAL, PROTOCOL_VERSION, Reply, Request,
    SILENCE_TIMEOUT,
};
use crate::transport::{Channel, ConnectError, ConnectErrorKind};

/// Maximum time between two signs of a request's progress, beyond the limit that the request itself has. Keepalives are
/// none: the thread that sends them runs on when the request hangs.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Receives a host's events.
pub type EventCallback<'a> = &'a (dyn Fn(Event) + Send + Sync);

/// Describes a request that failed or got no reply.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{host}: {message}")]
pub struct RequestError {
    /// The host.
    pub host: String,
    /// Error message.
    pub message: String,
    /// Set if the connection was lost, so that the host's state is unknown.
    pub connection_lost: bool,
}

/// A connected host.
pub struct Session {
    /// Name of the host.
    pub host: String,
    /// First message of the agent.
    pub hello: Hello,
    /// Set if the agent's binary had to be sent.
    pub agent_pushed: bool,
    writer: Arc<FrameWriter>,
    shared: Arc<SessionShared>,
    next_request_id: AtomicU64,
    progress_timeout: Duration,
    reader_task: JoinHandle<()>,
    keepalive_task: JoinHandle<()>,
    _channel_guard: Mutex<Box<dyn Send>>,
}

impl Session {
    /// Opens a session on a channel: reads the hello and checks that the agent runs the same binary.
    ///
    /// # Errors
    /// Returns an error if no hello arrives in time, or if the agent uses another protocol or another binary.
    pub async fn open(host: &str, channel: Channel, binary: Option<&str>) -> Result<Self, ConnectError> {
        Self::open_within(host, channel, binary, SILENCE_TIMEOUT).await
    }

    /// Works like [`Session::open`], with another limit for the silence of an agent.
    async fn open_within(
        host: &str,
        channel: Channel,
        binary: Option<&str>,
        silence_timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let Channel { reader, writer, guard, agent_pushed } = channel;
        let agent_error = |detail: String| ConnectError::new(host, ConnectErrorKind::AgentFailed, detail);
        let mut reader = FrameReader::new(reader, silence_timeout);
        let hello = timeout(silence_timeout, read_hello(&mut reader)).await;
        let hello = hello.unwrap_or_else(|_| Err(format!("no hello from the agent within {silence_timeout:?}")));
        let hello = hello.map_err(agent_error)?;
        if let Some(binary) = binary.filter(|binary| *binary != hello.binary_digest.as_str()) {
            let found = hello.binary_digest.short_hex();
            return Err(agent_error(format!(
                "its binary is {found}, ours {}; remove it there and try again",
                &binary[..12]
            )));
        }
        let writer = Arc::new(FrameWriter::new(writer, silence_timeout));
        let shared = Arc::new(SessionShared::default());
        let reader_task = tokio::spawn(receive_frames(reader, Arc::clone(&writer), Arc::clone(&shared)));
        let keepalive_task = tokio::spawn(send_keepalives(Arc::clone(&writer), Arc::clone(&shared)));
        let (next_request_id, _channel_guard) = (AtomicU64::new(1), Mutex::new(guard));
        Ok(Self {
            host: host.to_owned(),
            hello,
            agent_pushed,
            writer,
            shared,
            next_request_id,
            progress_timeout: PROGRESS_TIMEOUT,
            reader_task,
            keepalive_task,
            _channel_guard,
        })
    }

    /// Makes contents available to this host's agent.
    pub fn add_blobs(&self, new_blobs: &BlobMap) {
        self.shared.add_blobs(new_blobs);
    }

    /// Makes the contents in a file available to this host's agent.
    pub fn set_content_file(&self, contents: &Arc<ContentFile>) {
        self.shared.set_content_file(Arc::clone(contents));
    }

    /// Sends a request and waits for its reply; once `cancellation` is cancelled, the agent is asked to stop it.
    ///
    /// # Errors
    /// Returns an error if the request failed on the host, the connection was lost, or the agent broke the protocol.
    pub async fn call<C: Call>(
        &self,
        call: C,
        on_event: EventCallback<'_>,
        cancellation: &CancellationToken,
    ) -> Result<C::Reply, RequestError> {
        let reply = self.send_request(call.into_request(), on_event, cancellation).await?;
        C::from_reply(reply).ok_or_else(|| RequestError {
            host: self.host.clone(),
            message: format!("protocol error: the agent answered {} with another reply", C::NAME),
            connection_lost: false,
        })
    }

    async fn send_request(
        &self,
        request: Request,
        on_event: EventCallback<'_>,
        cancellation: &CancellationToken,
    ) -> Result<Reply, RequestError> {
        let id = self.next_request_id.fetch_add(1, Ordering::Relaxed);
        let mut answers = self.shared.register_request(id).map_err(|end| self.connection_lost_error(&end))?;
        let limit = self.progress_timeout.saturating_add(own_time_limit(&request));
        self.send_message(&ControllerMessage::Request { id, request }).await?;
        let mut cancel_sent = false;
        let mut last_progress = Instant::now();
        loop {
            let remaining = limit.saturating_sub(last_progress.elapsed());
            tokio::select! {
                answer = answers.recv() => match answer {
                    Some(SessionEvent::Event(event)) => {
                        on_event(event);
                        last_progress = Instant::now();
                    }
                    Some(SessionEvent::Reply(Reply::Failed { error: message })) => {
                        return Err(RequestError { host: self.host.clone(), message, connection_lost: false });
                    }
                    Some(SessionEvent::Reply(reply)) => return Ok(reply),
                    None => return Err(self.connection_lost_error(&self.shared.end_channel(ChannelEnd::default()))),
                },
                () = tokio::time::sleep(remaining) => {
                    let error = format!("no progress of the request for {limit:?}");
                    return Err(self.connection_lost_error(&self.shared.end_channel(ChannelEnd { error: Some(error) })));
                }
                () = cancellation.cancelled(), if !cancel_sent => {
                    cancel_sent = true;
                    // If the agent cannot be reached, the lost connection ends the loop.
                    let _ = self.send_message(&ControllerMessage::Cancel { id }).await;
                }
            }
        }
    }

    /// Sends a message. If the channel is closed or the agent does not read, all requests end.
    async fn send_message(&self, message: &ControllerMessage) -> Result<(), RequestError> {
        let frame = frame::encode_message(message).map_err(|error| RequestError {
            host: self.host.clone(),
            message: format!("the request cannot be sent: {error}"),
            connection_lost: false,
        })?;
        self.writer.write_frame(&frame).await.map_err(|error| {
            self.connection_lost_error(&self.shared.end_channel(ChannelEnd { error: Some(error.to_string()) }))
        })
    }

    fn connection_lost_error(&self, end: &ChannelEnd) -> RequestError {
        let reason = end.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        let message =
            format!("the connection to its agent was lost{reason}; its agent finishes or rolls back started steps");
        RequestError { host: self.host.clone(), message, connection_lost: true }
    }
}

/// Returns the time limit that a request has by itself: until then it may be silent.
fn own_time_limit(request: &Request) -> Duration {
    Duration::from_millis(match request {
        Request::Exec(exec) => exec.timeout_ms,
        Request::Deploy(DeployRequest::RunTask(run)) => run.task.timeout_ms,
        _ => 0,
    })
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader_task.abort();
        self.keepalive_task.abort();
    }
}

async fn read_hello(reader: &mut FrameReader) -> Result<Hello, String> {
    let frame = reader.read_frame().await.map_err(|error| error.to_string())?;
    let frame = frame.ok_or_else(|| "the channel closed before the agent's hello".to_owned())?;
    match frame.parse_message::<AgentMessage>() {
        Ok(AgentMessage::Hello(hello)) if hello.protocol_version == PROTOCOL_VERSION => Ok(hello),
        Ok(AgentMessage::Hello(hello)) => Err(format!("it uses protocol {}", hello.protocol_version)),
        Ok(_) => Err("it did not send a hello".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Sends keepalive messages until the channel ends.
async fn send_keepalives(writer: Arc<FrameWriter>, shared: Arc<SessionShared>) {
    let Ok(keepalive) = frame::encode_message(&ControllerMessage::KeepAlive) else { return };
    loop {
        tokio::time::sleep(KEEPALIVE_INTERVAL).await;
        if let Err(error) = writer.write_frame(&keepalive).await {
            shared.end_channel(ChannelEnd { error: Some(error.to_string()) });
            return;
        }
    }
}

#[cfg(test)]
mod tests;
