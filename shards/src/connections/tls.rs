//! Opens clients of instances, over TCP or over TLS.

use redis::{Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisResult, TlsCertificates};

/// Returns a client of the instance at `host:port`. With a CA, the client speaks TLS only: it accepts a certificate
/// that one of these CAs signed for `host`, and it never falls back to TCP in clear. `ca` is PEM text, with one or more
/// certificates; the CAs of the system are not trusted.
///
/// # Errors
/// Returns an error if `ca` contains no certificate, or one that is not valid.
pub fn build_client(host: &str, port: u16, login: RedisConnectionInfo, ca: Option<&str>) -> RedisResult<Client> {
    let host = host.to_owned();
    let Some(ca) = ca else {
        return Client::open(ConnectionAddr::Tcp(host, port).into_connection_info()?.set_redis_settings(login));
    };
    if !ca.contains("-----BEGIN CERTIFICATE-----") {
        return Err((ErrorKind::InvalidClientConfig, "the CA for TLS contains no certificate in PEM form").into());
    }
    let address = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
    let info = address.into_connection_info()?.set_redis_settings(login);
    Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(ca.as_bytes().to_vec()) })
}

#[cfg(test)]
mod tests {
    use super::build_client;

    #[test]
    fn a_ca_without_certificates_is_refused() {
        let build = |ca| build_client("127.0.0.1", 7000, redis::RedisConnectionInfo::default(), Some(ca));
        for ca in ["", "not PEM", "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n"] {
            assert!(build(ca).is_err(), "{ca}");
        }
    }
}
