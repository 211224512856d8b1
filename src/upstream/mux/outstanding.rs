//! An outstanding question of a thread, with the queries to upstreams that are in flight for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Waits;
use super::ports::Key;
use super::refused::Refused;
use crate::dns::response::{Casing, Edns, Question};
use crate::fair_share::Holder;
use crate::upstream::pool::REVIEW_EVERY;

/// The time for which a task is awaited beyond its question's time, which it keeps by itself.
pub(super) const OVERTIME: Duration = Duration::from_secs(1);

/// An outstanding question.
pub(super) struct Outstanding<W, C> {
    pub(super) question: Arc<Question>,
    /// The hash of the question.
    pub(super) hash: u64,
    /// The holder of the share of the query that asked first.
    pub(super) holder: Holder,
    /// The right to ask it; `None` once it has ended, and then only a late answer is welcome.
    pub(super) claim: Option<C>,
    /// `true` while a task asks on.
    pub(super) is_in_task: bool,
    /// The queries that wait for it.
    pub(super) waiters: Vec<W>,
    /// The first try, while it is in flight.
    pub(super) first: Option<Try>,
    /// The tries after it that are in flight.
    pub(super) again: Vec<Try>,
    /// Tries made, not counting those that follow from a datagram of somebody else's: in lower case, from another port.
    pub(super) count: usize,
    /// `true` if it was repeated from another port because the first one was flooded.
    pub(super) is_moved: bool,
    /// The refusals it met, if any.
    pub(super) refused: Option<Refused>,
    /// Further tries for clients that asked again.
    pub(super) repeated: usize,
    /// The time of the first try.
    pub(super) since: Instant,
    /// The time for it, over all tries.
    pub(super) time: Duration,
    /// The time of the next try; `None` after the last one.
    pub(super) next_at: Option<Instant>,
    /// The time of the next check whether an upstream can still answer.
    pub(super) review_at: Instant,
}

/// A query in flight to an upstream.
#[derive(Clone, Copy)]
pub(super) struct Try {
    /// The socket and ID by which its reply is recognised.
    pub(super) key: Key,
    /// The time of sending.
    pub(super) since: Instant,
    /// The time without a reply after which the upstream counts as silent.
    pub(super) patience: Duration,
    /// The case of its QNAME.
    pub(super) casing: Casing,
    /// The knowledge on whether the upstream preserves case.
    pub(super) case: Case,
    /// The EDNS options in the query.
    pub(super) edns: Edns,
    /// `true` if a reply with its ID came that cannot be used. It may be forged, so the true one is awaited; but the
    /// upstream is not silent.
    pub(super) is_garbled: bool,
}

/// The knowledge from a try on whether the upstream preserves the case of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// No reply yet.
    Open,
    /// A reply in another case came, so the question was sent in lower case as well.
    Doubted,
    /// This is that one: if it is answered before the first, the upstream does not keep the case.
    Tested,
}

impl<W: Waits, C> Outstanding<W, C> {
    /// Makes a question that no try was made at, asked now by `waiter`.
    pub(super) fn new(waiter: W, hash: u64, claim: C) -> Self {
        let since = Instant::now();
        Self {
            question: Arc::clone(waiter.question()),
            hash,
            holder: waiter.holder(),
            claim: Some(claim),
            is_in_task: false,
            time: waiter.upstreams().around().question_time(),
            waiters: vec![waiter],
            first: None,
            again: Vec::new(),
            count: 0,
            is_moved: false,
            refused: None,
            repeated: 0,
            since,
            next_at: None,
            review_at: since + REVIEW_EVERY,
        }
    }
}

impl<W, C> Outstanding<W, C> {
    /// Returns the next time at which something is to be done about it.
    pub(super) fn due(&self) -> Instant {
        let end = self.since + self.time;
        let next = self.next_at.map_or(self.review_at, |next| next.min(self.review_at));
        match self.claim {
            Some(_) if self.is_in_task => self.review_at.min(end + OVERTIME),
            Some(_) => next.min(end),
            // It has ended and is only kept for a late answer.
            None => end,
        }
    }

    /// Returns whether this thread makes the tries at it.
    pub(super) fn is_asked_here(&self) -> bool {
        self.claim.is_some() && !self.is_in_task
    }

    /// Returns when the last try was made.
    pub(super) fn last_try(&self) -> Option<Instant> {
        self.tries().map(|one| one.since).max()
    }

    /// Returns the tries in flight.
    pub(super) fn tries(&self) -> impl Iterator<Item = &Try> {
        self.first.iter().chain(&self.again)
    }

    /// Returns the try that `key` tells of.
    pub(super) fn try_of(&mut self, key: Key) -> Option<&mut Try> {
        self.first.iter_mut().chain(&mut self.again).find(|one| one.key == key)
    }

    /// Takes out the try that `key` tells of.
    pub(super) fn take(&mut self, key: Key) -> Option<Try> {
        if self.first.is_some_and(|first| first.key == key) {
            return self.first.take();
        }
        let index = self.again.iter().position(|again| again.key == key)?;
        Some(self.again.swap_remove(index))
    }
}
