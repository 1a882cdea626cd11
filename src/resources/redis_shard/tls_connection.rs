//! A TLS connection from the agent to the instance on its own host.
//!
//! It accepts a certificate that has expired, and only that: the agent must be able to log in to load the new one. The
//! CA, the address and the key are checked as ever, and the connection does not leave the host. All other connections
//! of dunlin, of services and of replicas refuse such a certificate.
//!
//! The instance's user may answer anything: the connection has a limit on its time and on the bytes that it reads.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use redis::{ConnectionLike, Parser, RedisResult, Value};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    StreamOwned,
};

/// Time limit for the connection and all of its commands.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes that are read from an instance.
const MAX_BYTES: u64 = 16 << 20;

/// A connection on which the administrator is logged in.
pub struct LocalTlsConnection {
    stream: StreamOwned<ClientConnection, BoundedStream>,
    parser: Parser,
}

impl LocalTlsConnection {
    /// Connects and logs in. `ca` is PEM text.
    ///
    /// # Errors
    /// Returns an error if the connection fails, the certificate is refused, or the password is not accepted.
    pub fn open(host: &str, port: u16, ca: &str, user: &str, password: &str) -> Result<Self> {
        let stream = BoundedStream::connect(host, port)?;
        let provider = Arc::new(ring::default_provider());
        let strict = build_verifier(ca, &provider)?;
        let verifier: Arc<dyn ServerCertVerifier> =
            if stream.is_on_this_host()? { Arc::new(ExpiredAllowed(strict)) } else { strict };
        let stream = shake_hands(stream, host, provider, verifier)?;
        let mut connection = Self { stream, parser: Parser::new() };
        redis::cmd("AUTH").arg(user).arg(password).exec(&mut connection)?;
        Ok(connection)
    }
}

impl ConnectionLike for LocalTlsConnection {
    fn req_packed_command(&mut self, cmd: &[u8]) -> RedisResult<Value> {
        self.stream.write_all(cmd)?;
        self.stream.flush()?;
        self.parser.parse_value(&mut self.stream)
    }

    fn req_packed_commands(&mut self, cmd: &[u8], offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        self.stream.write_all(cmd)?;
        self.stream.flush()?;
        let replies: RedisResult<Vec<Value>> =
            (0..offset + count).map(|_| self.parser.parse_value(&mut self.stream)).collect();
        Ok(replies?.split_off(offset))
    }

    fn get_db(&self) -> i64 {
        0
    }

    fn check_connection(&mut self) -> bool {
        redis::cmd("PING").exec(self).is_ok()
    }

    fn is_open(&self) -> bool {
        true
    }
}

/// Makes a handshake and returns the server's certificate, of any issuer. Nothing is sent over the connection.
///
/// # Errors
/// Returns an error if the connection or the handshake fails.
pub fn receive_certificate(host: &str, port: u16) -> Result<Option<Vec<u8>>> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyIssuer(Arc::clone(&provider)));
    let stream = shake_hands(BoundedStream::connect(host, port)?, host, provider, verifier)?;
    let chain = stream.conn.peer_certificates();
    Ok(chain.and_then(|chain| chain.first()).map(|certificate| certificate.to_vec()))
}

fn build_verifier(ca: &str, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.context("the CA file")?).context("the CA file")?;
    }
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    builder.build().context("the CA file")
}

fn shake_hands(
    mut stream: BoundedStream,
    host: &str,
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<StreamOwned<ClientConnection, BoundedStream>> {
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let mut tls = ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned())?)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(tls, stream))
}

/// A TCP connection that ends at a time limit, and after a number of bytes.
struct BoundedStream {
    tcp: TcpStream,
    end: Instant,
    left_bytes: u64,
}

impl BoundedStream {
    fn connect(host: &str, port: u16) -> Result<Self> {
        let address = (host, port).to_socket_addrs()?.next().context("no address")?;
        let end = Instant::now() + TIMEOUT;
        Ok(Self { tcp: TcpStream::connect_timeout(&address, TIMEOUT)?, end, left_bytes: MAX_BYTES })
    }

    /// Returns whether the other end is an address of this host, which then is this end's address, too.
    fn is_on_this_host(&self) -> io::Result<bool> {
        let peer = self.tcp.peer_addr()?.ip();
        Ok(peer.is_loopback() || peer == self.tcp.local_addr()?.ip())
    }

    fn left_time(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for BoundedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left_bytes == 0 {
            return Err(io::Error::other("the instance sent more than allowed"));
        }
        self.tcp.set_read_timeout(Some(self.left_time()?))?;
        let count = self.tcp.read(buffer)?;
        self.left_bytes = self.left_bytes.saturating_sub(count as u64);
        Ok(count)
    }
}

impl Write for BoundedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(Some(self.left_time()?))?;
        self.tcp.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

/// Checks as the verifier of the CA does, but at the certificate's last second if it has expired.
#[derive(Debug)]
struct ExpiredAllowed(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ExpiredAllowed {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(leaf, chain, name, ocsp, now) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                self.0.verify_server_cert(leaf, chain, name, ocsp, not_after)
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Accepts a certificate of any issuer, because it is only compared with a file: nothing is sent over the connection.
#[derive(Debug)]
struct AnyIssuer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyIssuer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
