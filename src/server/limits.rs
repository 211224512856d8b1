//! How many TCP connections there may be, and which one goes when there are too many.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::bounds::{MAX_CONNECTIONS, MAX_PER_CLIENT};

/// How long a connection waits for a place before it looks for an idle one again.
const LOOK: Duration = Duration::from_millis(100);

/// The bounds that all TCP listeners of the process share.
pub(crate) struct Limits {
    /// Connections left.
    slots: Arc<Semaphore>,
    /// Connections open, by client address.
    clients: Mutex<HashMap<IpAddr, usize>>,
    /// Connections that wait for their next query, the one that has waited longest first.
    waiting: Mutex<BTreeMap<u64, Arc<Quiet>>>,
    /// The number of the next wait.
    next: AtomicU64,
    /// What happened at the bounds.
    counts: Counts,
}

/// What happened at the bounds, for the metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Idle connections closed for new ones.
    pub(crate) closed_idle: AtomicU64,
    /// Connections closed because their client had too many.
    pub(crate) closed_client: AtomicU64,
    /// Connections the system did not let us accept.
    pub(crate) failed: AtomicU64,
}

/// What a connection that waits for its next query is asked and told.
pub(super) struct Quiet {
    /// Queries it may still have in flight: all of them when it has none.
    pub(super) room: Arc<Semaphore>,
    /// Answers it may still have unread: all of them when it has none.
    pub(super) unread: Arc<Semaphore>,
    /// What is available of both when nothing is in flight.
    pub(super) all: (usize, usize),
    /// Tells it to close.
    pub(super) close: Notify,
}

impl Quiet {
    /// Returns whether no query is in flight and no answer is on its way.
    fn is_idle(&self) -> bool {
        (self.room.available_permits(), self.unread.available_permits()) == self.all
    }
}

impl Limits {
    /// Makes the bounds of [`MAX_CONNECTIONS`] and [`MAX_PER_CLIENT`].
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            clients: Mutex::default(),
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
            counts: Counts::default(),
        })
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> usize {
        MAX_CONNECTIONS - self.slots.available_permits()
    }

    /// Returns what happened at the bounds.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Counts a connection of a client in; `None` when it has too many.
    pub(super) fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Share> {
        let client = host(client);
        let mut clients = lock(&self.clients);
        let open = clients.entry(client).or_default();
        if *open >= MAX_PER_CLIENT {
            self.counts.closed_client.fetch_add(1, Relaxed);
            return None;
        }
        *open += 1;
        Some(Share { limits: Arc::clone(self), client })
    }

    /// Waits for a connection's place; with none left, the connection that has been idle the longest is closed for it.
    pub(super) async fn seat(&self) -> OwnedSemaphorePermit {
        loop {
            if let Some(slot) = self.try_seat() {
                return slot;
            }
            self.close_idle();
            // Should none be idle now, one may be soon.
            if let Ok(Ok(slot)) = timeout(LOOK, Arc::clone(&self.slots).acquire_owned()).await {
                return slot;
            }
        }
    }

    /// Returns a connection's place, if one is left.
    pub(super) fn try_seat(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// Closes the connection that has been idle the longest, if one is.
    ///
    /// The table has [`MAX_CONNECTIONS`] entries at most, and it is only looked through when there is no place left.
    pub(super) fn close_idle(&self) {
        let mut waiting = lock(&self.waiting);
        let Some(number) = waiting.iter().find(|(_, quiet)| quiet.is_idle()).map(|(number, _)| *number) else { return };
        if let Some(quiet) = waiting.remove(&number) {
            quiet.close.notify_one();
            self.counts.closed_idle.fetch_add(1, Relaxed);
        }
    }

    /// Counts an accept that the system refused.
    pub(super) fn failed(&self) {
        self.counts.failed.fetch_add(1, Relaxed);
    }

    /// Notes that a connection waits for its next query, until the returned value is dropped.
    pub(super) fn wait(&self, quiet: &Arc<Quiet>) -> Wait<'_> {
        let number = self.next.fetch_add(1, Relaxed);
        lock(&self.waiting).insert(number, Arc::clone(quiet));
        Wait { limits: self, number }
    }
}

/// A connection's wait for its next query.
pub(super) struct Wait<'a> {
    /// Where it is noted.
    limits: &'a Limits,
    /// Its number.
    number: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        lock(&self.limits.waiting).remove(&self.number);
    }
}

/// One connection's share of what its client may have; dropping it gives the share back.
pub(super) struct Share {
    /// Where it is counted.
    limits: Arc<Limits>,
    /// Whose it is.
    client: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut clients = lock(&self.limits.clients);
        if let Some(open) = clients.get_mut(&self.client) {
            *open -= 1;
            if *open == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// Returns what connections are counted by: an IPv4 address, or the first of the /64 a host can choose from.
fn host(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
    }
}

/// Locks a table whose every state is whole.
fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a connection's part.
    fn quiet() -> Arc<Quiet> {
        let room = || Arc::new(Semaphore::new(1));
        Arc::new(Quiet { room: room(), unread: room(), all: (1, 1), close: Notify::new() })
    }

    /// Returns whether the connection has been told to close.
    async fn is_told(quiet: &Quiet) -> bool {
        timeout(Duration::ZERO, quiet.close.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn the_longest_idle_is_closed_and_never_a_busy_one() {
        let limits = Limits::new();
        let [busy, first, second] = [quiet(), quiet(), quiet()];
        let _in_flight = Arc::clone(&busy.room).try_acquire_owned().unwrap();
        let _waits = [&busy, &first, &second].map(|quiet| limits.wait(quiet));
        limits.close_idle();
        assert_eq!((is_told(&busy).await, is_told(&first).await, is_told(&second).await), (false, true, false));
        limits.close_idle();
        assert!(is_told(&second).await && !is_told(&first).await, "each is told once");
        limits.close_idle();
        assert!(!is_told(&busy).await);
        assert_eq!(limits.counts().closed_idle.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn a_client_has_its_share_and_no_more() {
        let limits = Limits::new();
        let client = |last: u8| IpAddr::from([192, 0, 2, last]);
        let shares: Vec<_> = (0..MAX_PER_CLIENT).map(|_| limits.enter(client(1)).unwrap()).collect();
        assert!(limits.enter(client(1)).is_none() && limits.enter(client(2)).is_some());
        assert!(limits.enter("::ffff:192.0.2.1".parse().unwrap()).is_none(), "the same client");
        drop(shares);
        assert!(limits.enter(client(1)).is_some());
        assert!(lock(&limits.clients).is_empty());
    }
}
