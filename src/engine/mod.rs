//! The engine: query bytes and a source in, answer bytes out.
//!
//! [`Engine::step`] is everything that needs no upstream: parse, decide, deny, answer from the cache. It never waits.
//! What is left is a [`Pending`] query. Whoever asks the upstream for it (the receiving thread, or a task) keeps what
//! comes back by [`Engine::keep`] and answers by [`Engine::answer`]; [`Engine::finish`] does both. All of it answers from
//! the [`View`] the query began with, taken once a batch, so that no query is answered by half a policy.

mod budget;
pub mod cache;
pub mod decision_record;
mod exchange;
pub mod in_flight;
mod pending;

use std::net::{IpAddr, SocketAddr};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use self::budget::Budgets;
use self::cache::{Cache, Hit, Refresh, Renewal};
use self::exchange::{Exchange, is_forwarded};
use self::in_flight::{Attendance, InFlight, InFlightError, Limits};
pub(crate) use self::pending::Pending;
use self::pending::{Counted, Waiting};
use crate::bounds::capacity;
use crate::bounds::{MAX_ASKING, MAX_ASKING_OF_CLIENT, MAX_PENDING, MAX_PENDING_OF_CLIENT, MAX_RENEWALS};
use crate::dns::answer::{self, TtlMode};
pub(crate) use crate::dns::query::Transport;
use crate::dns::query::{self, DropReason, Parsed};
use crate::dns::response::{Question, Response};
use crate::fair_share::{Holder, Shares};
use crate::labels::{Action, Origin, Reason};
use crate::policy::{Limit, Snapshot};
use crate::telemetry::decision_log::DecisionLog;
use crate::telemetry::metrics::Metrics;
use crate::upstream::{Failure, Tried, Upstreams};

/// Everything an answer depends on, as it was when the query came: replaced whole, never changed.
pub(crate) struct View {
    /// The policies in force.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Whom to ask for what is allowed.
    pub(crate) upstreams: Arc<Upstreams>,
    /// TTL and MINIMUM of a denial's SOA, in seconds.
    pub(crate) denied_ttl: u32,
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The client's address.
    pub source: IpAddr,
    /// What the query came over.
    pub transport: Transport,
    /// The number of the listener it came in by.
    pub listener: usize,
    /// When it was received; the same for a whole batch, as reading the clock takes about as long as parsing a query.
    pub since: Instant,
}

/// What is to be done with a query after [`Engine::step`].
pub(crate) enum Step {
    /// The answer is in the buffer.
    Answer,
    /// The answer is in the buffer, and an upstream should be asked for the next one: hand this to whoever asks.
    Renew(Box<Pending>),
    /// Nothing is sent back.
    Drop,
    /// An upstream has to be asked: hand this to [`Engine::finish`].
    Wait(Box<Pending>),
}

/// Said when too many queries wait.
const TOO_MANY: &str = "too many queries of this client, or of all, wait for upstreams";

/// The engine; one for all transports.
pub(crate) struct Engine {
    /// What answers depend on.
    view: ArcSwap<View>,
    /// Answers by question.
    cache: Cache,
    /// What clients looked up that is new.
    budgets: Budgets,
    /// Questions being asked.
    in_flight: InFlight<Question, Lookup>,
    /// Answers being renewed ahead of time.
    renewals: Arc<AtomicUsize>,
    /// Queries that wait for upstreams.
    pending: Arc<Shares>,
    /// Questions that go the general way.
    asking: Arc<Shares>,
    /// Counters.
    metrics: Arc<Metrics>,
    /// The decision log, when there is one.
    decisions: Option<DecisionLog>,
    /// How often an upstream had returned when failures were last forgotten for it.
    returns: AtomicU64,
    /// The cache's zero time.
    epoch: Instant,
}

/// What asking the upstreams came to.
pub(crate) type Lookup = Result<Found, Arc<Failure>>;

/// A place among those who wait for a question, or that there was none.
pub(crate) type Attending = Result<Attendance<Lookup>, InFlightError>;

/// The right and duty to ask a question.
pub(crate) type Claim = in_flight::Claim<Question, Lookup>;

/// An upstream's answer to a question.
#[derive(Clone)]
pub(crate) struct Found {
    /// What it said.
    response: Arc<Response>,
    /// Who said it.
    upstream: SocketAddr,
}

impl Engine {
    /// Makes an engine that answers from `view`.
    pub(crate) fn new(
        view: View,
        bounds: cache::Settings,
        metrics: Arc<Metrics>,
        decisions: Option<DecisionLog>,
    ) -> Self {
        let asking = MAX_ASKING.min((capacity::granted().sockets / 4 * 3).max(1));
        Self {
            view: ArcSwap::from_pointee(view),
            cache: Cache::new(bounds),
            budgets: Budgets::new(),
            in_flight: InFlight::new(Limits::default()),
            renewals: Arc::default(),
            pending: Shares::with_reserve(MAX_PENDING, MAX_PENDING_OF_CLIENT),
            asking: Shares::with_reserve(asking, asking.div_ceil(2).min(MAX_ASKING_OF_CLIENT)),
            metrics,
            decisions,
            returns: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }

    /// Returns what queries are answered from now; take it once a batch.
    pub(crate) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// Puts a new view into force; queries under way finish with the one they began with.
    pub(crate) fn publish(&self, view: View) {
        let before = self.view.swap(Arc::new(view));
        // What those could not answer who were asked before, others may.
        if !Arc::ptr_eq(&before.upstreams, &self.view.load().upstreams) {
            self.cache.forget_failures(self.now());
        }
    }

    /// Returns the counters.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Answers a message as far as that needs no upstream.
    ///
    /// A panic on the way is caught, counted and answered SERVFAIL: one query must not stop the others.
    pub(crate) fn step(&self, view: &Arc<View>, bytes: &[u8], asked: Asked, out: &mut Vec<u8>) -> Step {
        panic::catch_unwind(AssertUnwindSafe(|| self.try_step(view, bytes, asked, out)))
            .unwrap_or_else(|_| self.answer_panic(bytes, asked, out))
    }

    /// Does the work of [`Engine::step`].
    fn try_step(&self, view: &Arc<View>, bytes: &[u8], asked: Asked, out: &mut Vec<u8>) -> Step {
        let mut query = match query::parse(bytes) {
            Parsed::Query(query) => query,
            Parsed::Refuse(refusal) => {
                self.metrics.query(Action::Refuse, refusal.reason.into(), asked.transport);
                answer::refuse(&refusal, out);
                return Step::Answer;
            }
            Parsed::Drop(DropReason::Response) => {
                self.metrics.dropped_response();
                return Step::Drop;
            }
            Parsed::Drop(DropReason::Short) => {
                self.metrics.dropped_short();
                return Step::Drop;
            }
        };
        let asker = view.snapshot.asker(asked.source, asked.listener);
        let decision = view.snapshot.decide(&asker, &query.qname, query.qtype);
        if !is_forwarded(&decision, query.qtype) {
            // What is answered here takes nothing that is shared: to find its holder would cost a denial three per cent.
            let (holder, over) = (Holder::NOBODY, None);
            Exchange { engine: self, view, query: &query, asked, asker, decision, holder, over }.answer_here(out);
            return Step::Answer;
        }
        let holder = asker.holder(asked.source);
        query.partition = decision.policy.map_or(0, |policy| policy.partition(holder));
        let mut exchange = Exchange { engine: self, view, query: &query, asked, asker, decision, holder, over: None };
        let now = asked.since.saturating_duration_since(self.epoch);
        match self.cache.get(&query, holder, now) {
            Hit::Fresh { response, age, renewal, .. } => {
                exchange.answer_from(&response, TtlMode::Aged(whole_seconds(age)), Origin::Hit, None, out);
                match renewal {
                    Renewal::No => Step::Answer,
                    Renewal::Due => self.renew(&mut exchange, now).map_or(Step::Answer, Step::Renew),
                }
            }
            // What it is because of that is over. From the start, as this is rare and a hit is not to pay for it.
            Hit::Failed(_) | Hit::Stale { refresh: Refresh::FailedLately, .. } if self.forget_silences(view) => {
                self.try_step(view, bytes, asked, out)
            }
            // Asking again so soon would keep the client waiting for nothing (RFC 8767 §5).
            Hit::Stale { response, refresh: Refresh::FailedLately } => {
                exchange.answer_stale(&response, out);
                Step::Answer
            }
            Hit::Failed(failure) => {
                exchange.answer_failure(&failure, Origin::Hit, out);
                Step::Answer
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
                    return Step::Answer;
                }
                let Some(permit) = self.pending.take(holder) else {
                    self.metrics.turned_away();
                    self.without_upstream(&mut exchange, &question, &Failure::busy(TOO_MANY), out);
                    return Step::Answer;
                };
                let counted = Counted::Client { _permit: permit };
                // Not the query as it came: padding would be kept for as long as it waits.
                let (bytes, view, question) = (query.to_bytes(), Arc::clone(view), Arc::new(question));
                let (over, has_stale) = (exchange.over, matches!(hit, Hit::Stale { .. }));
                Step::Wait(Box::new(Pending {
                    bytes,
                    asked,
                    view,
                    question,
                    holder,
                    has_stale,
                    over,
                    _counted: counted,
                }))
            }
        }
    }

    /// Returns what is to be asked to renew an answer, unless too much is already, or all upstreams are down.
    fn renew(&self, exchange: &mut Exchange<'_>, now: Duration) -> Option<Box<Pending>> {
        let count = Waiting::new(&self.renewals);
        let Exchange { view, query, asked, .. } = *exchange;
        if self.renewals.load(Ordering::Relaxed) > MAX_RENEWALS || view.upstreams.are_down() {
            return None;
        }
        // It is a question like any other.
        let question = query.to_question();
        if exchange.count_question(&question, now).is_some() {
            return None;
        }
        self.metrics.renewal();
        let (bytes, view, question) = (query.to_bytes(), Arc::clone(view), Arc::new(question));
        let (counted, holder, over) = (Counted::Renewal { _all: count }, exchange.holder, None);
        let has_stale = false;
        Some(Box::new(Pending { bytes, asked, view, question, holder, has_stale, over, _counted: counted }))
    }

    /// Asks the upstreams, or joins whoever already does, and answers.
    pub(crate) async fn finish(self: &Arc<Self>, pending: Box<Pending>) -> Vec<u8> {
        let pending: Arc<Pending> = Arc::from(pending);
        let lookup = self.look_up_in_time(&pending).await;
        let mut out = Vec::with_capacity(512);
        self.answer(&pending, &lookup, &mut out);
        out
    }

    /// Answers a pending query with what the look-up came to; a panic on the way is one SERVFAIL.
    pub(crate) fn answer(&self, pending: &Pending, lookup: &Lookup, out: &mut Vec<u8>) {
        let answered = panic::catch_unwind(AssertUnwindSafe(|| self.complete(pending, lookup, out)));
        if answered.is_err() {
            self.answer_panic(&pending.bytes, pending.asked, out);
        }
    }

    /// Returns the claim to ask `question`, if nobody asks it.
    pub(crate) fn claim(&self, question: &Arc<Question>) -> Option<Claim> {
        self.in_flight.claim(question)
    }

    /// Keeps what an upstream said to `question`, as the holder's, no TTL longer than the configured one: clients are not
    /// to keep it for longer than we do.
    pub(crate) fn keep(
        &self,
        question: &Question,
        mut response: Response,
        upstream: SocketAddr,
        holder: Holder,
    ) -> Found {
        response.bound_ttls(self.cache.max_ttl());
        let response = Arc::new(response);
        self.cache.insert(question, Arc::clone(&response), holder, self.now());
        Found { response, upstream }
    }

    /// Keeps what an upstream said to a question that no client waits for, as [`Engine::keep`] does: whoever gets it first has
    /// it counted.
    pub(crate) fn keep_uncounted(
        &self,
        question: &Question,
        response: Response,
        upstream: SocketAddr,
        holder: Holder,
    ) -> Found {
        response.note_withheld();
        self.keep(question, response, upstream, holder)
    }

    /// Forgets failures of upstreams that were silent if one has replied again since that was last done; returns whether it
    /// did. Looked at only where such a failure would count, so that nothing else pays for it.
    fn forget_silences(&self, view: &View) -> bool {
        let returns = view.upstreams.returns();
        let has_returned = self.returns.swap(returns, Ordering::Relaxed) != returns;
        if has_returned {
            self.cache.forget_silences(self.now());
        }
        has_returned
    }

    /// Keeps for a moment that no upstream could answer `question`.
    pub(crate) fn keep_failure(&self, question: &Question, failure: Failure, holder: Holder) -> Arc<Failure> {
        // Else it would count as one more in a row of those that are over.
        self.forget_silences(&self.view());
        let (failure, now) = (Arc::new(failure), self.now());
        self.cache.failed(question, &failure, holder, now);
        failure
    }

    /// Notes that stale data serves for a question that is still asked, so that clients do not wait for it each time
    /// (RFC 8767 §5). The answer, if it comes, takes its place.
    pub(crate) fn note_overdue(&self, question: &Question, failure: Failure, holder: Holder) -> Lookup {
        Err(self.keep_failure(question, failure, holder))
    }

    /// Keeps an answer that came after its question was handed on; who waits for it there gets it too.
    pub(crate) fn keep_late(&self, question: &Question, response: Response, upstream: SocketAddr) {
        let found = self.keep_uncounted(question, response, upstream, Holder::NOBODY);
        self.in_flight.offer(question, &Ok(found));
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
        let lookup = lookup.unwrap_or_else(|| self.note_overdue(&pending.question, Failure::overdue(), pending.holder));
        let mut out = Vec::with_capacity(512);
        self.answer(pending, &lookup, &mut out);
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

    /// Returns whether a policy applies to who asks; else all they get is denials.
    pub(crate) fn is_known(&self, source: IpAddr, listener: usize) -> bool {
        self.view().snapshot.asker(source, listener).policy().is_some()
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
        lookup.unwrap_or_else(|| self.note_overdue(&pending.question, Failure::overdue(), pending.holder))
    }

    /// Returns what the upstreams say to a pending question.
    pub(crate) async fn look_up(self: &Arc<Self>, pending: &Pending) -> Lookup {
        let asking = || {
            let (permit, holder) = (self.asking.take(pending.holder), pending.holder);
            let engine = Arc::clone(self);
            let upstreams = Arc::clone(&pending.view.upstreams);
            let question = Arc::clone(&pending.question);
            async move {
                let Some(_permit) = permit else { return Err(Arc::new(Failure::busy(TOO_MANY))) };
                engine.ask(&upstreams, &question, None, holder).await
            }
        };
        let joined = self.in_flight.join(&pending.question, asking).await;
        joined.unwrap_or_else(lost)
    }

    /// Asks the upstreams for a holder and keeps what they say.
    async fn ask(&self, upstreams: &Upstreams, question: &Question, tried: Option<Tried>, holder: Holder) -> Lookup {
        match upstreams.ask_after(question, holder, tried).await {
            Ok(answered) => Ok(self.keep(question, answered.response, answered.upstream, holder)),
            Err(failure) => Err(self.keep_failure(question, failure, holder)),
        }
    }

    /// Answers a pending query with what the look-up came to.
    fn complete(&self, pending: &Pending, lookup: &Lookup, out: &mut Vec<u8>) {
        let Parsed::Query(query) = query::parse(&pending.bytes) else {
            unreachable!("only a query that parsed is pending")
        };
        // The same view gives the same decision.
        let asker = pending.view.snapshot.asker(pending.asked.source, pending.asked.listener);
        let decision = pending.view.snapshot.decide(&asker, &query.qname, query.qtype);
        let (view, asked, holder, over) = (&pending.view, pending.asked, pending.holder, pending.over);
        let mut exchange = Exchange { engine: self, view, query: &query, asked, asker, decision, holder, over };
        match lookup {
            Ok(found) => {
                exchange.answer_from(&found.response, TtlMode::Aged(0), Origin::Miss, Some(found.upstream), out);
            }
            Err(failure) => self.without_upstream(&mut exchange, &pending.question, failure, out),
        }
    }

    /// Answers with what the cache still has, or that there is no answer.
    fn without_upstream(&self, exchange: &mut Exchange<'_>, question: &Question, failure: &Failure, out: &mut Vec<u8>) {
        match self.cache.get(question, exchange.holder, self.now()) {
            Hit::Stale { response, .. } => exchange.answer_stale(&response, out),
            // Somebody else's question was answered meanwhile.
            Hit::Fresh { response, age, .. } => {
                exchange.answer_from(&response, TtlMode::Aged(whole_seconds(age)), Origin::Hit, None, out);
            }
            Hit::Failed(_) | Hit::Lapsed { .. } | Hit::Miss => exchange.answer_failure(failure, Origin::Miss, out),
        }
    }

    /// Answers SERVFAIL to a query that made us panic; drops what cannot even be parsed.
    fn answer_panic(&self, bytes: &[u8], asked: Asked, out: &mut Vec<u8>) -> Step {
        self.metrics.panic();
        self.metrics.query(Action::Refuse, Reason::Panic, asked.transport);
        let answered = panic::catch_unwind(AssertUnwindSafe(|| match query::parse(bytes) {
            Parsed::Query(query) => {
                answer::servfail(&query, &[], out);
                true
            }
            _ => false,
        }));
        if answered.unwrap_or(false) { Step::Answer } else { Step::Drop }
    }

    /// Returns the cache's time.
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Returns what the cache holds.
    pub(crate) fn cache_stats(&self) -> cache::Stats {
        self.cache.stats()
    }

    /// Returns the number of queries waiting for an upstream.
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.used()
    }

    /// Tells the decision log's writer to open its path anew.
    pub(crate) fn reopen_decision_log(&self) {
        if let Some(log) = &self.decisions {
            log.reopen();
        }
    }

    /// Writes what is left of the decision log, for `deadline` at most; returns whether all of it was handled.
    pub(crate) fn close_decision_log(&self, deadline: Duration) -> bool {
        self.decisions.as_ref().is_none_or(|log| log.close(deadline))
    }
}

/// Returns what it comes to that there was no place among those who wait for a question, or that none of them got
/// anything.
fn lost(error: InFlightError) -> Lookup {
    Err(Arc::new(Failure::busy(&error.to_string())))
}

/// Returns a duration's whole seconds, as TTLs count.
fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
