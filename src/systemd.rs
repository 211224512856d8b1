//! What systemd is told (`sd_notify(3)`): ready, reloaded, stopping, alive. Without systemd all of it does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often the receiving threads are looked at when there is no watchdog: longer than their tick.
const LOOK: Duration = Duration::from_secs(2);

/// Says that queries are answered; `summary` is the line that `systemctl status` shows.
pub(crate) fn ready(summary: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(summary)]);
}

/// Says in one line what is in force, after a look at the policies.
pub(crate) fn status(summary: &str) {
    tell(&[NotifyState::Status(summary)]);
}

/// Says that the process is going.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Sends to the notify socket, if there is one.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd not told");
    }
}

/// Tells systemd that we are alive, as long as every receiving thread turns.
pub(crate) struct Watchdog {
    /// When to look.
    interval: Interval,
    /// Whether systemd expects to hear from us.
    enabled: bool,
    /// The threads' turns at the last look.
    beats: Vec<u64>,
}

impl Watchdog {
    /// Looks at half the time systemd allows, or now and then for `/livez` alone.
    pub(crate) fn new() -> Self {
        let allowed = sd_notify::watchdog_enabled();
        let mut interval = interval(allowed.map_or(LOOK, |allowed| (allowed / 2).max(Duration::from_millis(500))));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, enabled: allowed.is_some(), beats: Vec::new() }
    }

    /// Waits for the next look.
    pub(crate) async fn tick(&mut self) {
        self.interval.tick().await;
    }

    /// Compares the threads' turns with those at the last look; tells systemd when all turned.
    pub(crate) fn look(&mut self, beats: impl Iterator<Item = u64>) -> bool {
        let beats: Vec<u64> = beats.collect();
        let alive = self.beats.is_empty() || beats.iter().zip(&self.beats).all(|(now, before)| now != before);
        self.beats = beats;
        if alive && self.enabled {
            tell(&[NotifyState::Watchdog]);
        }
        alive
    }
}
