//! What a consumer's host knows of the shard map: the epoch of the file there, and that of the service that reads it.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dunlin_shards::{Route, Routing};
use serde_json::Value;

use crate::wire::deploy::split_url;
use crate::wire::shard::{Consumer, ConsumerState, Published, Service};

/// Longest wait for a service's answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Most of an answer that is read, in bytes.
const MOST: u64 = 64 << 10;

/// Looks at each of them; changes nothing.
pub fn look(consumers: &[Consumer]) -> Vec<ConsumerState> {
    consumers.iter().map(one).collect()
}

fn one(consumer: &Consumer) -> ConsumerState {
    let routing = Routing::load(&consumer.file).ok();
    let place = |route: &Route| Published {
        shard: route.id.0.into(),
        primary: route.primary.clone(),
        replicas: route.replicas.clone(),
    };
    let asked = routing.as_ref().filter(|_| consumer.with_places);
    let places = asked.map(|routing| routing.shards.iter().map(place).collect()).unwrap_or_default();
    let service = consumer.version_url.as_deref().map_or(Service::NotAsked, service);
    ConsumerState { file: routing.map(|routing| (routing.cluster, routing.epoch.0)), places, service }
}

/// Nobody listening means that nobody routes by an old map: the next start reads the file.
fn service(url: &str) -> Service {
    let why = |error: anyhow::Error| format!("{url}: {error:#}");
    match connected(url) {
        Ok(None) => Service::Down,
        Ok(Some(stream)) => match epoch(stream, url) {
            Ok(epoch) => Service::Runs { epoch },
            Err(error) => Service::Unclear { why: why(error) },
        },
        Err(error) => Service::Unclear { why: why(error) },
    }
}

fn connected(url: &str) -> Result<Option<TcpStream>> {
    let (address, ..) = split_url(url).context("no http:// address")?;
    let mut refused = false;
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, ANSWER) {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => refused = true,
            Err(error) => return Err(error.into()),
        }
    }
    if refused { Ok(None) } else { bail!("no such address") }
}

/// `map_epoch` of the JSON object that the service answers with.
fn epoch(mut stream: TcpStream, url: &str) -> Result<u64> {
    let (_, host, path) = split_url(url).context("no http:// address")?;
    stream.set_write_timeout(Some(ANSWER))?;
    // 1.0: the answer comes in one piece, and the server closes after it.
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: dunlin\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let (end, mut answer, mut chunk) = (Instant::now() + ANSWER, Vec::new(), [0; 4096]);
    while (answer.len() as u64) < MOST {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("no whole answer within {} s", ANSWER.as_secs());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk).context("no answer")? {
            0 => break,
            read => answer.extend_from_slice(&chunk[..read]),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("the answer was {status}");
    }
    let said: Value = serde_json::from_str(body.trim()).context("the answer is no JSON")?;
    said["map_epoch"].as_u64().context("the answer has no number map_epoch")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answered(answer: &'static str) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/version", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut chunk) = (Vec::new(), [0; 1024]);
            while !asked.ends_with(b"\r\n\r\n") {
                let read = stream.read(&mut chunk).unwrap();
                assert_ne!(read, 0, "the request has no end");
                asked.extend_from_slice(&chunk[..read]);
            }
            assert!(asked.starts_with(b"GET /version HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let service = service(&url);
        server.join().unwrap();
        service
    }

    #[test]
    fn the_epoch_is_read_and_anything_else_is_unclear() {
        assert_eq!(answered("HTTP/1.1 200 OK\r\n\r\n{\"map_epoch\": 7, \"x\": 1}"), Service::Runs { epoch: 7 });
        for answer in ["HTTP/1.1 503 No\r\n\r\n{\"map_epoch\": 7}", "HTTP/1.1 200 OK\r\n\r\n{}", "hello"] {
            assert!(matches!(answered(answer), Service::Unclear { .. }), "{answer}");
        }
    }

    #[test]
    fn a_port_without_a_listener_is_a_service_that_is_down() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(service(&format!("http://{port}/version")), Service::Down);
    }
}
