//! Fair dropping: when a receiving thread cannot keep up, it drops queries of the clients that cause the load, and
//! answers all others.
//!
//! The algorithm is approximate fair dropping (Pan, Breslau, Prabhakar, Shenker: "Approximate Fairness through
//! Differential Dropping", ACM SIGCOMM CCR 33(2), 2003), and what it measures is time. A thread adds up, for each
//! client, the time that its queries take in an epoch, and drops the further queries of a client that has used its
//! share of the epoch. The share is found by trial: it shrinks while the socket is never empty, and grows once it is.
//! Dropping a query costs a tenth of answering it, so the queue of the socket gets short again, and a client below the
//! share does not wait for the others.
//!
//! A thread that keeps up or has a single client counts nothing.

use std::time::{Duration, Instant};

use crate::fair_share::{ByHolder, Holder};

/// The time over which the cost of a client's queries is added up.
const EPOCH: Duration = Duration::from_millis(10);

/// The time of an epoch that a client may use at first.
const FIRST_SHARE: Duration = EPOCH.checked_div(2).expect("two is not zero");

/// The least time of an epoch that a client may use.
const LEAST_SHARE: Duration = EPOCH.checked_div(64).expect("64 is not zero");

/// The growth of the share after an epoch in which the socket was empty once.
const GROWTH: Duration = EPOCH.checked_div(256).expect("256 is not zero");

/// The cost of a query besides the time for finding its answer: its part of the system calls that receive and send.
const AROUND: Duration = Duration::from_micros(2);

/// The additional cost of a query that waits for an upstream: asking the upstream and receiving the reply.
const UPSTREAM: Duration = Duration::from_micros(4);

/// The cost of a dropped query.
const DROPPED: Duration = Duration::from_nanos(500);

/// The load of one receiving thread, and the share that it grants each client.
#[derive(Debug)]
pub(super) struct Overload {
    /// The end of the epoch.
    end: Instant,
    /// The number of batches in this epoch; `None` once one of them was not full, that is, the socket was empty.
    full: Option<u32>,
    /// Whether all batches of the last epoch were full, so that the thread did not keep up.
    is_congested: bool,
    /// The client of the first query in this epoch.
    first: Option<Holder>,
    /// Whether there were queries of other clients than the first, in this epoch and in the last one.
    is_mixed: [bool; 2],
    /// The time of an epoch that each client may use; `None` is without a limit.
    share: Option<Duration>,
    /// The time that each client has used in this epoch; counted only while there is a share.
    spent: ByHolder<Duration>,
}

impl Overload {
    /// Starts the first epoch, without a limit.
    pub(super) fn new(now: Instant) -> Self {
        let (full, first, share) = (Some(0), None, None);
        let spent = ByHolder::default();
        Self { end: now + EPOCH, full, is_congested: false, first, is_mixed: [false; 2], share, spent }
    }

    /// Notes that a batch was received, which was full or emptied the socket. After the end of an epoch, adjusts the
    /// share and starts the next epoch.
    pub(super) fn note_batch(&mut self, is_full: bool, now: Instant) {
        self.full = self.full.filter(|_| is_full).map(|count| count + 1);
        if now < self.end {
            return;
        }
        self.is_congested = self.full.is_some_and(|count| count > 0);
        self.share = match self.share {
            // The share is for protecting other clients, and there are none.
            _ if !self.is_mixed[0] && !self.is_mixed[1] => None,
            None if self.is_congested => Some(FIRST_SHARE),
            // Halved at once, so that the queue of the socket soon gets short, and raised in small steps, so that it
            // stays short.
            Some(share) if self.is_congested => Some((share / 2).max(LEAST_SHARE)),
            Some(share) => Some(share + GROWTH).filter(|share| *share < EPOCH),
            None => None,
        };
        self.is_mixed = [false, self.is_mixed[0]];
        (self.end, self.full, self.first) = (now + EPOCH, Some(0), None);
        self.spent.clear();
    }

    /// Returns whether [`Overload::admits`] must be called for each query. While the thread keeps up, it need not be,
    /// which saves looking up the client.
    pub(super) fn is_on(&self) -> bool {
        self.is_congested || self.share.is_some() || self.full.is_some_and(|count| count > 0)
    }

    /// Returns whether a query of `holder` is to be answered. Otherwise it must be dropped; that cost is counted here.
    pub(super) fn admits(&mut self, holder: Holder) -> bool {
        self.is_mixed[0] |= *self.first.get_or_insert(holder) != holder;
        let Some(share) = self.share else { return true };
        let spent = self.spent.entry(holder).or_default();
        let is_admitted = *spent < share;
        if !is_admitted {
            *spent += DROPPED;
        }
        is_admitted
    }

    /// Counts the cost of a query: `taken` for finding the answer, and a constant for the rest. `waits` means that it
    /// waits for an upstream.
    pub(super) fn charge(&mut self, holder: Holder, taken: Duration, waits: bool) {
        if self.share.is_some() {
            let around = if waits { AROUND + UPSTREAM } else { AROUND };
            *self.spent.entry(holder).or_default() += taken + around;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates two seconds in which clients send queries, evenly, to a thread that takes `cost` for each. `sent` has
    /// the number of queries of each client in an epoch.
    ///
    /// Returns the part of each client's queries of the second half that was answered, and the longest time that a
    /// query of the last client waited.
    fn run(sent: &[(&str, u32)], cost: Duration) -> (Vec<f64>, Duration) {
        let start = Instant::now();
        let (mut now, mut overload) = (start, Overload::new(start));
        let mut arrivals: Vec<(Instant, usize)> = Vec::new();
        for (client, (_, count)) in sent.iter().enumerate() {
            arrivals.extend((0..200 * count).map(|number| (start + EPOCH * number / *count, client)));
        }
        arrivals.sort_unstable();
        let half = start + EPOCH * 100;
        let mut coming = arrivals.into_iter().peekable();
        let mut queue: std::collections::VecDeque<(Instant, usize)> = std::collections::VecDeque::new();
        let (mut all, mut answered, mut longest) = (vec![0; sent.len()], vec![0; sent.len()], Duration::ZERO);
        while coming.peek().is_some() {
            while let Some((at, client)) = coming.next_if(|(at, _)| *at <= now) {
                all[client] += u32::from(at > half);
                // The buffer of a socket holds a bounded number. Queries that come when it is full are lost.
                if queue.len() < 5000 {
                    queue.push_back((at, client));
                }
            }
            let Some((next, _)) = coming.peek().filter(|_| queue.is_empty()) else {
                let batch: Vec<_> = queue.drain(..queue.len().min(64)).collect();
                overload.note_batch(batch.len() == 64, now);
                for (at, client) in batch {
                    let holder = Holder::named(sent[client].0);
                    if overload.is_on() && !overload.admits(holder) {
                        now += DROPPED;
                        continue;
                    }
                    now += cost + AROUND;
                    overload.charge(holder, cost, false);
                    answered[client] += u32::from(at > half);
                    if client == sent.len() - 1 && at > half {
                        longest = longest.max(now - at);
                    }
                }
                continue;
            };
            now = *next;
        }
        (answered.iter().zip(all).map(|(answered, all)| f64::from(*answered) / f64::from(all)).collect(), longest)
    }

    #[test]
    fn a_thread_that_keeps_up_drops_nothing() {
        let (answered, _) = run(&[("one", 1000), ("two", 500)], Duration::from_micros(2));
        assert_eq!(answered, [1.0, 1.0]);
    }

    #[test]
    fn a_lone_client_gets_all_there_is() {
        let (answered, _) = run(&[("one", 5000)], Duration::from_micros(2));
        assert!(answered[0] > 0.49, "{answered:?}");
    }

    #[test]
    fn a_flood_costs_its_sender_and_nobody_else() {
        for flood in [3000, 6000] {
            let (answered, longest) = run(&[("flood", flood), ("victim", 30)], Duration::from_micros(2));
            assert!(answered[1] >= 1.0, "every query of the modest client: {flood}: {answered:?}");
            assert!(longest < EPOCH * 3 / 2, "{flood}: {longest:?}");
            assert!(answered[0] > 0.05, "the other one is still served: {flood}: {answered:?}");
        }
    }

    #[test]
    fn costly_queries_count_by_their_cost() {
        let (answered, longest) = run(&[("one", 200), ("victim", 10)], Duration::from_micros(200));
        assert!(answered[1] >= 1.0 && longest < EPOCH * 6, "{answered:?}, {longest:?}");
    }
}
