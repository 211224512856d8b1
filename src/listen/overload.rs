//! Fair dropping: when a receiving thread cannot keep up, those who cause it lose queries, not their neighbours.
//!
//! Approximate fair dropping (Pan, Breslau, Prabhakar, Shenker: "Approximate Fairness through Differential Dropping", ACM
//! SIGCOMM CCR 33(2), 2003), with the time spent as the measure: a thread counts, client by client, what their queries cost
//! it in an epoch, and a client that has used its share of the epoch gets no more of it. The share is found by trying:
//! it shrinks as long as the socket is never empty, and grows as soon as it is. Dropping costs a tenth of answering, so
//! the queue of the socket gets short again, and a client below the share waits for nobody.
//!
//! A thread that keeps up, and one with a single client, counts nothing.

use std::time::{Duration, Instant};

use crate::fair_share::{ByHolder, Holder};

/// How long costs are added up.
const EPOCH: Duration = Duration::from_millis(10);

/// The part of an epoch that a client has at first.
const FIRST_SHARE: Duration = EPOCH.checked_div(2).expect("two is not zero");

/// The least part of an epoch that a client has.
const LEAST_SHARE: Duration = EPOCH.checked_div(64).expect("64 is not zero");

/// What a share grows by in an epoch in which the socket was empty once.
const GROWTH: Duration = EPOCH.checked_div(256).expect("256 is not zero");

/// What a query costs beside the time in which its answer is found: its part of the calls that receive and send.
const AROUND: Duration = Duration::from_micros(2);

/// What a query that waits for an upstream costs beside that: asking, and taking the reply.
const UPSTREAM: Duration = Duration::from_micros(4);

/// What a dropped query costs.
const DROPPED: Duration = Duration::from_nanos(500);

/// What one receiving thread knows of its load.
#[derive(Debug)]
pub(super) struct Overload {
    /// When the epoch ends.
    end: Instant,
    /// Whether every batch of the epoch was full, and how many there were.
    full: Option<u32>,
    /// Whether the last epoch's batches were all full: then costs are looked at.
    is_congested: bool,
    /// The client of the first query looked at in this epoch.
    first: Option<Holder>,
    /// Whether there was another one; in this epoch, in the last one.
    is_mixed: [bool; 2],
    /// What a client may cost in an epoch; `None` is as much as it likes.
    share: Option<Duration>,
    /// What clients cost in this epoch.
    spent: ByHolder<Duration>,
}

impl Overload {
    /// Begins without load.
    pub(super) fn new(now: Instant) -> Self {
        let (full, first, share) = (Some(0), None, None);
        let spent = ByHolder::default();
        Self { end: now + EPOCH, full, is_congested: false, first, is_mixed: [false; 2], share, spent }
    }

    /// Notes a batch, which was full or emptied the socket.
    pub(super) fn note_batch(&mut self, is_full: bool, now: Instant) {
        self.full = self.full.filter(|_| is_full).map(|count| count + 1);
        if now < self.end {
            return;
        }
        self.is_congested = self.full.is_some_and(|count| count > 0);
        self.share = match self.share {
            // A lone client is in nobody's way.
            _ if !self.is_mixed[0] && !self.is_mixed[1] => None,
            None if self.is_congested => Some(FIRST_SHARE),
            // Halved at once, so that the queue is soon short, and given back in small parts, so that it stays so.
            Some(share) if self.is_congested => Some((share / 2).max(LEAST_SHARE)),
            Some(share) => Some(share + GROWTH).filter(|share| *share < EPOCH),
            None => None,
        };
        self.is_mixed = [false, self.is_mixed[0]];
        (self.end, self.full, self.first) = (now + EPOCH, Some(0), None);
        self.spent.clear();
    }

    /// Returns whether queries are to be looked at before they are answered.
    pub(super) fn is_on(&self) -> bool {
        self.is_congested || self.share.is_some() || self.full.is_some_and(|count| count > 0)
    }

    /// Returns whether a query of `holder` is answered; else it is dropped.
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

    /// Adds what a query cost; `waits` if it waits for an upstream.
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

    /// Lets clients send so many queries in each epoch, evenly, to a thread that takes `cost` for each; returns the parts of
    /// their queries that were answered in the second of two seconds, and the longest that one of the last client's
    /// waited.
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
                // A socket holds so many; what comes when it is full is lost.
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
