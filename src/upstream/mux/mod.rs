//! Asking upstreams over UDP from the thread that took the query: the way of nearly every cache miss.
//!
//! A thread has a few connected sockets to an upstream and many questions on each, told apart by ID. A question that
//! is not answered within the patience its upstream is given goes out again, to the next upstream or to the same, with
//! an ID of its own and by chance from another port; whichever try is answered first counts. So a lost datagram costs
//! one patience, and no other thread has to do with it. For what is out of the ordinary (a failure, an answer that needs
//! TCP) a task asks on by [`Upstreams::ask_after`], with a [`PreviousTries`] that says what is known: see [`task`].
//!
//! Deadlines are kept by a [`Wheel`], which says why.
//!
//! Against forged replies (RFC 5452): each query takes one of a few random ports by chance, a random ID and a random
//! case of its QNAME, which a reply must have exactly (draft-vixie-dnsext-dns0x20; see [`Case`]); the kernel drops what does
//! not come from the upstream's address and port; ports are given up after a while. A port at which somebody guesses is left
//! at once: what is in flight on it is asked again from a new port, its client's own, and over TCP when that one is flooded as
//! well. Replies that come too late are told from guesses by what was asked from their port.

mod fallback;
mod flood;
mod outstanding;
mod ports;
mod readiness;
mod refused;
mod retransmission;
mod task;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow::{self, Continue};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use mio::{Events, Token};

use self::outstanding::{Case, Outstanding, Try};
use self::ports::{Key, Ports};
pub(crate) use self::readiness::{Inbox, Readiness};
use self::readiness::{Message, POSTED, WATCHED};
use self::task::lost;
use super::endpoint::Returns;
use super::pool::{DEAD_TIME, First};
use super::reply::{self, TryError};
use super::scope::Shown;
use super::udp;
use super::wheel::Wheel;
use super::{Event, Failure, FailureKind, PreviousTries, Transport, Unanswered, Upstreams};
use crate::bounds::MAX_ASKERS;
use crate::datagram::{Receiver, Wait};
use crate::dns::response::{Casing, Question, ReplyCheck, Response, is_reply_to};
use crate::fair_share::{Holder, Shares};

/// A query that waits for an upstream.
pub(crate) trait Waits: Send + 'static {
    /// Returns what is asked.
    fn question(&self) -> &Arc<Question>;

    /// Returns whom to ask.
    fn upstreams(&self) -> &Arc<Upstreams>;

    /// Returns the holder of the share that the query counts in.
    fn holder(&self) -> Holder;

    /// Returns whether stale data is there that serves if no answer comes within [`STALE_AFTER`](super::STALE_AFTER).
    fn has_stale(&self) -> bool;
}

/// The questions that one thread has in flight, and the queries that wait for each.
pub(crate) struct Mux<W, C> {
    /// The sockets to upstreams.
    ports: Ports,
    /// The buffer for readiness events.
    events: Events,
    /// Questions in flight; a place is used again.
    outstanding: Vec<Option<Outstanding<W, C>>>,
    /// Free places in `outstanding`.
    free: Vec<usize>,
    /// Places in `outstanding` by question.
    by_question: HashTable<usize>,
    /// The deadlines for the next try or the end, by place in `outstanding`.
    deadlines: Wheel,
    /// Places whose deadline is over; empty but while they are looked after.
    expired: Vec<usize>,
    /// The zero time of `deadlines`.
    epoch: Instant,
    /// Hashes questions; the key is random.
    hasher: RandomState,
    /// The buffers for replies.
    receiver: Receiver,
    /// The receiving end of the thread's inbox.
    messages: mpsc::Receiver<Message<W>>,
    /// The inbox, of which each task gets a copy.
    inbox: Inbox<W>,
    /// Queries of others that were posted and not given out.
    posted: Vec<W>,
    /// The limits of questions that tasks ask, shared by all threads.
    asking: Arc<Shares>,
    /// The counts of upstreams that were heard again; `None` before the first question.
    returns: Option<Arc<Returns>>,
    /// The count of returns from silence when questions were last asked again for it.
    returns_seen: u64,
}

/// Why a query does not wait on the thread it came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unclaimed<W> {
    /// Another thread asks its question, and the query has been handed to that.
    Handed,
    /// As many questions, or queries for this one, wait as may.
    Full(W),
}

/// A question that has ended, or is no longer awaited.
pub(crate) struct Ended<W, C> {
    pub(crate) question: Arc<Question>,
    /// The right to ask it; none for a late answer.
    pub(crate) claim: Option<C>,
    /// The queries that wait for it.
    pub(crate) waiters: Vec<W>,
    pub(crate) outcome: Outcome,
}

/// The outcome of a question.
pub(crate) enum Outcome {
    /// An answer, and who gave it.
    Answered(Response, SocketAddr),
    /// No answer by the deadline, or a failure of all upstreams.
    Failed(Failure),
    /// No answer for so long that stale data is given instead; the question is still in flight.
    Overdue(Failure),
}

impl<W: Waits, C> Mux<W, C> {
    /// Makes one without sockets, whose tasks ask as many questions as `asking` has room for.
    pub(crate) fn new(readiness: Readiness<W>, asking: Arc<Shares>) -> Self {
        let Readiness { poll, inbox, messages } = readiness;
        Self {
            ports: Ports::new(poll),
            messages,
            inbox,
            posted: Vec::new(),
            asking,
            returns: None,
            returns_seen: 0,
            events: Events::with_capacity(64),
            outstanding: Vec::new(),
            free: Vec::new(),
            by_question: HashTable::new(),
            deadlines: Wheel::new(),
            expired: Vec::new(),
            epoch: Instant::now(),
            hasher: RandomState::new(),
            receiver: Receiver::new(),
        }
    }

    /// Returns whether nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.by_question.is_empty()
    }

    /// Lets `waiter` wait for its question, which is asked unless it is in flight on this thread already; `enter` gives the
    /// claim to it, or hands the query to the thread that has it. Queries leave with [`Mux::flush`].
    ///
    /// # Errors
    /// The query waits elsewhere, or there is no room for it.
    pub(crate) fn ask(
        &mut self,
        waiter: W,
        enter: impl FnOnce(W) -> Result<(C, W), Unclaimed<W>>,
    ) -> Result<(), Unclaimed<W>> {
        let hash = self.hasher.hash_one(&**waiter.question());
        if let Some(place) = self.find(hash, waiter.question()) {
            return self.join(place, waiter, enter);
        }
        let upstreams = Arc::clone(waiter.upstreams());
        let question = waiter.question();
        let Some((key, First { endpoint, patience, are_dead })) = upstreams
            .first_over_udp(question, waiter.holder())
            .and_then(|first| Some((self.ports.choose(first.endpoint, upstreams.around(), waiter.holder())?, first)))
        else {
            return self.ask_in_task_at_once(hash, waiter, enter);
        };
        let (claim, waiter) = enter(waiter)?;
        let around = upstreams.around();
        let (casing, edns) = (endpoint.casing(|| self.ports.bits(), around), endpoint.edns(around));
        if self.returns.is_none() {
            self.returns = Some(Arc::clone(&around.returns));
        }
        let place = self.free_place();
        self.ports.send(key, waiter.question(), (casing, edns), place);
        let mut asked = Outstanding::new(waiter, hash, claim);
        let since = asked.since;
        if are_dead {
            asked.review_at = since + DEAD_TIME;
        }
        asked.next_at = Some(since + patience);
        asked.first = Some(Try { key, since, patience, casing, case: Case::Open, edns, is_garbled: false });
        asked.count = 1;
        self.add(place, asked);
        Ok(())
    }

    /// Lets `waiter` wait for a question that is in flight. One that has ended, and is kept for a late answer, is asked again
    /// by a task.
    fn join(
        &mut self,
        place: usize,
        waiter: W,
        enter: impl FnOnce(W) -> Result<(C, W), Unclaimed<W>>,
    ) -> Result<(), Unclaimed<W>> {
        let Some(asked) = self.outstanding[place].as_mut() else { return Err(Unclaimed::Full(waiter)) };
        if asked.claim.is_none() {
            return self.ask_once_more(place, waiter, enter);
        }
        if asked.waiters.len() >= MAX_ASKERS {
            return Err(Unclaimed::Full(waiter));
        }
        asked.waiters.push(waiter);
        if !asked.is_in_task {
            self.ask_for_repeat(place);
        }
        Ok(())
    }

    /// Returns whether a question is in flight on this thread.
    pub(crate) fn is_asking(&self, question: &Question) -> bool {
        let place = self.find(self.hasher.hash_one(question), question);
        place.and_then(|place| self.outstanding[place].as_ref()).is_some_and(|asked| asked.claim.is_some())
    }

    /// Returns the place of a question in flight.
    fn find(&self, hash: u64, question: &Question) -> Option<usize> {
        self.by_question.find(hash, |&place| self.is_at(place, question)).copied()
    }

    /// Takes the queries that others posted.
    pub(crate) fn take_posted(&mut self) -> Vec<W> {
        std::mem::take(&mut self.posted)
    }

    /// Returns a place that no question has.
    fn free_place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.outstanding.push(None);
            self.outstanding.len() - 1
        })
    }

    /// Puts a question at a free place.
    fn add(&mut self, place: usize, asked: Outstanding<W, C>) {
        let hash = asked.hash;
        self.deadlines.set(place, asked.due().duration_since(self.epoch));
        self.outstanding[place] = Some(asked);
        let outstanding = &self.outstanding;
        self.by_question.insert_unique(hash, place, |&place| outstanding[place].as_ref().map_or(0, |asked| asked.hash));
    }

    /// Sends the queries asked since the last time.
    pub(crate) fn flush(&mut self) {
        self.ports.flush();
    }

    /// Waits until a socket is ready, a deadline comes or `limit` is over, and hands out what landed.
    pub(crate) fn wait(&mut self, limit: Duration, mut on_end: impl FnMut(Ended<W, C>)) {
        let until_deadline = self.deadlines.until_next(self.epoch.elapsed());
        let timeout = until_deadline.map_or(limit, |deadline| deadline.min(limit));
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        // Interrupted by a signal: the caller comes again.
        if self.ports.wait(&mut events, timeout).is_ok() {
            for event in &events {
                match event.token() {
                    WATCHED | POSTED => {}
                    Token(token) => self.receive(token, &mut on_end),
                }
            }
        }
        self.events = events;
        self.note_returns();
        self.expire(&mut on_end);
        // At last, and whatever woke: what was posted before a claim was given back is here by now, and an idle thread would
        // not look again.
        self.collect(&mut on_end);
    }

    /// Ends all questions without an answer, as the thread ends, and takes what was posted until then.
    pub(crate) fn close(&mut self, mut on_end: impl FnMut(Ended<W, C>)) {
        for place in 0..self.outstanding.len() {
            self.end(place, Outcome::Failed(lost()), &mut on_end);
        }
        // After the claims were given back: so nothing is posted any more.
        self.collect(&mut on_end);
    }

    /// Takes all replies of a socket.
    fn receive(&mut self, token: usize, on_end: &mut impl FnMut(Ended<W, C>)) {
        let mut receiver = std::mem::replace(&mut self.receiver, Receiver::empty());
        'port: while let Some(port) = self.ports.get(token) {
            match receiver.receive(&port.socket, Wait::Never) {
                Ok(count) => {
                    for index in 0..count {
                        // The rest of a batch is for nobody when its port has been left; another one may have the token.
                        let Some(bytes) = receiver.bytes(index) else { continue };
                        if self.take_reply(token, bytes, receiver.is_cut(index), on_end).is_break() {
                            break 'port;
                        }
                    }
                    // Edge-triggered: a batch that is not full has emptied the socket.
                    if count < crate::datagram::BATCH {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The network says that nobody is there: all that is in flight here is lost.
                Err(error) => {
                    self.give_up_port(token, &|| TryError::network(&error), on_end);
                    break;
                }
            }
        }
        self.receiver = receiver;
    }

    /// Takes one datagram from an upstream, the start of a longer one if `is_cut`; breaks when its port has been left.
    fn take_reply(
        &mut self,
        token: usize,
        bytes: &[u8],
        is_cut: bool,
        on_end: &mut impl FnMut(Ended<W, C>),
    ) -> ControlFlow<()> {
        let key = bytes.first_chunk().map(|id| Key { port: token, id: u16::from_be_bytes(*id) });
        let found = key.and_then(|key| Some((key, self.ports.find(key)?)));
        let asked = found.and_then(|(key, place)| Some((key, place, self.outstanding[place].as_ref()?)));
        let Some((key, place, asked)) = asked else { return self.ignore(token, bytes, on_end) };
        let Some(one) = asked.tries().find(|one| one.key == key).copied() else { return Continue(()) };
        let casing = one.casing;
        let mut is_bare = false;
        let outcome = match is_reply_to(bytes, key.id, &asked.question, casing) {
            ReplyCheck::OtherCase => return self.doubt_case(place, key, bytes, on_end),
            ReplyCheck::Ours { truncated, .. } if truncated || is_cut => Err(Unanswered::Truncated),
            ReplyCheck::Ours { .. } => match self.ports.get(token) {
                Some(port) => reply::read(bytes, &asked.question, &port.around.reach).map_err(Unanswered::Failed),
                None => return Continue(()),
            },
            ReplyCheck::NotOurs => match udp::bare_failure(bytes, key.id) {
                Some(rcode) => {
                    is_bare = true;
                    Err(Unanswered::Failed(TryError::unwilling(rcode, None)))
                }
                None => return self.note_garbled(place, key, bytes, on_end),
            },
        };
        if let Err(Unanswered::Failed(error)) = &outcome
            && let Some(less) = error.less(one.edns, &asked.question)
            && self.ask_with_less(place, one, less, is_bare)
        {
            return Continue(());
        }
        self.end_try(place, key, outcome, on_end);
        Continue(())
    }

    /// Takes a reply in another case: the question goes to the same upstream once more, in lower case. Either the reply
    /// was forged, and the true one is still to come; or the upstream does not keep the case, and answers that.
    fn doubt_case(
        &mut self,
        place: usize,
        key: Key,
        bytes: &[u8],
        on_end: &mut impl FnMut(Ended<W, C>),
    ) -> ControlFlow<()> {
        let Some(asked) = self.outstanding[place].as_mut() else { return Continue(()) };
        let may_doubt = asked.is_asked_here() && !asked.tries().any(|one| one.case == Case::Tested);
        let Some(one) = asked.try_of(key).filter(|one| may_doubt && one.case == Case::Open) else {
            return self.ignore(key.port, bytes, on_end);
        };
        one.case = Case::Doubted;
        let one = *one;
        let Some(port) = self.ports.get(key.port) else { return Continue(()) };
        let (endpoint, around) = (Arc::clone(&port.endpoint), Arc::clone(&port.around));
        around.observer.observe(Event::OtherCase);
        let Some(key) = self.ports.choose(&endpoint, &around, asked.holder) else { return Continue(()) };
        self.ports.send(key, &asked.question, (Casing::LOWER, one.edns), place);
        let (since, casing, case) = (Instant::now(), Casing::LOWER, Case::Tested);
        asked.again.push(Try { key, since, casing, case, is_garbled: false, ..one });
        Continue(())
    }

    /// Lets a task ask on for what came of the try at `server`, unless one does already, or there is nobody else to ask.
    fn ask_on_or_fail(
        &mut self,
        place: usize,
        server: SocketAddr,
        unanswered: Unanswered,
        on_end: &mut impl FnMut(Ended<W, C>),
    ) {
        let Some(asked) = self.outstanding[place].as_mut() else { return };
        if !asked.is_asked_here() {
            // It is kept as long as there is something to wait for.
            if asked.claim.is_none() && asked.tries().next().is_none() {
                self.remove(place);
            }
            return;
        }
        let unanswered = match unanswered {
            Unanswered::Failed(error) => match self.wait_for_return(place, server, error) {
                Some(error) => Unanswered::Failed(error),
                None => return,
            },
            unanswered => unanswered,
        };
        let silent: Vec<SocketAddr> = self.asked(place).collect();
        let Some(asked) = self.outstanding[place].as_ref() else { return };
        let lone = asked.waiters.first().map(W::upstreams).filter(|upstreams| upstreams.is_lone());
        match (unanswered, lone) {
            // There is nobody else to ask.
            (Unanswered::Failed(error), Some(lone)) => {
                let failure = error.at(Shown(server));
                let outcome = Outcome::Failed(Failure { is_passing: failure.is_passing || lone.are_down(), ..failure });
                self.end(place, outcome, on_end);
            }
            (unanswered, _) => {
                let tried =
                    PreviousTries { server, unanswered, silent, tries: asked.count, spent: asked.since.elapsed() };
                self.ask_in_task(place, tried, on_end);
            }
        }
    }

    /// Ends all tries of a socket, and the socket.
    fn give_up_port(&mut self, token: usize, error: &dyn Fn() -> TryError, on_end: &mut impl FnMut(Ended<W, C>)) {
        for (key, place) in self.ports.in_flight_on(token) {
            self.end_try(place, key, Err(Unanswered::Failed(error())), on_end);
        }
        self.ports.close(token);
    }

    /// Ends a try, tells its upstream's health, and ends its flight.
    fn end_try(
        &mut self,
        place: usize,
        key: Key,
        outcome: Result<Response, Unanswered>,
        on_end: &mut impl FnMut(Ended<W, C>),
    ) {
        self.ports.release(key);
        let Some(asked) = self.outstanding[place].as_mut() else { return };
        let is_refused = asked.is_refused();
        let Some(one) = asked.take(key) else { return };
        let Some(port) = self.ports.get(key.port) else { return };
        let (server, taken) = (port.endpoint.server.address, one.since.elapsed());
        let unanswered = match outcome {
            Ok(response) => {
                port.endpoint.note_answered(&asked.question, Transport::Udp, taken, &port.around);
                port.endpoint.note_edns(one.edns, Ok(&response), &port.around);
                if one.case == Case::Tested {
                    port.endpoint.note_loses_case(&port.around);
                }
                let Some(Outstanding { question, claim, waiters, .. }) = self.remove(place) else { return };
                return on_end(Ended { question, claim, waiters, outcome: Outcome::Answered(response, server) });
            }
            Err(unanswered) => unanswered,
        };
        match &unanswered {
            Unanswered::Failed(error) => {
                port.endpoint.note_edns::<()>(one.edns, Err(error), &port.around);
                match error.kind {
                    FailureKind::Network if is_refused => port.endpoint.note_refused_again(taken, &port.around),
                    kind => port.endpoint.note_failed(&asked.question, asked.holder, kind, taken, &port.around),
                }
            }
            // What follows over TCP tells how the upstream does.
            Unanswered::Truncated => port.around.observer.observe(Event::Truncated),
            Unanswered::Silent | Unanswered::Flooded => {}
        }
        self.ask_on_or_fail(place, server, unanswered, on_end);
    }

    /// Takes a flight out of all tables.
    fn remove(&mut self, place: usize) -> Option<Outstanding<W, C>> {
        let asked = self.outstanding[place].take()?;
        self.free.push(place);
        self.deadlines.cancel(place);
        for one in asked.tries() {
            self.ports.give_up(one.key, &asked.question);
        }
        if let Ok(entry) = self.by_question.find_entry(asked.hash, |&other| other == place) {
            entry.remove();
        }
        Some(asked)
    }

    /// Returns whether the flight at a place is of this question.
    fn is_at(&self, place: usize, question: &Question) -> bool {
        self.outstanding[place].as_ref().is_some_and(|asked| *asked.question == *question)
    }
}
