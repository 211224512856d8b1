//! All upstreams: whom to ask first, when to ask the next as well, when to give up.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::endpoint::{Endpoint, Success, Surroundings};
use super::probe::{ask_aside, probe_doubted, probe_every};
use super::race::Race;
use super::schedule::max_tries;
use super::server::{Server, Transport};
use super::{Answered, Failure, FailureKind, Observer, PreviousTries};
use crate::bounds::capacity;
use crate::dns::rebinding::Reach;
use crate::dns::response::Question;
use crate::fair_share::Holder;

/// The longest time for a question, unless `timeout` is longer: stub resolvers wait as long (resolv.conf(5), `timeout`). A
/// slow upstream is waited for, and a client that asks again joins the question.
pub(super) const QUESTION_TIME: Duration = Duration::from_secs(5);

/// The longest time for a question while every upstream is known to be dead: enough for one that is back to show it.
pub(super) const DEAD_TIME: Duration = Duration::from_millis(300);

/// The time for which stale data is kept back for an answer that may still come (RFC 8767 §5, client response timer).
pub(crate) const STALE_AFTER: Duration = Duration::from_millis(1800);

/// The interval at which a question without a reply is reviewed: the upstreams may be known to be dead by then.
pub(super) const REVIEW_EVERY: Duration = Duration::from_millis(500);

/// The settings for asking upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The time over which the first tries of a question are spread: after at most half of it without a reply, the upstream or
    /// the next one is asked again. The answer is waited for longer: five seconds, or this time if it is more.
    pub timeout: Duration,
    /// The most UDP sockets open to upstreams at a time. A question beyond that waits for one, within its time.
    pub max_sockets: usize,
    /// Whether queries over UDP have their name in random case (0x20), so that forging a reply takes more guesses.
    pub case_randomisation: bool,
    /// The classification of the addresses in replies, for rebinding protection.
    pub reach: Reach,
}

impl Default for Settings {
    /// Two seconds: nearly every name takes less, and of the five that a stub waits there are three left.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            max_sockets: capacity::granted().sockets,
            case_randomisation: true,
            reach: Reach::default(),
        }
    }
}

/// The upstreams in use. Asked in the order of their health; the next is asked as well when one takes long, and at
/// once when one fails.
pub struct Upstreams {
    /// The upstreams, as configured.
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// The settings for asking them.
    settings: Settings,
    /// The settings, clock and limits that all tries share.
    around: Arc<Surroundings>,
}

/// The upstream to ask first, and what is known beforehand.
pub(super) struct First<'a> {
    /// The upstream.
    pub(super) endpoint: &'a Arc<Endpoint>,
    /// The time to wait for its reply before the next try.
    pub(super) patience: Duration,
    /// True if every upstream is known to be dead.
    pub(super) are_dead: bool,
}

/// The state of an upstream, for the status and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The upstream.
    pub server: Server,
    /// True if it failed several times in a row: it is asked last, and probed.
    pub is_down: bool,
    /// True if it is reported as gone: it is known to be dead, or has been failing for long.
    pub is_gone: bool,
    /// The time for which it has been failing, if it is down or gone; otherwise the time for which it has been answering.
    pub since: Duration,
    /// True if names fail at it while it answers a probe, so that the names are to blame.
    pub are_names_failing: bool,
    /// The way in which it fails, in a word; empty if it does not.
    pub trouble: &'static str,
    /// The number of times that it was gone.
    pub outages: u64,
    /// The smoothed round-trip time, if it ever answered.
    pub round_trip: Option<Duration>,
    /// Tries started.
    pub asked: u64,
    /// Tries answered, NXDOMAIN and NODATA included.
    pub answered: u64,
    /// Tries that failed otherwise than by silence.
    pub failed: u64,
    /// Tries that it let pass in silence.
    pub silent: u64,
}

impl Status {
    /// Says how it fails: in a word, with the interface of its address where that is not there.
    pub(crate) fn reason(&self) -> Cow<'static, str> {
        match super::scope::missing(self.server.address) {
            Some(interface) if self.trouble != "silent" => {
                format!("{}: there is no interface `{interface}`", self.trouble).into()
            }
            _ => self.trouble.into(),
        }
    }
}

impl Upstreams {
    /// Returns these upstreams, nothing known of them; an empty list is one that answers nothing.
    ///
    /// A server that is named twice is asked as one.
    #[must_use]
    pub fn new(servers: &[Server], settings: Settings, observer: Arc<dyn Observer>) -> Self {
        let sockets = Arc::new(Semaphore::new(settings.max_sockets));
        let around = Surroundings::new(settings, sockets, observer, (Instant::now(), Arc::default()));
        Self::build(servers, settings, around, &[])
    }

    /// Returns the upstreams of a changed configuration; what is known of those that stay is kept. Questions in
    /// flight end as they began.
    #[must_use]
    pub fn replaced_by(&self, servers: &[Server], settings: Settings) -> Self {
        let same_bound = settings.max_sockets == self.settings.max_sockets;
        let sockets =
            if same_bound { Arc::clone(&self.around.sockets) } else { Arc::new(Semaphore::new(settings.max_sockets)) };
        let observer = Arc::clone(&self.around.observer);
        let times = (self.around.epoch, Arc::clone(&self.around.returns));
        let around = Surroundings::new(settings, sockets, observer, times);
        Self::build(servers, settings, around, &self.endpoints)
    }

    /// Returns these upstreams, the `known` ones as they are.
    fn build(servers: &[Server], settings: Settings, around: Surroundings, known: &[Arc<Endpoint>]) -> Self {
        let now = around.epoch.elapsed();
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::with_capacity(servers.len());
        for &server in servers {
            if endpoints.iter().all(|endpoint| endpoint.server != server) {
                let kept = known.iter().find(|endpoint| endpoint.server == server).map(Arc::clone);
                endpoints.push(kept.unwrap_or_else(|| Arc::new(Endpoint::new(server, now))));
            }
        }
        Self { endpoints, settings, around: Arc::new(around) }
    }

    /// Returns whether there is nobody to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Returns how many tries a question may have, over all upstreams.
    pub(super) fn max_tries(&self) -> usize {
        max_tries(self.endpoints.len())
    }

    /// Returns whether there is but one to ask.
    pub(super) fn is_lone(&self) -> bool {
        self.endpoints.len() == 1
    }

    /// Returns whether nobody is known to answer.
    pub(crate) fn are_down(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.health().is_down())
    }

    /// Returns whether every upstream is known to answer nothing.
    pub(super) fn are_dead(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.health().is_dead())
    }

    /// Returns whether the network says of every upstream that nobody is there.
    pub(super) fn are_refusing(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.health().is_refusing())
    }

    /// Returns how often an upstream replied again after it had been silent or unreachable. What was remembered of failures
    /// before the last time says nothing any more.
    pub(crate) fn returns(&self) -> u64 {
        self.around.returns.from_loss.load(Ordering::Relaxed)
    }

    /// Returns how each upstream has been doing, as configured.
    pub fn status(&self) -> impl Iterator<Item = Status> {
        let now = self.around.epoch.elapsed();
        self.endpoints.iter().map(move |endpoint| {
            let health = *endpoint.health();
            Status {
                server: endpoint.server,
                is_down: health.is_down(),
                is_gone: health.is_gone(),
                are_names_failing: health.are_names_failing() && !health.is_gone(),
                since: now.saturating_sub(health.since()),
                trouble: health.trouble(),
                outages: health.outages(),
                round_trip: health.round_trip(),
                asked: endpoint.counts.asked.load(Ordering::Relaxed),
                answered: endpoint.counts.answered.load(Ordering::Relaxed),
                failed: endpoint.counts.failed.load(Ordering::Relaxed),
                silent: endpoint.counts.silent.load(Ordering::Relaxed),
            }
        })
    }

    /// Asks `question` and returns the first answer.
    ///
    /// One upstream is asked; when it takes longer than it usually does, the next as well, the first being still
    /// welcome; when it fails, the next at once. One that failed is not asked this question again; one that is
    /// silent is, over a new socket, when all had their turn.
    ///
    /// # Errors
    /// No answer within [`QUESTION_TIME`]; every upstream failed, or is known to be dead: then at once.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn ask(&self, question: &Question) -> Result<Answered, Failure> {
        self.ask_after(question, Holder::NOBODY, None).await
    }

    /// Asks as [`Upstreams::ask`] does for a client, knowing what a first try came to.
    pub(crate) async fn ask_after(
        &self,
        question: &Question,
        client: Holder,
        tried: Option<PreviousTries>,
    ) -> Result<Answered, Failure> {
        if self.endpoints.is_empty() {
            let (kind, detail) = (FailureKind::NoUpstream, String::new());
            return Err(Failure { kind, is_passing: false, response: None, detail });
        }
        let started = Instant::now();
        let order = self.order();
        let spent = tried.as_ref().map_or(Duration::ZERO, |tried| tried.spent);
        if tried.is_none() {
            self.probe_others(&order[0], question, client);
        }
        let question = Arc::new(question.clone());
        let mut race = Race::new(order, (question, client), spent, &self.around);
        if let Some(tried) = tried {
            race.begin_after(tried);
        }
        let outcome = timeout(self.around.question_time().saturating_sub(spent), race.run()).await;
        // Waits until the tries that are left have noted how long they were silent: the next question profits.
        race.end().await;
        match outcome {
            Ok(Some((upstream, Success { response, transport }))) => {
                Ok(Answered { response, upstream, transport, elapsed: started.elapsed() })
            }
            Ok(None) => Err(race.failure()),
            Err(_) => {
                race.note_unanswered();
                Err(race.failure())
            }
        }
    }

    /// Returns the upstream to ask first if that goes over UDP; measures others aside.
    ///
    /// # Panics
    /// Outside of a tokio runtime, when another upstream is to be measured.
    pub(super) fn first_over_udp(&self, question: &Question, client: Holder) -> Option<First<'_>> {
        let first = match self.endpoints.as_slice() {
            [only] => only,
            several => {
                let first = several.iter().min_by_key(|endpoint| endpoint.health().rank())?;
                self.probe_others(first, question, client);
                first
            }
        };
        let (patience, are_dead) = self.patience_of(first);
        (first.server.transport == Transport::Udp).then_some(First { endpoint: first, patience, are_dead })
    }

    /// Returns how long to wait for a reply of `endpoint` before the next try.
    pub(super) fn patience(&self, endpoint: &Endpoint) -> Duration {
        self.patience_of(endpoint).0
    }

    /// Returns the same, and whether every upstream is known to be dead: then all are tried within [`DEAD_TIME`].
    fn patience_of(&self, endpoint: &Endpoint) -> (Duration, bool) {
        let (patience, is_dead) = {
            let health = endpoint.health();
            (health.patience(self.settings.timeout), health.is_dead())
        };
        if !is_dead || !(self.is_lone() || self.are_dead()) {
            return (patience, false);
        }
        let upstreams = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        (patience.min(DEAD_TIME / upstreams.max(1)), true)
    }

    /// Returns whom to ask next when nobody has answered yet, and the turns it had: who had the fewest, the best of them.
    ///
    /// One that is down comes after a second turn of the others: it is more likely that a datagram was lost. Of those that had
    /// as many turns, one that is known to answer comes first.
    pub(super) fn next_try(&self, turns: impl Fn(SocketAddr) -> u32) -> Option<(&Arc<Endpoint>, u32)> {
        let turns = self.endpoints.iter().map(|endpoint| (endpoint, turns(endpoint.server.address)));
        turns.min_by_key(|(endpoint, turns)| {
            let (is_down, is_answering, rank) = {
                let health = endpoint.health();
                (health.is_down(), health.is_answering(), health.rank())
            };
            (turns + 2 * u32::from(is_down), !is_answering, rank)
        })
    }

    /// Returns what all tries share.
    pub(super) fn around(&self) -> &Arc<Surroundings> {
        &self.around
    }

    /// Probes the upstreams that may be gone and are due: to be called about twice a second.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn probe(&self) {
        probe_doubted(&self.endpoints, &self.around);
    }

    /// Asks those that a client's question would not reach and that are due, aside: nobody waits for what they say.
    fn probe_others(&self, first: &Arc<Endpoint>, question: &Question, client: Holder) {
        let (now, every) = (self.around.epoch.elapsed(), probe_every(&self.around));
        for endpoint in self.endpoints.iter().filter(|endpoint| !Arc::ptr_eq(endpoint, first)) {
            if endpoint.health().claim_measurement(every, now) {
                ask_aside(endpoint, &Arc::new(question.clone()), client, &self.around);
            }
        }
    }

    /// Returns the upstreams in the order to ask them.
    fn order(&self) -> Vec<Arc<Endpoint>> {
        let mut order: Vec<_> = self.endpoints.iter().map(|endpoint| (endpoint.health().rank(), endpoint)).collect();
        order.sort_by_key(|(rank, _)| *rank);
        order.into_iter().map(|(_, endpoint)| Arc::clone(endpoint)).collect()
    }
}
