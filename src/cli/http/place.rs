//! The place of the API as users write it (a URL or a Unix socket), and connecting to it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use hyper::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::HttpError;
use crate::api::connection::tls::client as tls;
use crate::api::connection::tls::client::TlsConnector;
use crate::config;
use crate::config::control::Endpoint;

/// The place that the API is served at.
pub(in crate::cli) struct Place {
    transport: Transport,
    /// The host and port, as in the Host header field.
    authority: String,
    /// The prefix of all paths, for an API behind a reverse proxy.
    prefix: String,
}

/// The transport to the API.
enum Transport {
    /// TCP without TLS, to loopback addresses only.
    Plain,
    /// TLS over TCP, to a server with a certificate that the connector trusts.
    Tls(TlsConnector),
    Unix(PathBuf),
}

/// A connection, whatever its transport.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Place {
    /// Parses a place: `http://127.0.0.1:8080`, `https://HOST[:PORT]` or `unix:PATH`.
    ///
    /// # Errors
    /// The text is none of these, or it is `https` and `ca` is missing or unusable.
    pub(in crate::cli) fn parse(text: &str, ca: Option<&Path>) -> Result<Self, String> {
        let shape =
            || format!("`{text}` is not a place of the API (write http://ADDRESS:PORT, https://HOST, or unix:PATH)");
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::unix(Path::new(path)));
        }
        let uri: Uri = text.parse().map_err(|_| shape())?;
        let authority = uri.authority().ok_or_else(shape)?;
        // A user name or a query would be ignored silently.
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(shape());
        }
        let (transport, port) = match uri.scheme_str() {
            Some("http") => (Transport::Plain, 80),
            Some("https") => (Transport::Tls(trusted(ca)?), 443),
            _ => return Err(shape()),
        };
        let authority = match authority.port_u16() {
            Some(_) => authority.to_string(),
            None => format!("{}:{port}", authority.host()),
        };
        Ok(Self { transport, authority, prefix: uri.path().trim_end_matches('/').to_owned() })
    }

    /// Returns the place at which a configuration serves the API.
    ///
    /// # Errors
    /// The API has a certificate, and `ca` is missing or unusable.
    pub(in crate::cli) fn of(control: &config::Control, ca: Option<&Path>) -> Result<Self, String> {
        let address = match &control.listen {
            Endpoint::Unix(path) => return Ok(Self::unix(path)),
            Endpoint::Address(address) => SocketAddr::new(reachable(address.ip()), address.port()),
        };
        let transport = if control.tls.is_some() { Transport::Tls(trusted(ca)?) } else { Transport::Plain };
        Ok(Self { transport, authority: address.to_string(), prefix: String::new() })
    }

    /// Returns the place of a Unix socket. HTTP/1.1 requires a host, so it is `localhost`.
    fn unix(path: &Path) -> Self {
        Self { transport: Transport::Unix(path.to_owned()), authority: "localhost".to_owned(), prefix: String::new() }
    }

    /// Returns the host and port.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the prefix of all paths.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// No server listens, or the token must not be sent to it.
    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, HttpError> {
        match &self.transport {
            Transport::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(HttpError::Connect)?)),
            Transport::Plain => {
                let stream = TcpStream::connect(&self.authority).await.map_err(HttpError::Connect)?;
                // Without TLS, the token may only go to loopback addresses, which never leave the machine.
                let peer = stream.peer_addr().map_err(HttpError::Connect)?;
                if !peer.ip().to_canonical().is_loopback() {
                    let advice = "use https:// and --ca FILE, or a tunnel to a loopback address";
                    return Err(HttpError::Unsafe(format!("the token would go to {peer} in the clear ({advice})")));
                }
                Ok(Box::new(stream))
            }
            Transport::Tls(connector) => {
                let name = tls::name(self.host()).map_err(HttpError::Unsafe)?;
                let stream = TcpStream::connect(&self.authority).await.map_err(HttpError::Connect)?;
                let told =
                    |error| HttpError::Unsafe(format!("TLS: {error} (does --ca name the certificate of its CA?)"));
                Ok(Box::new(connector.connect(name, stream).await.map_err(told)?))
            }
        }
    }

    /// Returns the host without the port and without the brackets of an IPv6 address.
    fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// Formats the place as [`Place::parse`] reads it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            Transport::Plain => write!(f, "http://{}{}", self.authority, self.prefix),
            Transport::Tls(_) => write!(f, "https://{}{}", self.authority, self.prefix),
            Transport::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Returns a connector that trusts the certificates in a file.
fn trusted(ca: Option<&Path>) -> Result<TlsConnector, String> {
    let missing = "the API has a certificate: name the CA certificates to trust with --ca FILE (PEM)";
    tls::trusting(ca.ok_or(missing)?)
}

/// Returns an address to connect to for one that is listened on: for all addresses of a family, its loopback address.
const fn reachable(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        listen => listen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_parsed_as_users_write_them() {
        const CASES: &[(&str, Option<(&str, &str)>)] = &[
            ("http://127.0.0.1:8080", Some(("127.0.0.1:8080", ""))),
            ("http://[::1]:8080/", Some(("[::1]:8080", ""))),
            ("http://localhost", Some(("localhost:80", ""))),
            ("http://127.0.0.1:1/base/", Some(("127.0.0.1:1", "/base"))),
            ("unix:/run/c.sock", Some(("localhost", ""))),
            ("unix:", None),
            ("127.0.0.1:8080", None),
            ("ftp://127.0.0.1", None),
            ("http://user@127.0.0.1", None),
            ("http://127.0.0.1/?x", None),
            ("https://gate.example", None),
            ("", None),
        ];
        for (text, expected) in CASES {
            let place = Place::parse(text, None);
            let read = place.as_ref().ok().map(|place| (place.authority(), place.prefix()));
            assert_eq!(read, *expected, "{text}");
        }
        assert_eq!(Place::parse("http://[::1]:80", None).unwrap().host(), "::1");
        assert!(Place::parse("https://gate.example", None).err().unwrap().contains("--ca FILE"));
        let missing = Place::parse("https://gate.example", Some(Path::new("/no/such/ca.pem")));
        assert!(missing.err().unwrap().starts_with("/no/such/ca.pem: "));
    }

    #[test]
    fn wildcard_addresses_are_reached_on_loopback() {
        const CASES: &[(&str, &str)] = &[("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.1", "192.0.2.1")];
        for (listen, reached) in CASES {
            assert_eq!(reachable(listen.parse().unwrap()), reached.parse::<IpAddr>().unwrap());
        }
    }
}
