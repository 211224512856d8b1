//! Questions that need more than a thread's UDP sockets: TCP, an upstream that is asked over TCP, another one after a failure.
//!
//! A task of the runtime asks on and posts what comes of it to the thread's mailbox. Until then the question, and all that
//! wait for it, stay where they are: who asks for it meanwhile joins them, and a late reply to a try before is as good.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use mio::Waker;

use super::flight::Flight;
use super::{Fate, Landed, Mux, Waits};
use crate::dns::response::Question;
use crate::fair_share::{Permit, Shares};
use crate::upstream::{Answered, Failure, Tried, Upstreams};

/// The outcomes of a thread's questions that tasks ask. It needs no bound of its own: tasks are counted, and a thread that has
/// questions in flight looks into it each time it wakes.
pub(super) struct Mailbox {
    /// The end that tasks have.
    sender: Sender<Outcome>,
    /// The thread's end.
    receiver: Receiver<Outcome>,
    /// Ends the thread's waiting.
    waker: Arc<Waker>,
    /// How many questions tasks may ask, over all threads.
    asking: Arc<Shares>,
}

/// What a task came to.
struct Outcome {
    /// The place of its question.
    place: usize,
    /// The question; another one may be at the place by now.
    question: Arc<Question>,
    /// What was found.
    result: Result<Answered, Failure>,
}

/// The duty of a task to post an outcome, which it does when dropped: also where the task panics.
struct Errand {
    /// What is posted.
    outcome: Option<Outcome>,
    /// Where to.
    sender: Sender<Outcome>,
    /// Wakes the thread.
    waker: Arc<Waker>,
    /// The part of the client's share that it takes.
    _share: Permit,
}

impl Drop for Errand {
    fn drop(&mut self) {
        let Some(outcome) = self.outcome.take() else { return };
        // A thread that has ended waits for nothing.
        if self.sender.send(outcome).is_ok()
            && let Err(error) = self.waker.wake()
        {
            tracing::debug!(%error, "thread not woken; it looks again within a tick");
        }
    }
}

impl Mailbox {
    /// Makes one whose posts `waker` tells of.
    pub(super) fn new(waker: Arc<Waker>, asking: Arc<Shares>) -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver, waker, asking }
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
        let Some(share) = self.mailbox.asking.take(flight.holder) else {
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
        claim: impl FnOnce(&Arc<Question>) -> Option<C>,
    ) -> Result<(), W> {
        let Some((share, claim)) = self.admit(&waiter, claim) else { return Err(waiter) };
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
        claim: impl FnOnce(&Arc<Question>) -> Option<C>,
    ) -> Result<(), W> {
        let Some((share, claim)) = self.admit(&waiter, claim) else { return Err(waiter) };
        let upstreams = Arc::clone(waiter.upstreams());
        let Some(ended) = self.flights[place].as_mut() else { return Err(waiter) };
        let again = Flight::new(waiter, ended.hash, claim);
        let Flight { first, again: tries, is_moved, .. } = std::mem::replace(ended, again);
        (ended.first, ended.again, ended.is_moved) = (first, tries, is_moved);
        self.start(place, upstreams, None, share);
        Ok(())
    }

    /// Returns what a question that a task is to ask needs. What no client waits for is not worth it.
    fn admit(&self, waiter: &W, claim: impl FnOnce(&Arc<Question>) -> Option<C>) -> Option<(Permit, C)> {
        let share = self.mailbox.asking.take(waiter.holder()).filter(|_| waiter.is_awaited())?;
        Some((share, claim(waiter.question())?))
    }

    /// Starts the task that asks for the question at a place.
    fn start(&mut self, place: usize, upstreams: Arc<Upstreams>, tried: Option<Tried>, share: Permit) {
        let Some(flight) = self.flights[place].as_mut() else { return };
        flight.is_elsewhere = true;
        let (question, holder) = (Arc::clone(&flight.question), flight.holder);
        self.deadlines.set(place, flight.due().duration_since(self.epoch));
        let mut errand = Errand {
            outcome: Some(Outcome { place, question: Arc::clone(&question), result: Err(lost()) }),
            sender: self.mailbox.sender.clone(),
            waker: Arc::clone(&self.mailbox.waker),
            _share: share,
        };
        tokio::spawn(async move {
            let result = upstreams.ask_after(&question, holder, tried).await;
            if let Some(outcome) = &mut errand.outcome {
                outcome.result = result;
            }
        });
    }

    /// Takes what tasks posted.
    pub(super) fn collect(&mut self, landed: &mut impl FnMut(Landed<W, C>)) {
        while let Ok(Outcome { place, question, result }) = self.mailbox.receiver.try_recv() {
            let flight = self.flights.get(place).and_then(Option::as_ref);
            // One that a late reply ended is gone.
            if !flight.is_some_and(|flight| flight.is_elsewhere && Arc::ptr_eq(&flight.question, &question)) {
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
