//! Reads the messages of an agent: routes answers to their requests, and sends the contents that it requests.
//!
//! All queues are bounded. A request whose caller is slow to take its events stops the reading, and thereby the agent.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;

use super::content_file::ContentFile;
use super::frame_stream::{FrameReader, FrameWriter};
use crate::plan::Digest;
use crate::protocol::frame::{self, Frame, MAX_EVENT_BYTES};
use crate::protocol::{AgentMessage, Event, Reply};

/// Contents that agents may request; shared by all hosts of a run.
pub type BlobMap = BTreeMap<Digest, Arc<[u8]>>;

/// Maximum number of events of one request that wait for its caller.
pub const MAX_QUEUED_EVENTS: usize = 32;
/// Maximum number of lists of required contents that wait to be sent.
const MAX_QUEUED_BLOB_LISTS: usize = 16;

/// An answer to a request.
pub enum SessionEvent {
    Event(Event),
    Reply(Reply),
}

/// The part of a session that its reader shares with its requests.
#[derive(Default)]
pub struct SessionShared {
    state: Mutex<ReaderState>,
    blobs: Mutex<BlobMap>,
    content_file: Mutex<Option<Arc<ContentFile>>>,
}

#[derive(Default)]
struct ReaderState {
    pending: HashMap<u64, mpsc::Sender<SessionEvent>>,
    /// Set once the channel has ended.
    end: Option<ChannelEnd>,
}

/// Describes why a channel ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelEnd {
    /// `None` if the agent closed the channel without an error.
    pub error: Option<String>,
}

impl SessionShared {
    /// Returns the receiver of a request's answers; an error if the channel has ended.
    pub fn register_request(&self, id: u64) -> Result<mpsc::Receiver<SessionEvent>, ChannelEnd> {
        let mut state = self.lock_state();
        if let Some(end) = &state.end {
            return Err(end.clone());
        }
        let (sender, answers) = mpsc::channel(MAX_QUEUED_EVENTS);
        state.pending.insert(id, sender);
        Ok(answers)
    }

    /// Ends all requests. The first reason counts.
    pub fn end_channel(&self, end: ChannelEnd) -> ChannelEnd {
        let mut state = self.lock_state();
        // Dropping the senders ends all waiting requests.
        state.pending.clear();
        state.end.get_or_insert(end).clone()
    }

    /// Makes contents available to this host's agent.
    pub fn add_blobs(&self, new_blobs: &BlobMap) {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.extend(new_blobs.iter().map(|(digest, bytes)| (digest.clone(), Arc::clone(bytes))));
    }

    /// Makes the contents in a file available to this host's agent.
    pub fn set_content_file(&self, contents: Arc<ContentFile>) {
        *self.content_file.lock().unwrap_or_else(PoisonError::into_inner) = Some(contents);
    }

    /// Returns the frame that carries a content, if this run has it, and the time at which it may be sent.
    fn encode_blob(&self, digest: &Digest) -> io::Result<Option<(Vec<u8>, Option<Instant>)>> {
        let bytes = self.blobs.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned();
        if let Some(bytes) = bytes {
            return frame::encode_blob(digest, &bytes).map(|frame| Some((frame, None)));
        }
        let contents = self.content_file.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(contents) = contents else { return Ok(None) };
        let with_due = |frame: Vec<u8>| {
            let due = contents.bandwidth.take_tokens(frame.len() as u64);
            (frame, due)
        };
        Ok(contents.read_frame(digest)?.map(with_due))
    }

    async fn deliver_event(&self, id: u64, event: Event) {
        let sender = self.lock_state().pending.get(&id).cloned();
        if let Some(sender) = sender {
            // A request whose caller is gone needs no answer.
            sender.send(SessionEvent::Event(event)).await.ok();
        }
    }

    async fn deliver_reply(&self, id: u64, reply: Reply) {
        let sender = self.lock_state().pending.remove(&id);
        if let Some(sender) = sender {
            sender.send(SessionEvent::Reply(reply)).await.ok();
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, ReaderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads frames until the channel ends, then ends all requests.
pub async fn receive_frames(mut reader: FrameReader, writer: Arc<FrameWriter>, shared: Arc<SessionShared>) {
    // Apart from reading, since the agent may write events while it takes the contents.
    let (blob_lists, mut queue) = mpsc::channel(MAX_QUEUED_BLOB_LISTS);
    let sending = async {
        while let Some((id, digests)) = queue.recv().await {
            send_blobs(&writer, &shared, id, digests).await;
        }
    };
    let reading = async {
        let error = loop {
            match read_message(&mut reader, &shared, &blob_lists).await {
                Ok(true) => {}
                Ok(false) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        shared.end_channel(ChannelEnd { error });
    };
    tokio::select! {
        () = reading => {}
        () = sending => {}
    }
}

/// Handles one message; false at the end of the stream.
async fn read_message(
    reader: &mut FrameReader,
    shared: &SessionShared,
    blob_lists: &mpsc::Sender<(u64, Vec<Digest>)>,
) -> std::io::Result<bool> {
    let Some(frame) = reader.read_frame().await? else { return Ok(false) };
    match frame.parse_message::<AgentMessage>()? {
        AgentMessage::Event { .. } if is_oversized_event(&frame) => {
            return Err(std::io::Error::other(format!("the agent sent an event of more than {MAX_EVENT_BYTES} bytes")));
        }
        AgentMessage::Event { id, event } => shared.deliver_event(id, event).await,
        AgentMessage::Reply { id, reply } => shared.deliver_reply(id, reply).await,
        AgentMessage::NeedBlobs { id, digests } => drop(blob_lists.send((id, digests)).await),
        AgentMessage::KeepAlive => {}
        AgentMessage::Hello(_) => return Err(std::io::Error::other("the agent sent a second hello")),
    }
    Ok(true)
}

fn is_oversized_event(frame: &Frame) -> bool {
    matches!(frame, Frame::Message(json) if json.len() > MAX_EVENT_BYTES)
}

/// Sends contents; fails the request if one of them cannot be sent.
async fn send_blobs(writer: &FrameWriter, shared: &SessionShared, id: u64, digests: Vec<Digest>) {
    for digest in digests {
        let (frame, due) = match shared.encode_blob(&digest) {
            Ok(Some(encoded)) => encoded,
            Ok(None) => {
                let error = format!("the agent asks for content {}, which this run does not have", digest.short_hex());
                return shared.deliver_reply(id, Reply::Failed { error }).await;
            }
            Err(error) => {
                let error = format!("content {} cannot be sent: {error}", digest.short_hex());
                return shared.deliver_reply(id, Reply::Failed { error }).await;
            }
        };
        if let Some(due) = due {
            tokio::time::sleep_until(due.into()).await;
        }
        if let Err(error) = writer.write_frame(&frame).await {
            shared.end_channel(ChannelEnd { error: Some(error.to_string()) });
            return;
        }
    }
}
