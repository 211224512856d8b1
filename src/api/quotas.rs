//! The capacities of the API that its callers share by token.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::bounds::capacity;
use crate::bounds::{
    BUSY_CONNECTIONS, CONTROL_CONNECTIONS, MAX_ANSWERS, MAX_BODIES, MAX_CHANGING, MAX_PARSED, MAX_READERS, MAX_READING,
    MAX_REQUESTS, MAX_WAITING, MAX_WRITERS, WAITING_CONNECTIONS,
};
use crate::fair_share::quota::Quota;

/// The time that a request waits for each of the capacities it needs.
const WAIT: Duration = Duration::from_secs(10);

/// The time that a change waits for those of other tokens, and of its own, to be made.
const WRITE_WAIT: Duration = Duration::from_secs(30);

/// The octets that are one unit of the quotas in octets.
pub(super) const UNIT: usize = 1 << 10;

/// A quota of each scarce capacity.
pub(super) struct Quotas {
    /// Connections with requests under way that were let in, other than long polls.
    pub(super) connections: Arc<Quota>,
    /// Requests under way, from their heads until the clients have their answers.
    pub(super) requests: Arc<Quota>,
    /// Octets of bodies, in [`UNIT`]s.
    pub(super) bodies: Arc<Quota>,
    /// Octets that parsed bodies take in memory, in [`UNIT`]s.
    pub(super) parsed: Arc<Quota>,
    /// Requests that change something.
    pub(super) changing: Arc<Quota>,
    /// Requests that make an answer from what is in force.
    pub(super) reading: Arc<Quota>,
    /// Octets of answers that their clients have not taken yet, in [`UNIT`]s.
    pub(super) answers: Arc<Quota>,
    /// Threads that read files for answers.
    pub(super) readers: Arc<Quota>,
    /// The right to make a change, which is one at a time.
    pub(super) writers: Arc<Quota>,
    /// Long polls.
    pub(super) waits: Arc<Quota>,
    /// Connections with long polls under way.
    pub(super) waiting_connections: Arc<Quota>,
}

impl Default for Quotas {
    fn default() -> Self {
        // A quarter is for admins: viewers are dashboards and scripts that many may run.
        let part = |connections: usize| (connections * capacity::granted().control / CONTROL_CONNECTIONS).max(1);
        let quota = |capacity: usize| Quota::new(capacity, capacity.div_ceil(4));
        Self {
            connections: quota(part(BUSY_CONNECTIONS)),
            requests: quota(MAX_REQUESTS),
            bodies: quota(MAX_BODIES / UNIT),
            parsed: quota(MAX_PARSED / UNIT),
            changing: quota(MAX_CHANGING),
            reading: quota(MAX_READING),
            answers: quota(MAX_ANSWERS / UNIT),
            readers: quota(MAX_READERS),
            writers: Quota::new(MAX_WRITERS, 0),
            waits: quota(MAX_WAITING),
            waiting_connections: quota(part(WAITING_CONNECTIONS)),
        }
    }
}

/// Returns the moment until which a request waits for a capacity.
pub(super) fn deadline() -> Instant {
    Instant::now() + WAIT
}

/// Returns the moment until which a change waits for its turn.
pub(super) fn write_deadline() -> Instant {
    Instant::now() + WRITE_WAIT
}

/// Returns how many [`UNIT`]s `octets` are.
pub(super) fn units(octets: usize) -> usize {
    octets.div_ceil(UNIT)
}
