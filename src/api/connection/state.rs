//! The state of a connection: its deadlines, and its rank when a connection has to be closed for a new one.
//!
//! hyper's own time-outs do not suffice: its time-out for heads also ends idle connections, none notices an answer that
//! is not read, and none applies to HTTP/2. So the stream, the requests and the answers of a connection report here.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::api::quotas;
use crate::bounds::MAX_REFUSED;
use crate::fair_share::Holder;
use crate::fair_share::quota::{Quota, Requester, Reservation};
use crate::util::lock;

/// The time limit of a TLS handshake, of the wait for the first request, and of each head.
pub(in crate::api) const HEAD: Duration = Duration::from_secs(5);
/// The time limit for a client to read more of an answer.
const STALL: Duration = Duration::from_secs(10);
/// The time limit of a whole answer: a client that reads octet by octet would hold its share of the quotas for ever.
const WHOLE: Duration = Duration::from_mins(2);
/// The time limit between requests. The SDKs keep a connection for five seconds (httpx), programs for up to a minute.
const IDLE: Duration = Duration::from_mins(1);
/// The time for which a connection that is being closed is read, as a reset would lose the answer (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
/// The least time without requests before a connection is closed: a request may be on its way.
pub(in crate::api) const GRACE: Duration = Duration::from_millis(500);
/// As [`GRACE`], for a connection that is being closed already.
const CLOSING_GRACE: Duration = Duration::from_millis(100);
/// The time that a client without a token has for octets to arrive before its connection can be closed for a new one.
const SILENCE: Duration = Duration::from_millis(250);
/// The time that a request may wait for its token's share before its connection can be closed for a new one.
const PATIENCE: Duration = Duration::from_millis(500);
/// The longest interval between two looks at the deadline, which may have become shorter.
const LOOK: Duration = Duration::from_millis(500);

/// The state of a connection, shared by its stream, its requests and its answers.
pub(in crate::api) struct ConnectionState {
    state: Mutex<InnerState>,
    /// Notified to close the connection for a new one.
    evict: Notify,
    /// Notified when a request begins.
    begun: Notify,
}

struct InnerState {
    /// The beginning of the present period with requests, or without.
    since: Instant,
    /// The time at which the first octet of a head came.
    head_since: Option<Instant>,
    /// The time since which the client reads nothing.
    blocked_since: Option<Instant>,
    /// The time at which the connection began to be closed.
    closing_since: Option<Instant>,
    /// The time since which the server waits for octets of a client without a token.
    awaited_since: Option<Instant>,
    /// Set for HTTP/2, where octets need not be of a request.
    is_http2: bool,
    client: ClientState,
    /// The address, or the token once a request had one.
    holder: Holder,
    /// The reservation of a connection with requests.
    permit: Option<Reservation>,
    is_evicted: bool,
    running: usize,
    /// The running requests with a share of the quotas.
    admitted: usize,
    /// The running requests that were refused: their answers are not read yet.
    refused: usize,
    /// The deadlines of each answer: for all of it, and for the next piece.
    answers: BTreeMap<u64, (Instant, Instant)>,
    /// The number of the next request.
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ClientState {
    /// No request has come.
    New,
    /// No request had a token.
    Unknown,
    /// A request had a token.
    Known,
}

/// The reason why the time of a connection is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Expiry {
    /// The client sent no further request.
    Idle,
    /// The client is too slow.
    Slow,
}

/// The rank of a connection among those that can be closed for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) struct EvictionRank {
    /// Whether it has had a token, and is not being closed.
    pub(in crate::api) is_known: bool,
    pub(in crate::api) holder: Holder,
    /// Whether a request waits for its share of a quota.
    pub(in crate::api) has_request: bool,
    /// The earliest time for it.
    pub(in crate::api) from: Instant,
}

impl ConnectionState {
    /// Makes the state of a connection that was just accepted from `source`.
    pub(in crate::api) fn new(source: Holder) -> Arc<Self> {
        let state = InnerState {
            since: Instant::now(),
            head_since: None,
            blocked_since: None,
            closing_since: None,
            awaited_since: None,
            is_http2: false,
            client: ClientState::New,
            holder: source,
            permit: None,
            is_evicted: false,
            running: 0,
            admitted: 0,
            refused: 0,
            answers: BTreeMap::new(),
            next: 0,
        };
        Arc::new(Self { state: Mutex::new(state), evict: Notify::new(), begun: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, InnerState> {
        lock(&self.state)
    }

    /// Reports the end of the TLS handshake, from which on the first request has its own time limit.
    pub(in crate::api) fn handshake_done(&self) {
        self.state().since = Instant::now();
    }

    /// Reports that the client speaks HTTP/2.
    pub(in crate::api) fn speaks_http2(&self) {
        let mut state = self.state();
        state.is_http2 = true;
        state.head_since = None;
    }

    /// Reports octets of the client. Between requests of HTTP/1 they begin a head.
    pub(in crate::api) fn received(&self) {
        let mut state = self.state();
        if state.running == 0 && !state.is_http2 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
    }

    /// Reports that the server has read all octets: a request that was sent with the connection would have been there.
    pub(in crate::api) fn awaits(&self) {
        let mut state = self.state();
        if state.client != ClientState::Known {
            state.awaited_since.get_or_insert_with(Instant::now);
        }
    }

    /// Reports whether the client reads nothing.
    pub(in crate::api) fn blocked(&self, is_blocked: bool) {
        self.state().blocked_since = is_blocked.then(Instant::now);
    }

    /// Reports that the connection is being closed.
    pub(in crate::api) fn closing(&self) {
        self.state().closing_since.get_or_insert_with(Instant::now);
    }

    /// Reports a request, which runs until the guard is dropped.
    pub(in crate::api) fn begin(self: &Arc<Self>) -> RequestGuard {
        let mut state = self.state();
        if state.running == 0 {
            state.since = Instant::now();
        }
        state.running += 1;
        // A client that was known stays so: its next request may lack a token by mistake.
        state.client = state.client.max(ClientState::Unknown);
        state.head_since = None;
        let number = state.next;
        state.next += 1;
        drop(state);
        self.begun.notify_waiters();
        RequestGuard { connection: Arc::clone(self), is_admitted: false, is_refused: false, number }
    }

    /// Waits until the time of the connection is up.
    pub(in crate::api) async fn expired(&self) -> Expiry {
        loop {
            let now = Instant::now();
            match self.deadline() {
                Some((at, why)) if at <= now => return why,
                deadline => sleep_until(deadline.map_or(now + LOOK, |(at, _)| at.min(now + LOOK))).await,
            }
        }
    }

    /// Returns the deadline of the connection as of now; `None` while a request runs, which has deadlines of its own.
    fn deadline(&self) -> Option<(Instant, Expiry)> {
        let state = self.state();
        let answers = state.answers.values().map(|(end, next)| *end.min(next)).min();
        let blocked = state.blocked_since.map(|since| since + STALL);
        // A blocked socket covers HTTP/1; an HTTP/2 client with a window of one octet blocks nothing.
        let stalled = [blocked, answers].into_iter().flatten().map(|at| (at, Expiry::Slow));
        let idle = (state.running == 0).then(|| match (state.closing_since, state.head_since) {
            (Some(since), _) => (since + LINGER, Expiry::Idle),
            (None, Some(since)) => (since + HEAD, Expiry::Slow),
            (None, None) if state.client > ClientState::New => (state.since + IDLE, Expiry::Idle),
            (None, None) => (state.since + HEAD, Expiry::Slow),
        });
        stalled.chain(idle).min_by_key(|(at, _)| *at)
    }

    /// Waits until the process stops and this connection can be closed. An idle client of HTTP/1 has a moment left, as a
    /// request may be on its way; its answer says that it is the last. HTTP/2 tells the client which requests it serves.
    pub(in crate::api) async fn last_call(&self, stop: &mut watch::Receiver<bool>) {
        // A sender that was dropped means the same.
        let _ = stop.wait_for(|stop| *stop).await;
        let mut begun = pin!(self.begun.notified());
        begun.as_mut().enable();
        let is_idle = {
            let state = self.state();
            state.running == 0 && !state.is_http2
        };
        if is_idle {
            let _ = timeout(GRACE, begun).await;
        }
    }

    /// Returns the rank of the connection for eviction; `None` if an admitted request runs or it was evicted already.
    pub(in crate::api) fn eviction_rank(&self) -> Option<EvictionRank> {
        let state = self.state();
        if state.admitted > 0 || state.is_evicted {
            return None;
        }
        let has_request = state.running > 0;
        let (is_known, from) = match (state.closing_since, state.client) {
            (Some(since), _) => (false, since + CLOSING_GRACE),
            (None, ClientState::Known) if has_request => (true, state.since + PATIENCE),
            (None, ClientState::Known) => (true, state.since + GRACE),
            // Before the server has read for the first time, which takes long on a busy machine, the request may be there.
            (None, _) => (false, state.awaited_since.map_or(state.since + HEAD, |since| since + SILENCE)),
        };
        Some(EvictionRank { is_known, holder: state.holder, has_request, from })
    }

    /// Closes the connection for a new one.
    pub(in crate::api) fn evict(&self) {
        self.state().is_evicted = true;
        self.evict.notify_one();
    }

    pub(in crate::api) fn is_evicted(&self) -> bool {
        self.state().is_evicted
    }

    /// Waits until the connection has to be closed for a new one.
    pub(in crate::api) async fn evicted(&self) {
        self.evict.notified().await;
    }
}

/// A running request, from its head to the end of its answer.
pub(in crate::api) struct RequestGuard {
    connection: Arc<ConnectionState>,
    is_admitted: bool,
    is_refused: bool,
    /// The number among the requests of the connection.
    number: u64,
}

impl RequestGuard {
    /// Reports the token of the request.
    pub(in crate::api) fn has_token(&self, requester: Requester) {
        let mut state = self.connection.state();
        state.client = ClientState::Known;
        state.holder = requester.holder;
    }

    /// Reports that the request has its share of the quotas: its connection is not closed for a new one.
    pub(in crate::api) fn admit(&mut self) {
        self.connection.state().admitted += usize::from(!self.is_admitted);
        self.is_admitted = true;
    }

    /// Admits the request once its connection is within the token's share of connections with requests. Returns whether it
    /// is. Further requests of the connection need no other share.
    pub(in crate::api) async fn admit_busy(&mut self, connections: &Arc<Quota>, requester: Requester) -> bool {
        if self.connection.state().admitted == 0 {
            let permit = connections.wait(requester, 1, quotas::deadline()).await;
            let Some(permit) = permit else { return false };
            // Another request may have got one meanwhile. It is dropped without the lock, as that may admit a request.
            let spare = self.connection.state().permit.replace(permit);
            drop(spare);
        }
        self.admit();
        true
    }

    /// Reports that the request is refused. A client that does not read its refusals is cut off: each takes memory, and no
    /// quota counts it.
    pub(in crate::api) fn refuse(&mut self) {
        let mut state = self.connection.state();
        state.refused += usize::from(!self.is_refused);
        let is_flooding = state.refused > MAX_REFUSED;
        drop(state);
        self.is_refused = true;
        if is_flooding {
            self.connection.evict.notify_one();
        }
    }

    /// Reports that the answer is ready, or that the client has read a piece of it.
    pub(in crate::api) fn sent(&self) {
        let now = Instant::now();
        let mut state = self.connection.state();
        let (_, next) = state.answers.entry(self.number).or_insert((now + WHOLE, now));
        *next = now + STALL;
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        state.running -= 1;
        state.admitted -= usize::from(self.is_admitted);
        state.refused -= usize::from(self.is_refused);
        state.answers.remove(&self.number);
        state.since = Instant::now();
        let permit = if state.admitted == 0 { state.permit.take() } else { None };
        drop(state);
        // Dropping it may admit a request of this connection, which takes the lock.
        drop(permit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the state of a connection.
    fn connection() -> Arc<ConnectionState> {
        ConnectionState::new(Holder::named("192.0.2.1"))
    }

    fn token() -> Requester {
        Requester { holder: Holder::named("token"), is_admin: true }
    }

    /// Returns the time that a connection has from now.
    fn left(connection: &ConnectionState) -> Option<(Duration, Expiry)> {
        connection.deadline().map(|(at, why)| (at.duration_since(Instant::now()), why))
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_own_deadline() {
        let connection = connection();
        assert_eq!(left(&connection), Some((HEAD, Expiry::Slow)), "the first request");
        tokio::time::advance(Duration::from_secs(2)).await;
        let mut request = connection.begin();
        assert_eq!(left(&connection), None, "a request has its own deadlines");
        request.admit();
        request.sent();
        assert_eq!(left(&connection), Some((STALL, Expiry::Slow)), "an answer that is not read");
        tokio::time::advance(Duration::from_secs(2)).await;
        request.sent();
        assert_eq!(left(&connection), Some((STALL, Expiry::Slow)));
        tokio::time::advance(Duration::from_secs(115)).await;
        request.sent();
        assert_eq!(left(&connection), Some((Duration::from_secs(3), Expiry::Slow)), "an answer that is read slowly");
        drop(request);
        assert_eq!(left(&connection), Some((IDLE, Expiry::Idle)));
        connection.received();
        tokio::time::advance(Duration::from_secs(1)).await;
        connection.received();
        assert_eq!(left(&connection), Some((Duration::from_secs(4), Expiry::Slow)), "a head that comes octet by octet");
        connection.speaks_http2();
        connection.received();
        assert_eq!(left(&connection).unwrap().1, Expiry::Idle, "a frame is no head");
        connection.blocked(true);
        assert_eq!(left(&connection), Some((STALL, Expiry::Slow)));
        let start = Instant::now();
        assert_eq!((connection.expired().await, start.elapsed()), (Expiry::Slow, STALL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_on_its_way_when_the_process_stops_has_a_moment_to_come() {
        let [silent, asked, busy, http2] = std::array::from_fn(|_| connection());
        let (stop, stopped) = watch::channel(false);
        let request = busy.begin();
        http2.speaks_http2();
        drop(asked.begin());
        stop.send_replace(true);
        let start = Instant::now();
        let last_call = async |connection: &ConnectionState| {
            connection.last_call(&mut stopped.clone()).await;
            start.elapsed()
        };
        assert_eq!((last_call(&busy).await, last_call(&http2).await), (Duration::ZERO, Duration::ZERO));
        drop(request);
        let ask = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            silent.received();
            drop(asked.begin());
        };
        let (silent, asked, ()) = tokio::join!(last_call(&silent), last_call(&asked), ask);
        assert_eq!((silent, asked), (GRACE, Duration::from_millis(200)), "a head that comes slowly has no more");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_without_a_token_are_closed_first_and_busy_ones_never() {
        let [silent, unread, known, busy] = std::array::from_fn(|_| connection());
        known.begin().has_token(token());
        let mut request = busy.begin();
        request.has_token(token());
        let waiting = busy.eviction_rank().unwrap();
        assert!(waiting.is_known && waiting.has_request, "one that waits for its share can be closed");
        request.admit();
        assert_eq!(busy.eviction_rank(), None);
        silent.awaits();
        let start = Instant::now();
        assert_eq!(silent.eviction_rank().unwrap().from, start + SILENCE);
        tokio::time::advance(Duration::from_millis(20)).await;
        silent.received();
        silent.awaits();
        assert_eq!(silent.eviction_rank().unwrap().from, start + SILENCE, "octet by octet it gets no more time");
        assert_eq!(unread.eviction_rank().unwrap().from, start + HEAD, "its request may be there");
        let rank = known.eviction_rank().unwrap();
        assert!(rank.is_known && rank.holder == token().holder && !silent.eviction_rank().unwrap().is_known);
        known.closing();
        assert!(!known.eviction_rank().unwrap().is_known, "a connection that is being closed has no token any more");
        silent.evict();
        assert_eq!(silent.eviction_rank(), None, "each is closed once");
        silent.evicted().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_takes_one_share_while_its_requests_run() {
        let quota = Quota::new(2, 0);
        let [one, other] = std::array::from_fn(|_| connection());
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
    async fn a_client_that_does_not_read_refusals_is_cut_off() {
        let connection = connection();
        let refused = || {
            let mut request = connection.begin();
            request.refuse();
            request
        };
        let is_closed = async || timeout(GRACE, connection.evicted()).await.is_ok();
        (0..2 * MAX_REFUSED).for_each(|_| drop(refused()));
        let _held: Vec<_> = (0..MAX_REFUSED).map(|_| refused()).collect();
        assert!(!is_closed().await);
        let _one_more = refused();
        assert!(is_closed().await);
    }
}
