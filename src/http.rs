//! One HTTP/1.1 GET (RFC 9112) without encryption, for questions to services on the same host. The time limit applies
//! to the whole exchange, and no more of a body is kept than is asked for.

mod connection;

use std::io::{self, Write};
use std::time::Duration;

pub use connection::connect;
use connection::{Deadline, HttpConnection, connect_by, malformed};

/// The longest line that gives the size of a chunk, in bytes.
const MAX_CHUNK_LINE: usize = 256;

/// Describes why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is not of the form that [`Url::parse`] takes.
    #[error("the address is not of the form http://HOST[:PORT]/PATH")]
    InvalidUrl,
    /// The host name has no address.
    #[error("the host name has no address")]
    NoAddress,
    /// Nobody listens there.
    #[error("the connection was refused")]
    Refused,
    /// The exchange took longer than allowed.
    #[error("no complete response within {0:?}")]
    TimedOut(Duration),
    /// The server closed the connection too early.
    #[error("the server closed the connection before the response was complete")]
    Closed,
    /// The response is not HTTP.
    #[error("the response is not HTTP: {0}")]
    Malformed(String),
    /// The body is longer than allowed.
    #[error("the body is longer than {0} bytes")]
    BodyTooLong(usize),
    /// Another error of the connection.
    #[error(transparent)]
    Io(io::Error),
}

/// An `http://` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url<'a> {
    /// Address to connect to: `HOST:PORT`.
    pub address: String,
    /// The host as the request names it, with the port where the address has one.
    pub host: &'a str,
    /// The path with its query; `/` where there is none.
    pub path: &'a str,
}

impl<'a> Url<'a> {
    /// Parses `http://HOST[:PORT]/PATH`; `None` where it is anything else.
    pub fn parse(url: &'a str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || host.contains(['@', '?', '#']) || !is_plain(host) || !is_plain(path) || path.contains('#')
        {
            return None;
        }
        // A port is behind the last colon, unless that colon is inside the brackets of an IPv6 address.
        let address = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => {
                port.parse::<u16>().ok().filter(|_| !name.is_empty())?;
                host.to_owned()
            }
            _ => format!("{host}:80"),
        };
        Some(Self { address, host, path: if path.is_empty() { "/" } else { path } })
    }
}

/// A response whose head was read; the body is still to come.
#[derive(Debug)]
pub struct Response {
    /// The status: 200, 503 …
    pub status: u16,
    /// The status line, for messages.
    pub status_line: String,
    framing: Framing,
    connection: HttpConnection,
}

/// Describes how the end of a body is recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Sends a GET request and reads the head of the response.
///
/// # Errors
/// Returns an error without an HTTP response within `timeout`, which also limits reading the body.
pub fn get(url: &str, timeout: Duration) -> Result<Response, HttpError> {
    let deadline = Deadline::after(timeout);
    let Url { address, host, path } = Url::parse(url).ok_or(HttpError::InvalidUrl)?;
    let mut stream = connect_by(&address, deadline)?;
    stream.set_write_timeout(Some(deadline.left()?)).map_err(HttpError::Io)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: dunlin\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| deadline.classify(error))?;
    let mut connection = HttpConnection::new(stream, deadline);
    loop {
        let head = connection.read_head()?;
        let (status, status_line) = parse_status(&head)?;
        // 1xx announces another response.
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let framing = if matches!(status, 204 | 304) { Framing::Length(0) } else { framing_of(&head)? };
        return Ok(Response { status, status_line, framing, connection });
    }
}

impl Response {
    /// Reads the whole body.
    ///
    /// # Errors
    /// Returns an error if it is longer than `max` bytes, or not complete in time.
    pub fn read_body(mut self, max: usize) -> Result<Vec<u8>, HttpError> {
        let mut body = Vec::new();
        self.read_into(&mut body, max)?;
        Ok(body)
    }

    /// Reads what arrives of the body in time, up to `max` bytes: for messages.
    pub fn read_beginning(mut self, max: usize) -> Vec<u8> {
        let mut body = Vec::new();
        // However it ends: what has arrived is what is asked for.
        self.read_into(&mut body, max).ok();
        body.truncate(max);
        body
    }

    fn read_into(&mut self, body: &mut Vec<u8>, max: usize) -> Result<(), HttpError> {
        match self.framing {
            Framing::Length(length) => {
                let is_too_long = length > max as u64;
                self.connection.move_to(body, length.min(max as u64))?;
                if is_too_long { Err(HttpError::BodyTooLong(max)) } else { Ok(()) }
            }
            Framing::UntilClose => loop {
                body.append(&mut self.connection.buffer);
                if body.len() > max {
                    return Err(HttpError::BodyTooLong(max));
                }
                if !self.connection.fill()? {
                    return Ok(());
                }
            },
            Framing::Chunked => loop {
                let line = self.connection.read_line(MAX_CHUNK_LINE)?;
                let digits = line.split(';').next().unwrap_or_default().trim();
                let size =
                    u64::from_str_radix(digits, 16).map_err(|_| malformed(format!("a chunk of size {line:?}")))?;
                if size == 0 {
                    return Ok(());
                }
                if size.saturating_add(body.len() as u64) > max as u64 {
                    self.connection.move_to(body, (max - body.len()) as u64)?;
                    return Err(HttpError::BodyTooLong(max));
                }
                self.connection.move_to(body, size)?;
                if !self.connection.read_line(MAX_CHUNK_LINE)?.is_empty() {
                    return Err(malformed("a chunk is longer than its size".to_owned()));
                }
            },
        }
    }
}

fn parse_status(head: &str) -> Result<(u16, String), HttpError> {
    let line = head.lines().next().unwrap_or_default().trim();
    let status = line.split_ascii_whitespace().nth(1).filter(|word| word.len() == 3).and_then(|word| word.parse().ok());
    status.map(|status| (status, line.to_owned())).ok_or_else(|| malformed(line.to_owned()))
}

fn framing_of(head: &str) -> Result<Framing, HttpError> {
    let mut framing = Framing::UntilClose;
    for line in head.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") {
            let is_chunked = value.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"));
            // Overrides a length, RFC 9112, section 6.3.
            return Ok(if is_chunked { Framing::Chunked } else { Framing::UntilClose });
        }
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| malformed(format!("Content-Length: {value}")))?;
            if !matches!(framing, Framing::UntilClose) && framing != Framing::Length(length) {
                return Err(malformed("two different Content-Length".to_owned()));
            }
            framing = Framing::Length(length);
        }
    }
    Ok(framing)
}

#[cfg(test)]
#[allow(missing_docs, reason = "a server for the tests of other modules too")]
pub(crate) mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A server that answers one connection and closes it only when this value is dropped.
    pub struct Server {
        /// Base address, without a path.
        pub url: String,
        thread: Option<thread::JoinHandle<()>>,
        request: mpsc::Receiver<String>,
        close: Option<mpsc::Sender<()>>,
    }

    impl Server {
        /// Answers with these bytes.
        pub fn start(answer: impl Into<Vec<u8>>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let (close, closed) = mpsc::channel::<()>();
            let (send, request) = mpsc::channel();
            let answer = answer.into();
            let thread = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut asked, mut chunk) = (Vec::new(), [0; 256]);
                while !asked.ends_with(b"\r\n\r\n") {
                    let read = stream.read(&mut chunk).unwrap();
                    assert_ne!(read, 0, "the request has no end");
                    asked.extend_from_slice(&chunk[..read]);
                }
                send.send(String::from_utf8(asked).unwrap()).unwrap();
                // The client may have read enough already.
                stream.write_all(&answer).ok();
                closed.recv().ok();
            });
            Self { url, thread: Some(thread), request, close: Some(close) }
        }

        /// Answers with these bytes and closes the connection.
        pub fn start_closing(answer: impl Into<Vec<u8>>) -> Self {
            let mut server = Self::start(answer);
            server.close = None;
            server
        }

        /// Returns the request.
        pub fn request(&self) -> String {
            self.request.recv_timeout(LIMIT).unwrap()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.close = None;
            let ended = self.thread.take().unwrap().join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }

    fn body(server: &Server, max: usize) -> Result<String, HttpError> {
        Ok(String::from_utf8(get(&server.url, LIMIT)?.read_body(max)?).unwrap())
    }

    #[test]
    fn a_body_ends_where_it_says_although_the_connection_stays_open() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello, and more that belongs to nobody",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        ] {
            assert_eq!(body(&Server::start(answer), 5).unwrap(), "hello", "{answer:?}");
        }
        assert_eq!(body(&Server::start("HTTP/1.1 204 No Content\r\n\r\n"), 0).unwrap(), "");
        assert_eq!(body(&Server::start_closing("HTTP/1.0 200 OK\r\n\r\nhello"), 5).unwrap(), "hello");
    }

    #[test]
    fn the_request_names_host_and_path() {
        let server = Server::start("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let response = get(&format!("{}/readyz?x=1", server.url), LIMIT).unwrap();
        assert_eq!((response.status, response.status_line.as_str()), (200, "HTTP/1.1 200 OK"));
        let host = server.url.trim_start_matches("http://");
        let request = server.request();
        assert!(request.starts_with(&format!("GET /readyz?x=1 HTTP/1.1\r\nHost: {host}\r\n")), "{request}");
    }

    #[test]
    fn a_body_that_is_too_long_or_too_short_is_an_error() {
        let long = |head: &str| body(&Server::start_closing(format!("HTTP/1.1 200 OK\r\n{head}")), 4).unwrap_err();
        for head in
            ["Content-Length: 5\r\n\r\nhello", "\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
        {
            assert!(matches!(long(head), HttpError::BodyTooLong(4)), "{head:?}");
        }
        for head in ["Content-Length: 4\r\n\r\nhel", "Transfer-Encoding: chunked\r\n\r\n4\r\nhel", ""] {
            assert!(matches!(long(head), HttpError::Closed), "{head:?}");
        }
        for head in ["Content-Length: x\r\n\r\n", "Content-Length: 1\r\nContent-Length: 2\r\n\r\n"] {
            assert!(matches!(long(head), HttpError::Malformed(_)), "{head:?}");
        }
        for framing in ["zz\r\n", "2\r\nhel\r\n"] {
            let error = long(&format!("Transfer-Encoding: chunked\r\n\r\n{framing}"));
            assert!(matches!(error, HttpError::Malformed(_)), "{framing:?}: {error}");
        }
    }

    #[test]
    fn what_is_not_http_is_said_at_once() {
        let error = body(&Server::start("SSH-2.0-x\r\n"), 4).unwrap_err();
        assert!(matches!(&error, HttpError::Malformed(line) if line == "SSH-2.0-x"), "{error}");
        assert!(matches!(body(&Server::start_closing(""), 4).unwrap_err(), HttpError::Closed));
        assert!(matches!(get("https://x/", LIMIT).unwrap_err(), HttpError::InvalidUrl));
    }

    #[test]
    fn the_time_limit_is_for_the_whole_exchange() {
        let limit = Duration::from_millis(100);
        for answer in ["", "HTTP/1.1 200 OK\r\n"] {
            let server = Server::start(answer);
            assert!(
                matches!(get(&server.url, limit).unwrap_err(), HttpError::TimedOut(of) if of == limit),
                "{answer:?}"
            );
        }
        let server = Server::start("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
        let error = get(&server.url, limit).unwrap().read_body(9).unwrap_err();
        assert!(matches!(error, HttpError::TimedOut(_)), "{error}");
        drop(server);
        let server = Server::start("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
        assert_eq!(get(&server.url, limit).unwrap().read_beginning(512), b"hello");
    }

    #[test]
    fn a_port_without_a_listener_refuses() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        assert!(matches!(connect(&address, LIMIT).unwrap_err(), HttpError::Refused));
    }

    #[test]
    fn addresses_are_parsed() {
        let parse = |url| Url::parse(url).map(|url| format!("{} {} {}", url.address, url.host, url.path));
        assert_eq!(parse("http://127.0.0.1:8080/a?b").unwrap(), "127.0.0.1:8080 127.0.0.1:8080 /a?b");
        assert_eq!(parse("http://localhost").unwrap(), "localhost:80 localhost /");
        assert_eq!(parse("http://[::1]/x").unwrap(), "[::1]:80 [::1] /x");
        for bad in
            ["https://a/", "http://", "http:///x", "http://a:b/", "http://a/ b", "http://a/\r\nX: y", "http://u@a/"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
