//! One upstream: the ways to it, how it has been doing, and what a reply of it means.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::capability::Capabilities;
use super::health::{Health, Probe, Trouble};
use super::pool::{QUESTION_TIME, Settings};
use super::probe::probe_of;
use super::race::hash;
use super::reply::{TryError, read};
use super::server::{Server, Transport};
use super::stream::{Stream, StreamError};
use super::udp::{self, Reply, UdpError};
use super::{Event, FailureKind, Observer};
use crate::dns::rebinding::Reach;
use crate::dns::response::{Casing, Edns, Question, ReplyCheck, Response, is_reply_to};
use crate::fair_share::Holder;
use crate::util::lock;

/// An upstream in use; it outlives a change of the configuration that keeps it.
pub(super) struct Endpoint {
    /// Its address and transport.
    pub(super) server: Server,
    /// The TCP connection to it, opened when a question needs TCP.
    stream: Stream,
    /// Its measured state, by which it is chosen.
    health: Mutex<Health>,
    /// The counts of its tries since the start.
    pub(super) counts: UpstreamCounts,
    /// The features that it is known to lack.
    capabilities: Capabilities,
}

/// The counts of an upstream's tries since the start, for the status and the metrics.
#[derive(Debug, Default)]
pub(super) struct UpstreamCounts {
    /// The number of tries started.
    pub(super) asked: AtomicU64,
    /// The number of tries answered.
    pub(super) answered: AtomicU64,
    /// The number of tries that failed otherwise than by silence.
    pub(super) failed: AtomicU64,
    /// The number of tries that timed out.
    pub(super) silent: AtomicU64,
}

/// The counts of upstreams that were heard again; all views of a process share them.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// Replies after silence, be it as short as one lost datagram: questions that still wait are worth another try.
    pub(super) from_silence: AtomicU64,
    /// Replies after a question got none in its whole time, or after the network refused: failures in the cache are out of date.
    pub(super) from_loss: AtomicU64,
}

/// The settings, clock and limits that all tries at all upstreams share.
pub(super) struct Surroundings {
    /// The start of the process, from which [`Health`] counts time.
    pub(super) epoch: Instant,
    /// The time over which the tries of a question are spread.
    pub(super) timeout: Duration,
    /// Whether queries over UDP have their name in random case (0x20).
    pub(super) case_randomisation: bool,
    /// The classification of the addresses in replies, for rebinding protection.
    pub(super) reach: Reach,
    /// Permits for open UDP sockets.
    pub(super) sockets: Arc<Semaphore>,
    /// The number of those permits that only the first try at a question gets. A question that no upstream answers takes three
    /// sockets, and a client that asks such questions must not leave other clients without one.
    pub(super) sockets_of_first_tries: usize,
    /// The receiver of events, for the metrics.
    pub(super) observer: Arc<dyn Observer>,
    /// The counts of upstreams that were heard again.
    pub(super) returns: Arc<Returns>,
    /// The time between two probes of an upstream, in milliseconds: longer where there are many to probe.
    pub(super) probe_every: AtomicU64,
}

impl Surroundings {
    /// Returns what the tries of upstreams with these settings share; the clock and the count of returns outlive a reload.
    pub(super) fn new(
        settings: Settings,
        sockets: Arc<Semaphore>,
        observer: Arc<dyn Observer>,
        (epoch, returns): (Instant, Arc<Returns>),
    ) -> Self {
        let Settings { timeout, max_sockets, case_randomisation, reach } = settings;
        let sockets_of_first_tries = max_sockets / 4 * 3;
        Self {
            epoch,
            timeout,
            case_randomisation,
            reach,
            sockets,
            sockets_of_first_tries,
            observer,
            returns,
            probe_every: AtomicU64::default(),
        }
    }

    /// Returns the longest time that a question may take.
    pub(super) fn question_time(&self) -> Duration {
        self.timeout.max(QUESTION_TIME)
    }
}

/// The parameters of one try.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    /// The transport that is tried first.
    pub(super) over: Transport,
    /// The time without a reply after which the try counts as a silence of the upstream.
    pub(super) patience: Duration,
    /// The longest time for which a TCP connection may have owed replies and still be used.
    pub(super) stalled: Duration,
    /// Whether another try at the question has a socket already. This one then fails if few sockets are left.
    pub(super) is_further: bool,
    /// The client that asked: an outage is only reported for failures that several clients saw.
    pub(super) client: Holder,
}

/// The result of a try that was answered.
pub(super) struct Success {
    /// The answer.
    pub(super) response: Response,
    /// The transport that the answer came over.
    pub(super) transport: Transport,
}

impl Endpoint {
    /// Returns an upstream that nothing is known of.
    pub(super) fn new(server: Server, now: Duration) -> Self {
        Self {
            server,
            stream: Stream::new(server.address),
            health: Mutex::new(Health::new(now)),
            counts: UpstreamCounts::default(),
            capabilities: Capabilities::default(),
        }
    }

    /// Locks what is known of it. Each change is complete in itself, so a poisoned lock is as good.
    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }

    /// Returns the case of the next query's QNAME; `bits` gives random ones.
    pub(super) fn casing(&self, bits: impl FnOnce() -> u64, around: &Surroundings) -> Casing {
        if !around.case_randomisation {
            return Casing::LOWER;
        }
        self.capabilities.casing(bits, || around.epoch.elapsed())
    }

    /// Notes that it answered in another case than it was asked in, and then to the same in lower case.
    pub(super) fn note_loses_case(&self, around: &Surroundings) {
        self.capabilities.note_loses_case(around.epoch.elapsed());
    }

    /// Returns how much of EDNS the next query has.
    pub(super) fn edns(&self, around: &Surroundings) -> Edns {
        self.capabilities.edns(|| around.epoch.elapsed())
    }

    /// Notes what came of a query with this much of EDNS: if it was understood, and one with more was not, it is remembered.
    pub(super) fn note_edns<T>(&self, edns: Edns, outcome: Result<&T, &TryError>, around: &Surroundings) {
        let is_understood = match outcome {
            Ok(_) => true,
            Err(error) => error.rcode.is_some_and(|rcode| !Edns::is_rejected_by(rcode)),
        };
        if is_understood && edns > self.edns(around) {
            self.capabilities.note_understands(edns, around.epoch.elapsed());
        }
    }

    /// Makes one try at `question` and waits for ever; a caller that gives up drops the future. Health and counts are kept
    /// either way: being dropped after longer than the try's patience counts as the upstream's silence.
    pub(super) async fn ask(
        &self,
        question: &Question,
        attempt: Attempt,
        around: &Surroundings,
    ) -> Result<Success, TryError> {
        let Attempt { over, patience, is_further, .. } = attempt;
        let _permit = match over {
            Transport::Udp if is_further && around.sockets.available_permits() <= around.sockets_of_first_tries => {
                return Err(out_of_sockets(&"the sockets left are for questions that have none"));
            }
            Transport::Udp => match timeout(patience, around.sockets.acquire()).await {
                Ok(Ok(permit)) => Some(permit),
                _ => return Err(out_of_sockets(&"as many sockets are in use as may be")),
            },
            Transport::Tcp => None,
        };
        self.note_asked();
        let mut watch = Watch { endpoint: self, question, around, since: Instant::now(), patience, is_over: false };
        let mut edns = self.edns(around);
        let result = loop {
            let result = self.exchange(question, edns, attempt, around).await;
            match result.as_ref().err().and_then(|error| error.less(edns, question)) {
                Some(less) => edns = less,
                None => break result,
            }
        };
        self.note_edns(edns, result.as_ref(), around);
        watch.is_over = true;
        let taken = watch.since.elapsed();
        match &result {
            Ok(success) => self.note_answered(question, success.transport, taken, around),
            Err(error) => self.note_failed(question, attempt.client, error.kind, taken, around),
        }
        result
    }

    /// Counts a try that is started.
    pub(super) fn note_asked(&self) {
        self.counts.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes an answer after `taken`.
    pub(super) fn note_answered(
        &self,
        question: &Question,
        transport: Transport,
        taken: Duration,
        around: &Surroundings,
    ) {
        self.counts.answered.fetch_add(1, Ordering::Relaxed);
        let answered = match probe_of(question) {
            None => Health::answered,
            Some(Probe::Root) => Health::answered_root,
            Some(Probe::Name) => Health::answered_probe,
        };
        self.change_health(around, |health, now| answered(health, taken, now));
        around.observer.observe(Event::Answered(transport, taken));
    }

    /// Notes a try at a client's question that failed after `taken`.
    pub(super) fn note_failed(
        &self,
        question: &Question,
        client: Holder,
        kind: FailureKind,
        taken: Duration,
        around: &Surroundings,
    ) {
        self.change_health(around, |health, now| {
            let sent = now.saturating_sub(taken);
            match (kind, probe_of(question)) {
                // Not the upstream's doing.
                (FailureKind::Busy | FailureKind::NoUpstream, _) => {}
                // A reply that cannot be read may be forged, so for a probe it shows no more than silence does.
                (FailureKind::Timeout, _) | (FailureKind::Malformed, Some(Probe::Root)) => {
                    health.failed(Trouble::Silent, sent, now);
                }
                (FailureKind::Network, _) => health.failed(Trouble::Unreachable, sent, now),
                (FailureKind::Malformed, Some(Probe::Name)) => health.failed_at_probe(false, sent, now),
                (kind, Some(Probe::Root)) => {
                    let is_refusal = matches!(kind, FailureKind::Refused | FailureKind::Lame);
                    health.failed_at_root(is_refusal, sent, now);
                }
                (_, Some(Probe::Name)) => health.failed_at_probe(true, sent, now),
                (FailureKind::Malformed | FailureKind::Lame | FailureKind::Refused | FailureKind::ServFail, None) => {
                    health.failed_at_name(hash(zone(question)), client, sent, now);
                }
            }
        });
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        observe_failure(question, kind, around);
    }

    /// Notes that a question was refused by the network again after a pause: one failure with the first time.
    pub(super) fn note_refused_again(&self, taken: Duration, around: &Surroundings) {
        self.change_health(around, |health, now| {
            health.failed(Trouble::Unreachable, now.saturating_sub(taken), now);
        });
    }

    /// Notes a reply that is no answer and yet no failure of the upstream's.
    pub(super) fn note_heard(&self, around: &Surroundings) {
        self.change_health(around, Health::heard);
    }

    /// Notes that a question, known by its hash and first asked `waited` ago, got no reply in its whole time.
    pub(super) fn note_unanswered(&self, question: u64, waited: Duration, around: &Surroundings) {
        self.change_health(around, |health, now| health.unanswered(question, now.saturating_sub(waited)));
    }

    /// Changes what is known of its health, and counts it if it replied again after it was gone.
    fn change_health(&self, around: &Surroundings, change: impl FnOnce(&mut Health, Duration)) {
        let mut health = self.health();
        let was_silent = health.is_silent();
        change(&mut health, around.epoch.elapsed());
        if was_silent && !health.is_silent() {
            around.returns.from_silence.fetch_add(1, Ordering::Relaxed);
        }
        if health.take_return() {
            around.returns.from_loss.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that another upstream had the answer where this one had none: so it was not the name's doing.
    pub(super) fn note_outdone(&self, around: &Surroundings) {
        self.change_health(around, |health, now| health.failed(Trouble::Failed, now, now));
    }

    /// Notes a try that was given up after it was let pass in silence for `waited`.
    pub(super) fn note_silent(&self, question: &Question, waited: Duration, around: &Surroundings) {
        self.counts.silent.fetch_add(1, Ordering::Relaxed);
        self.change_health(around, |health, now| {
            let sent = now.saturating_sub(waited);
            match probe_of(question) {
                Some(Probe::Name) => health.failed_at_probe(false, sent, now),
                Some(Probe::Root) | None => health.failed(Trouble::Silent, sent, now),
            }
        });
        observe_failure(question, FailureKind::Timeout, around);
    }

    /// Asks over UDP from a port of its own, and from another one when that is flooded.
    async fn ask_over_udp(
        &self,
        question: &Question,
        form: (Casing, Edns),
        observer: &dyn Observer,
    ) -> Result<Reply, TryError> {
        let of_udp = |error| of_udp(error, observer);
        match udp::ask(self.server.address, question, form, observer).await.map_err(of_udp)? {
            Reply::Flooded => udp::ask(self.server.address, question, form, observer).await.map_err(of_udp),
            reply => Ok(reply),
        }
    }

    /// Asks over UDP, and over TCP what UDP truncated or where floods of wrong replies came; or over TCP at once.
    async fn exchange(
        &self,
        question: &Question,
        edns: Edns,
        attempt: Attempt,
        around: &Surroundings,
    ) -> Result<Success, TryError> {
        let observer = &*around.observer;
        if attempt.over == Transport::Udp {
            let casing = self.casing(random_bits, around);
            let mut reply = self.ask_over_udp(question, (casing, edns), observer).await?;
            if matches!(reply, Reply::OtherCase) {
                reply = self.ask_over_udp(question, (Casing::LOWER, edns), observer).await?;
            }
            match reply {
                // Lower case has no other, so this does not occur.
                Reply::OtherCase | Reply::Flooded => {}
                Reply::Complete(bytes) => {
                    return read(&bytes, question, &around.reach)
                        .map(|response| Success { response, transport: Transport::Udp });
                }
                Reply::Garbled => return Err(TryError::garbled()),
                Reply::Bare(rcode) => return Err(TryError::unwilling(rcode, None)),
                Reply::Truncated => observer.observe(Event::Truncated),
            }
        }
        observer.observe(Event::Sent(Transport::Tcp));
        let bytes =
            self.stream.ask(question, edns, attempt.stalled).await.map_err(|error| of_stream(&error, observer))?;
        let id = bytes.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        match is_reply_to(&bytes, id, question, Casing::LOWER) {
            ReplyCheck::Ours { truncated: false, .. } => {
                read(&bytes, question, &around.reach).map(|response| Success { response, transport: Transport::Tcp })
            }
            ReplyCheck::Ours { .. } => Err(TryError::new(FailureKind::Malformed, &"truncated over TCP")),
            ReplyCheck::NotOurs | ReplyCheck::OtherCase => match udp::bare_failure(&bytes, id) {
                Some(rcode) => Err(TryError::unwilling(rcode, None)),
                None => Err(TryError::new(FailureKind::Malformed, &"reply to another question over TCP")),
            },
        }
    }
}

/// Counts a failed try; not one of a probe, of which there is one a second for as long as an outage lasts.
fn observe_failure(question: &Question, kind: FailureKind, around: &Surroundings) {
    if probe_of(question).is_none() {
        around.observer.observe(Event::Failed(kind));
    }
}

/// Returns the last two labels of what is asked for, in wire form: most zones that fail on their own are that long.
fn zone(question: &Question) -> &[u8] {
    let qname = &question.qname;
    let above = qname.suffixes().count().saturating_sub(2);
    qname.suffixes().nth(above).unwrap_or_default()
}

/// Returns random bits from the kernel; none where it has none, and then the ID cannot be had either.
pub(super) fn random_bits() -> u64 {
    getrandom::u64().unwrap_or(0)
}

/// Returns the failure to have a socket.
fn out_of_sockets(detail: &dyn ToString) -> TryError {
    TryError::new(FailureKind::Busy, detail)
}

/// Returns what a failure over UDP comes to.
fn of_udp(error: UdpError, observer: &dyn Observer) -> TryError {
    match error {
        UdpError::Local(error) => {
            if is_out_of_descriptors(&error) {
                observer.observe(Event::NoDescriptor);
            }
            out_of_sockets(&error)
        }
        UdpError::Network(error) => TryError::network(&error),
    }
}

/// Returns whether the system has no descriptor left, for this process or for all.
fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Returns what a failure over TCP comes to.
fn of_stream(error: &StreamError, observer: &dyn Observer) -> TryError {
    let kind = match error {
        StreamError::Busy => FailureKind::Busy,
        StreamError::Refused(error) if is_out_of_descriptors(error) => {
            observer.observe(Event::NoDescriptor);
            FailureKind::Busy
        }
        StreamError::NotOpened => FailureKind::Timeout,
        StreamError::Refused(error) if error.kind() == std::io::ErrorKind::TimedOut => FailureKind::Timeout,
        StreamError::Refused(_) | StreamError::Closed(_) => FailureKind::Network,
    };
    TryError::new(kind, &format_args!("tcp: {error}"))
}

/// A guard that records the outcome of a try in the health of its upstream, also if the try is given up.
struct Watch<'a> {
    /// The upstream that is asked.
    endpoint: &'a Endpoint,
    /// The question.
    question: &'a Question,
    /// The clock and the receiver of events.
    around: &'a Surroundings,
    /// The time at which the try began.
    since: Instant,
    /// The time without a reply that is not yet a silence.
    patience: Duration,
    /// Whether the try ended by itself, with its outcome recorded.
    is_over: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        if self.is_over || waited < self.patience {
            return;
        }
        self.endpoint.note_silent(self.question, waited, self.around);
    }
}
