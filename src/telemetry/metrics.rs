//! Counters of everything that happens.
//!
//! Queries only add to atomics. Labels are closed sets: nothing a client sends becomes one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::dns::query::Transport;
use crate::labels::{Action, Origin, Reason};
use crate::upstream::{Event, FailureKind, Observer};

/// Upper bounds of the latency histogram's buckets, in seconds; one more bucket holds the rest.
pub(crate) const LATENCY_BOUNDS: [f64; 13] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// Number of (action, reason, transport) counters.
const QUERIES: usize = Action::ALL.len() * Reason::ALL.len() * Transport::ALL.len();

/// Everything the query path counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Answered queries by action, reason and transport.
    pub(crate) queries: [AtomicU64; QUERIES],
    /// Messages that were no queries: responses, and fewer than 12 octets.
    pub(crate) dropped: [AtomicU64; 2],
    /// Answers by where their data came from, by [`Origin`].
    pub(crate) origins: [AtomicU64; Origin::ALL.len()],
    /// Sockets for which the system had no descriptor.
    pub(crate) descriptors_lacking: AtomicU64,
    /// Answers whose upstream failed, so that the client got SERVFAIL.
    pub(crate) failed: AtomicU64,
    /// Of those, the ones whose upstream was not asked again so soon.
    pub(crate) cached_failures: AtomicU64,
    /// Answers asked for anew before they expired.
    pub(crate) renewals: AtomicU64,
    /// Queries not asked upstream, because too many waited.
    pub(crate) turned_away: AtomicU64,
    /// Queries dropped, because their client used its share of a thread that cannot keep up.
    pub(crate) shed: AtomicU64,
    /// Replies the kernel did not take.
    pub(crate) unsent: AtomicU64,
    /// Queries that made us panic.
    pub(crate) panics: AtomicU64,
    /// Time from sending an upstream a query to its answer.
    pub(crate) latency: Histogram,
    /// Failed tries of upstreams, by [`FailureKind`].
    pub(crate) upstream_failures: [AtomicU64; FAILURES.len()],
    /// Datagrams from upstreams that were not the reply asked for.
    pub(crate) upstream_ignored: AtomicU64,
    /// Answers of upstreams that were truncated over UDP.
    pub(crate) upstream_truncated: AtomicU64,
    /// Replies in another case than the query.
    pub(crate) upstream_other_case: AtomicU64,
    /// Questions sent again because their answer took long.
    pub(crate) upstream_retransmitted: AtomicU64,
}

/// The kinds of failure that upstreams have, by index.
pub(crate) const FAILURES: [FailureKind; 8] = [
    FailureKind::NoUpstream,
    FailureKind::Busy,
    FailureKind::Timeout,
    FailureKind::Network,
    FailureKind::Malformed,
    FailureKind::Lame,
    FailureKind::Refused,
    FailureKind::ServFail,
];

impl Observer for Metrics {
    fn observe(&self, event: Event) {
        match event {
            Event::Sent(_) => {}
            Event::Answered(_, elapsed) => self.latency.observe(elapsed),
            Event::Failed(kind) => {
                if let Some(index) = FAILURES.iter().position(|known| *known == kind) {
                    self.upstream_failures[index].fetch_add(1, Relaxed);
                }
            }
            Event::Ignored => {
                self.upstream_ignored.fetch_add(1, Relaxed);
            }
            Event::OtherCase => {
                self.upstream_other_case.fetch_add(1, Relaxed);
            }
            Event::Retransmitted => {
                self.upstream_retransmitted.fetch_add(1, Relaxed);
            }
            Event::NoDescriptor => self.lacks_descriptor(),
            Event::Truncated => {
                self.upstream_truncated.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            queries: std::array::from_fn(|_| AtomicU64::new(0)),
            dropped: Default::default(),
            origins: Default::default(),
            failed: AtomicU64::new(0),
            cached_failures: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            descriptors_lacking: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            latency: Histogram::default(),
            upstream_failures: Default::default(),
            upstream_ignored: AtomicU64::new(0),
            upstream_truncated: AtomicU64::new(0),
            upstream_other_case: AtomicU64::new(0),
            upstream_retransmitted: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    /// Counts an answered query.
    pub(crate) fn query(&self, action: Action, reason: Reason, transport: Transport) {
        let index = (action.index() * Reason::ALL.len() + reason.index()) * Transport::ALL.len() + transport.index();
        self.queries[index].fetch_add(1, Relaxed);
    }

    /// Counts a message dropped because it is a response.
    pub(crate) fn dropped_response(&self) {
        self.dropped[0].fetch_add(1, Relaxed);
    }

    /// Counts a message dropped because it is shorter than a header.
    pub(crate) fn dropped_short(&self) {
        self.dropped[1].fetch_add(1, Relaxed);
    }

    /// Counts where an answer's data came from.
    pub(crate) fn origin(&self, origin: Origin) {
        self.origins[origin.index()].fetch_add(1, Relaxed);
    }

    /// Counts an answer that could not be had.
    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// Counts an answer that could not be had a moment ago.
    pub(crate) fn cached_failure(&self) {
        self.cached_failures.fetch_add(1, Relaxed);
    }

    /// Returns how many queries were answered SERVFAIL because no upstream could answer.
    pub(crate) fn unanswered(&self) -> u64 {
        self.failed.load(Relaxed) + self.cached_failures.load(Relaxed)
    }

    /// Counts an answer that is asked for anew before it expires.
    pub(crate) fn renewal(&self) {
        self.renewals.fetch_add(1, Relaxed);
    }

    /// Counts a query that is not asked upstream, because too many wait.
    pub(crate) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    /// Counts a query that was dropped, because its client used its share of a thread that cannot keep up.
    pub(crate) fn shed(&self) {
        self.shed.fetch_add(1, Relaxed);
    }

    /// Counts replies the kernel did not take.
    pub(crate) fn unsent(&self, count: usize) {
        self.unsent.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts a socket for which the system had no descriptor.
    pub(crate) fn lacks_descriptor(&self) {
        self.descriptors_lacking.fetch_add(1, Relaxed);
    }

    /// Returns how many sockets the system had no descriptor for.
    pub(crate) fn descriptors_lacking(&self) -> u64 {
        self.descriptors_lacking.load(Relaxed)
    }

    /// Counts a query that made us panic.
    pub(crate) fn panic(&self) {
        self.panics.fetch_add(1, Relaxed);
    }
}

/// A histogram of durations with fixed buckets.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// Observations per bucket, not cumulated.
    pub(crate) buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    /// Sum of all observations, in microseconds.
    pub(crate) sum_us: AtomicU64,
}

impl Histogram {
    /// Adds an observation.
    fn observe(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let bucket = LATENCY_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(LATENCY_BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}
