//! The limit on connections. At the limit, one that no admitted request uses is closed for a new one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::api::connection::state::{ConnectionState, EvictionRank};
use crate::api::request::counts::{CloseReason, RequestCounts};
use crate::bounds::{CONTROL_CONNECTIONS, MAX_CLOSING, capacity};
use crate::fair_share::Holder;
use crate::util::lock;

/// The interval of looking for a connection to close while a new one waits.
const LOOK: Duration = Duration::from_millis(20);
/// The part of one holder's connections that is closed at a time: a flood is not searched for each of its connections.
const EVICTED_PART: usize = 32;

/// The open connections, [`CONTROL_CONNECTIONS`] at most.
pub(in crate::api) struct ConnectionLimit {
    open: Mutex<OpenConnections>,
    /// Notified when a connection ends.
    freed: Notify,
    counts: Arc<RequestCounts>,
}

#[derive(Default)]
struct OpenConnections {
    by_number: BTreeMap<u64, Arc<ConnectionState>>,
    /// The number of the next connection.
    next: u64,
    /// The evicted ones: a new connection does not wait for their end.
    closing: usize,
}

/// The permit of a connection, which ends with it.
pub(in crate::api) struct ConnectionPermit {
    limit: Arc<ConnectionLimit>,
    number: u64,
    state: Arc<ConnectionState>,
}

impl ConnectionLimit {
    pub(in crate::api) fn new(counts: Arc<RequestCounts>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), freed: Notify::new(), counts })
    }

    /// Waits for the permit of a connection from `source`; at the limit, another one is closed for it.
    pub(in crate::api) async fn acquire(self: &Arc<Self>, source: Holder) -> ConnectionPermit {
        loop {
            let permit = {
                let mut open = lock(&self.open);
                let permit = self.permit(&mut open, source);
                permit.or_else(|| evict_for_another(&mut open).then(|| self.permit(&mut open, source))?)
            };
            if let Some(permit) = permit {
                return permit;
            }
            let _ = timeout(LOOK, self.freed.notified()).await;
        }
    }

    /// Closes one connection if one can be closed.
    pub(in crate::api) fn evict_one(&self) {
        evict_for_another(&mut lock(&self.open));
    }

    fn permit(self: &Arc<Self>, open: &mut OpenConnections, source: Holder) -> Option<ConnectionPermit> {
        let (count, most) = (open.by_number.len(), capacity::granted().control);
        // Closing connections do not hold up new ones, but a flood of both must end: their number is bounded.
        if count >= most || count - open.closing >= most - most_closing() {
            return None;
        }
        let (number, state) = (open.next, ConnectionState::new(source));
        open.next += 1;
        open.by_number.insert(number, Arc::clone(&state));
        self.counts.connections.fetch_add(1, Relaxed);
        Some(ConnectionPermit { limit: Arc::clone(self), number, state })
    }
}

/// Returns the most connections that may be closing, in proportion to the limit granted.
fn most_closing() -> usize {
    (MAX_CLOSING * capacity::granted().control / CONTROL_CONNECTIONS).max(1)
}

/// Evicts connections: those without a token first, and of the holder with most of them, so that no holder drives out
/// another one's. Returns whether any was.
fn evict_for_another(open: &mut OpenConnections) -> bool {
    let now = Instant::now();
    let ranked: Vec<_> = open.by_number.values().filter_map(|state| Some((state.eviction_rank()?, state))).collect();
    // A holder is judged by all its connections of a class, also those that cannot be closed yet.
    let mut counts = HashMap::new();
    for (rank, _) in &ranked {
        *counts.entry((rank.is_known, rank.holder)).or_insert(0_usize) += 1;
    }
    let count = |rank: &EvictionRank| counts.get(&(rank.is_known, rank.holder)).copied().unwrap_or(0);
    let is_idle = |rank: &EvictionRank| rank.is_known && !rank.has_request;
    let order = |rank: &EvictionRank| (rank.is_known, Reverse(count(rank)), !is_idle(rank) && rank.is_known, rank.from);
    let mut due: Vec<_> = ranked.iter().filter(|(rank, _)| rank.from <= now).collect();
    due.sort_unstable_by_key(|(rank, _)| order(rank));
    let Some((first, _)) = due.first() else { return false };
    // A client may be about to use an idle one, so that no more of these are closed than needed.
    let batch = if is_idle(first) {
        1
    } else {
        count(first).div_ceil(EVICTED_PART).min(most_closing().saturating_sub(open.closing))
    };
    let class = |rank: &EvictionRank| (rank.is_known, rank.holder, rank.has_request);
    let same = due.iter().filter(|(rank, _)| class(rank) == class(first)).take(batch.max(1));
    open.closing += same.map(|(_, state)| state.evict()).count();
    true
}

impl ConnectionPermit {
    pub(in crate::api) fn state(&self) -> &Arc<ConnectionState> {
        &self.state
    }

    /// Counts the reason why the connection is closed.
    pub(in crate::api) fn count(&self, why: CloseReason) {
        self.limit.counts.closed(why);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = lock(&self.limit.open);
        open.by_number.remove(&self.number);
        open.closing -= usize::from(self.state.is_evicted());
        drop(open);
        self.limit.counts.connections.fetch_sub(1, Relaxed);
        self.limit.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fair_share::quota::Requester;

    #[tokio::test(start_paused = true)]
    async fn the_address_or_token_with_most_connections_loses_one_first() {
        let limit = ConnectionLimit::new(Arc::default());
        let [flood, lone] = ["192.0.2.1", "192.0.2.2"].map(Holder::named);
        let mut all = vec![limit.acquire(lone).await, limit.acquire(flood).await, limit.acquire(flood).await];
        for permit in &all {
            permit.state().awaits();
        }
        for token in ["rare", "greedy", "greedy"] {
            let permit = limit.acquire(flood).await;
            permit.state().begin().has_token(Requester { holder: Holder::named(token), is_admin: true });
            all.push(permit);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut order = Vec::new();
        for _ in 0..all.len() {
            limit.evict_one();
            let evicted = (0..all.len()).filter(|index| all[*index].state().is_evicted() && !order.contains(index));
            order.extend(evicted.collect::<Vec<_>>());
        }
        assert_eq!(order[0], 1, "the oldest one of the address that has more");
        assert_eq!(order[3], 4, "the longest idle one of the token that has more");
    }
}
