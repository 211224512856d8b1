//! Notifications to systemd by its protocol (`sd_notify(3)`): ready, status, watchdog, stopping. Without systemd they
//! do nothing.
//!
//! Only the main thread sends them, and never blocks: the socket of a service manager that hangs fills up. A
//! notification that could not be sent is sent again at the next check.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager, and the state it was last notified of.
pub(crate) struct Manager {
    /// The socket to send from and the address to send to; `None` without a service manager.
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// The interval at which the watchdog expects a notification; `None` if it is off.
    watchdog: Option<Duration>,
    /// Set once the manager has been notified that queries are answered.
    is_ready: bool,
    /// The last status line that was sent.
    status: String,
}

impl Manager {
    /// Finds the service manager by `NOTIFY_SOCKET` of the environment.
    pub(crate) fn find() -> Self {
        let socket = socket().unwrap_or_else(|error| {
            tracing::warn!(%error, "NOTIFY_SOCKET cannot be used; systemd is not notified");
            None
        });
        Self { socket, watchdog: sd_notify::watchdog_enabled(), is_ready: false, status: String::new() }
    }

    /// Returns the watchdog interval; `None` if the watchdog is off.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends what the manager does not know yet: ready (once) and a status line that differs from the last one. With
    /// `is_alive`, sends a watchdog notification too.
    pub(crate) fn notify(&mut self, status: &str, is_alive: bool) {
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

    /// Notifies the manager that the process is stopping.
    pub(crate) fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// Sends notifications. Returns whether they were sent, or there is no manager to send them to.
    fn send(&self, states: &[NotifyState<'_>]) -> bool {
        let Some((socket, address)) = &self.socket else { return true };
        let text = states.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let sent = socket.send_to_addr(text.as_bytes(), address);
        sent.inspect_err(|error| tracing::debug!(%error, "systemd not notified")).is_ok()
    }
}

/// Returns a socket to send from and the address in `NOTIFY_SOCKET`; `None` if that is not set.
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
