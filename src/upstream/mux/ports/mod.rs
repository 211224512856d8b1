//! The sockets of one thread to its upstreams, and which query is in flight on each.

mod apart;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use self::apart::Apart;
use crate::bounds::MAX_UPSTREAM_PORTS as SET_SIZE;
use crate::bounds::capacity;
use crate::datagram::Sender;
use crate::dns::response::{Casing, Edns, Question, ReplyCheck, is_reply_to, query_upstream};
use crate::fair_share::Holder;
use crate::upstream::endpoint::{Endpoint, Surroundings};
use crate::upstream::random::Random;
use crate::upstream::scope;
use crate::upstream::udp::{MAX_IGNORED, bare_failure};
use crate::upstream::{Event, Transport};

/// A port is given up after so many queries, once none is in flight on it.
const PORT_QUERIES: u32 = 20_000;
/// Ports in use at a time are never older than this by much.
const PORT_AGE: Duration = Duration::from_mins(1);
/// IDs tried before a question goes the general way.
const ID_TRIES: usize = 8;
/// Given-up queries that a port remembers, so that their late replies are known; with more it takes no new queries, and is
/// closed once none is in flight on it. Those in flight by then are remembered as well.
const MAX_GIVEN_UP: usize = 1024;

/// A socket and an ID: what a reply is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The token of the socket.
    pub(super) port: usize,
    /// The DNS message ID.
    pub(super) id: u16,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::try_from(self.port).unwrap_or(0) << 16 | u64::from(self.id));
    }
}

/// Hashes keys by a multiplication: their IDs are random numbers of our own, so nobody can make them collide.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &octet in bytes {
            self.write_u64(octet.into());
        }
    }

    fn write_u64(&mut self, word: u64) {
        // 2^64 divided by the golden ratio (Knuth, TAOCP volume 3, 6.4); the table takes its bucket from the low bits.
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// All sockets of a thread.
pub(super) struct Ports {
    /// Readiness of all sockets.
    poll: Poll,
    /// The sockets, by token; a place is used again.
    sockets: Vec<Option<Port>>,
    /// The sockets of each upstream that was asked. There are few: to look through them costs less than a hash.
    socket_sets: Vec<SocketSet>,
    /// The sockets of those clients whose questions were in flight on a flooded one.
    apart: Vec<Apart>,
    /// Tokens of sockets with queries that have not left.
    unsent: Vec<usize>,
    /// The place of the question of each query in flight.
    places: HashMap<Key, usize, BuildHasherDefault<KeyHasher>>,
    /// Tokens of sockets that take no new queries and are closed once nothing is in flight on them.
    retired: Vec<usize>,
    /// IDs and choices of port.
    random: Random,
    /// Places of a lane that are in use.
    width: usize,
    /// The limit of clients with a socket of their own.
    most_apart: usize,
}

/// The sockets to one upstream.
struct SocketSet {
    server: SocketAddr,
    /// Tokens, one a place; none before its first use.
    ports: [Option<usize>; SET_SIZE],
    /// The place that queries of this batch go through.
    chosen: Option<usize>,
}

/// A UDP socket that is connected to an upstream.
pub(super) struct Port {
    pub(super) socket: UdpSocket,
    /// The address it is connected to.
    target: SocketAddr,
    pub(super) endpoint: Arc<Endpoint>,
    /// The settings and counters that all tries share.
    pub(super) around: Arc<Surroundings>,
    /// The queries of this batch, not sent yet.
    sender: Sender,
    /// The number of queries sent.
    sent: u32,
    /// The number of queries in flight.
    in_flight: usize,
    /// Queries that were given up, by ID: their replies may still come.
    given_up: HashMap<u16, Arc<Question>>,
    /// Datagrams that were no reply to anything asked.
    ignored: usize,
    /// The time of its opening.
    opened: Instant,
}

impl Ports {
    /// Makes one without sockets, whose readiness `poll` tells.
    pub(super) fn new(poll: Poll) -> Self {
        let (places, random) = (HashMap::default(), Random::default());
        let (socket_sets, apart, unsent) = (Vec::new(), Vec::new(), Vec::new());
        let (sockets, retired) = (Vec::new(), Vec::new());
        let (width, most_apart) = (capacity::granted().ports, capacity::granted().apart);
        Self { poll, sockets, socket_sets, apart, unsent, places, retired, random, width, most_apart }
    }

    /// Waits until a socket is ready.
    ///
    /// # Errors
    /// A signal came.
    pub(super) fn wait(&mut self, events: &mut Events, limit: Duration) -> io::Result<()> {
        self.poll.poll(events, Some(limit))
    }

    /// Returns the socket with this token.
    pub(super) fn get(&self, token: usize) -> Option<&Port> {
        self.sockets.get(token)?.as_ref()
    }

    /// Returns which flight a query belongs to, if it is in flight.
    pub(super) fn find(&self, key: Key) -> Option<usize> {
        self.places.get(&key).copied()
    }

    /// Returns a socket to an upstream for a question of this holder, and an ID that is free on it; `None` when there is none.
    ///
    /// All queries of a batch to an upstream go through one socket, so that they leave in one system call; those of holders
    /// that are set apart go through the holder's own.
    pub(super) fn choose(
        &mut self,
        endpoint: &Arc<Endpoint>,
        around: &Arc<Surroundings>,
        holder: Holder,
    ) -> Option<Key> {
        let port = match self.find_apart(holder, endpoint.server.address) {
            Some(index) => self.port_apart(index, endpoint, around).ok()?,
            None => self.port(endpoint, around).ok()?,
        };
        let mut keys = (0..ID_TRIES).map(|_| Key { port, id: self.random.next() });
        // The reply to a query that was given up must not be taken for one to another question.
        let given_up = self.sockets[port].as_ref().map(|port| &port.given_up);
        keys.find(|key| {
            !self.places.contains_key(key) && given_up.is_none_or(|given_up| !given_up.contains_key(&key.id))
        })
    }

    /// Returns random bits for the case of a name.
    pub(super) fn bits(&mut self) -> u64 {
        self.random.next_bits()
    }

    /// Sends `question` as the query that `key` tells of, for a flight; it leaves with [`Ports::flush`].
    pub(super) fn send(&mut self, key: Key, question: &Question, (casing, edns): (Casing, Edns), flight: usize) {
        let Some(port) = self.sockets.get_mut(key.port).and_then(Option::as_mut) else { return };
        if port.sender.is_full() {
            port.sender.send(&port.socket);
        }
        if port.sender.is_empty() {
            self.unsent.push(key.port);
        }
        query_upstream(question, casing, key.id, port.sender.next());
        edns.limit(port.sender.next());
        port.sender.queue_to_peer();
        port.sent += 1;
        port.in_flight += 1;
        port.around.observer.observe(Event::Sent(Transport::Udp));
        port.endpoint.note_asked();
        self.places.insert(key, flight);
    }

    /// Sends what was queued since the last time.
    pub(super) fn flush(&mut self) {
        for token in self.unsent.drain(..) {
            if let Some(port) = self.sockets[token].as_mut() {
                port.sender.send(&port.socket);
            }
        }
        for socket_set in &mut self.socket_sets {
            socket_set.chosen = None;
        }
        self.retired.retain(|&token| {
            let is_needed = self.sockets[token].as_ref().is_some_and(|port| port.in_flight > 0);
            if !is_needed {
                self.sockets[token] = None;
            }
            is_needed
        });
    }

    /// Takes a query out of flight.
    pub(super) fn release(&mut self, key: Key) {
        if self.places.remove(&key).is_some()
            && let Some(port) = self.sockets.get_mut(key.port).and_then(Option::as_mut)
        {
            port.in_flight -= 1;
        }
    }

    /// Takes a query out of flight that is given up, and remembers its question: its reply may still come.
    pub(super) fn give_up(&mut self, key: Key, question: &Arc<Question>) {
        self.release(key);
        if let Some(port) = self.sockets.get_mut(key.port).and_then(Option::as_mut) {
            port.given_up.insert(key.id, Arc::clone(question));
        }
    }

    /// Returns whether a datagram is the late reply to a query that was given up, in whatever case and with whatever RCODE:
    /// it answers what was asked from this port, so it is nobody's guess at an ID.
    pub(super) fn is_late(&self, token: usize, bytes: &[u8]) -> bool {
        let Some(id) = bytes.first_chunk().map(|id| u16::from_be_bytes(*id)) else { return false };
        let question = self.get(token).and_then(|port| port.given_up.get(&id));
        question.is_some_and(|question| {
            matches!(is_reply_to(bytes, id, question, Casing::LOWER), ReplyCheck::Ours { .. })
                || bare_failure(bytes, id).is_some()
        })
    }

    /// Counts a datagram that is no reply to anything asked from its port; returns whether the port has to be left,
    /// because somebody guesses at it.
    pub(super) fn ignore(&mut self, token: usize) -> bool {
        let Some(port) = self.sockets.get_mut(token).and_then(Option::as_mut) else { return false };
        port.around.observer.observe(Event::Ignored);
        port.ignored += 1;
        port.ignored >= MAX_IGNORED
    }

    /// Returns what is in flight on a socket.
    pub(super) fn in_flight_on(&self, token: usize) -> Vec<(Key, usize)> {
        self.places.iter().filter(|(key, _)| key.port == token).map(|(key, flight)| (*key, *flight)).collect()
    }

    /// Closes a socket nothing is in flight on; closing takes it out of the poll.
    pub(super) fn close(&mut self, token: usize) {
        // Another socket may get the token before the batch leaves.
        self.unsent.retain(|unsent| *unsent != token);
        self.sockets[token] = None;
        self.retired.retain(|retired| *retired != token);
        self.detach(token);
    }

    /// Lets a socket take no new queries, and closes it once nothing is in flight on it.
    fn retire(&mut self, token: usize) {
        self.flush();
        self.detach(token);
        self.retired.push(token);
    }

    /// Takes a socket from whoever asks through it.
    fn detach(&mut self, token: usize) {
        for apart in self.apart.iter_mut().filter(|apart| apart.port == Some(token)) {
            apart.port = None;
        }
        for socket_set in &mut self.socket_sets {
            for (place, port) in socket_set.ports.iter_mut().enumerate() {
                if *port == Some(token) {
                    *port = None;
                    socket_set.chosen = socket_set.chosen.filter(|chosen| *chosen != place);
                }
            }
        }
    }

    /// Returns the socket that this batch's queries to an upstream go through.
    fn port(&mut self, endpoint: &Arc<Endpoint>, around: &Arc<Surroundings>) -> io::Result<usize> {
        let address = endpoint.server.address;
        let index = self.socket_sets.iter().position(|socket_set| socket_set.server == address).unwrap_or_else(|| {
            self.socket_sets.push(SocketSet { server: address, ports: [None; SET_SIZE], chosen: None });
            self.socket_sets.len() - 1
        });
        let socket_set = &mut self.socket_sets[index];
        let place = *socket_set.chosen.get_or_insert_with(|| usize::from(self.random.next()) % self.width);
        if let Some(token) = socket_set.ports[place].filter(|&token| self.may_take_more(token, endpoint)) {
            return Ok(token);
        }
        let token = self.open(endpoint, around)?;
        // Closing the one before has forgotten the choice.
        let socket_set = &mut self.socket_sets[index];
        (socket_set.ports[place], socket_set.chosen) = (Some(token), Some(place));
        Ok(token)
    }

    /// Returns whether a socket may take more queries; one that may not is closed, at once or when nothing is in flight on it.
    fn may_take_more(&mut self, token: usize, endpoint: &Arc<Endpoint>) -> bool {
        let is_old = self.sockets[token].as_ref().is_none_or(|port| {
            let is_used_up = port.sent >= PORT_QUERIES || port.opened.elapsed() >= PORT_AGE;
            // It may have come anew with a changed configuration.
            port.in_flight == 0 && (is_used_up || !Arc::ptr_eq(&port.endpoint, endpoint))
        });
        let address = endpoint.server.address;
        let remembers_enough = self.sockets[token].as_ref().is_some_and(|port| {
            // Nothing that is sent by an interface that was made again would arrive.
            let has_moved = || scope::target(address).is_ok_and(|target| target != port.target);
            port.given_up.len() >= MAX_GIVEN_UP || scope::is_named(address) && has_moved()
        });
        match (is_old, remembers_enough) {
            (false, false) => return true,
            (false, true) => self.retire(token),
            (true, _) => self.close(token),
        }
        false
    }

    /// Opens a socket on a random port (the kernel's choice, RFC 5452 §9.2).
    fn open(&mut self, endpoint: &Arc<Endpoint>, around: &Arc<Surroundings>) -> io::Result<usize> {
        let server = scope::target(endpoint.server.address)?;
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        let token = self.sockets.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() - 1
        });
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(token), Interest::READABLE)?;
        self.sockets[token] = Some(Port {
            socket,
            target: server,
            endpoint: Arc::clone(endpoint),
            around: Arc::clone(around),
            sender: Sender::new(),
            sent: 0,
            in_flight: 0,
            given_up: HashMap::new(),
            ignored: 0,
            opened: Instant::now(),
        });
        Ok(token)
    }
}
