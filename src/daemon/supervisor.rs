//! The main thread while hostgate serves: it handles signals, watches the heartbeats of the other threads, and notifies
//! systemd.
//!
//! It waits for its own channel only, so a signal is handled, and the process ends at its deadline, whatever else
//! hangs.

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
use crate::telemetry::cpu_time::CpuTime;
use crate::telemetry::heartbeat::{HANG, Heartbeat, Monitor, Stall, ThreadKind};

/// The interval at which heartbeats are checked.
const CHECK: Duration = Duration::from_millis(500);
/// The time without a heartbeat after which a reload that computes counts as hanging, unless its thread uses CPU time.
const RELOAD_HANG: Duration = Duration::from_mins(1);
/// The same for a thread that does use CPU time. A large change may take minutes on a machine with other work, and a
/// restart would only begin it again; but a thread in an endless loop must be noticed.
const RELOAD_COMPUTING: Duration = Duration::from_mins(15);

/// The reason for the end of serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The name of the signal received.
    Signal(&'static str),
    /// A successor has taken over.
    TakenOver,
}

impl StopReason {
    /// Returns the reason as the log states it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Signal(name) => name,
            Self::TakenOver => "taken over",
        }
    }
}

/// Returns the time without a heartbeat after which the reload thread counts as hanging, and whether it waits for a file
/// system. `uses_cpu` says whether its CPU time grows.
const fn patience(work: Work, uses_cpu: bool) -> (Duration, bool) {
    match (work, uses_cpu) {
        (Work::Idle, _) => (HANG, false),
        (Work::Disk, _) => (HANG, true),
        (Work::Compute, false) => (RELOAD_HANG, false),
        (Work::Compute, true) => (RELOAD_COMPUTING, false),
    }
}

/// Starts a thread that sends signals to `events`.
///
/// # Errors
/// The system refuses a signal handler or a thread.
pub(crate) fn listen_for_signals(events: SyncSender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    let listen = move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    // Never joined, as it waits for signals until the process ends.
    thread::Builder::new().name("signals".into()).spawn(listen).map(drop)
}

/// The state of the main thread.
pub(crate) struct Supervisor {
    /// The service to watch and to report on.
    service: Arc<Service>,
    /// The handle that requests reloads.
    waker: Waker,
    monitor: Monitor,
    /// The threads that hung at the last check.
    stalls: Arc<Vec<Stall>>,
    manager: Manager,
    /// The CPU time of the reload thread; `None` until it runs.
    reload_cpu: Option<CpuTime>,
    /// The interval between checks: half of systemd's watchdog interval, within bounds.
    interval: Duration,
}

impl Supervisor {
    /// Starts to watch these threads.
    pub(crate) fn new(service: Arc<Service>, waker: Waker, threads: Vec<(String, ThreadKind, Heartbeat)>) -> Self {
        let manager = Manager::find();
        let interval = manager.watchdog().map_or(CHECK, |allowed| (allowed / 2).clamp(CHECK / 10, CHECK));
        let monitor = Monitor::new(threads, Instant::now());
        Self { service, waker, monitor, stalls: Arc::default(), manager, reload_cpu: None, interval }
    }

    /// Handles signals and checks heartbeats until an event ends serving.
    ///
    /// # Errors
    /// The predecessor continues to serve, so this process must not.
    pub(crate) fn watch(&mut self, events: &Receiver<Event>) -> io::Result<StopReason> {
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if next <= now {
                self.check(now);
                next = now + self.interval;
            }
            match events.recv_timeout(next.saturating_duration_since(now)) {
                Ok(Event::Signal(SIGHUP)) => self.waker.request_reload(),
                Ok(Event::Signal(SIGUSR1)) => self.service.engine.reopen_decision_log(),
                Ok(Event::Signal(SIGINT)) => return Ok(StopReason::Signal("SIGINT")),
                // SIGTERM is the only other signal with a handler.
                Ok(Event::Signal(_)) => return Ok(StopReason::Signal("SIGTERM")),
                Ok(Event::TakenOver) => return Ok(StopReason::TakenOver),
                Ok(Event::NotTakenOver(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("no signals any more")),
            }
        }
    }

    /// Checks the heartbeats, logs changes, and notifies systemd.
    fn check(&mut self, now: Instant) {
        let progress = &self.service.progress;
        if self.reload_cpu.is_none() {
            self.reload_cpu = progress.thread().map(|thread| CpuTime::of(thread, now));
        }
        let work = progress.work();
        let mut is_computing = || self.reload_cpu.as_mut().is_some_and(|cpu| cpu.silent(now) < HANG);
        let reload = patience(work, work == Work::Compute && is_computing());
        let stalls = self.monitor.check(now, |kind| if kind == ThreadKind::Reload { reload } else { (HANG, false) });
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
        self.manager.notify(&progress.state().summary(), is_alive);
    }

    /// Notifies systemd that the process is stopping.
    pub(crate) fn stopping(&self) {
        self.manager.stopping();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reload_that_computes_is_no_reason_for_a_restart_while_it_uses_cpu_time() {
        assert_eq!(patience(Work::Compute, true), (RELOAD_COMPUTING, false));
        assert_eq!(patience(Work::Compute, false), (RELOAD_HANG, false));
        assert_eq!(patience(Work::Idle, true), (HANG, false));
        assert_eq!(patience(Work::Disk, false), (HANG, true));
    }
}
