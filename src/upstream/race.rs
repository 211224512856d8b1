//! The tries of one question in a task: which upstream is asked next, and when.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::endpoint::{Attempt, Endpoint, Success, Surroundings};
use super::pool::{DEAD_TIME, REVIEW_EVERY};
use super::probe::{FOUND_AFTER, search};
use super::reply::TryError;
use super::schedule::{MAX_PAUSE, interval, max_tries, pause};
use super::server::Transport;
use super::stream::STALLED_AFTER;
use super::{Failure, FailureKind, PreviousTries, Unanswered};
use crate::dns::response::Question;
use crate::fair_share::Holder;

/// Returns a hash by which questions and zones are told apart when failures are counted; the key is of this process.
pub(super) fn hash(value: impl Hash) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(value)
}

/// The tries of one question.
pub(super) struct Race {
    /// The upstreams to ask, in order. One that failed is removed.
    order: Vec<Arc<Endpoint>>,
    /// The question.
    question: Arc<Question>,
    /// The client that asked.
    client: Holder,
    /// The settings, clock and limits that all tries share.
    around: Arc<Surroundings>,
    /// The time of the first try.
    begun: Instant,
    /// The upstreams that were asked, with the time of the first try at each.
    asked: Vec<(Arc<Endpoint>, Instant)>,
    /// The tries that may still bring an answer. Dropping it ends them.
    tries: JoinSet<(Arc<Endpoint>, Result<Success, TryError>)>,
    /// Tries made, those before the race included.
    made: usize,
    /// The most tries that silences may lead to.
    most: usize,
    /// The upstream that is asked next: an index of `order`, or its length if all had a turn.
    next: usize,
    /// The number of turns of all upstreams; each doubles the time that they are given.
    rounds: u32,
    /// The failure that says most so far.
    worst: Option<Failure>,
    /// True if an upstream that failed was unreachable.
    is_passing: bool,
    /// The upstreams whose port was closed: one that is being restarted is back soon.
    refused: Vec<Arc<Endpoint>>,
    /// The time at which these are asked again.
    back_at: Option<Instant>,
    /// Pauses made for their sake.
    pauses: u32,
    /// The upstreams that replied without an answer. If another one answers, it was not because of the name.
    unwilling: Vec<Arc<Endpoint>>,
    /// True if the first try goes over TCP, because the answer is known not to fit or ports are flooded.
    is_over_tcp: bool,
    /// The upstream whose ports are flooded, until it failed over TCP: not all have TCP, so it is asked over UDP then.
    flooded: Option<Arc<Endpoint>>,
}

impl Race {
    /// Returns the race, not yet started.
    ///
    /// `spent` is how long ago the question was asked first.
    pub(super) fn new(
        order: Vec<Arc<Endpoint>>,
        (question, client): (Arc<Question>, Holder),
        spent: Duration,
        around: &Arc<Surroundings>,
    ) -> Self {
        let now = Instant::now();
        Self {
            made: 0,
            most: max_tries(order.len()),
            order,
            question,
            client,
            around: Arc::clone(around),
            begun: now.checked_sub(spent).unwrap_or(now),
            asked: Vec::new(),
            tries: JoinSet::new(),
            next: 0,
            rounds: 0,
            worst: None,
            is_passing: false,
            refused: Vec::new(),
            back_at: None,
            pauses: 0,
            unwilling: Vec::new(),
            is_over_tcp: false,
            flooded: None,
        }
    }

    /// Takes account of tries that were made before.
    pub(super) fn begin_after(&mut self, tried: PreviousTries) {
        let PreviousTries { server, unanswered, silent, tries, spent: _ } = tried;
        self.made = tries;
        // Who is silent had a turn.
        for address in silent {
            if let Some(index) = self.order[self.next..].iter().position(|other| other.server.address == address) {
                self.asked.push((Arc::clone(&self.order[self.next + index]), self.begun));
                self.order[self.next..=self.next + index].rotate_right(1);
                self.next += 1;
            }
        }
        let Some(index) = self.order.iter().position(|other| other.server.address == server) else { return };
        match unanswered {
            Unanswered::Silent if index < self.next => {}
            Unanswered::Silent => {
                self.order[self.next..=index].rotate_right(1);
                self.next += 1;
            }
            Unanswered::Truncated | Unanswered::Flooded => {
                self.flooded = matches!(unanswered, Unanswered::Flooded).then(|| Arc::clone(&self.order[index]));
                self.order[..=index].rotate_right(1);
                self.next = 0;
                self.is_over_tcp = true;
            }
            Unanswered::Failed(error) => {
                let endpoint = Arc::clone(&self.order[index]);
                self.exclude(&endpoint, error);
            }
        }
    }

    /// Runs until there is an answer, or nobody is left who could give one.
    pub(super) async fn run(&mut self) -> Option<(SocketAddr, Success)> {
        if self.is_over() {
            return None;
        }
        let first_review = if self.are_dead() { DEAD_TIME } else { REVIEW_EVERY };
        let mut review_at = self.begun + first_review;
        let mut next_at = Instant::now() + if self.order.is_empty() { MAX_PAUSE } else { self.start() };
        loop {
            // The last try panicked.
            if self.tries.is_empty() && self.made >= self.most && self.back_at.is_none() {
                return None;
            }
            let is_due = self.made < self.most && !self.order.is_empty();
            let back_at = self.back_at.unwrap_or(review_at);
            tokio::select! {
                biased;
                Some(ended) = self.tries.join_next() => match ended {
                    Ok((endpoint, Ok(success))) => {
                        for other in self.unwilling.iter().filter(|other| !Arc::ptr_eq(other, &endpoint)) {
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
                        if self.is_over() {
                            return None;
                        }
                        if self.rounds == 0 && !self.order.is_empty() && (self.next < self.order.len() || self.made < self.most) {
                            next_at = Instant::now() + self.start();
                        }
                    }
                    // A try that panicked: its upstream may have another turn.
                    Err(_) => {}
                },
                () = sleep_until(next_at), if is_due => {
                    let is_searching = search(&self.order, &self.question, self.client, &self.around);
                    // More may be known by now; of those that had as many turns, one that is known to answer comes first.
                    self.order[self.next..].sort_by_cached_key(|endpoint| {
                        let health = endpoint.health();
                        (!health.is_answering(), health.rank())
                    });
                    let interval = self.start();
                    next_at = Instant::now() + if is_searching { FOUND_AFTER.min(interval) } else { interval };
                }
                () = sleep_until(back_at), if self.back_at.is_some() => {
                    self.take_back();
                    next_at = Instant::now() + self.start();
                }
                () = sleep_until(review_at) => {
                    if self.are_dead() {
                        return None;
                    }
                    review_at = Instant::now() + REVIEW_EVERY;
                }
            }
        }
    }

    /// Notes that the question's time is over: who was asked for most of it and has not replied left it unanswered.
    pub(super) fn note_unanswered(&self) {
        let question = hash(&*self.question);
        for (endpoint, since) in &self.asked {
            let waited = since.elapsed();
            let is_left = self.order.iter().any(|other| Arc::ptr_eq(other, endpoint));
            if is_left && waited >= self.around.question_time() / 2 {
                endpoint.note_unanswered(question, waited, &self.around);
            }
        }
    }

    /// Returns whether all upstreams that are left are known to be dead.
    fn are_dead(&self) -> bool {
        self.order.iter().chain(&self.refused).all(|endpoint| endpoint.health().is_dead())
    }

    /// Returns whether nobody is left to answer, nor to be waited for: an upstream's own word of failure is handed on at once.
    fn is_over(&self) -> bool {
        let has_word = self.worst.as_ref().is_some_and(|worst| worst.kind > FailureKind::Network);
        self.order.is_empty() && (has_word || self.are_dead())
    }

    /// Asks those who refused again, as if they were next: the pause is over.
    fn take_back(&mut self) {
        self.back_at = None;
        // After those that had a turn already: these are next, and each may be asked.
        self.next = self.order.len();
        let back = self.refused.len();
        self.order.append(&mut self.refused);
        self.made = self.made.min(self.most.saturating_sub(back));
        if self.next == 0 {
            self.rounds = 0;
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
        let mut patience = endpoint.health().patience(self.around.timeout);
        if self.are_dead() {
            // All are tried before the time for dead ones is over.
            patience = patience.min(DEAD_TIME / u32::try_from(self.order.len()).unwrap_or(u32::MAX));
        }
        if self.asked.iter().all(|(other, _)| !Arc::ptr_eq(other, &endpoint)) {
            self.asked.push((Arc::clone(&endpoint), Instant::now()));
        }
        let (question, around) = (Arc::clone(&self.question), Arc::clone(&self.around));
        // More queries over UDP would clog an upstream further that is itself what floods.
        let is_flooded = self.flooded.as_ref().is_some_and(|flooded| Arc::ptr_eq(flooded, &endpoint));
        let is_over_tcp = std::mem::take(&mut self.is_over_tcp) || is_flooded;
        let over = if is_over_tcp { Transport::Tcp } else { endpoint.server.transport };
        // A further try is made because the one before is silent, and so may its connection be. Half of that time leaves
        // room for opening it.
        let stalled = if self.made > 1 { STALLED_AFTER.min(self.begun.elapsed() / 2) } else { STALLED_AFTER };
        let (is_further, client) = (!self.tries.is_empty(), self.client);
        let attempt = Attempt { over, patience, stalled, is_further, client };
        self.tries.spawn(async move {
            let result = endpoint.ask(&question, attempt, &around).await;
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
        if error.kind > FailureKind::Network {
            self.unwilling.push(Arc::clone(endpoint));
        }
        self.is_passing |= error.kind.is_absence() || endpoint.health().is_down();
        if error.kind == FailureKind::Network && !endpoint.health().is_dead() {
            self.refused.push(Arc::clone(endpoint));
            if self.back_at.is_none() {
                self.back_at = Some(Instant::now() + pause(self.pauses));
                self.pauses += 1;
            }
        }
        if self.worst.as_ref().is_none_or(|worst| worst.kind <= error.kind) {
            self.worst = Some(error.at(endpoint.server));
        }
    }

    /// Ends the tries that are left, and waits until they have noted how long they were silent.
    pub(super) async fn end(&mut self) {
        self.tries.shutdown().await;
    }

    /// Returns why there was no answer.
    pub(super) fn failure(mut self) -> Failure {
        let silent: Vec<_> = self.order.iter().map(|endpoint| endpoint.server.to_string()).collect();
        let is_passing = self.is_passing || !silent.is_empty();
        let failure = self.worst.take().unwrap_or_else(|| Failure::timed_out(&silent, self.begun.elapsed()));
        Failure { is_passing, ..failure }
    }
}
