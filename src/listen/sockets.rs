//! Binding what the configuration names: all sockets or none.
//!
//! Sockets may come bound, from systemd or from a hostgate that is taken over; the rest is bound here.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use socket2::{Domain, SockRef, Socket, Type};

use super::tcp::Absent;
use super::{tcp, udp, unix};
use crate::api::connection::socket::ControlSocket;
use crate::bounds::{MAX_THREADED_LISTENERS, TCP_BACKLOG};
use crate::config::Config;
use crate::config::control::Endpoint;

/// Ports tried when port 0 has to be the same for UDP and TCP.
const TRIES: usize = 16;

/// The threads that answer queries over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// One for each socket.
    Each,
    /// So many, which look after all sockets together: there are more listeners than is worth threads of their own.
    Shared(usize),
}

impl Threads {
    /// Returns which it is with so many listeners, of which each would have so many threads of its own.
    pub(crate) fn of(listeners: usize, threads: usize) -> Self {
        if listeners > MAX_THREADED_LISTENERS { Self::Shared(threads) } else { Self::Each }
    }

    /// Returns how many there are in all.
    pub(crate) fn count(self, listeners: usize, threads: usize) -> usize {
        match self {
            Self::Each => listeners * threads,
            Self::Shared(count) => count,
        }
    }

    /// Returns how many sockets a listener has.
    pub(crate) fn sockets(self, threads: usize) -> usize {
        match self {
            Self::Each => threads,
            Self::Shared(_) => 1,
        }
    }
}

/// Bound sockets, not yet served.
pub(crate) struct Sockets {
    /// The threads that serve them.
    pub(crate) threads: Threads,
    /// One per `[[listen]]`, in order.
    pub(crate) listeners: Vec<Listener>,
    /// Of the admin endpoint, unless it is off.
    pub(crate) admin: Option<Feature<TcpListener>>,
    /// Of the API, unless it is off.
    pub(crate) control: Option<Feature<ControlSocket>>,
}

/// The socket of something besides DNS. That it cannot be had is no reason not to answer queries: it is tried again.
pub(crate) struct Feature<S> {
    /// The socket, or why it cannot be had.
    pub(crate) first: Result<S, BindError>,
    /// Tries again.
    pub(crate) again: Box<dyn FnMut() -> Result<S, BindError> + Send>,
}

/// The sockets of one `[[listen]]`.
pub(crate) struct Listener {
    /// The address with the port it really has.
    pub(crate) address: SocketAddr,
    /// One UDP socket per receiving thread: as many as asked for, or more where more came bound.
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
        /// `udp`, `tcp`, `admin` or `control`.
        transport: &'static str,
        /// What was to be bound.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The operating system refuses a path.
    #[error("bind control unix:{path}: {error}{mend}", path = path.display(), mend = mend_path(error))]
    Path {
        /// What was to be bound.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A socket was passed in that no `[[listen]]` names.
    #[error("socket activation: {0} was passed in, but no [[listen]] has this address: make the two say the same")]
    Unlisted(String),
    /// A file descriptor was passed in that is no socket we serve.
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
        (io::ErrorKind::AddrInUse, "control") => {
            " (another program answers there, perhaps another hostgate: stop it, take over from it with `--takeover`, or set another `listen` under [control])"
        }
        (io::ErrorKind::AddrInUse, _) => {
            " (another program answers there, perhaps another hostgate: stop it, take over from it with `--takeover`, or change `address` under [[listen]])"
        }
        (io::ErrorKind::AddrNotAvailable, _) => " (no interface of this machine can have this address)",
        _ => "",
    }
}

/// Says what to do about a path that cannot be bound.
fn mend_path(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (another program serves there, perhaps another hostgate: stop it, take over from it with `--takeover`, or set another `listen` under [control])"
        }
        io::ErrorKind::AlreadyExists => " (move it away, or set another `listen` under [control])",
        io::ErrorKind::NotFound => " (make its directory, writable for the user hostgate runs as)",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (make its directory writable for the user hostgate runs as; a unit has one with `RuntimeDirectory=hostgate`)"
        }
        io::ErrorKind::InvalidInput => " (a Unix socket's path has 107 octets at most: set a shorter one)",
        _ => "",
    }
}

/// Binds everything the configuration names, taking those that were passed where there are some.
///
/// # Errors
/// The first socket of a listener that cannot be had; those bound before are closed again.
pub(crate) fn bind(config: &Config, threads: usize, mut passed: Passed) -> Result<Sockets, BindError> {
    let mut listeners = Vec::with_capacity(config.listen.len());
    let shared = Threads::of(config.listen.len(), threads);
    for listen in &config.listen {
        listeners.push(bind_listener(listen.address, shared.sockets(threads), &mut passed)?);
    }
    let admin = config.admin.map(|address| {
        let instead = config.admin_instead;
        let again = move || bind_admin(address, instead, &mut Passed::none(By::Predecessor));
        Feature { first: bind_admin(address, instead, &mut passed), again: Box::new(again) }
    });
    let control = config.control.as_ref().map(|control| {
        let endpoint = control.listen.clone();
        let first = bind_control(&endpoint, &mut passed);
        Feature { first, again: Box::new(move || bind_control(&endpoint, &mut Passed::none(By::Predecessor))) }
    });
    match passed.left() {
        Some(address) if passed.by == By::Systemd => Err(BindError::Unlisted(address)),
        // The predecessor answers what is left in those that the configuration does not name any more.
        _ => Ok(Sockets { threads: shared, listeners, admin, control }),
    }
}

impl Sockets {
    /// Returns a second descriptor of each, to be passed to a successor.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(crate) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let mut fds = Vec::new();
        for listener in &self.listeners {
            for socket in &listener.udp {
                fds.push(socket.try_clone()?.into());
            }
            fds.push(listener.tcp.try_clone()?.into());
        }
        if let Some(Feature { first: Ok(admin), .. }) = &self.admin {
            fds.push(admin.try_clone()?.into());
        }
        if let Some(Feature { first: Ok(control), .. }) = &self.control {
            fds.push(control.duplicate()?);
        }
        Ok(fds)
    }
}

/// Binds the API's socket.
fn bind_control(endpoint: &Endpoint, passed: &mut Passed) -> Result<ControlSocket, BindError> {
    match endpoint {
        Endpoint::Address(address) => match passed.tcp(*address) {
            Some(listener) => Ok(ControlSocket::Tcp(listener)),
            None => bind_tcp("control", *address, Absent::Awaited).map(ControlSocket::Tcp),
        },
        Endpoint::Unix(path) => {
            let failed = |error| BindError::Path { path: path.clone(), error };
            let came = passed.unix(path);
            let is_ours = came.is_none() || passed.by == By::Predecessor;
            let listener = came.map_or_else(|| unix::listen(path, TCP_BACKLOG).map_err(failed), Ok)?;
            Ok(ControlSocket::Unix { listener, path: path.clone(), is_ours })
        }
    }
}

/// Binds UDP and TCP of one address; with port 0 both get the same free one.
fn bind_listener(address: SocketAddr, threads: usize, passed: &mut Passed) -> Result<Listener, BindError> {
    let mut tries = if address.port() == 0 { TRIES } else { 1 };
    loop {
        let mut udp = passed.udp(address);
        if udp.is_empty() {
            udp.push(bind_udp(address)?);
        }
        let bound = udp[0].local_addr().map_err(|error| BindError::Address { transport: "udp", address, error })?;
        let tcp = match passed.tcp(address) {
            Some(listener) => Ok(listener),
            None => bind_tcp("tcp", bound, Absent::Awaited),
        };
        tries -= 1;
        match tcp {
            Ok(tcp) => {
                more(&mut udp, bound, threads)?;
                return Ok(Listener { address: bound, udp, tcp });
            }
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
        let probe = Socket::new(Domain::for_address(address), Type::DGRAM, None);
        let probe = probe.map_err(failed)?;
        if address.is_ipv6() {
            probe.set_only_v6(true).map_err(failed)?;
        }
        udp::may_be_absent(&probe, address).map_err(failed)?;
        probe.bind(&address.into()).map_err(failed)?;
    }
    udp::bind(address).map_err(failed)
}

/// Binds a TCP listener.
fn bind_tcp(transport: &'static str, address: SocketAddr, absent: Absent) -> Result<TcpListener, BindError> {
    tcp::bind(address, absent).map_err(|error| BindError::Address { transport, address, error })
}

/// Binds the admin endpoint. Where this machine has no such address, `instead` is tried, if there is one.
fn bind_admin(address: SocketAddr, instead: Option<SocketAddr>, passed: &mut Passed) -> Result<TcpListener, BindError> {
    let mut bind = |address| passed.tcp(address).map_or_else(|| bind_tcp("admin", address, Absent::Refused), Ok);
    let is_missing = |error: &BindError| match error {
        BindError::Address { error, .. } => {
            error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
        }
        _ => false,
    };
    let first = bind(address);
    let (Err(error), Some(instead)) = (&first, instead) else { return first };
    if !is_missing(error) {
        return first;
    }
    let Ok(listener) = bind(instead) else { return first };
    tracing::warn!(%address, %instead, "no interface has the default address of the admin endpoint");
    Ok(listener)
}

/// Adds sockets on the same address for the other threads: new ones where the port can be shared, else duplicates.
fn more(sockets: &mut Vec<UdpSocket>, address: SocketAddr, threads: usize) -> Result<(), BindError> {
    let failed = |error| BindError::Address { transport: "udp", address, error };
    let shared = SockRef::from(&sockets[0]).reuse_port().map_err(failed)?;
    while sockets.len() < threads {
        let socket = if shared { udp::bind(address) } else { sockets[0].try_clone() };
        sockets.push(socket.map_err(failed)?);
    }
    Ok(())
}

/// Who passed sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// systemd (`sd_listen_fds(3)`): the configuration has to name each.
    Systemd,
    /// The hostgate that is taken over: what the configuration does not name any more stays with it.
    Predecessor,
}

/// Sockets that were passed to this process, bound already.
pub(crate) struct Passed {
    /// Who passed them.
    by: By,
    /// Datagram sockets by address; several of one address share its port.
    udp: Vec<(SocketAddr, UdpSocket)>,
    /// Listening stream sockets by address.
    tcp: Vec<(SocketAddr, TcpListener)>,
    /// Listening Unix sockets by path.
    unix: Vec<(PathBuf, UnixListener)>,
}

impl Passed {
    /// Takes what systemd passed, if anything.
    ///
    /// # Errors
    /// A descriptor that is no socket we serve.
    pub(crate) fn from_systemd() -> Result<Self, BindError> {
        let mut passed = Self::none(By::Systemd);
        let mut fds = ListenFd::from_env();
        for index in 0..fds.len() {
            // The type is checked before the descriptor is taken, so the second try still finds it.
            let fd = match (fds.take_udp_socket(index), fds.take_tcp_listener(index), fds.take_unix_listener(index)) {
                (Ok(Some(socket)), _, _) => Some(OwnedFd::from(socket)),
                (_, Ok(Some(listener)), _) => Some(OwnedFd::from(listener)),
                (_, _, Ok(Some(listener))) => Some(OwnedFd::from(listener)),
                _ => None,
            };
            if !fd.map_or(Ok(false), |fd| passed.add(fd))? {
                return Err(BindError::Unusable(index + 3));
            }
        }
        Ok(passed)
    }

    /// Takes what a predecessor passed; what is none of the sockets we know is left out, as it may be newer than we are.
    ///
    /// # Errors
    /// A socket that the system refuses to prepare.
    pub(crate) fn from_predecessor(fds: Vec<OwnedFd>) -> Result<Self, BindError> {
        let mut passed = Self::none(By::Predecessor);
        for fd in fds {
            passed.add(fd)?;
        }
        Ok(passed)
    }

    /// Begins with no socket.
    const fn none(by: By) -> Self {
        Self { by, udp: Vec::new(), tcp: Vec::new(), unix: Vec::new() }
    }

    /// Returns whether nothing was passed.
    pub(crate) fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.tcp.is_empty() && self.unix.is_empty()
    }

    /// Sorts a descriptor in; returns whether it is a datagram or a listening stream socket with an IP address, or a
    /// listening one with a path.
    fn add(&mut self, fd: OwnedFd) -> Result<bool, BindError> {
        let socket = Socket::from(fd);
        let path = socket.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
        let address = socket.local_addr().ok().and_then(|address| address.as_socket());
        match (address, socket.r#type(), socket.is_listener()) {
            (Some(address), Ok(Type::DGRAM), _) => {
                udp::prepare(&socket, address).map_err(|error| BindError::Address {
                    transport: "udp",
                    address,
                    error,
                })?;
                self.udp.push((address, socket.into()));
            }
            (Some(address), Ok(Type::STREAM), Ok(true)) => self.tcp.push((address, socket.into())),
            (None, Ok(Type::STREAM), Ok(true)) => match path {
                Some(path) => self.unix.push((path, socket.into())),
                None => return Ok(false),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes the datagram sockets of `address`.
    fn udp(&mut self, address: SocketAddr) -> Vec<UdpSocket> {
        self.udp.extract_if(.., |(own, _)| *own == address).map(|(_, socket)| socket).collect()
    }

    /// Takes the stream socket of `address`.
    fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let index = self.tcp.iter().position(|(own, _)| *own == address)?;
        Some(self.tcp.swap_remove(index).1)
    }

    /// Takes the Unix socket at `path`, however it was named when it was bound.
    fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let wanted = real(path);
        let index = self.unix.iter().position(|(own, _)| real(own) == wanted)?;
        Some(self.unix.swap_remove(index).1)
    }

    /// Returns the address of a socket nobody asked for.
    fn left(&self) -> Option<String> {
        let mut udp = self.udp.iter().map(|(address, _)| address.to_string());
        let mut tcp = self.tcp.iter().map(|(address, _)| address.to_string());
        let mut unix = self.unix.iter().map(|(path, _)| path.display().to_string());
        udp.next().or_else(|| tcp.next()).or_else(|| unix.next())
    }
}
