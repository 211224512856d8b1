//! Notifications to systemd (`sd_notify(3)`): ready, what is in force, alive, stopping. Without systemd all of it does nothing.
//!
//! The main thread alone sends them, and no call waits: a service manager that hangs leaves its socket full. What did not
//! get through is sent again at the next look.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager, and what it has been told.
pub(crate) struct Manager {
    /// Where it listens; `None` where there is none.
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants a sign of life; `None` is never.
    watchdog: Option<Duration>,
    /// Whether it knows that queries are answered.
    is_ready: bool,
    /// The status line it has.
    status: String,
}

impl Manager {
    /// Finds the service manager by the environment.
    pub(crate) fn find() -> Self {
        let socket = socket().unwrap_or_else(|error| {
            tracing::warn!(%error, "NOTIFY_SOCKET cannot be used; systemd is told nothing");
            None
        });
        Self { socket, watchdog: sd_notify::watchdog_enabled(), is_ready: false, status: String::new() }
    }

    /// Returns the time within which it wants a sign of life.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Says that queries are answered, unless it knows; what is in force, where it has another line; and, where `is_alive`,
    /// that the process need not be restarted.
    pub(crate) fn tell(&mut self, status: &str, is_alive: bool) {
        let mut states = Vec::new();
        if !self.is_ready {
            states.push(NotifyState::Ready);
        }
        if self.status != status {
            states.push(NotifyState::Status(status));
        }
        if is_alive && self.watchdog.is_some() {
            states.push(NotifyState::Watchdog);
        }
        if !states.is_empty() && self.send(&states) {
            self.is_ready = true;
            status.clone_into(&mut self.status);
        }
    }

    /// Says that the process is going.
    pub(crate) fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// Sends states; returns whether they got through, or there is nobody to send them to.
    fn send(&self, states: &[NotifyState<'_>]) -> bool {
        let Some((socket, address)) = &self.socket else { return true };
        let text = states.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let sent = socket.send_to_addr(text.as_bytes(), address);
        sent.inspect_err(|error| tracing::debug!(%error, "systemd not told")).is_ok()
    }
}

/// Makes a socket to send from, and reads where to.
fn socket() -> io::Result<Option<(UnixDatagram, SocketAddr)>> {
    let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(None) };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(Some((socket, address)))
}
