//! Binding what the configuration names: all sockets or none.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use listenfd::ListenFd;
use socket2::SockRef;

use super::{tcp, udp};
use crate::config::Config;

/// Ports tried when port 0 has to be the same for UDP and TCP.
const TRIES: usize = 16;

/// Bound sockets, not yet served.
pub(crate) struct Sockets {
    /// One per `[[listen]]`, in order.
    pub(crate) listeners: Vec<Listener>,
    /// Of the admin endpoint, unless it is off.
    pub(crate) admin: Option<TcpListener>,
}

/// The sockets of one `[[listen]]`.
pub(crate) struct Listener {
    /// The address with the port it really has.
    pub(crate) address: SocketAddr,
    /// One UDP socket per receiving thread.
    pub(crate) udp: Vec<UdpSocket>,
    /// The TCP socket.
    pub(crate) tcp: TcpListener,
}

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// The operating system refuses an address.
    #[error("bind {transport} {address}: {error}{mend}", mend = mend(error, transport))]
    Address {
        /// `udp`, `tcp` or `admin`.
        transport: &'static str,
        /// What was to be bound.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// A socket was passed in that no `[[listen]]` names.
    #[error("socket activation: {0} was passed in, but no [[listen]] has this address: make the two say the same")]
    Unlisted(SocketAddr),
    /// A file descriptor was passed in that is no UDP or TCP socket.
    #[error("socket activation: descriptor {0} is neither a datagram nor a listening stream socket")]
    Unusable(usize),
}

/// Says what to do about a failed bind.
fn mend(error: &io::Error, transport: &str) -> &'static str {
    match (error.kind(), transport) {
        (io::ErrorKind::PermissionDenied, _) => {
            " (ports below 1024 need a privilege: give the unit CAP_NET_BIND_SERVICE, or use a higher port)"
        }
        (io::ErrorKind::AddrInUse, "admin") => " (set another `listen` under [admin], or \"off\")",
        (io::ErrorKind::AddrInUse, _) => {
            " (another program answers there, perhaps another hostgate: stop it, or change `address` under [[listen]])"
        }
        (io::ErrorKind::AddrNotAvailable, _) => " (no interface of this machine has this address)",
        _ => "",
    }
}

/// Binds everything the configuration names, taking passed-in sockets where there are some.
///
/// # Errors
/// The first socket that cannot be had; those bound before are closed again.
pub(crate) fn bind(config: &Config, threads: usize) -> Result<Sockets, BindError> {
    let mut passed = Passed::take()?;
    let mut listeners = Vec::with_capacity(config.listen.len());
    for listen in &config.listen {
        listeners.push(bind_listener(listen.address, threads, &mut passed)?);
    }
    if let Some(address) = passed.left() {
        return Err(BindError::Unlisted(address));
    }
    let admin = config.admin.map(|address| bind_tcp("admin", address)).transpose()?;
    Ok(Sockets { listeners, admin })
}

/// Binds UDP and TCP of one address; with port 0 both get the same free one.
fn bind_listener(address: SocketAddr, threads: usize, passed: &mut Passed) -> Result<Listener, BindError> {
    let mut tries = if address.port() == 0 { TRIES } else { 1 };
    loop {
        let first = match passed.udp(address) {
            Some(socket) => socket,
            None => bind_udp(address)?,
        };
        let bound = first.local_addr().map_err(|error| BindError::Address { transport: "udp", address, error })?;
        let tcp = match passed.tcp(address) {
            Some(listener) => Ok(listener),
            None => bind_tcp("tcp", bound),
        };
        tries -= 1;
        match tcp {
            Ok(tcp) => return Ok(Listener { address: bound, udp: more(first, threads)?, tcp }),
            Err(_) if tries > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

/// Binds the first UDP socket of an address; nobody else may have it.
///
/// `SO_REUSEPORT`, which our own threads need, would also let a second process of the same user share the port
/// unnoticed, each answering some of the queries. A bind without it tells.
fn bind_udp(address: SocketAddr) -> Result<UdpSocket, BindError> {
    let failed = |error| BindError::Address { transport: "udp", address, error };
    if address.port() != 0 {
        let probe = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None);
        let probe = probe.map_err(failed)?;
        if address.is_ipv6() {
            probe.set_only_v6(true).map_err(failed)?;
        }
        probe.bind(&address.into()).map_err(failed)?;
    }
    udp::bind(address).map_err(failed)
}

/// Binds a TCP listener.
fn bind_tcp(transport: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    tcp::bind(address).map_err(|error| BindError::Address { transport, address, error })
}

/// Adds sockets on the same address for the other threads: new ones where the port can be shared, else duplicates.
fn more(first: UdpSocket, threads: usize) -> Result<Vec<UdpSocket>, BindError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    let address = first.local_addr().unwrap_or(unknown);
    let failed = |error| BindError::Address { transport: "udp", address, error };
    let shared = SockRef::from(&first).reuse_port().map_err(failed)?;
    let mut sockets = Vec::with_capacity(threads);
    for _ in 1..threads {
        sockets.push(if shared { udp::bind(address) } else { first.try_clone() }.map_err(failed)?);
    }
    sockets.push(first);
    Ok(sockets)
}

/// Sockets passed in by systemd (`sd_listen_fds(3)`).
struct Passed {
    /// Datagram sockets by address.
    udp: Vec<(SocketAddr, UdpSocket)>,
    /// Listening stream sockets by address.
    tcp: Vec<(SocketAddr, TcpListener)>,
}

impl Passed {
    /// Takes what was passed in, if anything.
    fn take() -> Result<Self, BindError> {
        let mut passed = Self { udp: Vec::new(), tcp: Vec::new() };
        let mut fds = ListenFd::from_env();
        for index in 0..fds.len() {
            // The type is checked before the descriptor is taken, so the second try still finds it.
            if let Ok(Some(socket)) = fds.take_udp_socket(index)
                && let Ok(address) = socket.local_addr()
            {
                let prepared = socket2::Socket::from(socket);
                udp::prepare(&prepared, address).map_err(|error| BindError::Address {
                    transport: "udp",
                    address,
                    error,
                })?;
                passed.udp.push((address, prepared.into()));
            } else if let Ok(Some(listener)) = fds.take_tcp_listener(index)
                && let Ok(address) = listener.local_addr()
            {
                passed.tcp.push((address, listener));
            } else {
                return Err(BindError::Unusable(index + 3));
            }
        }
        Ok(passed)
    }

    /// Takes the datagram socket of `address`.
    fn udp(&mut self, address: SocketAddr) -> Option<UdpSocket> {
        let index = self.udp.iter().position(|(own, _)| *own == address)?;
        Some(self.udp.swap_remove(index).1)
    }

    /// Takes the stream socket of `address`.
    fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let index = self.tcp.iter().position(|(own, _)| *own == address)?;
        Some(self.tcp.swap_remove(index).1)
    }

    /// Returns the address of a socket nobody asked for.
    fn left(&self) -> Option<SocketAddr> {
        self.udp.first().map(|(address, _)| *address).or_else(|| self.tcp.first().map(|(address, _)| *address))
    }
}
