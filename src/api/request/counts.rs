//! What the API has done, for the metrics.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use axum::http::StatusCode;

/// Counters of the API; all zero while it is off.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts {
    /// Requests by [`Outcome`].
    requests: [AtomicU64; Outcome::ALL.len()],
    /// Open connections.
    pub(in crate::api) connections: AtomicUsize,
    /// Connections closed at a bound, by [`Closed`].
    closed: [AtomicU64; Closed::ALL.len()],
    /// Audit records that could not be written.
    pub(in crate::api) audit_failures: AtomicU64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Outcome {
    /// It was done.
    Done,
    /// It could not be done as it was asked: any other status of 4xx.
    Wrong,
    /// We failed, or are stopping.
    Failed,
    /// Too many others were under way.
    Busy,
    /// It had no token, or a wrong one.
    NoToken,
    /// Its token lets it read only.
    Viewer,
    /// It came from an address that a policy is for.
    ClientAddress,
    /// Its body was too long.
    TooLarge,
    /// Its body took too long.
    Slow,
}

/// Why a connection was closed before its client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Closed {
    /// For a new one, as all places were taken.
    Room,
    /// Its client was too slow.
    Slow,
}

impl Outcome {
    /// All of them.
    pub(in crate::api) const ALL: [Self; 9] = [
        Self::Done,
        Self::Wrong,
        Self::Failed,
        Self::Busy,
        Self::NoToken,
        Self::Viewer,
        Self::ClientAddress,
        Self::TooLarge,
        Self::Slow,
    ];

    /// Returns what a status means.
    pub(in crate::api) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            400..500 => Self::Wrong,
            500.. => Self::Failed,
            _ => Self::Done,
        }
    }

    /// Returns what it is called in the metrics.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Wrong => "wrong",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::NoToken => "no-token",
            Self::Viewer => "viewer",
            Self::ClientAddress => "client-address",
            Self::TooLarge => "too-large",
            Self::Slow => "slow",
        }
    }
}

impl Closed {
    /// All of them.
    const ALL: [Self; 2] = [Self::Room, Self::Slow];

    /// Returns what it is called in the metrics.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Slow => "slow",
        }
    }
}

impl RequestCounts {
    /// Counts a request.
    pub(in crate::api) fn count(&self, outcome: Outcome) {
        if let Some(index) = Outcome::ALL.iter().position(|known| *known == outcome) {
            self.requests[index].fetch_add(1, Relaxed);
        }
    }

    /// Counts a connection that was closed.
    pub(in crate::api) fn closed(&self, why: Closed) {
        if let Some(index) = Closed::ALL.iter().position(|known| *known == why) {
            self.closed[index].fetch_add(1, Relaxed);
        }
    }

    /// Returns the requests by what became of them.
    pub(crate) fn requests_by_outcome(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::ALL.into_iter().map(Outcome::as_str).zip(self.requests.iter().map(|counter| counter.load(Relaxed)))
    }

    /// Returns the closed connections by why they were.
    pub(crate) fn closed_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Closed::ALL.into_iter().map(Closed::as_str).zip(self.closed.iter().map(|counter| counter.load(Relaxed)))
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> u64 {
        u64::try_from(self.connections.load(Relaxed)).unwrap_or(u64::MAX)
    }

    /// Returns the number of audit records that could not be written.
    pub(crate) fn audit_failures(&self) -> u64 {
        self.audit_failures.load(Relaxed)
    }
}
