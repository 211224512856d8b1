//! The main thread while hostgate serves: it takes signals, watches the heartbeats of the other threads, and tells systemd.
//!
//! It waits for nothing but its own channel, so that a signal is acted on and the process ends at its deadline whatever
//! else hangs.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::daemon::systemd::Manager;
use crate::listen::Event;
use crate::listen::admin::service::Service;
use crate::reload::{Waker, Work};
use crate::telemetry::heartbeat::{HANG, Heartbeat, Kind, Monitor, Stall};

/// How often heartbeats are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a reload may be silent that computes: it may have a million names and two hundred thousand files to look at.
const RELOAD_HANG: Duration = Duration::from_mins(1);

/// Why serving ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A signal.
    Signal(&'static str),
    /// A successor serves.
    TakenOver,
}

impl Why {
    /// Returns what the log says.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Signal(name) => name,
            Self::TakenOver => "taken over",
        }
    }
}

/// Has signals sent to `events` from now on.
///
/// # Errors
/// The system refuses a handler or a thread.
pub(crate) fn listen_for_signals(events: SyncSender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    let listen = move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    // Never joined: it waits until the process ends.
    thread::Builder::new().name("signals".into()).spawn(listen).map(drop)
}

/// The main thread's state.
pub(crate) struct Supervisor {
    /// What it looks at and tells of.
    service: Arc<Service>,
    /// Asks for reloads.
    waker: Waker,
    /// The heartbeats.
    monitor: Monitor,
    /// The threads that hung at the last look.
    stalls: Arc<Vec<Stall>>,
    /// systemd.
    manager: Manager,
    /// How often to look.
    interval: Duration,
}

impl Supervisor {
    /// Begins to watch.
    pub(crate) fn new(service: Arc<Service>, waker: Waker, threads: Vec<(String, Kind, Heartbeat)>) -> Self {
        let manager = Manager::find();
        let interval = manager.watchdog().map_or(LOOK, |allowed| (allowed / 2).clamp(LOOK / 10, LOOK));
        let monitor = Monitor::new(threads, Instant::now());
        Self { service, waker, monitor, stalls: Arc::default(), manager, interval }
    }

    /// Acts on signals, and looks at heartbeats, until something says that serving has to end.
    ///
    /// # Errors
    /// The predecessor serves on, so this process must not.
    pub(crate) fn watch(&mut self, events: &Receiver<Event>) -> io::Result<Why> {
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if next <= now {
                self.look(now);
                next = now + self.interval;
            }
            match events.recv_timeout(next.saturating_duration_since(now)) {
                Ok(Event::Signal(SIGHUP)) => self.waker.ask(),
                Ok(Event::Signal(SIGUSR1)) => self.service.engine.reopen_decision_log(),
                Ok(Event::Signal(SIGINT)) => return Ok(Why::Signal("SIGINT")),
                Ok(Event::Signal(_)) => return Ok(Why::Signal("SIGTERM")),
                Ok(Event::TakenOver) => return Ok(Why::TakenOver),
                Ok(Event::NotTakenOver(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("no signals any more")),
            }
        }
    }

    /// Looks at the heartbeats, and tells of them.
    fn look(&mut self, now: Instant) {
        let progress = &self.service.progress;
        let stalls = self.monitor.look(now, |kind| match (kind, progress.work()) {
            (Kind::Reload, Work::Compute) => (RELOAD_HANG, false),
            (Kind::Reload, Work::Disk) => (HANG, true),
            _ => (HANG, false),
        });
        let is_new = |stall: &&Stall| !self.stalls.iter().any(|old| old.thread == stall.thread);
        for stall in stalls.iter().filter(is_new) {
            tracing::error!(thread = stall.thread, since = %stall.since, on_disk = stall.on_disk, "thread hangs");
        }
        for old in self.stalls.iter().filter(|old| !stalls.iter().any(|stall| stall.thread == old.thread)) {
            tracing::warn!(thread = old.thread, since = %old.since, "thread goes on");
        }
        self.stalls = Arc::new(stalls);
        self.service.looked_at(&self.stalls);
        let is_alive = !self.stalls.iter().any(Stall::needs_restart);
        self.manager.tell(&progress.state().summary(), is_alive);
    }

    /// Tells systemd that the process is going.
    pub(crate) fn stopping(&self) {
        self.manager.stopping();
    }
}
