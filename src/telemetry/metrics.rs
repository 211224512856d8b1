//! Counters of the query path.
//!
//! Counting is one relaxed addition to an atomic. Labels are closed sets: no value that a client sends becomes a label.
//! Names and help texts of the metrics are in `listen::admin::exposition`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::dns::query::Transport;
use crate::labels::{Action, Origin, Reason};
use crate::upstream::{Event, FailureKind, Observer};

/// Upper bounds of the latency histogram's buckets, in seconds; one more bucket counts longer times.
pub(crate) const LATENCY_BOUNDS: [f64; 13] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// The number of counters by action, reason and transport.
const QUERIES: usize = Action::ALL.len() * Reason::ALL.len() * Transport::ALL.len();

/// The counters of the query path.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Answered queries by action, reason and transport.
    pub(crate) queries: [AtomicU64; QUERIES],
    /// Dropped messages: responses, and messages shorter than the 12 octets of a header.
    pub(crate) dropped: [AtomicU64; 2],
    /// Answers by the source of their data, in the order of [`Origin::ALL`].
    pub(crate) origins: [AtomicU64; Origin::ALL.len()],
    /// Sockets that could not be opened for lack of a descriptor.
    pub(crate) descriptors_lacking: AtomicU64,
    /// Answers of SERVFAIL because all upstreams failed.
    pub(crate) failed: AtomicU64,
    /// Answers of SERVFAIL because the upstreams failed a moment ago and were not asked again.
    pub(crate) cached_failures: AtomicU64,
    /// Answers renewed ahead of their expiry.
    pub(crate) renewals: AtomicU64,
    /// Queries not forwarded because too many were waiting.
    pub(crate) turned_away: AtomicU64,
    /// Queries dropped because their client had used its share of an overloaded thread.
    pub(crate) shed: AtomicU64,
    /// Replies that the kernel did not accept.
    pub(crate) unsent: AtomicU64,
    /// Queries whose handling panicked.
    pub(crate) panics: AtomicU64,
    /// The time from sending a query to an upstream to its answer.
    pub(crate) latency: Histogram,
    /// Failed tries at upstreams, in the order of [`FAILURES`]. A query may have several.
    pub(crate) upstream_failures: [AtomicU64; FAILURES.len()],
    /// Datagrams from upstreams that were not the expected reply.
    pub(crate) upstream_ignored: AtomicU64,
    /// Upstream answers that were truncated over UDP.
    pub(crate) upstream_truncated: AtomicU64,
    /// Replies whose QNAME is in another letter case than was sent (DNS 0x20).
    pub(crate) upstream_other_case: AtomicU64,
    /// Queries retransmitted because their answer took long.
    pub(crate) upstream_retransmitted: AtomicU64,
}

/// Every kind of upstream failure, in the order of [`Metrics::upstream_failures`].
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
            // Each upstream counts its own tries.
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

    /// Counts a message that was dropped because it is a response.
    pub(crate) fn dropped_response(&self) {
        self.dropped[0].fetch_add(1, Relaxed);
    }

    /// Counts a message that was dropped because it is shorter than a header.
    pub(crate) fn dropped_short(&self) {
        self.dropped[1].fetch_add(1, Relaxed);
    }

    /// Counts an answer by the source of its data.
    pub(crate) fn origin(&self, origin: Origin) {
        self.origins[origin.index()].fetch_add(1, Relaxed);
    }

    /// Counts an answer of SERVFAIL because all upstreams failed.
    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// Counts an answer of SERVFAIL because the upstreams failed a moment ago.
    pub(crate) fn cached_failure(&self) {
        self.cached_failures.fetch_add(1, Relaxed);
    }

    /// Returns the number of queries answered SERVFAIL because no upstream could answer.
    pub(crate) fn unanswered(&self) -> u64 {
        self.failed.load(Relaxed) + self.cached_failures.load(Relaxed)
    }

    /// Counts an answer that is renewed ahead of its expiry.
    pub(crate) fn renewal(&self) {
        self.renewals.fetch_add(1, Relaxed);
    }

    /// Counts a query that is not forwarded because too many are waiting.
    pub(crate) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    /// Counts a query dropped because its client had used its share of an overloaded thread.
    pub(crate) fn shed(&self) {
        self.shed.fetch_add(1, Relaxed);
    }

    /// Counts replies that the kernel did not accept.
    pub(crate) fn unsent(&self, count: usize) {
        self.unsent.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts a socket that could not be opened for lack of a descriptor.
    pub(crate) fn lacks_descriptor(&self) {
        self.descriptors_lacking.fetch_add(1, Relaxed);
    }

    /// Returns the number of sockets that could not be opened for lack of a descriptor.
    pub(crate) fn descriptors_lacking(&self) -> u64 {
        self.descriptors_lacking.load(Relaxed)
    }

    /// Counts a query whose handling panicked.
    pub(crate) fn panic(&self) {
        self.panics.fetch_add(1, Relaxed);
    }
}

/// A histogram of durations with fixed buckets.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// The number of observations in each bucket, not cumulative.
    pub(crate) buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    /// The sum of all observations, in microseconds.
    pub(crate) sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let bucket = LATENCY_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(LATENCY_BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}
