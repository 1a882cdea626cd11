//! One host's agent: requests by number, their events, and the contents it asks for.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::plan::Digest;
use crate::transport::{Cause, Channel, ConnectError};
use crate::wire::frame::{self, Frame};
use crate::wire::{ALIVE, Event, FromAgent, Hello, PROTOCOL, Reply, Request, ToAgent};

/// Contents that agents may ask for; shared by all hosts of a run.
pub type Supply = BTreeMap<Digest, Arc<[u8]>>;
/// What is done with a host's events.
pub type OnEvent<'a> = &'a (dyn Fn(Event) + Send + Sync);

type Writer = Arc<tokio::sync::Mutex<Box<dyn AsyncWrite + Send + Unpin>>>;

/// A request that brought no reply, or the reply that it failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{host}: {error}")]
pub struct RequestError {
    /// The host.
    pub host: String,
    /// What happened.
    pub error: String,
    /// Is the connection gone, so that the host's state is not known?
    pub lost: bool,
}

enum Answer {
    Event(Event),
    Reply(Reply),
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<HashMap<u64, mpsc::UnboundedSender<Answer>>>,
    supply: Mutex<Supply>,
}

/// A connected host.
pub struct Session {
    /// Its name.
    pub host: String,
    /// What its agent said first.
    pub hello: Hello,
    /// Was the agent's binary sent first?
    pub pushed: bool,
    writer: Writer,
    shared: Arc<Shared>,
    next: AtomicU64,
    reading: JoinHandle<()>,
    living: JoinHandle<()>,
    _guard: Mutex<Box<dyn Send>>,
}

impl Session {
    /// Takes over a channel: reads the hello, checks that it is our own binary.
    ///
    /// # Errors
    /// Another protocol or another binary answers.
    pub async fn open(host: &str, channel: Channel, binary: Option<&str>) -> Result<Self, ConnectError> {
        let Channel { mut reader, writer, guard, pushed } = channel;
        let wrong = |detail: String| ConnectError::new(host, Cause::Agent, detail);
        let frame = read(&mut reader).await.map_err(|error| wrong(error.to_string()))?;
        let frame = frame.ok_or_else(|| wrong("the channel closed before the agent's hello".to_owned()))?;
        let hello = match frame.message::<FromAgent>() {
            Ok(FromAgent::Hello(hello)) if hello.protocol == PROTOCOL => hello,
            Ok(FromAgent::Hello(hello)) => return Err(wrong(format!("it speaks protocol {}", hello.protocol))),
            Ok(_) => return Err(wrong("it did not say hello".to_owned())),
            Err(error) => return Err(wrong(error.to_string())),
        };
        if let Some(binary) = binary.filter(|binary| *binary != hello.binary.as_str()) {
            let found = hello.binary.short();
            return Err(wrong(format!("its binary is {found}, ours {}; remove it there and try again", &binary[..12])));
        }
        let writer: Writer = Arc::new(tokio::sync::Mutex::new(writer));
        let shared = Arc::new(Shared::default());
        let reading = tokio::spawn(receive(reader, Arc::clone(&writer), Arc::clone(&shared)));
        let living = tokio::spawn(live(Arc::clone(&writer)));
        let (next, _guard) = (AtomicU64::new(1), Mutex::new(guard));
        Ok(Self { host: host.to_owned(), hello, pushed, writer, shared, next, reading, living, _guard })
    }

    /// Makes contents available to this host's agent.
    pub fn offer(&self, contents: &Supply) {
        let mut supply = lock(&self.shared.supply);
        supply.extend(contents.iter().map(|(digest, bytes)| (digest.clone(), Arc::clone(bytes))));
    }

    /// Sends a request and waits for its reply; once `stop` is cancelled, the agent is asked to stop it.
    ///
    /// # Errors
    /// The request failed on the host, or the connection was lost.
    pub async fn request(
        &self,
        request: Request,
        on_event: OnEvent<'_>,
        stop: &CancellationToken,
    ) -> Result<Reply, RequestError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, mut answers) = mpsc::unbounded_channel();
        lock(&self.shared.waiting).insert(id, sender);
        if self.reading.is_finished() || self.send(&ToAgent::Request { id, request }).await.is_err() {
            lock(&self.shared.waiting).remove(&id);
            return Err(self.lost());
        }
        let mut told = false;
        loop {
            tokio::select! {
                answer = answers.recv() => match answer {
                    Some(Answer::Event(event)) => on_event(event),
                    Some(Answer::Reply(Reply::Failed { error })) => {
                        return Err(RequestError { host: self.host.clone(), error, lost: false });
                    }
                    Some(Answer::Reply(reply)) => return Ok(reply),
                    None => return Err(self.lost()),
                },
                () = stop.cancelled(), if !told => {
                    told = true;
                    // Where it cannot be told any more, the lost connection ends the loop.
                    let _ = self.send(&ToAgent::Cancel { id }).await;
                }
            }
        }
    }

    async fn send(&self, message: &ToAgent) -> std::io::Result<()> {
        send(&self.writer, &frame::encode(message)?).await
    }

    fn lost(&self) -> RequestError {
        let error =
            "the connection to its agent was lost; what it had begun it ends or takes back by itself".to_owned();
        RequestError { host: self.host.clone(), error, lost: true }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reading.abort();
        self.living.abort();
    }
}

async fn send(writer: &Writer, frame: &[u8]) -> std::io::Result<()> {
    let mut writer = writer.lock().await;
    writer.write_all(frame).await?;
    writer.flush().await
}

/// Says again and again that this side is there, until the channel ends.
async fn live(writer: Writer) {
    let Ok(alive) = frame::encode(&ToAgent::Alive) else { return };
    loop {
        tokio::time::sleep(ALIVE).await;
        if send(&writer, &alive).await.is_err() {
            return;
        }
    }
}

/// Reads frames until the channel ends: answers go to their requests, and contents that are asked for are sent.
async fn receive(mut reader: Box<dyn AsyncRead + Send + Unpin>, writer: Writer, shared: Arc<Shared>) {
    while let Ok(Some(frame)) = read(&mut reader).await {
        match frame.message::<FromAgent>() {
            Ok(FromAgent::Event { id, event }) => pass(&shared, id, Answer::Event(event)),
            Ok(FromAgent::Reply { id, reply }) => {
                pass(&shared, id, Answer::Reply(reply));
                lock(&shared.waiting).remove(&id);
            }
            Ok(FromAgent::Need { id, digests }) => {
                // Apart from reading, since the agent may write events while it takes the contents.
                tokio::spawn(supply(Arc::clone(&writer), Arc::clone(&shared), id, digests));
            }
            Ok(FromAgent::Hello(_)) | Err(_) => break,
        }
    }
    // Dropping the senders tells all waiting requests.
    lock(&shared.waiting).clear();
}

async fn supply(writer: Writer, shared: Arc<Shared>, id: u64, digests: Vec<Digest>) {
    for digest in digests {
        let bytes = lock(&shared.supply).get(&digest).cloned();
        let Some(bytes) = bytes else {
            let error = format!("the agent asks for content {}, which this run does not have", digest.short());
            pass(&shared, id, Answer::Reply(Reply::Failed { error }));
            lock(&shared.waiting).remove(&id);
            return;
        };
        let Ok(frame) = frame::encode_blob(&digest, &bytes) else { return };
        if send(&writer, &frame).await.is_err() {
            return;
        }
    }
}

fn pass(shared: &Shared, id: u64, answer: Answer) {
    if let Some(sender) = lock(&shared.waiting).get(&id) {
        // A request whose caller is gone needs no answer.
        sender.send(answer).ok();
    }
}

async fn read(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Frame>> {
    let mut prefix = [0; 4];
    if let Err(error) = reader.read_exact(&mut prefix).await {
        return if error.kind() == std::io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let mut body = vec![0; frame::length(prefix)?];
    reader.read_exact(&mut body).await?;
    frame::decode(body).map(Some)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
