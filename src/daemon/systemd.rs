//! Notifications to systemd by its protocol (`sd_notify(3)`): a start that takes long, ready, status, watchdog, stopping.
//! Without systemd they do nothing.
//!
//! Sending never blocks: the socket of a service manager that hangs fills up. A notification that could not be sent is
//! sent again at the next check. While the main thread loads the files, a thread of its own ([`SlowStart`]) sends;
//! after that, only the main thread does.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::telemetry::cpu_time::{CpuTime, ThreadId};
use crate::telemetry::heartbeat::HANG;

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

/// A start that loads files, until it is dropped: systemd is asked for more time while the loading thread uses CPU time.
///
/// Without this, a start that takes longer than `TimeoutStartSec=` would be stopped and tried again for ever. A thread
/// that waits for a dead file system uses no CPU time, and gets no more time.
pub(crate) struct SlowStart {
    /// Dropped to end the thread that sends.
    _end: Option<mpsc::Sender<()>>,
}

impl SlowStart {
    /// The time after which more time is asked for first.
    const FIRST: Duration = Duration::from_millis(500);
    /// The interval at which it is asked for again.
    const INTERVAL: Duration = Duration::from_secs(2);
    /// The time that is asked for each time, from then on.
    const MORE: Duration = Duration::from_secs(30);
    /// The time after which no more is asked for.
    const LONGEST: Duration = Duration::from_mins(15);

    /// Begins to ask for the calling thread.
    pub(crate) fn begin() -> Self {
        let manager = Manager::find();
        if manager.socket.is_none() {
            return Self { _end: None };
        }
        let (end, ended) = mpsc::channel::<()>();
        let begun = Instant::now();
        let mut cpu = CpuTime::of(ThreadId::current(), begun);
        let ask = move || {
            let mut interval = Self::FIRST;
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                interval = Self::INTERVAL;
                let now = Instant::now();
                if now.duration_since(begun) > Self::LONGEST {
                    return;
                }
                if cpu.silent(now) < HANG {
                    let more = u32::try_from(Self::MORE.as_micros()).unwrap_or(u32::MAX);
                    let status = format!("loading the policies, for {} s so far", now.duration_since(begun).as_secs());
                    manager.send(&[NotifyState::ExtendTimeoutUsec(more), NotifyState::Status(&status)]);
                }
            }
        };
        // Without the thread, the start has the time that the unit allows.
        let started = thread::Builder::new().name("start".into()).spawn(ask);
        Self { _end: started.is_ok().then_some(end) }
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
