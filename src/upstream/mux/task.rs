//! Tasks for questions that need more than a thread's UDP sockets: TCP, or another upstream after a failure.
//!
//! A task of the runtime asks on and posts the outcome to the thread's inbox. Until then the question stays in flight on
//! its thread with all queries that wait for it: further queries join them, and a late reply to an earlier try counts.

use std::sync::Arc;

use super::outstanding::Outstanding;
use super::readiness::{Inbox, Message};
use super::{Ended, Mux, Outcome, Unclaimed, Waits};
use crate::dns::response::Question;
use crate::fair_share::Permit;
use crate::upstream::{Answered, Failure, FailureKind, PreviousTries, Upstreams};

/// The outcome of a task.
pub(super) struct TaskOutcome {
    /// The place of its question.
    place: usize,
    /// The question; another one may be at the place by now.
    question: Arc<Question>,
    /// The answer, or the failure after all tries.
    result: Result<Answered, Failure>,
}

/// The guard of a task, which posts the outcome when it is dropped: also if the task panics.
struct TaskGuard<W> {
    /// The outcome to post; a failure until the task ends.
    outcome: Option<TaskOutcome>,
    /// The inbox of the thread that has the question.
    to: Inbox<W>,
    /// The part of the client's share that it takes.
    _share: Permit,
}

impl<W> Drop for TaskGuard<W> {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.to.send(Message::Outcome(outcome));
        }
    }
}

impl<W: Waits, C> Mux<W, C> {
    /// Lets a task ask on, with what was tried; the question stays in flight meanwhile.
    pub(super) fn ask_in_task(&mut self, place: usize, tried: PreviousTries, on_end: &mut impl FnMut(Ended<W, C>)) {
        let Some(asked) = self.outstanding[place].as_mut() else { return };
        let Some(upstreams) = asked.waiters.first().map(|first| Arc::clone(first.upstreams())) else {
            // Stale data served all that waited here.
            return self.end(place, Outcome::Failed(lost()), on_end);
        };
        let Some(share) = self.asking.take(asked.holder) else {
            let failure = Failure::busy("too many questions of this client, or of all, need a socket of their own");
            return self.end(place, Outcome::Failed(failure), on_end);
        };
        self.start(place, upstreams, Some(tried), share);
    }

    /// Lets a task ask a question that this thread makes no try at; gives the waiter back when no task may.
    pub(super) fn ask_in_task_at_once(
        &mut self,
        hash: u64,
        waiter: W,
        enter: impl FnOnce(W) -> Result<(C, W), Unclaimed<W>>,
    ) -> Result<(), Unclaimed<W>> {
        let Some(share) = self.asking.take(waiter.holder()) else { return Err(Unclaimed::Full(waiter)) };
        let (claim, waiter) = enter(waiter)?;
        let upstreams = Arc::clone(waiter.upstreams());
        let place = self.free_place();
        self.add(place, Outstanding::new(waiter, hash, claim));
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
        let Some(ended) = self.outstanding[place].as_mut() else { return Err(Unclaimed::Full(waiter)) };
        let again = Outstanding::new(waiter, ended.hash, claim);
        let Outstanding { first, again: tries, is_moved, .. } = std::mem::replace(ended, again);
        (ended.first, ended.again, ended.is_moved) = (first, tries, is_moved);
        self.start(place, upstreams, None, share);
        Ok(())
    }

    /// Starts the task that asks for the question at a place.
    fn start(&mut self, place: usize, upstreams: Arc<Upstreams>, tried: Option<PreviousTries>, share: Permit) {
        let Some(asked) = self.outstanding[place].as_mut() else { return };
        asked.is_in_task = true;
        let (question, holder) = (Arc::clone(&asked.question), asked.holder);
        self.deadlines.set(place, asked.due().duration_since(self.epoch));
        let mut guard = TaskGuard {
            outcome: Some(TaskOutcome { place, question: Arc::clone(&question), result: Err(lost()) }),
            to: self.inbox.clone(),
            _share: share,
        };
        tokio::spawn(async move {
            let result = upstreams.ask_after(&question, holder, tried).await;
            if let Some(outcome) = &mut guard.outcome {
                outcome.result = result;
            }
        });
    }

    /// Takes what was posted: outcomes of tasks, and queries of others, which [`Mux::take_posted`] gives out.
    pub(super) fn collect(&mut self, on_end: &mut impl FnMut(Ended<W, C>)) {
        while let Ok(messages) = self.messages.try_recv() {
            let TaskOutcome { place, question, result } = match messages {
                Message::Outcome(outcome) => outcome,
                Message::Query(query) => {
                    self.posted.push(query);
                    continue;
                }
            };
            let asked = self.outstanding.get_mut(place).and_then(Option::as_mut);
            // One that a late reply ended is gone.
            let is_of = |asked: &&mut Outstanding<W, C>| asked.is_in_task && Arc::ptr_eq(&asked.question, &question);
            let Some(asked) = asked.filter(is_of) else { continue };
            if result.as_ref().is_err_and(|error| error.kind == FailureKind::Busy) && asked.tries().next().is_some() {
                // Out of sockets, but an earlier try has one: it may still bring the answer.
                (asked.is_in_task, asked.next_at) = (false, None);
                self.deadlines.set(place, asked.due().duration_since(self.epoch));
                continue;
            }
            let outcome = match result {
                Ok(Answered { response, upstream, .. }) => Outcome::Answered(response, upstream),
                Err(failure) => Outcome::Failed(failure),
            };
            self.end(place, outcome, on_end);
        }
    }

    /// Ends a question for all that wait for it. While tries are in flight that may bring a late answer, it stays for that.
    pub(super) fn end(&mut self, place: usize, outcome: Outcome, on_end: &mut impl FnMut(Ended<W, C>)) {
        let Some(asked) = self.outstanding[place].as_mut() else { return };
        let (question, claim, waiters) =
            (Arc::clone(&asked.question), asked.claim.take(), std::mem::take(&mut asked.waiters));
        asked.is_in_task = false;
        let due = asked.due();
        if asked.tries().next().is_none() || matches!(outcome, Outcome::Answered(..)) {
            self.remove(place);
        } else {
            self.deadlines.set(place, due.duration_since(self.epoch));
        }
        if claim.is_some() {
            on_end(Ended { question, claim, waiters, outcome });
        }
    }
}

/// Returns what a question comes to whose task ended without a result.
pub(super) fn lost() -> Failure {
    Failure::busy("the work on the question ended without a result")
}
