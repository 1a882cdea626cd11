//! One host's agent: requests by number, their events, and the contents it asks for.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::plan::Digest;
use crate::protocol::frame::{self, Frame};
use crate::protocol::{
    AgentMessage, Call, ControllerMessage, Event, Hello, KEEPALIVE_INTERVAL, PROTOCOL_VERSION, Reply, Request,
};
use crate::transport::{Channel, ConnectError, ConnectErrorKind};

/// Contents that agents may request; shared by all hosts of a run.
pub type BlobMap = BTreeMap<Digest, Arc<[u8]>>;
/// Receives a host's events.
pub type EventCallback<'a> = &'a (dyn Fn(Event) + Send + Sync);

type SharedWriter = Arc<tokio::sync::Mutex<Box<dyn AsyncWrite + Send + Unpin>>>;

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

enum SessionEvent {
    Event(Event),
    Reply(Reply),
}

#[derive(Default)]
struct SessionShared {
    pending: Mutex<HashMap<u64, mpsc::UnboundedSender<SessionEvent>>>,
    blobs: Mutex<BlobMap>,
}

/// A connected host.
pub struct Session {
    /// Name of the host.
    pub host: String,
    /// First message of the agent.
    pub hello: Hello,
    /// Set if the agent's binary had to be sent.
    pub agent_pushed: bool,
    writer: SharedWriter,
    shared: Arc<SessionShared>,
    next_request_id: AtomicU64,
    reader_task: JoinHandle<()>,
    keepalive_task: JoinHandle<()>,
    _channel_guard: Mutex<Box<dyn Send>>,
}

impl Session {
    /// Opens a session on a channel: reads the hello and checks that the agent runs the same binary.
    ///
    /// # Errors
    /// Returns an error if the agent uses another protocol or another binary.
    pub async fn open(host: &str, channel: Channel, binary: Option<&str>) -> Result<Self, ConnectError> {
        let Channel { mut reader, writer, guard, agent_pushed } = channel;
        let agent_error = |detail: String| ConnectError::new(host, ConnectErrorKind::AgentFailed, detail);
        let frame = read_frame(&mut reader).await.map_err(|error| agent_error(error.to_string()))?;
        let frame = frame.ok_or_else(|| agent_error("the channel closed before the agent's hello".to_owned()))?;
        let hello = match frame.parse_message::<AgentMessage>() {
            Ok(AgentMessage::Hello(hello)) if hello.protocol_version == PROTOCOL_VERSION => hello,
            Ok(AgentMessage::Hello(hello)) => {
                return Err(agent_error(format!("it uses protocol {}", hello.protocol_version)));
            }
            Ok(_) => return Err(agent_error("it did not send a hello".to_owned())),
            Err(error) => return Err(agent_error(error.to_string())),
        };
        if let Some(binary) = binary.filter(|binary| *binary != hello.binary_digest.as_str()) {
            let found = hello.binary_digest.short_hex();
            return Err(agent_error(format!(
                "its binary is {found}, ours {}; remove it there and try again",
                &binary[..12]
            )));
        }
        let writer: SharedWriter = Arc::new(tokio::sync::Mutex::new(writer));
        let shared = Arc::new(SessionShared::default());
        let reader_task = tokio::spawn(receive_frames(reader, Arc::clone(&writer), Arc::clone(&shared)));
        let keepalive_task = tokio::spawn(send_keepalives(Arc::clone(&writer)));
        let (next_request_id, _channel_guard) = (AtomicU64::new(1), Mutex::new(guard));
        Ok(Self {
            host: host.to_owned(),
            hello,
            agent_pushed,
            writer,
            shared,
            next_request_id,
            reader_task,
            keepalive_task,
            _channel_guard,
        })
    }

    /// Makes contents available to this host's agent.
    pub fn add_blobs(&self, new_blobs: &BlobMap) {
        let mut blobs = lock_mutex(&self.shared.blobs);
        blobs.extend(new_blobs.iter().map(|(digest, bytes)| (digest.clone(), Arc::clone(bytes))));
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
        let (sender, mut answers) = mpsc::unbounded_channel();
        lock_mutex(&self.shared.pending).insert(id, sender);
        if self.reader_task.is_finished()
            || self.send_message(&ControllerMessage::Request { id, request }).await.is_err()
        {
            lock_mutex(&self.shared.pending).remove(&id);
            return Err(self.connection_lost_error());
        }
        let mut cancel_sent = false;
        loop {
            tokio::select! {
                answer = answers.recv() => match answer {
                    Some(SessionEvent::Event(event)) => on_event(event),
                    Some(SessionEvent::Reply(Reply::Failed { error: message })) => {
                        return Err(RequestError { host: self.host.clone(), message, connection_lost: false });
                    }
                    Some(SessionEvent::Reply(reply)) => return Ok(reply),
                    None => return Err(self.connection_lost_error()),
                },
                () = cancellation.cancelled(), if !cancel_sent => {
                    cancel_sent = true;
                    // If the agent cannot be reached, the lost connection ends the loop.
                    let _ = self.send_message(&ControllerMessage::Cancel { id }).await;
                }
            }
        }
    }

    async fn send_message(&self, message: &ControllerMessage) -> std::io::Result<()> {
        write_frame(&self.writer, &frame::encode_message(message)?).await
    }

    fn connection_lost_error(&self) -> RequestError {
        let error = "the connection to its agent was lost; its agent finishes or rolls back started steps".to_owned();
        RequestError { host: self.host.clone(), message: error, connection_lost: true }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader_task.abort();
        self.keepalive_task.abort();
    }
}

async fn write_frame(writer: &SharedWriter, frame: &[u8]) -> std::io::Result<()> {
    let mut writer = writer.lock().await;
    writer.write_all(frame).await?;
    writer.flush().await
}

/// Sends keepalive messages until the channel ends.
async fn send_keepalives(writer: SharedWriter) {
    let Ok(keepalive) = frame::encode_message(&ControllerMessage::KeepAlive) else { return };
    loop {
        tokio::time::sleep(KEEPALIVE_INTERVAL).await;
        if write_frame(&writer, &keepalive).await.is_err() {
            return;
        }
    }
}

/// Reads frames until the channel ends: answers go to their requests, and contents that are asked for are sent.
async fn receive_frames(
    mut reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: SharedWriter,
    shared: Arc<SessionShared>,
) {
    while let Ok(Some(frame)) = read_frame(&mut reader).await {
        match frame.parse_message::<AgentMessage>() {
            Ok(AgentMessage::Event { id, event }) => deliver_message(&shared, id, SessionEvent::Event(event)),
            Ok(AgentMessage::Reply { id, reply }) => {
                deliver_message(&shared, id, SessionEvent::Reply(reply));
                lock_mutex(&shared.pending).remove(&id);
            }
            Ok(AgentMessage::NeedBlobs { id, digests }) => {
                // Apart from reading, since the agent may write events while it takes the contents.
                tokio::spawn(send_blobs(Arc::clone(&writer), Arc::clone(&shared), id, digests));
            }
            Ok(AgentMessage::Hello(_)) | Err(_) => break,
        }
    }
    // Dropping the senders tells all waiting requests.
    lock_mutex(&shared.pending).clear();
}

async fn send_blobs(writer: SharedWriter, shared: Arc<SessionShared>, id: u64, digests: Vec<Digest>) {
    for digest in digests {
        let bytes = lock_mutex(&shared.blobs).get(&digest).cloned();
        let Some(bytes) = bytes else {
            let error = format!("the agent asks for content {}, which this run does not have", digest.short_hex());
            deliver_message(&shared, id, SessionEvent::Reply(Reply::Failed { error }));
            lock_mutex(&shared.pending).remove(&id);
            return;
        };
        let Ok(frame) = frame::encode_blob(&digest, &bytes) else { return };
        if write_frame(&writer, &frame).await.is_err() {
            return;
        }
    }
}

fn deliver_message(shared: &SessionShared, id: u64, message: SessionEvent) {
    if let Some(sender) = lock_mutex(&shared.pending).get(&id) {
        // A request whose caller is gone needs no answer.
        sender.send(message).ok();
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Frame>> {
    let mut prefix = [0; 4];
    if let Err(error) = reader.read_exact(&mut prefix).await {
        return if error.kind() == std::io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let mut body = vec![0; frame::parse_length(prefix)?];
    reader.read_exact(&mut body).await?;
    frame::decode_frame(body).map(Some)
}

fn lock_mutex<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
