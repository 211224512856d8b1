//! What a connection is doing, and until when it may.
//!
//! hyper's own time-outs do not tell a client that is quiet between requests from one that sends a head octet by octet,
//! and none of them sees an answer that is not taken. So the stream, the requests and the answers of a connection note
//! here what happens, and the connection asks for the next moment at which it is late.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::quotas;
use crate::bounds::MAX_REFUSED;
use crate::fair_share::Holder;
use crate::fair_share::quota::{Quota, Requester, Reservation};
use crate::util::lock;

/// How long a TLS handshake, the first request and each head may take.
pub(in crate::api) const HEAD: Duration = Duration::from_secs(5);
/// How long an answer may wait for its client to take more of it.
const STALL: Duration = Duration::from_secs(10);
/// How long an answer may take in all: a client that takes it in sips holds what others wait for.
const WHOLE: Duration = Duration::from_mins(2);
/// How long a connection may be silent between requests.
const IDLE: Duration = Duration::from_mins(1);
/// How long the client's rest is read at the end, so that what it was told is not lost with the connection (RFC 9112
/// §9.6).
const LINGER: Duration = Duration::from_secs(1);
/// How long a connection has been quiet at least when it is closed for another one or with the process: a request that
/// was sent with it may not have been read yet, when many come at once.
pub(in crate::api) const GRACE: Duration = Duration::from_millis(500);
/// As [`GRACE`], of one that was told all it will be.
const FAREWELL: Duration = Duration::from_millis(100);
/// How long a connection without a token may leave us waiting for octets before it can be closed for another one.
const SILENCE: Duration = Duration::from_millis(250);
/// How long a request may wait for its token's share before its connection can be closed for another one.
const PATIENCE: Duration = Duration::from_millis(500);
/// The deadline of a connection on which a request runs, which has deadlines of its own.
const FAR: Duration = Duration::from_hours(1);

/// What a connection is doing; shared by its stream, its requests and its answers.
pub(in crate::api) struct Pulse {
    /// What it is.
    state: Mutex<State>,
    /// Tells it to make room for another one.
    close: Notify,
}

/// What is known of a connection.
struct State {
    /// Since when no request runs; at first, since it is open.
    quiet_since: Instant,
    /// Since when requests run, or have last.
    busy_since: Instant,
    /// Since when a head has been coming in.
    head_since: Option<Instant>,
    /// Since when the client takes nothing of what is sent.
    blocked_since: Option<Instant>,
    /// Since when a request is the last of HTTP/1.1, for the process stops.
    last_call_since: Option<Instant>,
    /// Since when it is being closed.
    leaving_since: Option<Instant>,
    /// Whether HTTP/2 is spoken, where a frame need not be of a request.
    is_http2: bool,
    /// What is known of its client.
    client: Client,
    /// The address it comes from, or, once a request of it had one, the token.
    holder: Holder,
    /// Since when the server has waited for octets of a client that has shown no token.
    awaited_since: Option<Instant>,
    /// Its part of the connections with requests under way.
    grant: Option<Reservation>,
    /// Whether it has been told to make room.
    is_told: bool,
    /// Requests that run.
    running: usize,
    /// Of those, the ones that were let in.
    admitted: usize,
    /// Of those, the ones that were refused and whose client has not taken the answer yet.
    refused: usize,
    /// The deadlines of each answer under way: for all of it, and for the next piece.
    sending: BTreeMap<u64, (Instant, Instant)>,
    /// The number of the next request.
    next: u64,
}

/// What is known of a connection's client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    /// It has asked for nothing yet.
    New,
    /// No request of it was let in.
    Stranger,
    /// A request of it was let in.
    Known,
}

/// Why a connection's time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Late {
    /// It was silent between requests: it may be closed in good manners.
    Idle,
    /// Its client is too slow.
    Slow,
}

/// The order in which connections can be closed for another one, and from when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) struct Spare {
    /// Whether it has had a token and is not being closed yet.
    pub(in crate::api) is_known: bool,
    /// The address or the token it counts for.
    pub(in crate::api) holder: Holder,
    /// Whether a request of it waits for its part of a capacity.
    pub(in crate::api) has_request: bool,
    /// The moment from which on it can be closed.
    pub(in crate::api) from: Instant,
}

impl Pulse {
    /// Begins with a connection that was just opened from `source`.
    pub(in crate::api) fn new(source: Holder) -> Arc<Self> {
        let state = State {
            quiet_since: Instant::now(),
            busy_since: Instant::now(),
            head_since: None,
            blocked_since: None,
            last_call_since: None,
            leaving_since: None,
            is_http2: false,
            client: Client::New,
            holder: source,
            awaited_since: None,
            grant: None,
            is_told: false,
            running: 0,
            admitted: 0,
            refused: 0,
            sending: BTreeMap::new(),
            next: 0,
        };
        Arc::new(Self { state: Mutex::new(state), close: Notify::new() })
    }

    /// Locks the state, whose every value is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Notes that the handshake is done: the first request has its own time.
    pub(in crate::api) fn shook_hands(&self) {
        self.state().quiet_since = Instant::now();
    }

    /// Notes that the client speaks HTTP/2.
    pub(in crate::api) fn speaks_http2(&self) {
        let mut state = self.state();
        state.is_http2 = true;
        state.head_since = None;
    }

    /// Notes that octets came in: between requests of HTTP/1, they begin a head.
    pub(in crate::api) fn heard(&self) {
        let mut state = self.state();
        if state.running == 0 && !state.is_http2 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
    }

    /// Notes that the server looked for octets and none had come: a request that was sent with the connection would
    /// have been there.
    pub(in crate::api) fn awaits(&self) {
        let mut state = self.state();
        if state.client != Client::Known {
            state.awaited_since.get_or_insert_with(Instant::now);
        }
    }

    /// Notes whether the client takes nothing of what is sent.
    pub(in crate::api) fn blocked(&self, is_blocked: bool) {
        self.state().blocked_since = is_blocked.then(Instant::now);
    }

    /// Notes that the process stops, and returns whether the connection waits for what may be on its way to it: a
    /// request that runs needs no waiting, and HTTP/2 has its own way to end.
    pub(in crate::api) fn last_call(&self) -> bool {
        let mut state = self.state();
        let waits = state.running == 0 && !state.is_http2;
        if waits {
            state.last_call_since.get_or_insert_with(Instant::now);
        }
        waits
    }

    /// Returns whether a request came after the last call.
    pub(in crate::api) fn came_after_last_call(&self) -> bool {
        let state = self.state();
        let came = |since| state.running > 0 || state.is_http2 || state.quiet_since > since;
        state.last_call_since.is_some_and(came)
    }

    /// Notes that the connection is being closed.
    pub(in crate::api) fn leave(&self) {
        self.state().leaving_since.get_or_insert_with(Instant::now);
    }

    /// Notes that a request runs, until what is returned is dropped.
    pub(in crate::api) fn begin(self: &Arc<Self>) -> Turn {
        let mut state = self.state();
        if state.running == 0 {
            state.busy_since = Instant::now();
        }
        state.running += 1;
        state.client = state.client.max(Client::Stranger);
        state.head_since = None;
        let number = state.next;
        state.next += 1;
        drop(state);
        Turn { pulse: Arc::clone(self), is_admitted: false, is_refused: false, number }
    }

    /// Returns the moment at which the connection is late, and why, as it stands now.
    pub(in crate::api) fn due(&self) -> (Instant, Late) {
        let state = self.state();
        let sending = state.sending.values().map(|(end, next)| *end.min(next)).min();
        let blocked = state.blocked_since.map(|since| since + STALL);
        let stalled = [blocked, sending].into_iter().flatten().map(|at| (at, Late::Slow));
        let quiet =
            (state.running == 0).then(|| match (state.leaving_since, state.last_call_since, state.head_since) {
                (Some(since), _, _) => (since + LINGER, Late::Idle),
                (None, Some(since), _) => (since + GRACE, Late::Idle),
                (None, None, Some(since)) => (since + HEAD, Late::Slow),
                (None, None, None) if state.client > Client::New => (state.quiet_since + IDLE, Late::Idle),
                (None, None, None) => (state.quiet_since + HEAD, Late::Slow),
            });
        stalled.chain(quiet).min_by_key(|(at, _)| *at).unwrap_or_else(|| (Instant::now() + FAR, Late::Slow))
    }

    /// Returns how the connection ranks among those that can be closed for another one; `None` where a request runs that
    /// was let in, or it is being closed for one already.
    pub(in crate::api) fn spare(&self) -> Option<Spare> {
        let state = self.state();
        if state.admitted > 0 || state.is_told {
            return None;
        }
        let has_request = state.running > 0;
        let (is_known, from) = match (state.leaving_since, state.client) {
            (Some(since), _) => (false, since + FAREWELL),
            (None, Client::Known) if has_request => (true, state.busy_since + PATIENCE),
            (None, Client::Known) => (true, state.quiet_since + GRACE),
            // Before the server has looked, the request may be there.
            (None, _) => (false, state.awaited_since.map_or(state.quiet_since + GRACE, |since| since + SILENCE)),
        };
        Some(Spare { is_known, holder: state.holder, has_request, from })
    }

    /// Tells the connection to make room.
    pub(in crate::api) fn close(&self) {
        self.state().is_told = true;
        self.close.notify_one();
    }

    /// Returns whether it was told to make room.
    pub(in crate::api) fn is_told_to_close(&self) -> bool {
        self.state().is_told
    }

    /// Waits until it has to make room.
    pub(in crate::api) async fn told_to_close(&self) {
        self.close.notified().await;
    }
}

/// A request that runs, from its head to the end of its answer.
pub(in crate::api) struct Turn {
    /// Its connection.
    pulse: Arc<Pulse>,
    /// Whether it was let in.
    is_admitted: bool,
    /// Whether it was refused.
    is_refused: bool,
    /// Its number among those of its connection.
    number: u64,
}

impl Turn {
    /// Notes that the request has a token of the file.
    pub(in crate::api) fn know(&self, requester: Requester) {
        let mut state = self.pulse.state();
        state.client = Client::Known;
        state.holder = requester.holder;
    }

    /// Notes that the request is let in to wait, so that its connection stays.
    pub(in crate::api) fn admit(&mut self) {
        self.pulse.state().admitted += usize::from(!self.is_admitted);
        self.is_admitted = true;
    }

    /// Lets the request in once its connection has its part of those with requests under way; returns whether it has.
    pub(in crate::api) async fn admit_busy(&mut self, connections: &Arc<Quota>, requester: Requester) -> bool {
        // The part of a connection is that of the first request; further ones come with it.
        if self.pulse.state().admitted == 0 {
            let Some(grant) = connections.wait(requester, 1, quotas::deadline()).await else { return false };
            // Another request may have got one meanwhile: this one is given back, without the lock.
            let spare = self.pulse.state().grant.replace(grant);
            drop(spare);
        }
        self.admit();
        true
    }

    /// Notes that the request is refused. A connection whose client takes no refusals is closed: each takes memory, and none
    /// has a part of a quota.
    pub(in crate::api) fn refuse(&mut self) {
        let mut state = self.pulse.state();
        state.refused += usize::from(!self.is_refused);
        let is_flooding = state.refused > MAX_REFUSED;
        drop(state);
        self.is_refused = true;
        if is_flooding {
            self.pulse.close.notify_one();
        }
    }

    /// Notes that its answer is ready, or that something of it was taken.
    pub(in crate::api) fn sent(&self) {
        let now = Instant::now();
        let mut state = self.pulse.state();
        let (_, next) = state.sending.entry(self.number).or_insert((now + WHOLE, now));
        *next = now + STALL;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.pulse.state();
        state.running -= 1;
        state.admitted -= usize::from(self.is_admitted);
        state.refused -= usize::from(self.is_refused);
        state.sending.remove(&self.number);
        state.quiet_since = Instant::now();
        let grant = if state.admitted == 0 { state.grant.take() } else { None };
        drop(state);
        // Giving it back may let in a request of this connection, which takes the lock.
        drop(grant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the pulse of a connection.
    fn pulse() -> Arc<Pulse> {
        Pulse::new(Holder::named("192.0.2.1"))
    }

    /// A token.
    fn token() -> Requester {
        Requester { holder: Holder::named("token"), is_admin: true }
    }

    /// Returns how long a connection has from now.
    fn left(pulse: &Pulse) -> (Duration, Late) {
        let (at, why) = pulse.due();
        (at.duration_since(Instant::now()), why)
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_own_time() {
        let pulse = pulse();
        assert_eq!(left(&pulse), (HEAD, Late::Slow), "the first request");
        tokio::time::advance(Duration::from_secs(2)).await;
        let mut turn = pulse.begin();
        assert_eq!(left(&pulse), (FAR, Late::Slow), "what runs has its own");
        turn.admit();
        turn.sent();
        assert_eq!(left(&pulse), (STALL, Late::Slow), "an answer that is not taken");
        tokio::time::advance(Duration::from_secs(2)).await;
        turn.sent();
        assert_eq!(left(&pulse), (STALL, Late::Slow));
        tokio::time::advance(Duration::from_secs(115)).await;
        turn.sent();
        assert_eq!(left(&pulse), (Duration::from_secs(3), Late::Slow), "an answer that is taken in sips");
        drop(turn);
        assert_eq!(left(&pulse), (IDLE, Late::Idle));
        pulse.heard();
        tokio::time::advance(Duration::from_secs(1)).await;
        pulse.heard();
        assert_eq!(left(&pulse), (Duration::from_secs(4), Late::Slow), "a head that comes octet by octet");
        pulse.speaks_http2();
        pulse.heard();
        assert_eq!(left(&pulse).1, Late::Idle, "a frame is no head");
        pulse.blocked(true);
        assert_eq!(left(&pulse), (STALL, Late::Slow));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_its_way_when_the_process_stops_has_a_moment_to_come() {
        let [silent, asked, busy, http2] = std::array::from_fn(|_| pulse());
        let turn = busy.begin();
        http2.speaks_http2();
        assert!(silent.last_call() && asked.last_call());
        assert!(!busy.last_call() && !http2.last_call(), "these are told to end as they are");
        drop(turn);
        tokio::time::advance(Duration::from_millis(200)).await;
        silent.heard();
        drop(asked.begin());
        assert!(!silent.came_after_last_call() && asked.came_after_last_call());
        assert_eq!(left(&silent), (Duration::from_millis(300), Late::Idle), "a head that comes slowly has no more");
    }

    /// Notes that a connection had a request with a token.
    fn make_known(pulse: &Arc<Pulse>) {
        pulse.begin().know(token());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_without_a_token_are_closed_first_and_busy_ones_never() {
        let [silent, unread, known, busy] = std::array::from_fn(|_| pulse());
        make_known(&known);
        let mut turn = busy.begin();
        turn.know(token());
        let waiting = busy.spare().unwrap();
        assert!(waiting.is_known && waiting.has_request, "what waits for its part can be closed");
        turn.admit();
        assert_eq!(busy.spare(), None);
        silent.awaits();
        let start = Instant::now();
        assert_eq!(silent.spare().unwrap().from, start + SILENCE);
        tokio::time::advance(Duration::from_millis(20)).await;
        silent.heard();
        silent.awaits();
        assert_eq!(silent.spare().unwrap().from, start + SILENCE, "octet by octet it gets no more time");
        assert_eq!(unread.spare().unwrap().from, start + GRACE, "its request may be there");
        let known_spare = known.spare().unwrap();
        assert!(known_spare.is_known && known_spare.holder == token().holder && !silent.spare().unwrap().is_known);
        known.leave();
        assert!(!known.spare().unwrap().is_known, "a connection that is being closed has no token any more");
        silent.close();
        assert_eq!(silent.spare(), None, "each is told once");
        silent.told_to_close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_one_part_of_those_that_are_busy_while_requests_run() {
        let quota = Quota::new(2, 0);
        let [one, other] = std::array::from_fn(|_| pulse());
        let (mut first, mut second, mut third) = (one.begin(), one.begin(), other.begin());
        assert!(first.admit_busy(&quota, token()).await && second.admit_busy(&quota, token()).await);
        assert_eq!(quota.used(), 1);
        assert!(!third.admit_busy(&quota, token()).await, "the token has as much as is free");
        drop(first);
        assert_eq!(quota.used(), 1);
        drop(second);
        assert_eq!(quota.used(), 0);
        assert!(third.admit_busy(&quota, token()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_client_takes_no_refusals_is_closed() {
        let pulse = pulse();
        let refused = || {
            let mut turn = pulse.begin();
            turn.refuse();
            turn
        };
        let is_closed = async || tokio::time::timeout(GRACE, pulse.told_to_close()).await.is_ok();
        (0..2 * MAX_REFUSED).for_each(|_| drop(refused()));
        let _held: Vec<_> = (0..MAX_REFUSED).map(|_| refused()).collect();
        assert!(!is_closed().await);
        let _one_more = refused();
        assert!(is_closed().await);
    }
}
