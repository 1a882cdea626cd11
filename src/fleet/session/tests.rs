use std::future::pending;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::plan::Digest;
use crate::protocol::{ExecRequest, ExecResult, HostFacts, OutputStream, SystemLoad};

const SILENCE: Duration = Duration::from_millis(300);
/// Far beyond any limit of these tests.
const TOO_LONG: Duration = Duration::from_secs(60);

fn hello() -> Vec<u8> {
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        version: "test".to_owned(),
        binary_digest: Digest::of_bytes(b"binary"),
        uid: 0,
        facts: HostFacts::default(),
        load: SystemLoad::default(),
    };
    frame::encode_message(&AgentMessage::Hello(hello)).unwrap()
}

fn output(text: &str) -> Vec<u8> {
    let event = Event::Output { stream: OutputStream::Out, text: text.to_owned() };
    frame::encode_message(&AgentMessage::Event { id: 1, event }).unwrap()
}

/// A channel to a host that the test plays: the host's side is what the test reads from and writes to.
fn fake_host(buffer: usize) -> (Channel, DuplexStream) {
    let (ours, theirs) = duplex(buffer);
    let (reader, writer) = tokio::io::split(ours);
    let channel =
        Channel { reader: Box::new(reader), writer: Box::new(writer), guard: Box::new(()), agent_pushed: false };
    (channel, theirs)
}

async fn connect(buffer: usize) -> (Session, DuplexStream) {
    let (channel, mut host) = fake_host(buffer);
    host.write_all(&hello()).await.unwrap();
    (Session::open_within("a", channel, None, SILENCE).await.unwrap(), host)
}

async fn exec(session: &Session, on_event: EventCallback<'_>) -> Result<ExecResult, RequestError> {
    let request =
        ExecRequest { argv: vec!["true".to_owned()], timeout_ms: 1000, operator: String::new(), run: String::new() };
    timeout(TOO_LONG, session.call(request, on_event, &CancellationToken::new())).await.expect("the request hangs")
}

async fn discard(mut stream: impl AsyncRead + Unpin) {
    while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
}

#[tokio::test]
async fn a_host_without_a_hello_is_an_error() {
    let (channel, mut host) = fake_host(1 << 16);
    // The first byte of a frame, as an agent sends it.
    host.write_all(&[0]).await.unwrap();
    let opened = timeout(TOO_LONG, Session::open_within("a", channel, None, SILENCE)).await.expect("it hangs");
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("from the agent"), "{error}");
}

#[tokio::test]
async fn a_host_that_says_hello_and_then_nothing_ends_its_requests() {
    let (session, host) = connect(1 << 16).await;
    let (_answers, reading) = (tokio::spawn(pending::<()>()), tokio::spawn(discard(host)));
    let error = exec(&session, &|_| {}).await.unwrap_err();
    assert!(error.connection_lost);
    assert!(error.message.contains("no message from the agent for 300ms"), "{error}");
    // The next request fails at once.
    let begin = Instant::now();
    assert!(exec(&session, &|_| {}).await.is_err());
    assert!(begin.elapsed() < SILENCE);
    reading.abort();
}

#[tokio::test]
async fn a_host_that_does_not_read_ends_its_requests() {
    // Keepalives arrive all the time; the request does not fit into the pipe.
    let (session, mut host) = connect(1 << 10).await;
    let keepalives = tokio::spawn(async move {
        let keepalive = frame::encode_message(&AgentMessage::KeepAlive).unwrap();
        loop {
            tokio::time::sleep(SILENCE / 10).await;
            host.write_all(&keepalive).await.unwrap();
        }
    });
    let request =
        ExecRequest { argv: vec!["x".repeat(1 << 16)], timeout_ms: 1000, operator: String::new(), run: String::new() };
    let done = timeout(TOO_LONG, session.call(request, &|_| {}, &CancellationToken::new())).await.expect("it hangs");
    let error = done.unwrap_err();
    assert!(error.connection_lost && error.message.contains("the agent has not read for 300ms"), "{error}");
    keepalives.abort();
}

#[tokio::test]
async fn a_host_that_only_sends_keepalives_ends_its_requests() {
    let (mut session, mut host) = connect(1 << 16).await;
    session.progress_timeout = SILENCE;
    let keepalives = tokio::spawn(async move {
        let keepalive = frame::encode_message(&AgentMessage::KeepAlive).unwrap();
        loop {
            tokio::time::sleep(SILENCE / 10).await;
            host.write_all(&keepalive).await.unwrap();
        }
    });
    let error = exec(&session, &|_| {}).await.unwrap_err();
    assert!(error.connection_lost && error.message.contains("no progress of the request for 1.3s"), "{error}");
    assert!(exec(&session, &|_| {}).await.is_err(), "the channel is closed");
    keepalives.abort();
}

#[tokio::test]
async fn keepalives_keep_a_slow_request_alive() {
    let (session, mut host) = connect(1 << 16).await;
    let answering = tokio::spawn(async move {
        for _ in 0..10 {
            tokio::time::sleep(SILENCE / 5).await;
            host.write_all(&frame::encode_message(&AgentMessage::KeepAlive).unwrap()).await.unwrap();
        }
        let reply = Reply::Exec(ExecResult { status: 7 });
        host.write_all(&frame::encode_message(&AgentMessage::Reply { id: 1, reply }).unwrap()).await.unwrap();
        discard(host).await;
    });
    assert_eq!(exec(&session, &|_| {}).await.unwrap().status, 7);
    drop(session);
    answering.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_nobody_takes_stop_the_host() {
    const EVENT_BYTES: usize = 1 << 10;
    let (session, mut host) = connect(1 << 16).await;
    let sent = Arc::new(AtomicU64::new(0));
    let flood = tokio::spawn({
        let sent = Arc::clone(&sent);
        async move {
            let event = output(&"x".repeat(EVENT_BYTES));
            while host.write_all(&event).await.is_ok() {
                sent.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let (count, hold) = (Arc::clone(&sent), Arc::new(AtomicU64::new(0)));
    let on_event = |_| {
        // The first event blocks the caller, like a stopped terminal.
        if hold.fetch_add(1, Ordering::SeqCst) == 0 {
            std::thread::sleep(SILENCE * 3);
            let sent = count.load(Ordering::SeqCst);
            // What the queue, the pipe and the buffers hold.
            assert!(sent < 200, "{sent} events were taken from the host while nobody took them here");
            assert!(sent > 10, "{sent}");
        }
    };
    timeout(SILENCE * 5, exec(&session, &on_event)).await.ok();
    assert!(hold.load(Ordering::SeqCst) > 0, "no event arrived");
    flood.abort();
}

#[tokio::test]
async fn oversized_events_and_contents_of_a_host_are_refused() {
    let bomb = frame::encode_blob(&Digest::of_bytes(b"content"), b"content").unwrap();
    let event = output(&"x".repeat(frame::MAX_EVENT_BYTES));
    for (bytes, wanted) in [(bomb, "only the controller does that"), (event, "an event of more than")] {
        let (session, host) = connect(1 << 16).await;
        let (reading, mut writing) = tokio::io::split(host);
        let tasks =
            [tokio::spawn(discard(reading)), tokio::spawn(async move { drop(writing.write_all(&bytes).await) })];
        let error = exec(&session, &|_| {}).await.unwrap_err();
        assert!(error.connection_lost && error.message.contains(wanted), "{error}");
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test]
async fn contents_are_sent_to_all_hosts_within_the_bandwidth() {
    const CONTENT_BYTES: usize = 20_000;
    let mut contents = ContentFile::create(&std::env::temp_dir()).unwrap();
    // Bytes that no compression shortens.
    let mut state = 1_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(CONTENT_BYTES)
    .collect();
    let digest = Digest::of_bytes(&bytes);
    contents.add_content(&digest, &bytes).unwrap();
    contents.bandwidth.set_rate(600_000);
    let (contents, begin) = (Arc::new(contents), Instant::now());
    let mut hosts = Vec::new();
    for _ in 0..3 {
        let (session, mut host) = connect(1 << 20).await;
        session.set_content_file(&contents);
        let request = AgentMessage::NeedBlobs { id: 1, digests: vec![digest.clone(); 2] };
        host.write_all(&frame::encode_message(&request).unwrap()).await.unwrap();
        hosts.push((session, host));
    }
    for (_session, host) in &mut hosts {
        let mut received = vec![0; 2 * CONTENT_BYTES];
        timeout(TOO_LONG, host.read_exact(&mut received)).await.expect("no contents").unwrap();
    }
    // 120,000 bytes at 600,000 bytes per second; a short burst is free.
    assert!(begin.elapsed() >= Duration::from_millis(150), "{:?}", begin.elapsed());
}
