//! Asking upstreams over UDP from the thread that took the query: the way of nearly every cache miss.
//!
//! A thread has a few connected sockets to an upstream and many questions on each, told apart by ID. This is for the
//! first try of a question at the best upstream, and for its answer. Whatever else happens (silence, a failure, an
//! answer that needs TCP) is handed back, and goes the general way of [`Upstreams::ask`] with a [`Tried`] that says
//! what is known.
//!
//! Against forged replies (RFC 5452): each question takes one of [`LANE`] random ports by chance and a random ID; the
//! kernel drops what does not come from the upstream's address and port; ports are given up after a while, or when
//! somebody guesses at them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::endpoint::{self, Endpoint, Surroundings, TryError};
use super::random::Random;
use super::udp::{self, MAX_IGNORED};
use super::{Event, Transport, Trial, Tried, Upstreams};
use crate::datagram::{Receiver, Sender, Wait};
use crate::dns::response::{Question, ReplyCheck, Response, is_reply_to, query_upstream};

/// Sockets, and so ports, a thread has to one upstream.
const LANE: usize = 16;
/// Questions a thread has in flight; further ones go the general way.
const MAX_FLIGHTS: usize = 4096;
/// Queries of one thread that wait for one question; further ones are handed back at once.
const MAX_WAITERS: usize = 1000;
/// A port is given up after so many queries, once none is in flight on it.
const PORT_QUERIES: u32 = 20_000;
/// Ports in use at a time are never older than this by much.
const PORT_AGE: Duration = Duration::from_mins(1);
/// IDs tried before a question goes the general way.
const ID_TRIES: usize = 8;

/// The questions that one thread has in flight, and the queries that wait for each.
pub(crate) struct Mux<W, C> {
    /// Readiness of all sockets.
    poll: Poll,
    /// What was ready last.
    events: Events,
    /// The sockets, by token; a place is used again.
    ports: Vec<Option<Port>>,
    /// The sockets of each upstream that was asked.
    lanes: HashMap<SocketAddr, Lane>,
    /// Questions in flight; a place is used again.
    flights: Vec<Option<Flight<W, C>>>,
    /// Free places in `flights`.
    free: Vec<usize>,
    /// Places in `flights` by question.
    by_question: HashTable<usize>,
    /// Places in `flights` by socket and ID.
    by_id: HashMap<(usize, u16), usize>,
    /// When to stop waiting for which flight; entries of flights that ended are passed over.
    deadlines: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    /// Numbers flights, so that a deadline does not hit a later flight in the same place.
    number: u64,
    /// Hashes questions; the key is random.
    hasher: RandomState,
    /// IDs and choices of port.
    random: Random,
    /// Buffers for replies.
    receiver: Receiver,
}

/// The sockets to one upstream.
struct Lane {
    /// Tokens, one a place; none before its first use.
    ports: [Option<usize>; LANE],
    /// The place that queries of this batch go through.
    chosen: Option<usize>,
}

/// One connected socket.
struct Port {
    /// The socket.
    socket: UdpSocket,
    /// The upstream.
    endpoint: Arc<Endpoint>,
    /// Its clock and who watches.
    around: Arc<Surroundings>,
    /// Queries of this batch.
    sender: Sender,
    /// Queries sent.
    sent: u32,
    /// Queries in flight.
    in_flight: usize,
    /// Datagrams that were no reply to anything asked.
    ignored: usize,
    /// When it was opened.
    opened: Instant,
}

/// One question in flight.
struct Flight<W, C> {
    /// The question.
    question: Arc<Question>,
    /// The right to ask it; none once that is handed on, and then only a late answer is welcome.
    claim: Option<C>,
    /// Who waits for it.
    waiters: Vec<W>,
    /// The socket it went through.
    port: usize,
    /// Its ID.
    id: u16,
    /// When it was asked.
    since: Instant,
    /// How long silence is nothing to speak of.
    patience: Duration,
    /// Its number.
    number: u64,
}

/// What became of a question.
pub(crate) struct Landed<W, C> {
    /// The question.
    pub(crate) question: Arc<Question>,
    /// The right to ask it; none for a late answer.
    pub(crate) claim: Option<C>,
    /// Who waits for it.
    pub(crate) waiters: Vec<W>,
    /// The answer and who gave it, or what the general way should know.
    pub(crate) outcome: Result<(Response, SocketAddr), Tried>,
}

impl<W: AsRef<Arc<Question>>, C> Mux<W, C> {
    /// Makes one without sockets.
    ///
    /// # Errors
    /// The system gives no epoll instance.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(64),
            ports: Vec::new(),
            lanes: HashMap::new(),
            flights: Vec::new(),
            free: Vec::new(),
            by_question: HashTable::new(),
            by_id: HashMap::new(),
            deadlines: BinaryHeap::new(),
            number: 0,
            hasher: RandomState::new(),
            random: Random::default(),
            receiver: Receiver::new(),
        })
    }

    /// Adds a socket whose readiness ends [`Mux::wait`] too, under a token of its own.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn watch(&self, socket: &UdpSocket) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), WATCHED, Interest::READABLE)
    }

    /// Returns whether nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.by_question.is_empty()
    }

    /// Lets `waiter` wait for its question, which is asked unless it is in flight on this thread already; gives the
    /// waiter back when that has to go the general way, as when somebody else has the claim. Queries leave with
    /// [`Mux::flush`].
    pub(crate) fn ask(
        &mut self,
        upstreams: &Upstreams,
        waiter: W,
        claim: impl FnOnce(&Arc<Question>) -> Option<C>,
    ) -> Result<(), W> {
        let question = waiter.as_ref();
        let hash = self.hasher.hash_one(&**question);
        if let Some(&place) = self.by_question.find(hash, |&place| self.is_at(place, question)) {
            let Some(flight) = self.flights[place].as_mut() else { return Err(waiter) };
            if flight.claim.is_none() || flight.waiters.len() >= MAX_WAITERS {
                return Err(waiter);
            }
            flight.waiters.push(waiter);
            return Ok(());
        }
        if self.by_question.len() >= MAX_FLIGHTS {
            return Err(waiter);
        }
        let Some((endpoint, patience)) = upstreams.first_over_udp(question) else { return Err(waiter) };
        let Ok(port) = self.port(endpoint, upstreams.around()) else { return Err(waiter) };
        let Some(id) = self.fresh_id(port) else { return Err(waiter) };
        let Some(claim) = claim(question) else { return Err(waiter) };
        let Some(open) = self.ports[port].as_mut() else { return Err(waiter) };
        if open.sender.is_full() {
            open.sender.send(&open.socket);
        }
        query_upstream(question, id, open.sender.next());
        open.sender.queue_to_peer();
        open.sent += 1;
        open.in_flight += 1;
        open.around.observer.observe(Event::Sent(Transport::Udp));
        endpoint.note_asked();
        let since = Instant::now();
        self.number += 1;
        let number = self.number;
        let question = Arc::clone(question);
        let waiters = vec![waiter];
        let flight = Flight { question, claim: Some(claim), waiters, port, id, since, patience, number };
        let place = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        self.flights[place] = Some(flight);
        self.by_id.insert((port, id), place);
        let (flights, hasher) = (&self.flights, &self.hasher);
        self.by_question.insert_unique(hash, place, |&place| {
            flights[place].as_ref().map_or(0, |flight| hasher.hash_one(&*flight.question))
        });
        self.deadlines.push(Reverse((since + patience, place, number)));
        Ok(())
    }

    /// Sends the queries asked since the last time.
    pub(crate) fn flush(&mut self) {
        for lane in self.lanes.values_mut() {
            let Some(place) = lane.chosen.take() else { continue };
            if let Some(port) = lane.ports[place].and_then(|token| self.ports[token].as_mut()) {
                port.sender.send(&port.socket);
            }
        }
    }

    /// Waits until a socket is ready, a deadline comes or `limit` is over, and hands out what landed.
    pub(crate) fn wait(&mut self, limit: Duration, mut landed: impl FnMut(Landed<W, C>)) {
        let now = Instant::now();
        let until_deadline = self.deadlines.peek().map(|Reverse((at, ..))| at.saturating_duration_since(now));
        let timeout = until_deadline.map_or(limit, |deadline| deadline.min(limit));
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        // Interrupted by a signal: the caller comes again.
        if self.poll.poll(&mut events, Some(timeout)).is_ok() {
            for event in events.iter().filter(|event| event.token() != WATCHED) {
                self.receive(event.token().0, &mut landed);
            }
        }
        self.events = events;
        self.expire(&mut landed);
    }

    /// Takes all replies of a socket.
    fn receive(&mut self, token: usize, landed: &mut impl FnMut(Landed<W, C>)) {
        let mut receiver = std::mem::replace(&mut self.receiver, Receiver::empty());
        while let Some(port) = self.ports.get(token).and_then(Option::as_ref) {
            match receiver.receive(&port.socket, Wait::Never) {
                Ok(count) => {
                    for index in 0..count {
                        if let Some(bytes) = receiver.bytes(index) {
                            self.take_reply(token, bytes, landed);
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
                    self.give_up_port(token, &|| TryError::network(&error), landed);
                    break;
                }
            }
        }
        self.receiver = receiver;
    }

    /// Takes one datagram from an upstream.
    fn take_reply(&mut self, token: usize, bytes: &[u8], landed: &mut impl FnMut(Landed<W, C>)) {
        let id = bytes.first_chunk().map(|id| u16::from_be_bytes(*id));
        let place = id.and_then(|id| self.by_id.get(&(token, id))).copied();
        let flight = place.and_then(|place| self.flights[place].as_ref());
        let (Some(place), Some(flight)) = (place, flight) else { return self.ignore(token, landed) };
        let outcome = match is_reply_to(bytes, flight.id, &flight.question) {
            ReplyCheck::Ours { truncated: true, .. } => Err(Trial::Truncated),
            ReplyCheck::Ours { .. } => endpoint::read(bytes, &flight.question).map_err(Trial::Failed),
            ReplyCheck::NotOurs => match udp::bare_failure(bytes, flight.id) {
                Some(rcode) => Err(Trial::Failed(TryError::unwilling(rcode, None))),
                None => return self.ignore(token, landed),
            },
        };
        self.land(place, outcome, landed);
    }

    /// Counts a datagram that is no reply; a port that somebody guesses at is given up.
    fn ignore(&mut self, token: usize, landed: &mut impl FnMut(Landed<W, C>)) {
        let Some(port) = self.ports[token].as_mut() else { return };
        port.around.observer.observe(Event::Ignored);
        port.ignored += 1;
        if port.ignored >= MAX_IGNORED {
            self.give_up_port(token, &TryError::flooded, landed);
        }
    }

    /// Ends the flights whose patience is over.
    fn expire(&mut self, landed: &mut impl FnMut(Landed<W, C>)) {
        let now = Instant::now();
        while let Some(&Reverse((at, place, number))) = self.deadlines.peek() {
            let is_current = self.flights[place].as_ref().is_some_and(|flight| flight.number == number);
            if is_current && at > now {
                break;
            }
            self.deadlines.pop();
            if is_current {
                self.hand_over(place, landed);
            }
        }
    }

    /// Hands a silent flight's waiters to the general way; the flight stays a while, for a late answer.
    fn hand_over(&mut self, place: usize, landed: &mut impl FnMut(Landed<W, C>)) {
        let Some(flight) = self.flights[place].as_mut() else { return };
        if flight.claim.is_none() {
            // Handed on before, and the silence is noted.
            self.remove(place);
            return;
        }
        let Some(port) = self.ports[flight.port].as_ref() else { return };
        port.endpoint.note_silent(flight.patience, &port.around);
        let tried = Tried { server: port.endpoint.server.address, trial: Trial::Silent, spent: flight.patience };
        self.deadlines.push(Reverse((flight.since + port.around.timeout, place, flight.number)));
        let (question, claim) = (Arc::clone(&flight.question), flight.claim.take());
        landed(Landed { question, claim, waiters: std::mem::take(&mut flight.waiters), outcome: Err(tried) });
    }

    /// Ends all flights of a socket, and the socket.
    fn give_up_port(&mut self, token: usize, error: &dyn Fn() -> TryError, landed: &mut impl FnMut(Landed<W, C>)) {
        let places: Vec<usize> = self.by_id.iter().filter(|((port, _), _)| *port == token).map(|(_, p)| *p).collect();
        for place in places {
            self.land(place, Err(Trial::Failed(error())), landed);
        }
        self.close(token);
    }

    /// Ends a flight, tells its upstream's health and hands it out.
    fn land(&mut self, place: usize, outcome: Result<Response, Trial>, landed: &mut impl FnMut(Landed<W, C>)) {
        let Some(flight) = self.remove(place) else { return };
        let Some(Port { endpoint, around, .. }) = self.ports[flight.port].as_ref() else { return };
        let (server, spent) = (endpoint.server.address, flight.since.elapsed());
        match &outcome {
            Ok(_) => endpoint.note_answered(Transport::Udp, spent, around),
            Err(Trial::Failed(error)) => endpoint.note_failed(error.kind, spent, around),
            // What follows over TCP tells how the upstream does.
            Err(Trial::Truncated) => around.observer.observe(Event::Truncated),
            Err(Trial::Silent) => endpoint.note_silent(spent, around),
        }
        let outcome = outcome.map(|response| (response, server)).map_err(|trial| Tried { server, trial, spent });
        let Flight { question, claim, waiters, .. } = flight;
        landed(Landed { question, claim, waiters, outcome });
    }

    /// Takes a flight out of all tables.
    fn remove(&mut self, place: usize) -> Option<Flight<W, C>> {
        let flight = self.flights[place].take()?;
        self.free.push(place);
        self.by_id.remove(&(flight.port, flight.id));
        let hash = self.hasher.hash_one(&*flight.question);
        if let Ok(entry) = self.by_question.find_entry(hash, |&other| other == place) {
            entry.remove();
        }
        if let Some(port) = self.ports[flight.port].as_mut() {
            port.in_flight -= 1;
        }
        Some(flight)
    }

    /// Returns whether the flight at a place is of this question.
    fn is_at(&self, place: usize, question: &Question) -> bool {
        self.flights[place].as_ref().is_some_and(|flight| *flight.question == *question)
    }

    /// Returns the socket that this batch's queries to an upstream go through.
    fn port(&mut self, endpoint: &Arc<Endpoint>, around: &Arc<Surroundings>) -> io::Result<usize> {
        let address = endpoint.server.address;
        let lane = self.lanes.entry(address).or_insert_with(|| Lane { ports: [None; LANE], chosen: None });
        let place = *lane.chosen.get_or_insert_with(|| usize::from(self.random.next()) % LANE);
        if let Some(token) = lane.ports[place] {
            let is_old = self.ports[token].as_ref().is_none_or(|port| {
                let is_used_up = port.sent >= PORT_QUERIES || port.opened.elapsed() >= PORT_AGE;
                // It may have come anew with a changed configuration.
                port.in_flight == 0 && (is_used_up || !Arc::ptr_eq(&port.endpoint, endpoint))
            });
            if !is_old {
                return Ok(token);
            }
            self.close(token);
        }
        let token = self.open(endpoint, around)?;
        if let Some(lane) = self.lanes.get_mut(&address) {
            lane.ports[place] = Some(token);
        }
        Ok(token)
    }

    /// Opens a socket on a random port (the kernel's choice, RFC 5452 §9.2).
    fn open(&mut self, endpoint: &Arc<Endpoint>, around: &Arc<Surroundings>) -> io::Result<usize> {
        let server = endpoint.server.address;
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        let token = self.ports.iter().position(Option::is_none).unwrap_or_else(|| {
            self.ports.push(None);
            self.ports.len() - 1
        });
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(token), Interest::READABLE)?;
        self.ports[token] = Some(Port {
            socket,
            endpoint: Arc::clone(endpoint),
            around: Arc::clone(around),
            sender: Sender::new(),
            sent: 0,
            in_flight: 0,
            ignored: 0,
            opened: Instant::now(),
        });
        Ok(token)
    }

    /// Closes a socket nothing is in flight on; closing takes it out of the poll.
    fn close(&mut self, token: usize) {
        self.ports[token] = None;
        for lane in self.lanes.values_mut() {
            for (place, port) in lane.ports.iter_mut().enumerate() {
                if *port == Some(token) {
                    *port = None;
                    lane.chosen = lane.chosen.filter(|chosen| *chosen != place);
                }
            }
        }
    }

    /// Returns an ID that is not in flight on a socket.
    fn fresh_id(&mut self, port: usize) -> Option<u16> {
        (0..ID_TRIES).map(|_| self.random.next()).find(|id| !self.by_id.contains_key(&(port, *id)))
    }
}

/// The token of sockets that only wake.
const WATCHED: Token = Token(usize::MAX);
