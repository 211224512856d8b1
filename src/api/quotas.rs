//! The capacities of the API, which tokens share.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::bounds::capacity;
use crate::bounds::{
    BUSY_CONNECTIONS, CONTROL_CONNECTIONS, MAX_ANSWERS, MAX_BODIES, MAX_CHANGING, MAX_PARSED, MAX_READERS, MAX_READING,
    MAX_REQUESTS, MAX_WAITING, MAX_WRITERS, WAITING_CONNECTIONS,
};
use crate::fair_share::quota::Quota;

/// The time for which a request waits for each share.
const WAIT: Duration = Duration::from_secs(10);

/// The time for which a request waits for its turn to write.
const WRITE_WAIT: Duration = Duration::from_secs(30);

/// The octets of one unit in the quotas of memory.
pub(super) const UNIT: usize = 1 << 10;

/// The quotas of all capacities.
pub(super) struct Quotas {
    /// Connections with admitted requests other than long polls.
    pub(super) connections: Arc<Quota>,
    /// Requests, from the head until the answer is read.
    pub(super) requests: Arc<Quota>,
    /// The memory of bodies, in [`UNIT`]s.
    pub(super) bodies: Arc<Quota>,
    /// The memory of parsed bodies, in [`UNIT`]s.
    pub(super) parsed: Arc<Quota>,
    /// Requests that change something.
    pub(super) changing: Arc<Quota>,
    /// Requests that read the snapshot.
    pub(super) reading: Arc<Quota>,
    /// The memory of answers that are not read yet, in [`UNIT`]s.
    pub(super) answers: Arc<Quota>,
    /// Threads that parse files for answers.
    pub(super) readers: Arc<Quota>,
    /// The turn to write, one at a time.
    pub(super) writers: Arc<Quota>,
    /// Long polls.
    pub(super) waits: Arc<Quota>,
    /// Connections with long polls.
    pub(super) waiting_connections: Arc<Quota>,
}

impl Default for Quotas {
    fn default() -> Self {
        // A quarter is for admins: of viewers, such as dashboards, there may be many.
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

/// Returns the end of a wait for a share that begins now.
pub(super) fn deadline() -> Instant {
    Instant::now() + WAIT
}

/// Returns the end of a wait for the turn to write that begins now.
pub(super) fn write_deadline() -> Instant {
    Instant::now() + WRITE_WAIT
}

/// Returns the [`UNIT`]s of memory of `octets`.
pub(super) fn units(octets: usize) -> usize {
    octets.div_ceil(UNIT)
}
