//! The completion of a query that waited for an upstream: its answer, by the decision made at its beginning.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use super::cache::Hit;
use super::exchange::Exchange;
use super::pending::Pending;
use super::{Asked, Engine, Lookup, whole_seconds};
use crate::dns::answer::{self, TtlMode};
use crate::dns::query::Query;
use crate::dns::response::Question;
use crate::labels::{Action, Origin, Reason};
use crate::upstream::Failure;

impl Engine {
    /// Answers a pending query with the outcome of its question. A panic on the way is caught and answered SERVFAIL.
    pub(crate) fn complete(&self, pending: &Pending, lookup: &Lookup, out: &mut Vec<u8>) {
        let answered = panic::catch_unwind(AssertUnwindSafe(|| self.try_complete(pending, lookup, out)));
        if answered.is_err() {
            self.answer_panic(pending.asked, out, || Some(pending.query.as_query()));
        }
    }

    /// Returns what the question of a pending query came to while the query was on its way to another thread: if an answer is
    /// in the cache, its completion finds it there.
    pub(crate) fn known(&self, pending: &Pending) -> Option<Lookup> {
        match self.cache.get(&**pending.question(), pending.holder, self.now()) {
            Hit::Fresh { .. } => Some(Err(Arc::new(Failure::overdue()))),
            Hit::Failed(failure) => Some(Err(failure)),
            Hit::Stale { .. } | Hit::Lapsed { .. } | Hit::Miss => None,
        }
    }

    /// Does the work of [`Engine::complete`].
    fn try_complete(&self, pending: &Pending, lookup: &Lookup, out: &mut Vec<u8>) {
        let query = pending.query.as_query();
        let mut exchange = Exchange::resume(self, pending, &query);
        match lookup {
            Ok(found) => {
                exchange.answer_from(&found.response, TtlMode::Aged(0), Origin::Miss, Some(found.upstream), out);
            }
            Err(failure) => self.without_upstream(&mut exchange, pending.question(), failure, out),
        }
    }

    /// Answers with what the cache still has, or that there is no answer.
    pub(super) fn without_upstream(
        &self,
        exchange: &mut Exchange<'_>,
        question: &Question,
        failure: &Failure,
        out: &mut Vec<u8>,
    ) {
        match self.cache.get(question, exchange.holder, self.now()) {
            Hit::Stale { response, .. } => exchange.answer_stale(&response, out),
            // Somebody else's question was answered meanwhile.
            Hit::Fresh { response, age, .. } => {
                exchange.answer_from(&response, TtlMode::Aged(whole_seconds(age)), Origin::Hit, None, out);
            }
            Hit::Failed(_) | Hit::Lapsed { .. } | Hit::Miss => exchange.answer_failure(failure, Origin::Miss, out),
        }
    }

    /// Answers SERVFAIL to a query that made us panic; returns whether it could, as it has to be read once more.
    pub(super) fn answer_panic<'q>(
        &self,
        asked: Asked,
        out: &mut Vec<u8>,
        query: impl FnOnce() -> Option<Query<'q>>,
    ) -> bool {
        self.metrics.panic();
        self.metrics.query(Action::Refuse, Reason::Panic, asked.transport);
        let answer = || query().map(|query| answer::servfail(&query, &[], out)).is_some();
        panic::catch_unwind(AssertUnwindSafe(answer)).unwrap_or(false)
    }
}
