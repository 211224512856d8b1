//! The beginning of a query: parse, decide, deny, answer from the cache. What is left waits for an upstream.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cache::{Hit, Refresh, Renewal};
use super::exchange::{Exchange, is_forwarded};
use super::pending::{Counted, Pending, Waiting};
use super::{Asked, Engine, TOO_MANY, View, whole_seconds};
use crate::bounds::MAX_RENEWALS;
use crate::dns::answer::{self, TtlMode};
use crate::dns::query::{self, DropReason, Parsed};
use crate::fair_share::Holder;
use crate::labels::{Action, Origin};
use crate::policy::Limit;
use crate::upstream::Failure;

/// The next step for a query after [`Engine::begin`].
pub(crate) enum Begun {
    /// The answer is in the buffer; it is sent.
    Answer,
    /// The answer is in the buffer, and the upstream is asked for a new one, as the cached one is about to expire.
    Renew(Box<Pending>),
    /// The message gets no answer.
    Drop,
    /// The query waits for an upstream; the outcome goes to [`Engine::complete`].
    Wait(Box<Pending>),
}

impl Engine {
    /// Answers a message as far as that needs no upstream.
    ///
    /// A panic on the way is caught, counted and answered SERVFAIL: one query must not stop the others.
    pub(crate) fn begin(&self, view: &Arc<View>, bytes: &[u8], asked: Asked, out: &mut Vec<u8>) -> Begun {
        panic::catch_unwind(AssertUnwindSafe(|| self.try_begin(view, bytes, asked, out))).unwrap_or_else(|_| {
            let answered = self.answer_panic(asked, out, || match query::parse(bytes) {
                Parsed::Query(query) => Some(query),
                _ => None,
            });
            if answered { Begun::Answer } else { Begun::Drop }
        })
    }

    /// Does the work of [`Engine::begin`].
    fn try_begin(&self, view: &Arc<View>, bytes: &[u8], asked: Asked, out: &mut Vec<u8>) -> Begun {
        let mut query = match query::parse(bytes) {
            Parsed::Query(query) => query,
            Parsed::Refuse(refusal) => {
                self.metrics.query(Action::Refuse, refusal.reason.into(), asked.transport);
                answer::refuse(&refusal, out);
                return Begun::Answer;
            }
            Parsed::Drop(DropReason::Response) => {
                self.metrics.dropped_response();
                return Begun::Drop;
            }
            Parsed::Drop(DropReason::Short) => {
                self.metrics.dropped_short();
                return Begun::Drop;
            }
        };
        let asker = view.snapshot.asker(asked.source, asked.listener);
        let decision = view.snapshot.decide(&asker, &query.qname, query.qtype);
        if !is_forwarded(&decision, query.qtype) {
            // What is answered here takes nothing that is shared: to find its holder would cost a denial three per cent.
            let (holder, over) = (Holder::NOBODY, None);
            Exchange { engine: self, view, query: &query, asked, asker, decision, holder, over }.answer_here(out);
            return Begun::Answer;
        }
        let holder = asker.holder(asked.source);
        query.partition = decision.policy.map_or(0, |policy| policy.partition(holder));
        let mut exchange = Exchange { engine: self, view, query: &query, asked, asker, decision, holder, over: None };
        let now = asked.since.saturating_duration_since(self.epoch);
        match self.cache.get(&query, holder, now) {
            Hit::Fresh { response, age, renewal, .. } => {
                exchange.answer_from(&response, TtlMode::Aged(whole_seconds(age)), Origin::Hit, None, out);
                match renewal {
                    Renewal::No => Begun::Answer,
                    Renewal::Due => self.renew(&mut exchange, now).map_or(Begun::Answer, Begun::Renew),
                }
            }
            // What it is because of that is over. From the start, as this is rare and a hit is not to pay for it.
            Hit::Failed(_) | Hit::Stale { refresh: Refresh::FailedLately, .. } if self.forget_silences(view) => {
                self.try_begin(view, bytes, asked, out)
            }
            // Asking again so soon would keep the client waiting for nothing (RFC 8767 §5).
            Hit::Stale { response, refresh: Refresh::FailedLately } => {
                exchange.answer_stale(&response, out);
                Begun::Answer
            }
            Hit::Failed(failure) => {
                exchange.answer_failure(&failure, Origin::Hit, out);
                Begun::Answer
            }
            hit @ (Hit::Stale { .. } | Hit::Lapsed { .. } | Hit::Miss) => {
                let question = query.to_question();
                if let Some(spent) = exchange.count_question(&question, now) {
                    match hit {
                        // A name in use goes on, with what was last heard of it.
                        Hit::Stale { response, .. } | Hit::Lapsed { response } if spent == Limit::Repeats => {
                            exchange.answer_stale(&response, out);
                        }
                        _ => exchange.answer_spent(spent, out),
                    }
                    return Begun::Answer;
                }
                let Some(permit) = self.pending.take(holder) else {
                    self.metrics.turned_away();
                    self.without_upstream(&mut exchange, &question, &Failure::busy(TOO_MANY), out);
                    return Begun::Answer;
                };
                let has_stale = matches!(hit, Hit::Stale { .. });
                Begun::Wait(exchange.pend(question, has_stale, Counted::Client { _permit: permit }))
            }
        }
    }

    /// Returns what is to be asked to renew an answer, unless too much is already, or all upstreams are down.
    fn renew(&self, exchange: &mut Exchange<'_>, now: Duration) -> Option<Box<Pending>> {
        let count = Waiting::new(&self.renewals);
        if self.renewals.load(Ordering::Relaxed) > MAX_RENEWALS || exchange.view.upstreams.are_down() {
            return None;
        }
        // It is a question like any other.
        let question = exchange.query.to_question();
        if exchange.count_question(&question, now).is_some() {
            return None;
        }
        self.metrics.renewal();
        Some(exchange.pend(question, false, Counted::Renewal { _all: count }))
    }
}
