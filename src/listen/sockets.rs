//! The listening sockets: those that systemd or a predecessor passed on, and the ones that are bound here.
//!
//! A start has the sockets of all listeners or of none, so that no listener stays unanswered unnoticed.

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

/// The number of ports tried for a listener with port 0, until one is free for UDP and TCP.
const TRIES: usize = 16;

/// The threads that answer queries over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// One thread for each socket.
    Each,
    /// This number of threads, which serve all sockets together: threads for each of so many listeners would only take
    /// memory (200 listeners had 405 threads and 230 MB).
    Shared(usize),
}

impl Threads {
    /// Chooses by the number of listeners, and of the threads that each of them would have of its own.
    pub(crate) fn of(listeners: usize, threads: usize) -> Self {
        if listeners > MAX_THREADED_LISTENERS { Self::Shared(threads) } else { Self::Each }
    }

    /// Returns the number of threads for all listeners.
    pub(crate) fn count(self, listeners: usize, threads: usize) -> usize {
        match self {
            Self::Each => listeners * threads,
            Self::Shared(count) => count,
        }
    }

    /// Returns the number of UDP sockets of a listener.
    pub(crate) fn sockets(self, threads: usize) -> usize {
        match self {
            Self::Each => threads,
            Self::Shared(_) => 1,
        }
    }
}

/// The bound sockets of a process, not yet served.
pub(crate) struct Sockets {
    /// The threads that serve the UDP sockets.
    pub(crate) threads: Threads,
    /// The sockets of each `[[listen]]`, in the order of the configuration.
    pub(crate) listeners: Vec<Listener>,
    /// The socket of the admin endpoint, unless that is off.
    pub(crate) admin: Option<Feature<TcpListener>>,
    /// The socket of the API, unless that is off.
    pub(crate) control: Option<Feature<ControlSocket>>,
}

/// A socket for something other than DNS. Queries are answered without it, so a failed bind is no end of a start: it is
/// tried again while hostgate serves.
pub(crate) struct Feature<S> {
    /// The result of the first try.
    pub(crate) first: Result<S, BindError>,
    /// Tries to bind the socket again.
    pub(crate) again: Box<dyn FnMut() -> Result<S, BindError> + Send>,
}

/// The sockets of one `[[listen]]`.
pub(crate) struct Listener {
    /// The address, with the port that was chosen if it is configured as 0.
    pub(crate) address: SocketAddr,
    /// The UDP sockets, one for each receiving thread; more if more were passed on.
    pub(crate) udp: Vec<UdpSocket>,
    /// The TCP socket.
    pub(crate) tcp: TcpListener,
}

/// The reason why a socket is not available.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// The operating system refuses an address.
    #[error("bind {transport} {address}: {error}{mend}", mend = mend(error, transport))]
    Address {
        /// `udp`, `tcp`, `admin` or `control`.
        transport: &'static str,
        /// The address to bind.
        address: SocketAddr,
        /// The error of the system.
        error: io::Error,
    },
    /// The operating system refuses a path.
    #[error("bind control unix:{path}: {error}{mend}", path = path.display(), mend = mend_path(error))]
    Path {
        /// The path to bind.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// A socket was passed on by systemd whose address no `[[listen]]` has.
    #[error("socket activation: {0} was passed in, but no [[listen]] has this address: make the two say the same")]
    Unlisted(String),
    /// A file descriptor was passed on by systemd that is no socket hostgate can serve.
    #[error("socket activation: descriptor {0} is neither a datagram nor a listening stream socket")]
    Unusable(usize),
}

/// Returns the advice for a failed bind of an address.
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

/// Returns the advice for a failed bind of a path.
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

/// Binds all sockets of the configuration, but for those that were passed on.
///
/// # Errors
/// The first socket of a listener that is not available; those bound before are closed.
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
        // A socket that the new configuration no longer has is served by the predecessor until its queue is empty.
        _ => Ok(Sockets { threads: shared, listeners, admin, control }),
    }
}

impl Sockets {
    /// Returns a second descriptor of each socket, for a successor.
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

/// Binds the UDP and TCP sockets of a listener; with port 0 both get the same free port.
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

/// Binds the first UDP socket of an address, if no other process has bound it.
///
/// `SO_REUSEPORT`, which the sockets of our own threads need, would also let a second process of the same user share the
/// port unnoticed, each answering some of the queries. So the address is bound without it first, which fails then.
pub(super) fn bind_udp(address: SocketAddr) -> Result<UdpSocket, BindError> {
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

/// Binds the admin endpoint. If this machine has no such address, as one without IPv4, `instead` is tried, if it is given.
fn bind_admin(address: SocketAddr, instead: Option<SocketAddr>, passed: &mut Passed) -> Result<TcpListener, BindError> {
    let bind = |address| passed.tcp(address).map_or_else(|| bind_tcp("admin", address, Absent::Refused), Ok);
    at_either(address, instead, bind)
}

/// Binds `address`, or, if this machine has no such address, `instead`.
pub(super) fn at_either<S>(
    address: SocketAddr,
    instead: Option<SocketAddr>,
    mut bind: impl FnMut(SocketAddr) -> Result<S, BindError>,
) -> Result<S, BindError> {
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

/// Adds sockets of the same address for the other threads: sockets of their own if the port can be shared, and otherwise
/// duplicates of the first.
fn more(sockets: &mut Vec<UdpSocket>, address: SocketAddr, threads: usize) -> Result<(), BindError> {
    let failed = |error| BindError::Address { transport: "udp", address, error };
    let shared = SockRef::from(&sockets[0]).reuse_port().map_err(failed)?;
    while sockets.len() < threads {
        let socket = if shared { udp::bind(address) } else { sockets[0].try_clone() };
        sockets.push(socket.map_err(failed)?);
    }
    Ok(())
}

/// The process that passed sockets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// systemd (`sd_listen_fds(3)`): the configuration has to list each of them.
    Systemd,
    /// The hostgate that is taken over: sockets that the configuration does not list stay with it.
    Predecessor,
}

/// The bound sockets that were passed on to this process.
pub(crate) struct Passed {
    /// The process that passed them on.
    by: By,
    /// The datagram sockets, with their addresses; several of one address share its port.
    udp: Vec<(SocketAddr, UdpSocket)>,
    /// The listening stream sockets, with their addresses.
    tcp: Vec<(SocketAddr, TcpListener)>,
    /// The listening Unix sockets, with their paths.
    unix: Vec<(PathBuf, UnixListener)>,
}

impl Passed {
    /// Takes the sockets that systemd passed on, if there are any.
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

    /// Takes the sockets that a predecessor passed on. Descriptors of an unknown kind are closed, as it may be of a newer
    /// version.
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

    /// Makes an empty collection.
    const fn none(by: By) -> Self {
        Self { by, udp: Vec::new(), tcp: Vec::new(), unix: Vec::new() }
    }

    /// Returns whether no socket was passed on.
    pub(crate) fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.tcp.is_empty() && self.unix.is_empty()
    }

    /// Adds a descriptor by its kind. Returns false if it is neither a datagram or listening stream socket with an IP
    /// address nor a listening Unix socket with a path.
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

    /// Removes and returns the datagram sockets of `address`.
    fn udp(&mut self, address: SocketAddr) -> Vec<UdpSocket> {
        self.udp.extract_if(.., |(own, _)| *own == address).map(|(_, socket)| socket).collect()
    }

    /// Removes and returns the stream socket of `address`.
    fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let index = self.tcp.iter().position(|(own, _)| *own == address)?;
        Some(self.tcp.swap_remove(index).1)
    }

    /// Removes and returns the Unix socket at `path`, even if it was bound by another path to the same file.
    fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let wanted = real(path);
        let index = self.unix.iter().position(|(own, _)| real(own) == wanted)?;
        Some(self.unix.swap_remove(index).1)
    }

    /// Returns the address of a socket that was not used.
    fn left(&self) -> Option<String> {
        let mut udp = self.udp.iter().map(|(address, _)| address.to_string());
        let mut tcp = self.tcp.iter().map(|(address, _)| address.to_string());
        let mut unix = self.unix.iter().map(|(path, _)| path.display().to_string());
        udp.next().or_else(|| tcp.next()).or_else(|| unix.next())
    }
}
