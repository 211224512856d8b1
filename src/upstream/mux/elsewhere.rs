//! Questions that need more than a thread's UDP sockets: TCP, an upstream that is asked over TCP, another one after a failure.
//!
//! A task of the runtime asks on and posts what comes of it to the thread's mailbox. Until then the question, and all that
//! wait for it, stay where they are: who asks for it meanwhile joins them, and a late reply to a try before is as good.

use std::sync::Arc;

use super::flight::Flight;
use super::readiness::{Inbox, Mail};
use super::{Fate, Landed, Mux, Unclaimed, Waits};
use crate::dns::response::Question;
use crate::fair_share::Permit;
use crate::upstream::{Answered, Failure, FailureKind, Tried, Upstreams};

/// The outcome of a task.
pub(super) struct Outcome {
    /// The place of its question.
    place: usize,
    /// The question; another one may be at the place by now.
    question: Arc<Question>,
    /// The answer, or the failure after all tries.
    result: Result<Answered, Failure>,
}

/// The duty of a task to post an outcome, which it does when dropped: also where the task panics.
struct Errand<W> {
    /// The outcome to post; a failure until the task ends.
    outcome: Option<Outcome>,
    /// The inbox of the thread that has the question.
    to: Inbox<W>,
    /// The part of the client's share that it takes.
    _share: Permit,
}

impl<W> Drop for Errand<W> {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.to.send(Mail::Outcome(outcome));
        }
    }
}

impl<W: Waits, C> Mux<W, C> {
    /// Lets a task ask on, with what was tried; the question stays in flight meanwhile.
    pub(super) fn ask_elsewhere(&mut self, place: usize, tried: Tried, landed: &mut impl FnMut(Landed<W, C>)) {
        let Some(flight) = self.flights[place].as_mut() else { return };
        let Some(upstreams) = flight.waiters.first().map(|first| Arc::clone(first.upstreams())) else {
            // Stale data served all that waited here.
            return self.end(place, Fate::Failed(lost()), landed);
        };
        let Some(share) = self.asking.take(flight.holder) else {
            let failure = Failure::busy("too many questions of this client, or of all, need a socket of their own");
            return self.end(place, Fate::Failed(failure), landed);
        };
        self.start(place, upstreams, Some(tried), share);
    }

    /// Lets a task ask a question that this thread makes no try at; gives the waiter back when no task may.
    pub(super) fn ask_elsewhere_at_once(
        &mut self,
        hash: u64,
        waiter: W,
        enter: impl FnOnce(W) -> Result<(C, W), Unclaimed<W>>,
    ) -> Result<(), Unclaimed<W>> {
        let Some(share) = self.asking.take(waiter.holder()) else { return Err(Unclaimed::Full(waiter)) };
        let (claim, waiter) = enter(waiter)?;
        let upstreams = Arc::clone(waiter.upstreams());
        let place = self.free_place();
        self.add(place, Flight::new(waiter, hash, claim));
        self.start(place, upstreams, None, share);
        Ok(())
    }

    /// Lets a task ask a question that has ended and is kept for a late answer, which is still welcome.
    pub(super) fn ask_once_more(
        &mut self,
        place: usize,
        waiter: W,
        enter: impl FnOnce(W) -> Result<(C, W), Unclaimed<W>>,
    ) -> Result<(), Unclaimed<W>> {
        let Some(share) = self.asking.take(waiter.holder()) else { return Err(Unclaimed::Full(waiter)) };
        let (claim, waiter) = enter(waiter)?;
        let upstreams = Arc::clone(waiter.upstreams());
        let Some(ended) = self.flights[place].as_mut() else { return Err(Unclaimed::Full(waiter)) };
        let again = Flight::new(waiter, ended.hash, claim);
        let Flight { first, again: tries, is_moved, .. } = std::mem::replace(ended, again);
        (ended.first, ended.again, ended.is_moved) = (first, tries, is_moved);
        self.start(place, upstreams, None, share);
        Ok(())
    }

    /// Starts the task that asks for the question at a place.
    fn start(&mut self, place: usize, upstreams: Arc<Upstreams>, tried: Option<Tried>, share: Permit) {
        let Some(flight) = self.flights[place].as_mut() else { return };
        flight.is_elsewhere = true;
        let (question, holder) = (Arc::clone(&flight.question), flight.holder);
        self.deadlines.set(place, flight.due().duration_since(self.epoch));
        let mut errand = Errand {
            outcome: Some(Outcome { place, question: Arc::clone(&question), result: Err(lost()) }),
            to: self.inbox.clone(),
            _share: share,
        };
        tokio::spawn(async move {
            let result = upstreams.ask_after(&question, holder, tried).await;
            if let Some(outcome) = &mut errand.outcome {
                outcome.result = result;
            }
        });
    }

    /// Takes what was posted: outcomes of tasks, and queries of others, which [`Mux::take_posted`] gives out.
    pub(super) fn collect(&mut self, landed: &mut impl FnMut(Landed<W, C>)) {
        while let Ok(mail) = self.mail.try_recv() {
            let Outcome { place, question, result } = match mail {
                Mail::Outcome(outcome) => outcome,
                Mail::Query(query) => {
                    self.posted.push(query);
                    continue;
                }
            };
            let flight = self.flights.get_mut(place).and_then(Option::as_mut);
            // One that a late reply ended is gone.
            let is_of = |flight: &&mut Flight<W, C>| flight.is_elsewhere && Arc::ptr_eq(&flight.question, &question);
            let Some(flight) = flight.filter(is_of) else { continue };
            if result.as_ref().is_err_and(|error| error.kind == FailureKind::Busy) && flight.tries().next().is_some() {
                // Out of sockets, but an earlier try has one: it may still bring the answer.
                (flight.is_elsewhere, flight.next_at) = (false, None);
                self.deadlines.set(place, flight.due().duration_since(self.epoch));
                continue;
            }
            let fate = match result {
                Ok(Answered { response, upstream, .. }) => Fate::Answered(response, upstream),
                Err(failure) => Fate::Failed(failure),
            };
            self.end(place, fate, landed);
        }
    }

    /// Ends a question for all that wait for it. While tries are in flight that may bring a late answer, it stays for that.
    pub(super) fn end(&mut self, place: usize, fate: Fate, landed: &mut impl FnMut(Landed<W, C>)) {
        let Some(flight) = self.flights[place].as_mut() else { return };
        let (question, claim, waiters) =
            (Arc::clone(&flight.question), flight.claim.take(), std::mem::take(&mut flight.waiters));
        flight.is_elsewhere = false;
        let due = flight.due();
        if flight.tries().next().is_none() || matches!(fate, Fate::Answered(..)) {
            self.remove(place);
        } else {
            self.deadlines.set(place, due.duration_since(self.epoch));
        }
        if claim.is_some() {
            landed(Landed { question, claim, waiters, fate });
        }
    }
}

/// Returns what a question comes to whose task ended without a result.
pub(super) fn lost() -> Failure {
    Failure::busy("the work on the question ended without a result")
}
