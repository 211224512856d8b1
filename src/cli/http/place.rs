//! Where the API is, and how one gets there.

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

/// Where the API is served.
pub(in crate::cli) struct Place {
    /// How one gets there.
    way: Way,
    /// Host and port, as the header field has them.
    authority: String,
    /// What all its paths begin with, for an API behind something else.
    prefix: String,
}

/// How one gets to the API.
enum Way {
    /// TCP.
    Plain,
    /// TLS over TCP, to a server that this trusts.
    Tls(TlsConnector),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Place {
    /// Reads a place as people name it: `http://127.0.0.1:8080`, `https://HOST[:PORT]` or `unix:PATH`.
    ///
    /// # Errors
    /// It is none, or `https` without a usable `ca`.
    pub(in crate::cli) fn parse(text: &str, ca: Option<&Path>) -> Result<Self, String> {
        let shape =
            || format!("`{text}` is no place of the API (write http://ADDRESS:PORT, https://HOST, or unix:PATH)");
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::unix(Path::new(path)));
        }
        let uri: Uri = text.parse().map_err(|_| shape())?;
        let authority = uri.authority().ok_or_else(shape)?;
        // A user or a query would be left out in silence.
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(shape());
        }
        let (way, port) = match uri.scheme_str() {
            Some("http") => (Way::Plain, 80),
            Some("https") => (Way::Tls(trusted(ca)?), 443),
            _ => return Err(shape()),
        };
        let authority = match authority.port_u16() {
            Some(_) => authority.to_string(),
            None => format!("{}:{port}", authority.host()),
        };
        Ok(Self { way, authority, prefix: uri.path().trim_end_matches('/').to_owned() })
    }

    /// Returns where the configuration serves the API.
    ///
    /// # Errors
    /// It is served with a certificate, and there is no usable `ca`.
    pub(in crate::cli) fn of(control: &config::Control, ca: Option<&Path>) -> Result<Self, String> {
        let address = match &control.listen {
            Endpoint::Unix(path) => return Ok(Self::unix(path)),
            Endpoint::Address(address) => SocketAddr::new(reachable(address.ip()), address.port()),
        };
        let way = if control.tls.is_some() { Way::Tls(trusted(ca)?) } else { Way::Plain };
        Ok(Self { way, authority: address.to_string(), prefix: String::new() })
    }

    /// Makes the place of a Unix socket.
    fn unix(path: &Path) -> Self {
        Self { way: Way::Unix(path.to_owned()), authority: "localhost".to_owned(), prefix: String::new() }
    }

    /// Returns host and port.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns what all paths begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or the token must not go there.
    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, HttpError> {
        match &self.way {
            Way::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(HttpError::Connect)?)),
            Way::Plain => {
                let stream = TcpStream::connect(&self.authority).await.map_err(HttpError::Connect)?;
                let peer = stream.peer_addr().map_err(HttpError::Connect)?;
                if !peer.ip().to_canonical().is_loopback() {
                    let mend = "use https:// and --ca FILE, or a tunnel to a loopback address";
                    return Err(HttpError::Unsafe(format!("the token would go to {peer} in the clear ({mend})")));
                }
                Ok(Box::new(stream))
            }
            Way::Tls(connector) => {
                let name = tls::name(self.host()).map_err(HttpError::Unsafe)?;
                let stream = TcpStream::connect(&self.authority).await.map_err(HttpError::Connect)?;
                let told = |error| HttpError::Unsafe(format!("TLS: {error} (is --ca the file of who signed it?)"));
                Ok(Box::new(connector.connect(name, stream).await.map_err(told)?))
            }
        }
    }

    /// Returns the host without its port, and without the brackets of an IPv6 address.
    fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// Writes the place as people name it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Plain => write!(f, "http://{}{}", self.authority, self.prefix),
            Way::Tls(_) => write!(f, "https://{}{}", self.authority, self.prefix),
            Way::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Makes what trusts the certificates in a file.
fn trusted(ca: Option<&Path>) -> Result<TlsConnector, String> {
    let missing = "the API has a certificate: name the file of those that you trust to sign it with --ca FILE (PEM)";
    tls::trusting(ca.ok_or(missing)?)
}

/// Returns an address by which one that is listened on can be reached: all addresses of a family are its loopback one too.
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
    fn places_are_read_as_people_write_them() {
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
    fn what_listens_everywhere_is_reached_on_loopback() {
        const CASES: &[(&str, &str)] = &[("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.1", "192.0.2.1")];
        for (listen, reached) in CASES {
            assert_eq!(reachable(listen.parse().unwrap()), reached.parse::<IpAddr>().unwrap());
        }
    }
}
