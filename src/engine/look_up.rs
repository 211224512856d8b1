//! Questions that go the general way: asked from tasks of the runtime, or joined there.

use std::sync::Arc;

use super::in_flight::InFlightError;
use super::pending::Pending;
use super::{Attending, Claim, Engine, Lookup, TOO_MANY};
use crate::dns::response::Question;
use crate::fair_share::Holder;
use crate::upstream::{Failure, Tried, Upstreams};

impl Engine {
    /// Asks the upstreams, or joins whoever already does, and answers.
    pub(crate) async fn finish(self: &Arc<Self>, pending: Box<Pending>) -> Vec<u8> {
        let pending: Arc<Pending> = Arc::from(pending);
        let lookup = self.look_up_in_time(&pending).await;
        let mut out = Vec::with_capacity(512);
        self.complete(&pending, &lookup, &mut out);
        out
    }

    /// Joins those who wait for a question that somebody has the claim to, before it is asked on: else its answer might
    /// be out before they come, and they would ask once more.
    pub(crate) fn attend(&self, question: &Question) -> Attending {
        self.in_flight.attend(question).unwrap_or(Err(InFlightError::Lost))
    }

    /// Waits for what the question comes to that was joined, and answers.
    pub(crate) async fn finish_attending(&self, pending: &Pending, attending: Attending) -> Vec<u8> {
        let lookup = match attending {
            Ok(attending) => pending.wait(async { attending.result().await.unwrap_or_else(lost) }).await,
            Err(error) => Some(lost(error)),
        };
        let lookup =
            lookup.unwrap_or_else(|| self.note_overdue(pending.question(), Failure::overdue(), pending.holder));
        let mut out = Vec::with_capacity(512);
        self.complete(pending, &lookup, &mut out);
        out
    }

    /// Asks on, in a task of its own, where a first try brought no answer; who joins the question waits for that.
    pub(crate) fn ask_on(self: &Arc<Self>, claim: Claim, first: &Pending, tried: Tried) {
        let holder = first.holder;
        let Some(permit) = self.asking.take(holder) else {
            return claim.settle(Err(Arc::new(Failure::busy(TOO_MANY))));
        };
        let (engine, upstreams) = (Arc::clone(self), Arc::clone(&first.view.upstreams));
        tokio::spawn(async move {
            let lookup = engine.ask(&upstreams, claim.question(), Some(tried), holder).await;
            claim.settle(lookup);
            drop(permit);
        });
    }

    /// Asks for what the cache has, but not for long: whoever gets the answer first has it counted.
    pub(crate) async fn look_ahead(self: &Arc<Self>, pending: &Pending) {
        if let Ok(found) = self.look_up(pending).await {
            found.response.note_withheld();
        }
    }

    /// Returns what the upstreams say to a pending question; if stale data serves and they take long, that they do, and the
    /// question goes on.
    pub(crate) async fn look_up_in_time(self: &Arc<Self>, pending: &Arc<Pending>) -> Lookup {
        if !pending.has_stale {
            return self.look_up(pending).await;
        }
        let (engine, asked) = (Arc::clone(self), Arc::clone(pending));
        let asking = tokio::spawn(async move { engine.look_up(&asked).await });
        let lookup = pending.wait(async { asking.await.unwrap_or_else(|_| lost(InFlightError::Lost)) }).await;
        lookup.unwrap_or_else(|| self.note_overdue(pending.question(), Failure::overdue(), pending.holder))
    }

    /// Returns what the upstreams say to a pending question.
    pub(crate) async fn look_up(self: &Arc<Self>, pending: &Pending) -> Lookup {
        let asking = || {
            let (permit, holder) = (self.asking.take(pending.holder), pending.holder);
            let engine = Arc::clone(self);
            let upstreams = Arc::clone(&pending.view.upstreams);
            let question = Arc::clone(pending.question());
            async move {
                let Some(_permit) = permit else { return Err(Arc::new(Failure::busy(TOO_MANY))) };
                engine.ask(&upstreams, &question, None, holder).await
            }
        };
        let joined = self.in_flight.join(pending.question(), asking).await;
        joined.unwrap_or_else(lost)
    }

    /// Asks the upstreams for a holder and keeps what they say.
    async fn ask(&self, upstreams: &Upstreams, question: &Question, tried: Option<Tried>, holder: Holder) -> Lookup {
        match upstreams.ask_after(question, holder, tried).await {
            Ok(answered) => Ok(self.keep(question, answered.response, answered.upstream, holder)),
            Err(failure) => Err(self.keep_failure(question, failure, holder)),
        }
    }
}

/// Returns what it comes to that there was no place among those who wait for a question, or that none of them got
/// anything.
fn lost(error: InFlightError) -> Lookup {
    Err(Arc::new(Failure::busy(&error.to_string())))
}
