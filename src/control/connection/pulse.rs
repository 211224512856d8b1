//! What a connection is doing, and until when it may.
//!
//! hyper's own time-outs do not tell a client that is quiet between requests from one that sends a head octet by octet,
//! and none of them sees an answer that is not taken. So the stream, the requests and the answers of a connection note
//! here what happens, and the connection asks for the next moment at which it is late.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a TLS handshake, the first request and each head may take.
pub(in crate::control) const HEAD: Duration = Duration::from_secs(5);
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
pub(in crate::control) const GRACE: Duration = Duration::from_millis(500);
/// As [`GRACE`], of one that was told all it will be.
const FAREWELL: Duration = Duration::from_millis(100);
/// As good as never: a request that runs has times of its own.
const FAR: Duration = Duration::from_hours(1);

/// What a connection is doing; shared by its stream, its requests and its answers.
pub(in crate::control) struct Pulse {
    /// What it is.
    state: Mutex<State>,
    /// Tells it to make room for another one.
    close: Notify,
    /// Told when its client turns out to have a token, which makes another one the first to go.
    known: Arc<Notify>,
}

/// What is known of a connection.
struct State {
    /// Since when no request runs; at first, since it is open.
    quiet_since: Instant,
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
    /// Whether it has been told to make room.
    is_told: bool,
    /// Requests that run.
    running: usize,
    /// Of those, the ones that were let in.
    admitted: usize,
    /// Until when each answer under way has to be taken further.
    sending: BTreeMap<u64, Instant>,
    /// The number of the next answer.
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
pub(in crate::control) enum Late {
    /// It was silent between requests: it may be closed in good manners.
    Idle,
    /// Its client is too slow.
    Slow,
}

impl Pulse {
    /// Begins with a connection that was just opened; `known` is told when its client turns out to have a token.
    pub(in crate::control) fn new(known: Arc<Notify>) -> Arc<Self> {
        let state = State {
            quiet_since: Instant::now(),
            head_since: None,
            blocked_since: None,
            last_call_since: None,
            leaving_since: None,
            is_http2: false,
            client: Client::New,
            is_told: false,
            running: 0,
            admitted: 0,
            sending: BTreeMap::new(),
            next: 0,
        };
        Arc::new(Self { state: Mutex::new(state), close: Notify::new(), known })
    }

    /// Locks the state, whose every value is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the handshake is done: the first request has its own time.
    pub(in crate::control) fn shook_hands(&self) {
        self.state().quiet_since = Instant::now();
    }

    /// Notes that the client speaks HTTP/2.
    pub(in crate::control) fn speaks_http2(&self) {
        let mut state = self.state();
        state.is_http2 = true;
        state.head_since = None;
    }

    /// Notes that octets came in: between requests of HTTP/1, they begin a head.
    pub(in crate::control) fn heard(&self) {
        let mut state = self.state();
        if state.running == 0 && !state.is_http2 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
    }

    /// Notes whether the client takes nothing of what is sent.
    pub(in crate::control) fn blocked(&self, is_blocked: bool) {
        self.state().blocked_since = is_blocked.then(Instant::now);
    }

    /// Notes that the process stops, and returns whether the connection waits for what may be on its way to it: a
    /// request that runs needs no waiting, and HTTP/2 has its own way to end.
    pub(in crate::control) fn last_call(&self) -> bool {
        let mut state = self.state();
        let waits = state.running == 0 && !state.is_http2;
        if waits {
            state.last_call_since.get_or_insert_with(Instant::now);
        }
        waits
    }

    /// Returns whether a request came after the last call.
    pub(in crate::control) fn came_after_last_call(&self) -> bool {
        let state = self.state();
        let came = |since| state.running > 0 || state.is_http2 || state.quiet_since > since;
        state.last_call_since.is_some_and(came)
    }

    /// Notes that the connection is being closed.
    pub(in crate::control) fn leave(&self) {
        self.state().leaving_since.get_or_insert_with(Instant::now);
    }

    /// Notes that a request runs, until what is returned is dropped.
    pub(in crate::control) fn begin(self: &Arc<Self>) -> Turn {
        let mut state = self.state();
        state.running += 1;
        state.client = state.client.max(Client::Stranger);
        state.head_since = None;
        drop(state);
        Turn { pulse: Arc::clone(self), is_admitted: false, sending: None }
    }

    /// Returns the moment at which the connection is late, and why, as it stands now.
    pub(in crate::control) fn due(&self) -> (Instant, Late) {
        let state = self.state();
        let sending = state.sending.values().min().copied();
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

    /// Returns its rank among those that may be closed for another one, and from when on: the lowest goes first. Strangers
    /// and those who are leaving go before those who had a token, and then whoever has been quiet for longest. Who runs a
    /// request that was let in stays.
    pub(in crate::control) fn rank(&self) -> Option<(bool, Instant)> {
        let state = self.state();
        let (stays, from) = match state.leaving_since {
            Some(since) => (false, since + FAREWELL),
            None => (state.client == Client::Known, state.quiet_since + GRACE),
        };
        (state.admitted == 0 && !state.is_told).then_some((stays, from))
    }

    /// Tells the connection to make room.
    pub(in crate::control) fn close(&self) {
        self.state().is_told = true;
        self.close.notify_one();
    }

    /// Waits until it has to make room.
    pub(in crate::control) async fn told_to_close(&self) {
        self.close.notified().await;
    }
}

/// A request that runs, from its head to the end of its answer.
pub(in crate::control) struct Turn {
    /// Its connection.
    pulse: Arc<Pulse>,
    /// Whether it was let in.
    is_admitted: bool,
    /// The number of its answer, and until when all of it has to be taken.
    sending: Option<(u64, Instant)>,
}

impl Turn {
    /// Notes that it was let in.
    pub(in crate::control) fn admit(&mut self) {
        let mut state = self.pulse.state();
        if state.client != Client::Known {
            state.client = Client::Known;
            self.pulse.known.notify_one();
        }
        if !self.is_admitted {
            state.admitted += 1;
        }
        self.is_admitted = true;
    }

    /// Notes that its answer is ready, or that something of it was taken.
    pub(in crate::control) fn sent(&mut self) {
        let mut state = self.pulse.state();
        let now = Instant::now();
        let (number, end) = *self.sending.get_or_insert((state.next, now + WHOLE));
        state.next = state.next.max(number + 1);
        state.sending.insert(number, end.min(now + STALL));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.pulse.state();
        state.running -= 1;
        state.admitted -= usize::from(self.is_admitted);
        if let Some((number, _)) = self.sending {
            state.sending.remove(&number);
        }
        state.quiet_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how long a connection has from now.
    fn left(pulse: &Pulse) -> (Duration, Late) {
        let (at, why) = pulse.due();
        (at.duration_since(Instant::now()), why)
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_own_time() {
        let pulse = Pulse::new(Arc::default());
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
        let [silent, asked, busy, http2] = std::array::from_fn(|_| Pulse::new(Arc::default()));
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

    #[tokio::test(start_paused = true)]
    async fn strangers_make_room_before_those_with_a_token_and_who_runs_stays() {
        let [old, new, known, busy] = std::array::from_fn(|_| Pulse::new(Arc::default()));
        known.begin().admit();
        let mut turn = busy.begin();
        turn.admit();
        tokio::time::advance(Duration::from_secs(1)).await;
        new.shook_hands();
        assert!(old.rank() < new.rank() && new.rank() < known.rank());
        assert_eq!(busy.rank(), None);
        known.leave();
        assert!(known.rank() < new.rank(), "who has been told all goes before who has asked for nothing yet");
        old.close();
        assert_eq!(old.rank(), None, "each is told once");
        old.told_to_close().await;
    }
}
