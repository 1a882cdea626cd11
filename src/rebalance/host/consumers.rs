//! The shard map at a consumer's host: the epoch of the file, and that of the service that reads it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use dunlin_shards::{InvalidAddress, Route, Routing};
use serde_json::Value;

use crate::http::{self, HttpError, Response};
use crate::protocol::shard::{ConsumerService, ConsumerState, MapConsumer, PublishedShard};

/// Time limit for the complete response of a service.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Looks at each of them; changes nothing.
pub fn observe_consumers(consumers: &[MapConsumer]) -> Vec<ConsumerState> {
    consumers.iter().map(observe_consumer).collect()
}

fn observe_consumer(consumer: &MapConsumer) -> ConsumerState {
    let parse_route = |route: &Route| {
        let replicas = route.replicas.iter().map(|replica| replica.parse()).collect::<Result<_, InvalidAddress>>()?;
        Ok(PublishedShard { shard: route.id, primary: route.primary.parse()?, replicas })
    };
    // A map that cannot be read counts as none.
    let routing = Routing::load_file(&consumer.file).ok().and_then(|routing| {
        let places: Result<Vec<PublishedShard>, InvalidAddress> = routing.shards.iter().map(parse_route).collect();
        Some((routing.cluster, routing.epoch.0, places.ok()?))
    });
    let (map_version, placements) = match routing {
        Some((cluster, epoch, placements)) => (Some((cluster, epoch)), placements),
        None => (None, Vec::new()),
    };
    let placements = if consumer.with_placements { placements } else { Vec::new() };
    let service = consumer.status_url.as_deref().map_or(ConsumerService::NotConfigured, probe_service);
    ConsumerState { map_version, placements, service }
}

/// Asks a service for its epoch. If nothing listens, nothing routes by an old map: the next start reads the file.
fn probe_service(url: &str) -> ConsumerService {
    match http::get(url, SERVICE_TIMEOUT).map_err(anyhow::Error::new).and_then(read_epoch) {
        Ok(epoch) => ConsumerService::Running { epoch },
        Err(error) if matches!(error.downcast_ref(), Some(HttpError::Refused)) => ConsumerService::Down,
        Err(error) => ConsumerService::UnknownEpoch { reason: format!("{url}: {error:#}") },
    }
}

/// Reads `map_epoch` of the JSON object that the service answers with.
fn read_epoch(response: Response) -> Result<u64> {
    if response.status != 200 {
        bail!("the response was {}", response.status_line);
    }
    let status: Value = serde_json::from_slice(&response.read_body(MAX_BODY)?).context("the response is not JSON")?;
    status["map_epoch"].as_u64().context("the response has no number map_epoch")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::http::tests::Server;

    #[test]
    fn the_epoch_is_read_and_anything_else_is_unclear() {
        let ask = |answer: &str| {
            let server = Server::start_closing(answer);
            probe_service(&format!("{}/version", server.url))
        };
        assert_eq!(ask("HTTP/1.1 200 OK\r\n\r\n{\"map_epoch\": 7, \"x\": 1}"), ConsumerService::Running { epoch: 7 });
        for answer in ["HTTP/1.1 503 No\r\n\r\n{\"map_epoch\": 7}", "HTTP/1.1 200 OK\r\n\r\n{}", "hello"] {
            assert!(matches!(ask(answer), ConsumerService::UnknownEpoch { .. }), "{answer}");
        }
    }

    #[test]
    fn a_service_that_keeps_the_connection_open_is_clear() {
        let body = "{\"map_epoch\": 7}";
        let head = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n";
        for answer in [
            format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
        ] {
            let server = Server::start(answer.clone());
            assert_eq!(
                probe_service(&format!("{}/version", server.url)),
                ConsumerService::Running { epoch: 7 },
                "{answer}"
            );
            assert!(server.request().starts_with("GET /version HTTP/1.1\r\n"));
        }
    }

    #[test]
    fn a_port_without_a_listener_is_a_service_that_is_down() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(probe_service(&format!("http://{port}/version")), ConsumerService::Down);
    }
}
