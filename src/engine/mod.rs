//! The engine: query bytes and a source in, answer bytes out.
//!
//! [`Engine::begin`] is everything that needs no upstream: parse, decide, deny, answer from the cache. It never waits.
//! A query that needs an upstream becomes a [`Pending`] one, which owns what was parsed and decided. The thread that asks the
//! upstream keeps the response by [`Engine::keep`] and answers by [`Engine::complete`]. All of it answers from the [`View`] the query
//! began with, taken once a batch, so that no query is answered by half a policy.

mod begin;
mod budget;
pub mod cache;
mod complete;
pub mod decision_record;
mod exchange;
mod in_flight;
mod pending;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

pub(crate) use self::begin::Begun;
use self::budget::Budgets;
use self::cache::Cache;
use self::in_flight::InFlight;
pub(crate) use self::pending::Pending;
use crate::bounds::capacity;
use crate::bounds::{MAX_ASKING, MAX_ASKING_OF_CLIENT, MAX_PENDING, MAX_PENDING_OF_CLIENT, MAX_QUESTIONS};
pub(crate) use crate::dns::query::Transport;
use crate::dns::response::{Question, Response};
use crate::fair_share::{Holder, Shares};
use crate::policy::Snapshot;
use crate::telemetry::decision_log::DecisionLog;
use crate::telemetry::metrics::Metrics;
use crate::upstream::mux::Unclaimed;
use crate::upstream::{Failure, Upstreams};

/// Everything an answer depends on, as it was when the query came: replaced whole, never changed.
pub(crate) struct View {
    /// The policies in force.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The upstreams, which are asked for allowed names.
    pub(crate) upstreams: Arc<Upstreams>,
    /// TTL and MINIMUM of a denial's SOA, in seconds.
    pub(crate) denied_ttl: u32,
}

/// The origin of a query: client, transport, listener, time.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The address of the client.
    pub source: IpAddr,
    /// The transport of the query.
    pub transport: Transport,
    /// The number of the listener that received the query.
    pub listener: usize,
    /// The time of receipt, one for all of a batch: reading the clock takes about as long as parsing a query.
    pub since: Instant,
}

/// The failure text for a query beyond the limits of waiting queries.
const TOO_MANY: &str = "too many queries of this client, or of all, wait for upstreams";

/// The engine; one for all transports.
pub(crate) struct Engine {
    /// The view that answers depend on.
    view: ArcSwap<View>,
    /// The cache of upstreams' answers.
    cache: Cache,
    /// The accounts of clients' new lookups.
    budgets: Budgets,
    /// The questions being asked upstream, with the thread that asks each.
    in_flight: InFlight<Question>,
    /// The number of answers being renewed before they expire.
    renewals: Arc<AtomicUsize>,
    /// The limits of queries that wait for upstreams.
    pending: Arc<Shares>,
    /// The limits of questions that tasks ask: over TCP, or of another upstream after a failure.
    asking: Arc<Shares>,
    metrics: Arc<Metrics>,
    /// The decision log, if one is configured.
    decisions: Option<DecisionLog>,
    /// The count of upstreams' returns at which failures of silence were last forgotten.
    returns: AtomicU64,
    /// The cache's zero time.
    epoch: Instant,
}

/// The outcome of a question to upstreams.
pub(crate) type Lookup = Result<Found, Arc<Failure>>;

/// The exclusive right to ask a question; dropping it ends the question.
pub(crate) type Claim = in_flight::Claim<Question>;

/// An upstream's answer to a question.
#[derive(Clone)]
pub(crate) struct Found {
    response: Arc<Response>,
    /// The upstream that answered.
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
            in_flight: InFlight::new(MAX_QUESTIONS),
            renewals: Arc::default(),
            pending: Shares::with_reserve(MAX_PENDING, MAX_PENDING_OF_CLIENT),
            asking: Shares::with_reserve(asking, asking.div_ceil(2).min(MAX_ASKING_OF_CLIENT)),
            metrics,
            decisions,
            returns: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }

    /// Returns the view in force, to be taken once for a batch of queries.
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

    /// Returns the counters of queries and answers.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns the limits of questions that tasks ask.
    pub(crate) fn asking(&self) -> Arc<Shares> {
        Arc::clone(&self.asking)
    }

    /// Gives thread `owner` the claim to the question of a query, or hands the query to the thread that has it.
    ///
    /// # Errors
    /// The query got no claim.
    pub(crate) fn enter<W>(
        &self,
        query: W,
        question: impl Fn(&W) -> &Arc<Question>,
        owner: usize,
        hand: impl FnOnce(usize, W),
    ) -> Result<(Claim, W), Unclaimed<W>> {
        self.in_flight.enter(query, question, owner, hand)
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

    /// Keeps an answer that came after its question had ended; no client waits for it.
    pub(crate) fn keep_late(&self, question: &Question, response: Response, upstream: SocketAddr) {
        self.keep_uncounted(question, response, upstream, Holder::NOBODY);
    }

    /// Returns whether a policy applies to who asks; else all they get is denials.
    pub(crate) fn is_known(&self, source: IpAddr, listener: usize) -> bool {
        self.view().snapshot.asker(source, listener).policy().is_some()
    }

    /// Returns the cache's time.
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Returns the size and the counters of the cache.
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

/// Returns a duration's whole seconds, as TTLs count.
fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
