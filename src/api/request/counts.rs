//! The counters of the API, for the metrics.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use axum::http::StatusCode;

/// The counters; all are zero while the API is off.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts {
    requests: [AtomicU64; OUTCOMES.len()],
    /// The open connections.
    pub(in crate::api) connections: AtomicUsize,
    closed: [AtomicU64; CLOSE_REASONS.len()],
    /// The audit records that could not be written.
    pub(in crate::api) audit_failures: AtomicU64,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Outcome {
    Done,
    /// Any status of 4xx that no other outcome has.
    Wrong,
    /// A fault of ours, or the process stops.
    Failed,
    /// Other requests of the token are the reason.
    Busy,
    NoToken,
    /// The token only reads.
    Viewer,
    /// The request came from an address of a client.
    ClientAddress,
    TooLarge,
    /// The body took too long.
    Slow,
}

/// The names of the outcomes in the metrics, in their order.
const OUTCOMES: [&str; 9] =
    ["done", "wrong", "failed", "busy", "no-token", "viewer", "client-address", "too-large", "slow"];

/// The reason why a connection was closed before its client closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum CloseReason {
    /// A new connection, at the limit.
    Room,
    Slow,
}

/// The names of the reasons in the metrics, in their order.
const CLOSE_REASONS: [&str; 2] = ["room", "slow"];

impl Outcome {
    /// Returns the outcome of a response.
    pub(in crate::api) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            400..500 => Self::Wrong,
            500.. => Self::Failed,
            _ => Self::Done,
        }
    }
}

impl RequestCounts {
    pub(in crate::api) fn count(&self, outcome: Outcome) {
        self.requests[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Counts a connection that was closed.
    pub(in crate::api) fn closed(&self, why: CloseReason) {
        self.closed[why as usize].fetch_add(1, Relaxed);
    }

    /// Returns the requests by outcome.
    pub(crate) fn requests_by_outcome(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES.into_iter().zip(self.requests.iter().map(|counter| counter.load(Relaxed)))
    }

    /// Returns the closed connections by reason.
    pub(crate) fn closed_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CLOSE_REASONS.into_iter().zip(self.closed.iter().map(|counter| counter.load(Relaxed)))
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
