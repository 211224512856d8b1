//! Questions that a task waits for: of queries over TCP, and of those that another thread asks or that found a thread full.

use std::sync::Arc;

use super::in_flight::InFlightError;
use super::pending::Pending;
use super::{Engine, Lookup, TOO_MANY};
use crate::dns::response::Question;
use crate::fair_share::Holder;
use crate::upstream::{Failure, Upstreams};

impl Engine {
    /// Asks the upstreams, or joins whoever already does, and answers.
    pub(crate) async fn finish(self: &Arc<Self>, pending: Box<Pending>) -> Vec<u8> {
        let pending: Arc<Pending> = Arc::from(pending);
        let lookup = self.look_up_in_time(&pending).await;
        let mut out = Vec::with_capacity(512);
        self.complete(&pending, &lookup, &mut out);
        out
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
                engine.ask(&upstreams, &question, holder).await
            }
        };
        let joined = self.in_flight.join(pending.question(), asking).await;
        joined.unwrap_or_else(lost)
    }

    /// Asks the upstreams for a holder and keeps what they say.
    async fn ask(&self, upstreams: &Upstreams, question: &Question, holder: Holder) -> Lookup {
        match upstreams.ask_after(question, holder, None).await {
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
