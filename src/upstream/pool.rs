//! All upstreams: whom to ask first, when to ask the next as well, when to give up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::endpoint::{Endpoint, Success, Surroundings, TryError};
use super::server::{Server, Transport};
use super::{Answered, Failure, FailureKind, Observer, Trial, Tried};
use crate::dns::response::Question;

/// Tries of a question at one upstream that is silent; of several upstreams, each further one adds a try. After the last
/// one there is only waiting, until the question's time is over.
const MAX_TRIES: usize = 3;

/// How the upstreams are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The time for a question, over all tries at all upstreams.
    pub timeout: Duration,
    /// How many UDP sockets may be open to upstreams at a time; a question beyond that waits, within its time.
    pub max_sockets: usize,
    /// Whether names are asked for in random case over UDP (0x20), so that forging a reply takes more guesses.
    pub case_randomisation: bool,
}

impl Default for Settings {
    /// Two seconds: a stub waits five (resolv.conf(5)), so it hears of a failure before it gives up. Half of
    /// the usual 1,024 file descriptors.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(2), max_sockets: 512, case_randomisation: true }
    }
}

/// The upstreams in use. Asked in the order of their health; the next is asked as well when one takes long, and at
/// once when one fails.
pub struct Upstreams {
    /// The upstreams, as configured.
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// How they are asked.
    settings: Settings,
    /// What all tries share.
    around: Arc<Surroundings>,
}

/// How one upstream has been doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The upstream.
    pub server: Server,
    /// Whether it failed several times in a row: it is asked last, and probed.
    pub is_down: bool,
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

impl Upstreams {
    /// Returns these upstreams, nothing known of them; an empty list is one that answers nothing.
    ///
    /// A server that is named twice is asked as one.
    #[must_use]
    pub fn new(servers: &[Server], settings: Settings, observer: Arc<dyn Observer>) -> Self {
        let sockets = Arc::new(Semaphore::new(settings.max_sockets));
        let Settings { timeout, case_randomisation, .. } = settings;
        let around = Surroundings { epoch: Instant::now(), timeout, case_randomisation, sockets, observer };
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
        let Settings { timeout, case_randomisation, .. } = settings;
        let around = Surroundings { epoch: self.around.epoch, timeout, case_randomisation, sockets, observer };
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

    /// Returns how each upstream has been doing, as configured.
    pub fn status(&self) -> impl Iterator<Item = Status> {
        self.endpoints.iter().map(|endpoint| {
            let health = *endpoint.health();
            Status {
                server: endpoint.server,
                is_down: health.is_down(),
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
    /// No answer by the deadline, or every upstream failed: then at once.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn ask(&self, question: &Question) -> Result<Answered, Failure> {
        self.ask_after(question, None).await
    }

    /// Asks as [`Upstreams::ask`] does, knowing what a first try came to.
    pub(crate) async fn ask_after(&self, question: &Question, tried: Option<Tried>) -> Result<Answered, Failure> {
        if self.endpoints.is_empty() {
            return Err(Failure { kind: FailureKind::NoUpstream, response: None, detail: String::new() });
        }
        let started = Instant::now();
        let question = Arc::new(question.clone());
        let order = self.order();
        let spent = tried.as_ref().map_or(Duration::ZERO, |tried| tried.spent);
        if tried.is_none() {
            self.probe(&order, &question);
        }
        let mut race = Race::new(order, question, self);
        if let Some(tried) = tried {
            race.begin_after(tried);
        }
        let outcome = timeout(self.settings.timeout.saturating_sub(spent), race.run()).await;
        // Waits until the tries that are left have noted how long they were silent: the next question profits.
        race.tries.shutdown().await;
        match outcome {
            Ok(Some((upstream, Success { response, transport }))) => {
                Ok(Answered { response, upstream, transport, elapsed: started.elapsed() })
            }
            Ok(None) | Err(_) => Err(race.failure()),
        }
    }

    /// Returns the upstream to ask first if that goes over UDP, and how long it may take; measures others aside.
    ///
    /// # Panics
    /// Outside of a tokio runtime, when another upstream is to be measured.
    pub(super) fn first_over_udp(&self, question: &Question) -> Option<(&Arc<Endpoint>, Duration)> {
        let (first, patience) = match self.endpoints.as_slice() {
            [only] => (only, only.health().patience(self.settings.timeout)),
            several => {
                let first = several.iter().min_by_key(|endpoint| endpoint.health().rank())?;
                self.probe_others(first, question);
                (first, first.health().patience(self.settings.timeout))
            }
        };
        (first.server.transport == Transport::Udp).then_some((first, patience))
    }

    /// Returns whom to ask next when nobody has answered yet, and the turns it had: who had the fewest, the best of them.
    ///
    /// One that is down comes after a second turn of the others: it is more likely that a datagram was lost.
    pub(super) fn next_try(&self, turns: impl Fn(SocketAddr) -> u32) -> Option<(&Arc<Endpoint>, u32)> {
        let turns = self.endpoints.iter().map(|endpoint| (endpoint, turns(endpoint.server.address)));
        turns.min_by_key(|(endpoint, turns)| {
            let (is_down, rank) = {
                let health = endpoint.health();
                (health.is_down(), health.rank())
            };
            (turns + 2 * u32::from(is_down), rank)
        })
    }

    /// Returns what all tries share.
    pub(super) fn around(&self) -> &Arc<Surroundings> {
        &self.around
    }

    /// Asks the others that are due to be measured, aside.
    fn probe_others(&self, first: &Arc<Endpoint>, question: &Question) {
        let now = self.around.epoch.elapsed();
        for endpoint in self.endpoints.iter().filter(|endpoint| !Arc::ptr_eq(endpoint, first)) {
            if endpoint.health().claim_probe(now) {
                self.probe_one(endpoint, &Arc::new(question.clone()));
            }
        }
    }

    /// Asks one upstream aside: nobody waits for what it says.
    fn probe_one(&self, endpoint: &Arc<Endpoint>, question: &Arc<Question>) {
        let (endpoint, question) = (Arc::clone(endpoint), Arc::clone(question));
        let (around, limit) = (Arc::clone(&self.around), self.settings.timeout);
        tokio::spawn(async move {
            // The result is in the endpoint's health.
            drop(timeout(limit, endpoint.ask(&question, limit / 2, endpoint.server.transport, &around)).await);
        });
    }

    /// Returns the upstreams in the order to ask them.
    fn order(&self) -> Vec<Arc<Endpoint>> {
        let mut order: Vec<_> = self.endpoints.iter().map(|endpoint| (endpoint.health().rank(), endpoint)).collect();
        order.sort_by_key(|(rank, _)| *rank);
        order.into_iter().map(|(_, endpoint)| Arc::clone(endpoint)).collect()
    }

    /// Asks the upstreams that are not first and are due to be measured, aside: nobody waits for what they say.
    fn probe(&self, order: &[Arc<Endpoint>], question: &Arc<Question>) {
        for endpoint in order.iter().skip(1) {
            if endpoint.health().claim_probe(self.around.epoch.elapsed()) {
                self.probe_one(endpoint, question);
            }
        }
    }
}

/// Returns how many tries a question may have at so many upstreams.
fn max_tries(upstreams: usize) -> usize {
    MAX_TRIES + upstreams.saturating_sub(1)
}

/// Returns the time between a try and the next one, of an upstream with this patience that was tried `turns` times before.
///
/// A lost datagram costs one patience. A second one in a row is rare (one question of 400 at a loss of 5 %), so the try after
/// it comes late: it also helps where the upstream or the network was gone for a moment.
pub(super) fn interval(patience: Duration, turns: u32, timeout: Duration) -> Duration {
    match turns {
        0 => patience,
        _ => patience.saturating_mul(1 << turns.min(8)).max(timeout / 4),
    }
}

/// The tries of one question.
struct Race {
    /// Whom to ask, in order; who failed is taken out.
    order: Vec<Arc<Endpoint>>,
    /// The question.
    question: Arc<Question>,
    /// What all tries share.
    around: Arc<Surroundings>,
    /// The tries that may still bring an answer. Dropping it ends them.
    tries: JoinSet<(Arc<Endpoint>, Result<Success, TryError>)>,
    /// Tries made, those before the race included.
    made: usize,
    /// How many tries there may be because of silence.
    most: usize,
    /// Who is asked next: an index of `order`, or its length when everybody had a turn.
    next: usize,
    /// How many times everybody had a turn; each doubles the patience.
    rounds: u32,
    /// The failure that says most so far.
    worst: Option<Failure>,
    /// Who said SERVFAIL: whether that was the name's doing shows when another answers.
    servfails: Vec<Arc<Endpoint>>,
    /// Whether the first try goes over TCP, because the answer is known not to fit or ports are flooded.
    is_over_tcp: bool,
    /// The upstream whose ports are flooded, until it failed over TCP: not all have TCP, so it is asked over UDP then.
    flooded: Option<Arc<Endpoint>>,
}

impl Race {
    /// Returns the race, not yet started.
    fn new(order: Vec<Arc<Endpoint>>, question: Arc<Question>, upstreams: &Upstreams) -> Self {
        Self {
            made: 0,
            most: max_tries(order.len()),
            order,
            question,
            around: Arc::clone(&upstreams.around),
            tries: JoinSet::new(),
            next: 0,
            rounds: 0,
            worst: None,
            servfails: Vec::new(),
            is_over_tcp: false,
            flooded: None,
        }
    }

    /// Takes account of tries that were made before.
    fn begin_after(&mut self, tried: Tried) {
        let Tried { server, trial, silent, tries, spent: _ } = tried;
        self.made = tries;
        // Who is silent had a turn.
        for address in silent {
            if let Some(index) = self.order[self.next..].iter().position(|other| other.server.address == address) {
                self.order[self.next..=self.next + index].rotate_right(1);
                self.next += 1;
            }
        }
        let Some(index) = self.order.iter().position(|other| other.server.address == server) else { return };
        match trial {
            Trial::Silent if index < self.next => {}
            Trial::Silent => {
                self.order[self.next..=index].rotate_right(1);
                self.next += 1;
            }
            Trial::Truncated | Trial::Flooded => {
                self.flooded = matches!(trial, Trial::Flooded).then(|| Arc::clone(&self.order[index]));
                self.order[..=index].rotate_right(1);
                self.next = 0;
                self.is_over_tcp = true;
            }
            Trial::Failed(error) => {
                let endpoint = Arc::clone(&self.order[index]);
                self.exclude(&endpoint, error);
            }
        }
    }

    /// Runs until there is an answer, or nobody is left who could give one.
    async fn run(&mut self) -> Option<(SocketAddr, Success)> {
        if self.order.is_empty() {
            return None;
        }
        let mut next_at = Instant::now() + self.start();
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.tries.join_next() => match ended {
                    Ok((endpoint, Ok(success))) => {
                        for other in self.servfails.iter().filter(|other| !Arc::ptr_eq(other, &endpoint)) {
                            other.note_outdone(&self.around);
                        }
                        return Some((endpoint.server.address, success));
                    }
                    // Out of sockets, but an earlier try has one: it may still bring the answer.
                    Ok((_, Err(error))) if error.kind == FailureKind::Busy && !self.tries.is_empty() => {}
                    Ok((endpoint, Err(_)))
                        if self.flooded.take_if(|flooded| Arc::ptr_eq(flooded, &endpoint)).is_some() =>
                    {
                        self.next = self.order.iter().position(|other| Arc::ptr_eq(other, &endpoint)).unwrap_or(0);
                        next_at = Instant::now() + self.start();
                    }
                    Ok((endpoint, Err(error))) => {
                        self.exclude(&endpoint, error);
                        if self.order.is_empty() {
                            return None;
                        }
                        if self.rounds == 0 && (self.next < self.order.len() || self.made < self.most) {
                            next_at = Instant::now() + self.start();
                        }
                    }
                    // A try that panicked: its upstream may have another turn.
                    Err(_) => {}
                },
                () = sleep_until(next_at), if self.made < self.most => next_at = Instant::now() + self.start(),
                // The last try panicked.
                else => return None,
            }
        }
    }

    /// Starts the next try and returns how long to wait before the one after it.
    fn start(&mut self) -> Duration {
        if self.next >= self.order.len() {
            self.next = 0;
            self.rounds = (self.rounds + 1).min(8);
        }
        let endpoint = Arc::clone(&self.order[self.next]);
        self.next += 1;
        self.made += 1;
        let patience = endpoint.health().patience(self.around.timeout);
        let (question, around) = (Arc::clone(&self.question), Arc::clone(&self.around));
        let is_over_tcp = std::mem::take(&mut self.is_over_tcp);
        let over = if is_over_tcp { Transport::Tcp } else { endpoint.server.transport };
        self.tries.spawn(async move {
            let result = endpoint.ask(&question, patience, over, &around).await;
            (endpoint, result)
        });
        interval(patience, self.rounds, self.around.timeout)
    }

    /// Takes out an upstream that failed, and keeps what it said if that says more than what is known.
    fn exclude(&mut self, endpoint: &Arc<Endpoint>, error: TryError) {
        if let Some(index) = self.order.iter().position(|other| Arc::ptr_eq(other, endpoint)) {
            self.order.remove(index);
            self.next -= usize::from(index < self.next);
        }
        if error.kind == FailureKind::ServFail {
            self.servfails.push(Arc::clone(endpoint));
        }
        if self.worst.as_ref().is_none_or(|worst| worst.kind <= error.kind) {
            self.worst = Some(error.at(endpoint.server));
        }
    }

    /// Returns why there was no answer.
    fn failure(mut self) -> Failure {
        let silent: Vec<_> = self.order.iter().map(|endpoint| endpoint.server.to_string()).collect();
        self.worst.take().unwrap_or_else(|| Failure::timed_out(&silent, self.around.timeout))
    }
}
