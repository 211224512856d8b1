//! How many connections there may be, and which one goes when there are too many.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::api::connection::deadlines::{Pulse, Spare};
use crate::api::request::counts::{Closed, RequestCounts};
use crate::bounds::capacity;
use crate::bounds::{CONTROL_CONNECTIONS, MAX_CLOSING};
use crate::fair_share::Holder;
use crate::util::lock;

/// How long a connection waits for a place before it looks for one to close again.
const LOOK: Duration = Duration::from_millis(20);

/// Of the connections of one holder that are without a token, or wait for their token's share, one in so many is closed at
/// a time: a flood is not looked through for each connection of it.
const CLOSED_PART: usize = 32;

/// The places of connections.
pub(in crate::api) struct Seats {
    /// Those that are taken.
    taken: Mutex<Taken>,
    /// Told when one is given back.
    freed: Notify,
    /// What is counted.
    counts: Arc<RequestCounts>,
}

/// The places that are taken.
#[derive(Default)]
struct Taken {
    /// The connections by number.
    pulses: BTreeMap<u64, Arc<Pulse>>,
    /// The number of the next one.
    next: u64,
    /// Those of them that were told to close for another one: it need not wait for their end.
    closing: usize,
}

impl Seats {
    /// Makes [`CONTROL_CONNECTIONS`] places.
    pub(in crate::api) fn new(counts: Arc<RequestCounts>) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default(), freed: Notify::new(), counts })
    }

    /// Waits for a place for a connection from `source`; with none left, a connection without a request that was let in is
    /// closed for it.
    pub(in crate::api) async fn seat(self: &Arc<Self>, source: Holder) -> Seat {
        loop {
            let seat = {
                let mut taken = self.taken();
                let seat = self.place(&mut taken, source);
                seat.or_else(|| close_for_another(&mut taken).then(|| self.place(&mut taken, source))?)
            };
            if let Some(seat) = seat {
                return seat;
            }
            // Should none be to spare now, one may be soon.
            let _ = timeout(LOOK, self.freed.notified()).await;
        }
    }

    /// Closes one connection that can be closed for another one, if there is one.
    pub(in crate::api) fn make_room(&self) {
        close_for_another(&mut self.taken());
    }

    /// Takes a place, if there is one.
    fn place(self: &Arc<Self>, taken: &mut Taken, source: Holder) -> Option<Seat> {
        let (open, most) = (taken.pulses.len(), capacity::granted().control);
        if open >= most || open - taken.closing >= most - most_closing() {
            return None;
        }
        let (number, pulse) = (taken.next, Pulse::new(source));
        taken.next += 1;
        taken.pulses.insert(number, Arc::clone(&pulse));
        self.counts.connections.fetch_add(1, Relaxed);
        Some(Seat { seats: Arc::clone(self), number, pulse })
    }

    /// Locks the table, whose every state is whole.
    fn taken(&self) -> MutexGuard<'_, Taken> {
        lock(&self.taken)
    }
}

/// Returns how many connections may be on their way out: the same part of fewer connections.
fn most_closing() -> usize {
    (MAX_CLOSING * capacity::granted().control / CONTROL_CONNECTIONS).max(1)
}

/// Closes connections that can be closed for another one: of those without a token first, and of the address or token that
/// has most of them, so that none drives out another one's. Returns whether any was closed.
fn close_for_another(taken: &mut Taken) -> bool {
    let now = Instant::now();
    let spare: Vec<_> = taken.pulses.values().filter_map(|pulse| Some((pulse.spare()?, pulse))).collect();
    let mut counts = HashMap::new();
    for (spare, _) in &spare {
        *counts.entry((spare.is_known, spare.holder)).or_insert(0_usize) += 1;
    }
    let count = |spare: &Spare| counts.get(&(spare.is_known, spare.holder)).copied().unwrap_or(0);
    let is_idle = |spare: &Spare| spare.is_known && !spare.has_request;
    let rank = |spare: &Spare| (spare.is_known, Reverse(count(spare)), !is_idle(spare) && spare.is_known, spare.from);
    let mut due: Vec<_> = spare.iter().filter(|(spare, _)| spare.from <= now).collect();
    due.sort_unstable_by_key(|(spare, _)| rank(spare));
    let Some((first, _)) = due.first() else { return false };
    // A client may be about to use one that is idle: only as many of them go as have to.
    let batch = if is_idle(first) {
        1
    } else {
        count(first).div_ceil(CLOSED_PART).min(most_closing().saturating_sub(taken.closing))
    };
    let is_like = |spare: &Spare| {
        (spare.is_known, spare.holder, spare.has_request) == (first.is_known, first.holder, first.has_request)
    };
    let closed =
        due.iter().filter(|(spare, _)| is_like(spare)).take(batch.max(1)).map(|(_, pulse)| pulse.close()).count();
    taken.closing += closed;
    true
}

/// A connection's place; dropping it gives it back.
pub(in crate::api) struct Seat {
    /// Where it is.
    seats: Arc<Seats>,
    /// Its number.
    number: u64,
    /// What the connection is doing.
    pulse: Arc<Pulse>,
}

impl Seat {
    /// Returns what the connection is doing.
    pub(in crate::api) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Counts why the connection is closed.
    pub(in crate::api) fn count(&self, why: Closed) {
        self.seats.counts.closed(why);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.pulses.remove(&self.number);
        taken.closing -= usize::from(self.pulse.is_told_to_close());
        drop(taken);
        self.seats.counts.connections.fetch_sub(1, Relaxed);
        self.seats.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fair_share::quota::Requester;

    /// Returns whether a connection was told to close for another one.
    fn is_closed(seat: &Seat) -> bool {
        seat.pulse().spare().is_none()
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_or_token_with_most_connections_makes_room() {
        let seats = Seats::new(Arc::default());
        let [flood, lone] = ["192.0.2.1", "192.0.2.2"].map(Holder::named);
        let lone_one = seats.seat(lone).await;
        let flooding = [seats.seat(flood).await, seats.seat(flood).await];
        let mut known = Vec::new();
        for token in ["rare", "greedy", "greedy"] {
            let seat = seats.seat(flood).await;
            seat.pulse().begin().know(Requester { holder: Holder::named(token), is_admin: true });
            known.push(seat);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut order = Vec::new();
        let all: Vec<_> = [&lone_one].into_iter().chain(&flooding).chain(&known).collect();
        for _ in 0..all.len() {
            seats.make_room();
            order.extend(
                (0..all.len()).filter(|index| is_closed(all[*index]) && !order.contains(index)).collect::<Vec<_>>(),
            );
        }
        assert_eq!(order[0], 1, "the oldest one of the address that has more");
        assert_eq!(order[3], 4, "the longest idle one of the token that has more");
    }
}
