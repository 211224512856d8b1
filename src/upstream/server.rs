//! What an upstream is called in the configuration: an address, a port and a transport.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use super::scope::{self, Shown};

/// The port of DNS over UDP and TCP (RFC 1035 §4.2).
const PORT: u16 = 53;

/// How a query travels to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// UDP, and TCP for an answer that UDP truncated.
    Udp,
    /// TCP only.
    Tcp,
}

impl Transport {
    /// Returns the name used in configuration, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An upstream as configured: `ADDRESS[:PORT]`, `udp://ADDRESS[:PORT]` or `tcp://ADDRESS[:PORT]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Where queries go; the port is never 0, the address is one host's.
    pub address: SocketAddr,
    /// How they go.
    pub transport: Transport,
}

impl Server {
    /// Returns the server at `ip` on port 53, asked over UDP.
    ///
    /// # Errors
    /// An address that no single host has.
    pub fn at(ip: IpAddr) -> Result<Self, ServerError> {
        Self::new(SocketAddr::new(ip, PORT), Transport::Udp)
    }

    /// Returns the server, if its address can be one host's.
    ///
    /// # Errors
    /// A multicast, broadcast or unspecified address; port 0.
    pub fn new(address: SocketAddr, transport: Transport) -> Result<Self, ServerError> {
        let ip = address.ip().to_canonical();
        let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        if ip.is_unspecified() || ip.is_multicast() || is_broadcast {
            return Err(ServerError::NoHost(address.to_string()));
        }
        if address.port() == 0 {
            return Err(ServerError::Port(address.to_string()));
        }
        Ok(Self { address, transport })
    }

    /// Returns whether a query sent here would arrive at one of `listeners`, our own sockets.
    ///
    /// A wildcard listener has every address of this machine; `is_local` says whether an address is one.
    pub fn is_own(&self, listeners: &[SocketAddr], is_local: impl Fn(IpAddr) -> bool) -> bool {
        let ip = self.address.ip().to_canonical();
        listeners.iter().any(|listener| {
            let own = listener.ip().to_canonical();
            listener.port() == self.address.port() && (own == ip || own.is_unspecified() && is_local(ip))
        })
    }
}

/// Writes what [`FromStr`] reads: the transport only where it is not UDP.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Udp => write!(f, "{}", Shown(self.address)),
            Transport::Tcp => write!(f, "tcp://{}", Shown(self.address)),
        }
    }
}

/// Text that names no upstream; the message says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// A transport that is specified but not built yet.
    #[error("`{0}`: encrypted upstreams are not in this version (write `ADDRESS[:PORT]` or `tcp://ADDRESS[:PORT]`)")]
    NotYet(String),
    /// A scheme that is none of ours.
    #[error("`{0}`: unknown scheme (write `ADDRESS[:PORT]`, `udp://ADDRESS[:PORT]` or `tcp://ADDRESS[:PORT]`)")]
    Scheme(String),
    /// Something that is no IP address, with or without a port.
    #[error(
        "`{0}`: not an address (write an IPv4 or IPv6 address, as `192.0.2.53`, `192.0.2.53:5353` or `[2001:db8::53]:53`)"
    )]
    Address(String),
    /// An address that no single host has.
    #[error("`{0}`: no host has this address (write the address of one resolver)")]
    NoHost(String),
    /// Port 0.
    #[error("`{0}`: no port (write a port from 1 to 65535, or none for 53)")]
    Port(String),
}

impl FromStr for Server {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        let (transport, rest) = match text.split_once("://") {
            None => (Transport::Udp, text),
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "udp" => (Transport::Udp, rest),
                "tcp" => (Transport::Tcp, rest),
                "tls" | "https" | "quic" | "h3" => return Err(ServerError::NotYet(text.to_owned())),
                _ => return Err(ServerError::Scheme(text.to_owned())),
            },
        };
        let address = socket_address(rest).ok_or_else(|| ServerError::Address(text.to_owned()))?;
        Self::new(address, transport).map_err(|error| match error {
            ServerError::NoHost(_) => ServerError::NoHost(text.to_owned()),
            ServerError::Port(_) => ServerError::Port(text.to_owned()),
            other => other,
        })
    }
}

/// Reads an address with or without a port; IPv6 without one may stand in brackets or bare, with a scope: the name of an
/// interface, or its number.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let Some((address, rest)) = text.split_once('%') else { return numeric_address(text) };
    let (zone, behind) = rest.split_at(rest.find(']').unwrap_or(rest.len()));
    numeric_address(&format!("{address}%{}{behind}", scope::scope(zone)?))
}

/// Reads an address whose scope is a number.
fn numeric_address(text: &str) -> Option<SocketAddr> {
    let bracketed = || match text.strip_prefix('[') {
        Some(_) => format!("{text}:{PORT}"),
        None => format!("[{text}]:{PORT}"),
    };
    text.parse()
        .ok()
        .or_else(|| text.parse().ok().map(|ip| SocketAddr::new(ip, PORT)))
        .or_else(|| bracketed().parse::<SocketAddrV6>().ok().map(SocketAddr::V6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_every_form() {
        const CASES: &[(&str, &str)] = &[
            ("192.0.2.53", "192.0.2.53:53"),
            ("192.0.2.53:5353", "192.0.2.53:5353"),
            ("udp://192.0.2.53", "192.0.2.53:53"),
            ("UDP://192.0.2.53:54", "192.0.2.53:54"),
            ("tcp://192.0.2.53", "tcp://192.0.2.53:53"),
            ("tcp://[2001:db8::53]:54", "tcp://[2001:db8::53]:54"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]", "[2001:db8::53]:53"),
            ("[2001:db8::53]:54", "[2001:db8::53]:54"),
            ("fe80::1%2", "[fe80::1%2]:53"),
            ("[fe80::1%2]:54", "[fe80::1%2]:54"),
            ("fe80::1%eth0", "[fe80::1%eth0]:53"),
            ("[fe80::1%br-lan.7]", "[fe80::1%br-lan.7]:53"),
            ("tcp://[fe80::1%eth0]:54", "tcp://[fe80::1%eth0]:54"),
        ];
        for (text, canonical) in CASES {
            let server: Server = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(server.to_string(), *canonical, "{text}");
            assert_eq!(server.to_string().parse(), Ok(server), "{text}");
        }
    }

    #[test]
    fn text_that_names_no_server_says_what_to_write() {
        const CASES: &[(&str, &str)] = &[
            ("tls://192.0.2.53#dns.example", "not in this version"),
            ("https://dns.example/dns-query", "not in this version"),
            ("quic://192.0.2.53", "not in this version"),
            ("sdns://abc", "unknown scheme"),
            ("dns.example", "not an address"),
            ("udp://", "not an address"),
            ("", "not an address"),
            ("192.0.2.53:", "not an address"),
            ("192.0.2.53:65536", "not an address"),
            ("192.0.2.53/24", "not an address"),
            ("192.0.2.53#dns.example", "not an address"),
            ("[192.0.2.53]", "not an address"),
            ("192.0.2.53%eth0", "not an address"),
            ("fe80::1%", "not an address"),
            ("fe80::1%a/b", "not an address"),
            ("192.0.2.53:0", "no port"),
            ("0.0.0.0", "no host has this address"),
            ("[::]:53", "no host has this address"),
            ("224.0.0.251", "no host has this address"),
            ("255.255.255.255", "no host has this address"),
            ("ff02::fb", "no host has this address"),
        ];
        for (text, what) in CASES {
            let error = text.parse::<Server>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}`: ")) && error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn a_server_that_is_our_own_listener_is_known() {
        const CASES: &[(&str, &str, bool)] = &[
            ("127.0.0.1:53", "127.0.0.1:53", true),
            ("127.0.0.1:53", "127.0.0.1:54", false),
            ("127.0.0.1:53", "192.0.2.1:53", false),
            ("127.0.0.1:53", "0.0.0.0:53", true),
            ("127.0.0.1:53", "[::]:53", true),
            ("[::ffff:127.0.0.1]:53", "127.0.0.1:53", true),
            ("192.0.2.1:53", "0.0.0.0:53", false),
        ];
        for (server, listener, own) in CASES {
            let found = server.parse::<Server>().unwrap().is_own(&[listener.parse().unwrap()], |ip| ip.is_loopback());
            assert_eq!(found, *own, "{server} at {listener}");
        }
    }
}
