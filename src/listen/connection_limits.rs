//! The limits on TCP connections: a client's share, and the connection that is closed when the share is used up.
//!
//! A client may have at most as many connections as are still free (see [`fair_share`](crate::fair_share)). If a client
//! that has its share opens another connection, the one of its own that has been idle longest is closed. The new
//! connection gets its permit at once, without waiting for the old one to end.
//!
//! That rule alone does not keep greedy clients from taking everything one after the other: half, then half of the
//! rest, and so on, until nothing is left. So [`RESERVED`] connections are counted as free only for clients that have
//! fewer than [`GUARANTEED`]. If the reserve is used up too, an idle connection of the client that has most is closed
//! for such a client (push-out). Apart from that, a connection is closed for one of another client only if file
//! descriptors run out ([`Limits::close_idle`]).

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore};

use crate::bounds::capacity;
use crate::bounds::{
    GUARANTEED_CONNECTIONS as GUARANTEED, MAX_CONNECTIONS, MAX_PIPELINED, MAX_UNREAD, RESERVED_CONNECTIONS as RESERVED,
};
use crate::fair_share::{ByHolder, Holder, Permit, Shares};
use crate::util::lock;

/// The connections of all TCP listeners of the process.
pub(crate) struct Limits {
    /// The number of open connections, client by client.
    shares: Arc<Shares>,
    /// The maximum of open connections: [`MAX_CONNECTIONS`], or fewer where the limit on open files is low.
    most: usize,
    /// The connections that wait for their client. The keys are serial numbers of the waits, so the one that has waited
    /// longest is first.
    idle: Mutex<BTreeMap<u64, (Idle, Arc<Link>)>>,
    /// The serial number of the next wait.
    next: AtomicU64,
    /// Events at the limits.
    counts: ConnectionCounts,
}

/// Events at the limits, for the metrics.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounts {
    /// Idle connections closed for new ones.
    pub(crate) closed_idle: AtomicU64,
    /// New connections closed because their client has its share and no connection that may be closed for it is idle.
    pub(crate) closed_client: AtomicU64,
    /// Connections the system did not let us accept.
    pub(crate) failed: AtomicU64,
}

/// The action of the client that a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// The next query, or the rest of it: the connection is idle when nothing else is under way on it.
    Query,
    /// Buffer space for an answer, which the client does not read: nothing else goes on before that.
    Reading,
}

/// An open connection, as far as the limits need to know it.
pub(super) struct Link {
    /// The client that the connection counts for.
    holder: Holder,
    /// The holder for the source address, as a client may be a whole network.
    host: Holder,
    /// The connection's part of the client's share; `None` once it is closed for another connection.
    permit: Mutex<Option<Permit>>,
    /// Permits for queries in flight: [`MAX_PIPELINED`] are available when there is none.
    pub(super) pipelined: Arc<Semaphore>,
    /// Permits for answers the client has not taken: [`MAX_UNREAD`] are available when there is none.
    pub(super) unread: Arc<Semaphore>,
    /// Notified when the connection is closed for another one.
    close: Notify,
}

impl Link {
    /// Returns whether the connection is open and makes no progress unless its client acts. `kind` is the action that
    /// it waits for.
    fn is_idle(&self, kind: Idle) -> bool {
        let is_quiet =
            || (self.pipelined.available_permits(), self.unread.available_permits()) == (MAX_PIPELINED, MAX_UNREAD);
        lock(&self.permit).is_some() && (kind == Idle::Reading || is_quiet())
    }

    /// Waits until the connection is closed for another one.
    pub(super) async fn closed(&self) {
        self.close.notified().await;
    }
}

impl Limits {
    /// Makes the limits for as many connections as the limit on open files allows.
    pub(crate) fn new() -> Arc<Self> {
        let most = capacity::granted().connections;
        Arc::new(Self {
            shares: Shares::new(most, most),
            most,
            idle: Mutex::default(),
            next: AtomicU64::new(0),
            counts: ConnectionCounts::default(),
        })
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.shares.used()
    }

    /// Returns the counts of events at the limits.
    pub(crate) fn counts(&self) -> &ConnectionCounts {
        &self.counts
    }

    /// Admits a new connection of a client. If the client has its share, an idle connection is closed to make room: the
    /// client's own that has been idle longest or, if the client has fewer than [`GUARANTEED`], one of the client with
    /// most connections. Returns `None` if none is idle.
    pub(super) fn enter(&self, holder: Holder, source: IpAddr) -> Option<Arc<Link>> {
        let taken = self.take(holder).or_else(|| self.close_idle_of(holder)).or_else(|| self.claim(holder));
        let Some(permit) = taken else {
            self.counts.closed_client.fetch_add(1, Relaxed);
            return None;
        };
        Some(Arc::new(Link {
            holder,
            host: Holder::host(source),
            permit: Mutex::new(Some(permit)),
            pipelined: Arc::new(Semaphore::new(MAX_PIPELINED)),
            unread: Arc::new(Semaphore::new(MAX_UNREAD)),
            close: Notify::new(),
        }))
    }

    /// Takes a permit if the client's share has one left.
    fn take(&self, holder: Holder) -> Option<Permit> {
        let (count, free) = (self.shares.count(holder), self.most.saturating_sub(self.shares.used()));
        // If the limit on open files allows fewer connections, the reserve shrinks in proportion.
        let reserved = RESERVED * self.most / MAX_CONNECTIONS;
        (count < GUARANTEED || count + reserved < free).then(|| self.shares.take(holder)).flatten()
    }

    /// Closes an idle connection of the client that has most, if one is idle. To be called when descriptors run out:
    /// the client of the next connection is unknown until it is accepted, so its share cannot decide.
    pub(super) fn close_idle(&self) {
        drop(self.close_idle_of_largest(0));
    }

    /// Closes the longest idle connection of a client and returns its permit.
    fn close_idle_of(&self, holder: Holder) -> Option<Permit> {
        self.close_one(&mut lock(&self.idle), holder)
    }

    /// Closes an idle connection of the client that has most connections, for a client that has few.
    fn claim(&self, holder: Holder) -> Option<Permit> {
        let count = self.shares.count(holder);
        // A client with as many connections, or one more, keeps them: it would only lose what this one gains.
        let mut permit = (count < GUARANTEED).then(|| self.close_idle_of_largest(count + 1)).flatten()?;
        permit.pass_to(holder);
        Some(permit)
    }

    /// Finds the client with most connections among those with an idle one. If it has more than `floor`, closes its
    /// longest idle one and returns the permit.
    fn close_idle_of_largest(&self, floor: usize) -> Option<Permit> {
        let mut idle = lock(&self.idle);
        let holders: HashSet<Holder> =
            idle.values().filter(|(kind, link)| link.is_idle(*kind)).map(|(_, link)| link.holder).collect();
        let largest = holders.into_iter().map(|holder| (self.shares.count(holder), holder)).max()?;
        (largest.0 > floor).then(|| self.close_one(&mut idle, largest.1)).flatten()
    }

    /// Closes the longest idle connection of a client and returns its permit.
    ///
    /// If the client is a network, it is that of the host with most idle connections, so that one host does not take
    /// them from its neighbours. A search through the table is cheap enough: it has at most two entries for each
    /// connection, and is searched only at a limit.
    fn close_one(&self, idle: &mut BTreeMap<u64, (Idle, Arc<Link>)>, holder: Holder) -> Option<Permit> {
        let found = idle.iter().filter(|(_, (kind, link))| link.holder == holder && link.is_idle(*kind));
        let found: Vec<(u64, Holder)> = found.map(|(number, (_, link))| (*number, link.host)).collect();
        let mut by_host: ByHolder<usize> = ByHolder::default();
        for (_, host) in &found {
            *by_host.entry(*host).or_default() += 1;
        }
        let most = by_host.values().max()?;
        let (number, _) = found.iter().find(|(_, host)| by_host.get(host) == Some(most))?;
        let (_, link) = idle.remove(number)?;
        let permit = lock(&link.permit).take();
        link.close.notify_one();
        self.counts.closed_idle.fetch_add(1, Relaxed);
        permit
    }

    /// Counts an accept that the system refused.
    pub(super) fn failed(&self) {
        self.counts.failed.fetch_add(1, Relaxed);
    }

    /// Lists a connection as waiting for its client until the returned value is dropped.
    pub(super) fn wait<'a>(&'a self, link: &'a Arc<Link>, kind: Idle) -> Wait<'a> {
        let number = self.next.fetch_add(1, Relaxed);
        lock(&self.idle).insert(number, (kind, Arc::clone(link)));
        Wait { limits: self, link, number }
    }
}

/// A connection's wait for its client.
pub(super) struct Wait<'a> {
    /// The limits that list the wait.
    limits: &'a Limits,
    /// The connection that waits.
    link: &'a Link,
    /// The key of the wait in [`Limits::idle`].
    number: u64,
}

impl Wait<'_> {
    /// Ends the wait and returns whether the connection may go on: it may have been closed for another one meanwhile.
    pub(super) fn end(self) -> bool {
        let link = self.link;
        // A connection that is not in the table cannot be closed for another one any more.
        drop(self);
        lock(&link.permit).is_some()
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        lock(&self.limits.idle).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Enters a connection of a client from an address.
    fn enter(limits: &Limits, client: &str, host: u8) -> Option<Arc<Link>> {
        limits.enter(Holder::named(client), [192, 0, 2, host].into())
    }

    /// Enters connections of a client until one is refused.
    fn enter_all(limits: &Limits, client: &str) -> Vec<Arc<Link>> {
        std::iter::from_fn(|| enter(limits, client, 1)).collect()
    }

    /// Returns whether the connection has been closed for another one.
    async fn is_closed(link: &Link) -> bool {
        timeout(Duration::ZERO, link.closed()).await.is_ok()
    }

    #[tokio::test]
    async fn longest_idle_of_the_same_client_gives_its_place_and_never_a_busy_one() {
        let limits = Limits::new();
        let (other, links) = (enter(&limits, "other", 2).unwrap(), enter_all(&limits, "greedy"));
        assert_eq!(links.len(), (MAX_CONNECTIONS - RESERVED) / 2, "as many as are free");
        let open = limits.open();
        let [busy, first, second] = [&links[0], &links[1], &links[2]];
        let _in_flight = Arc::clone(&busy.pipelined).try_acquire_owned().unwrap();
        let _waits = [&other, busy, first, second].map(|link| limits.wait(link, Idle::Query));
        let newer = [(); 2].map(|()| enter(&limits, "greedy", 1).unwrap());
        assert!(is_closed(first).await && is_closed(second).await, "the longest idle one first");
        assert!(enter(&limits, "greedy", 1).is_none(), "none is idle any more");
        assert!(!is_closed(busy).await && !is_closed(&other).await);
        assert_eq!(limits.open(), open, "a closed one is not counted, however long it takes to end");
        let counts = [&limits.counts.closed_idle, &limits.counts.closed_client].map(|count| count.load(Relaxed));
        assert_eq!(counts, [2, 2]);
        drop(newer);
        assert_eq!(limits.open(), open - 2);
    }

    #[tokio::test]
    async fn connection_whose_client_reads_nothing_is_idle_whatever_is_under_way() {
        let limits = Limits::new();
        let links = enter_all(&limits, "greedy");
        let _in_flight = Arc::clone(&links[9].pipelined).try_acquire_owned().unwrap();
        let wait = limits.wait(&links[9], Idle::Reading);
        let _query = limits.wait(&links[9], Idle::Query);
        let _newer = enter(&limits, "greedy", 1).unwrap();
        assert!(is_closed(&links[9]).await && !wait.end(), "its place is gone");
        assert!(enter(&limits, "greedy", 1).is_none(), "it has but one place to give");
    }

    #[tokio::test]
    async fn host_with_most_idle_connections_of_a_network_loses_one() {
        let limits = Limits::new();
        let neighbour = enter(&limits, "network", 7).unwrap();
        let links = enter_all(&limits, "network");
        let _wait = limits.wait(&neighbour, Idle::Query);
        let _waits: Vec<_> = links[..2].iter().map(|link| limits.wait(link, Idle::Query)).collect();
        assert!(enter(&limits, "network", 7).is_some() && is_closed(&links[0]).await);
        assert!(!is_closed(&neighbour).await);
    }

    #[tokio::test]
    async fn want_of_descriptors_closes_one_of_the_client_with_most_connections() {
        let limits = Limits::new();
        let [lone, first, second] =
            [("lone", 1), ("two", 2), ("two", 3)].map(|(id, at)| enter(&limits, id, at).unwrap());
        let _waits = [&lone, &first, &second].map(|link| limits.wait(link, Idle::Query));
        limits.close_idle();
        assert!(is_closed(&first).await && !is_closed(&lone).await && !is_closed(&second).await);
        assert_eq!(limits.open(), 2);
    }

    #[tokio::test]
    async fn greedy_clients_one_after_the_other_leave_others_a_few() {
        let limits = Limits::new();
        let mut held: Vec<_> = (0..24).flat_map(|number| enter_all(&limits, &number.to_string())).collect();
        assert_eq!(enter_all(&limits, "newcomer").len(), GUARANTEED, "although nothing is idle");
        held.extend((24..).map_while(|number| enter(&limits, &number.to_string(), 1)));
        assert_eq!(limits.open(), MAX_CONNECTIONS, "so many clients that there is nothing left");
        assert!(enter(&limits, "newcomer", 1).is_none(), "and nothing idle");
        let _waits: Vec<_> = held.iter().map(|link| limits.wait(link, Idle::Query)).collect();
        let given = enter_all(&limits, "newcomer");
        assert_eq!(given.len(), GUARANTEED);
        for link in &held[..GUARANTEED] {
            assert!(is_closed(link).await, "of the one with most");
        }
        assert_eq!(limits.open(), MAX_CONNECTIONS);
    }

    #[test]
    fn nobody_loses_a_connection_to_one_who_would_have_as_many() {
        let limits = Limits::new();
        let held: Vec<_> = (0..MAX_CONNECTIONS).map(|number| enter(&limits, &number.to_string(), 1).unwrap()).collect();
        let _waits: Vec<_> = held.iter().map(|link| limits.wait(link, Idle::Query)).collect();
        assert!(enter(&limits, "newcomer", 1).is_none());
    }
}
