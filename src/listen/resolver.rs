//! Queries that wait for upstreams, and the destinations of their answers.
//!
//! Each question has one owner, a thread with a [`Resolver`]. A query for it that came to another thread, or over TCP, is
//! handed to the owner's inbox, so that all queries for a question wait in one place and the upstream is asked once. A
//! query over TCP whose question is not in flight is asked by a thread of its own: a receiving thread that is idle sleeps
//! in `recvmmsg`, which only a datagram ends.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::datagram::{self, LocalAddress};
use crate::dns::response::Question;
use crate::engine::{Claim, Engine, Lookup, Pending};
use crate::fair_share::Holder;
use crate::telemetry::heartbeat::Heartbeat;
use crate::upstream::mux::{Ended, Inbox, Mux, Outcome, Readiness, Unclaimed, Waits};
use crate::upstream::{Failure, Upstreams};

/// A query that waits for an upstream, and where its answer goes.
pub(crate) struct Waiter {
    pub(super) pending: Box<Pending>,
    /// The client that gets the answer.
    pub(super) client: Client,
}

/// The destination of an answer.
pub(crate) enum Client {
    /// Only the cache waits for it.
    Nobody,
    /// To a client of the thread's own socket, from the address that it asked.
    OwnSocket(SocketAddr, Option<LocalAddress>),
    /// To a client of another thread's socket.
    OtherSocket(Arc<UdpSocket>, SocketAddr, Option<LocalAddress>),
    /// To a TCP connection, which writes it when it has room.
    Tcp(oneshot::Sender<(Box<Pending>, Lookup)>),
}

impl Waits for Waiter {
    fn question(&self) -> &Arc<Question> {
        self.pending.question()
    }

    fn upstreams(&self) -> &Arc<Upstreams> {
        self.pending.upstreams()
    }

    fn holder(&self) -> Holder {
        self.pending.holder()
    }

    fn has_stale(&self) -> bool {
        self.pending.has_stale()
    }
}

/// The inboxes of all resolvers, by number; the first is that of the thread for TCP.
pub(crate) type Inboxes = Arc<[Inbox<Waiter>]>;

/// The number of a resolver, and its epoll instance with the inbox of that number.
pub(crate) type ResolverInput = (usize, Readiness<Waiter>);

/// Makes so many inboxes, and one for TCP, which is the first.
///
/// # Errors
/// The system has no descriptors left.
pub(crate) fn open(count: usize) -> io::Result<(Inboxes, impl Iterator<Item = ResolverInput>)> {
    let inputs = (0..=count).map(|_| Readiness::new()).collect::<io::Result<Vec<_>>>()?;
    let inboxes = inputs.iter().map(Readiness::inbox).collect();
    Ok((inboxes, inputs.into_iter().enumerate()))
}

/// Writes an answer to a client of the thread's own socket: the query, what it came to, the client and the address it asked.
pub(super) type WriteAnswer<'a> = dyn FnMut(&Pending, &Lookup, SocketAddr, Option<LocalAddress>) + 'a;

/// The questions that one thread asks.
pub(super) struct Resolver {
    /// The questions in flight.
    mux: Mux<Waiter, Claim>,
    /// Keeps and writes answers.
    engine: Arc<Engine>,
    /// The number of this thread.
    number: usize,
    /// The inboxes of all.
    inboxes: Inboxes,
    /// The thread's own socket; `None` of the one for TCP.
    socket: Option<Arc<UdpSocket>>,
}

impl Resolver {
    /// Makes one without questions.
    pub(super) fn new(
        (number, readiness): ResolverInput,
        engine: &Arc<Engine>,
        inboxes: &Inboxes,
        socket: Option<&Arc<UdpSocket>>,
    ) -> Self {
        let mux = Mux::new(readiness, engine.asking());
        Self { mux, engine: Arc::clone(engine), number, inboxes: Arc::clone(inboxes), socket: socket.cloned() }
    }

    /// Returns whether nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.mux.is_idle()
    }

    /// Lets a query wait for its question, here or where that is asked already; answers it where there is no room.
    pub(super) fn ask(&mut self, waiter: Waiter, write: &mut WriteAnswer<'_>) {
        let (engine, inboxes, socket, number) = (&self.engine, &self.inboxes, &self.socket, self.number);
        let hand = |owner: usize, waiter: Waiter| {
            let Waiter { pending, client } = waiter;
            let client = match (client, socket) {
                (Client::OwnSocket(source, local), Some(socket)) => {
                    Client::OtherSocket(Arc::clone(socket), source, local)
                }
                (client, _) => client,
            };
            if let Some(inbox) = inboxes.get(owner) {
                inbox.post(Waiter { pending, client });
            }
        };
        let asked = self.mux.ask(waiter, |waiter| engine.enter(waiter, Waits::question, number, hand));
        if let Err(Unclaimed::Full(waiter)) = asked {
            let full = Failure::busy("too many questions, or too many queries for the same one, are in flight");
            answer(&self.engine, &Err(Arc::new(full)), [waiter], write);
        }
    }

    /// Sends the queries to upstreams, takes what they and other threads send within `limit`, and answers.
    pub(super) fn wait(&mut self, limit: Duration, write: &mut WriteAnswer<'_>) {
        self.mux.flush();
        let engine = &self.engine;
        self.mux.wait(limit, |ended| finish(engine, ended, write));
        for waiter in self.mux.take_posted() {
            self.take_in(waiter, write);
        }
    }

    /// Answers all queries that still wait with a failure, as the thread ends.
    pub(super) fn close(mut self, write: &mut WriteAnswer<'_>) {
        let engine = &self.engine;
        self.mux.close(|ended| finish(engine, ended, write));
        let stopped = Err(Arc::new(Failure::busy("the process stops")));
        answer(engine, &stopped, self.mux.take_posted(), write);
    }

    /// Lets a query of another thread wait. Its question may have ended while it came here.
    fn take_in(&mut self, waiter: Waiter, write: &mut WriteAnswer<'_>) {
        let is_asking = self.mux.is_asking(waiter.pending.question());
        match if is_asking { None } else { self.engine.known(&waiter.pending) } {
            Some(lookup) => answer(&self.engine, &lookup, [waiter], write),
            None => self.ask(waiter, write),
        }
    }
}

/// Keeps the outcome of a question in the cache and answers the queries that waited for it.
fn finish(engine: &Engine, ended: Ended<Waiter, Claim>, write: &mut WriteAnswer<'_>) {
    let Ended { question, claim, waiters, outcome } = ended;
    let holder = waiters.first().map_or(Holder::NOBODY, |first| first.pending.holder());
    let lookup = match (outcome, &claim) {
        (Outcome::Answered(response, upstream), Some(_)) => {
            let is_awaited = waiters.iter().any(|waiter| !matches!(waiter.client, Client::Nobody));
            Ok(if is_awaited {
                engine.keep(&question, response, upstream, holder)
            } else {
                engine.keep_uncounted(&question, response, upstream, holder)
            })
        }
        (Outcome::Answered(response, upstream), None) => return engine.keep_late(&question, response, upstream),
        (Outcome::Failed(failure), Some(_)) => Err(engine.keep_failure(&question, failure, holder)),
        (Outcome::Overdue(failure), _) => engine.note_overdue(&question, failure, holder),
        // A late failure says nothing new.
        (Outcome::Failed(_), None) => return,
    };
    // Only now that the outcome is in the cache: else a query that comes meanwhile would ask the question again.
    drop(claim);
    answer(engine, &lookup, waiters, write);
}

/// Answers queries, those of the thread's own socket by `here`.
fn answer(engine: &Engine, lookup: &Lookup, waiters: impl IntoIterator<Item = Waiter>, write: &mut WriteAnswer<'_>) {
    for Waiter { pending, client } in waiters {
        match client {
            Client::Nobody => {}
            Client::OwnSocket(source, local) => write(&pending, lookup, source, local),
            Client::OtherSocket(socket, source, local) => {
                let mut out = Vec::with_capacity(512);
                engine.complete(&pending, lookup, &mut out);
                if let Err(error) = datagram::send_one(&socket, &out, source, local) {
                    tracing::debug!(%error, %source, "reply not sent");
                    engine.metrics().unsent(1);
                }
            }
            // A connection that is gone misses nothing.
            Client::Tcp(connection) => drop(connection.send((pending, lookup.clone()))),
        }
    }
}

/// The thread that asks upstreams for queries over TCP.
pub(crate) struct TcpThread {
    _thread: thread::JoinHandle<()>,
    /// The heartbeat, which the supervisor watches.
    pub(crate) heartbeat: Heartbeat,
}

impl TcpThread {
    /// Starts the thread, which runs as long as the process: connections may ask to their end.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub(crate) fn start(
        input: ResolverInput,
        engine: &Arc<Engine>,
        inboxes: &Inboxes,
        runtime: Handle,
    ) -> io::Result<Self> {
        let (heartbeat, engine, inboxes) = (Heartbeat::default(), Arc::clone(engine), Arc::clone(inboxes));
        let beats = heartbeat.clone();
        let run = move || {
            let _runtime = runtime.enter();
            let mut resolver = Resolver::new(input, &engine, &inboxes, None);
            loop {
                beats.beat();
                resolver.wait(TICK, &mut |_, _, _, _| {});
            }
        };
        Ok(Self { _thread: thread::Builder::new().name("tcp".into()).spawn(run)?, heartbeat })
    }
}

/// The longest time between two heartbeats of the thread.
const TICK: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::path::Path;
    use std::time::Instant;

    use tokio::runtime::Runtime;

    use super::*;
    use crate::engine::cache::Settings as CacheSettings;
    use crate::engine::{Asked, Begun, Transport, View};
    use crate::policy::{Bindings, Library, Tree};
    use crate::telemetry::metrics::Metrics;
    use crate::upstream::{self, Server, Settings};

    /// The address of all clients.
    const CLIENT: Ipv4Addr = Ipv4Addr::LOCALHOST;

    /// The upper bound of each wait.
    const DEADLINE: Duration = Duration::from_secs(20);

    /// Resolvers that share an engine with a single upstream.
    struct Scene {
        engine: Arc<Engine>,
        inboxes: Inboxes,
        /// The resolver for TCP, then those of two receiving threads.
        resolvers: Vec<Resolver>,
        /// The answers written to clients of a resolver's own socket, by the port of the client.
        answered: Vec<(u16, bool)>,
    }

    impl Scene {
        fn new(upstream: Server) -> Self {
            let text = "[policy.p]\nallow_all = true\nbudget = 'off'\n\
                        [client.c]\nsources = ['127.0.0.0/8']\npolicy = 'p'\n";
            let mut tree = Tree { root: "p".into(), ..Tree::default() };
            tree.files.insert(Path::new("p/p.toml"), Ok(text.into()));
            let (library, _) =
                Library::start(&tree, &mut |_, _| Err("no list".into()), &Bindings::default()).expect("well-formed");
            let upstreams = Arc::new(Upstreams::new(&[upstream], Settings::default(), Arc::new(())));
            let view = View { snapshot: Arc::clone(library.snapshot()), upstreams, denied_ttl: 5 };
            let hour = Duration::from_hours(1);
            let bounds = CacheSettings { size: 1 << 20, max_ttl: hour, serve_stale: hour };
            let engine = Arc::new(Engine::new(view, bounds, Arc::new(Metrics::default()), None));
            let (inboxes, inputs) = open(2).unwrap();
            let resolver = |input: ResolverInput| {
                let socket = (input.0 > 0).then(|| Arc::new(UdpSocket::bind((CLIENT, 0)).unwrap()));
                Resolver::new(input, &engine, &inboxes, socket.as_ref())
            };
            let resolvers = inputs.map(resolver).collect();
            Self { engine, inboxes, resolvers, answered: Vec::new() }
        }

        /// Begins a query for a name that is not in the cache.
        fn pending(&self, transport: Transport) -> Box<Pending> {
            let asked = Asked { source: CLIENT.into(), transport, listener: 0, since: Instant::now() };
            let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04miss\x04test\x00\x00\x01\x00\x01";
            match self.engine.begin(&self.engine.view(), query, asked, &mut Vec::new()) {
                Begun::Wait(pending) => pending,
                _ => panic!("it has to wait for the upstream"),
            }
        }

        /// Lets a client of a resolver's own socket ask.
        fn ask(&mut self, resolver: usize, client: &UdpSocket) {
            let client = Client::OwnSocket(client.local_addr().unwrap(), None);
            let waiter = Waiter { pending: self.pending(Transport::Udp), client };
            self.ask_by(resolver, waiter);
        }

        fn ask_by(&mut self, resolver: usize, waiter: Waiter) {
            let answered = &mut self.answered;
            self.resolvers[resolver].ask(waiter, &mut |_, lookup, source, _| {
                answered.push((source.port(), lookup.is_ok()));
            });
        }

        /// Lets a client ask over TCP.
        fn ask_over_tcp(&self) -> oneshot::Receiver<(Box<Pending>, Lookup)> {
            let (sender, receiver) = oneshot::channel();
            self.inboxes[0].post(Waiter { pending: self.pending(Transport::Tcp), client: Client::Tcp(sender) });
            receiver
        }

        /// Runs a turn of a resolver.
        fn turn(&mut self, resolver: usize, limit: Duration) {
            let answered = &mut self.answered;
            self.resolvers[resolver].wait(limit, &mut |_, lookup, source, _| {
                answered.push((source.port(), lookup.is_ok()));
            });
        }

        /// Runs turns of a resolver until it has answered so many clients of its socket.
        fn run_until(&mut self, resolver: usize, count: usize) {
            let end = Instant::now() + DEADLINE;
            while self.answered.len() < count {
                assert!(Instant::now() < end, "waited in vain: {:?}", self.answered);
                self.turn(resolver, Duration::from_millis(10));
            }
        }

        /// Ends a resolver as its thread does.
        fn close(&mut self, resolver: usize) {
            let answered = &mut self.answered;
            self.resolvers.remove(resolver).close(&mut |_, lookup, source, _| {
                answered.push((source.port(), lookup.is_ok()));
            });
        }
    }

    /// Returns a socket whose receive calls end at the deadline.
    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    /// Returns the port of a socket.
    fn port(socket: &UdpSocket) -> u16 {
        socket.local_addr().unwrap().port()
    }

    /// Receives a query as an upstream and returns its answer, an address, with the address to send it to.
    fn answer_to_query(upstream: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut query = [0; 512];
        let (length, source) = upstream.recv_from(&mut query).unwrap();
        let question = 12..12 + 11 + 4;
        assert!(length >= question.end);
        let header = [query[0], query[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 1];
        ([&header[..], &query[question], &record].concat(), source)
    }

    /// Returns the RCODE of the answer that a client receives.
    fn rcode(client: &UdpSocket) -> u8 {
        let mut answer = [0; 512];
        let length = client.recv(&mut answer).unwrap();
        assert!(length >= 12);
        answer[3] & 0x0f
    }

    #[test]
    fn queries_of_other_threads_are_answered_by_the_thread_that_asks_the_upstream() {
        let runtime = Runtime::new().unwrap();
        let _runtime = runtime.enter();
        // The others join the question while it is asked, or while its answer is there already.
        for is_joined in [true, false] {
            let (upstream, one, two) = (socket(), socket(), socket());
            let mut scene = Scene::new(Server::new(upstream.local_addr().unwrap(), upstream::Transport::Udp).unwrap());
            scene.ask(1, &one);
            scene.turn(1, Duration::ZERO);
            let (answer, source) = answer_to_query(&upstream);
            scene.ask(2, &two);
            let mut stream = scene.ask_over_tcp();
            scene.turn(0, Duration::ZERO);
            assert!(scene.resolvers[2].is_idle() && scene.resolvers[0].is_idle(), "both queries were handed over");
            if is_joined {
                scene.turn(1, Duration::ZERO);
            }
            upstream.send_to(&answer, source).unwrap();
            scene.run_until(1, 1);
            assert_eq!(scene.answered, [(port(&one), true)]);
            assert_eq!(rcode(&two), 0);
            let (pending, lookup) = stream.try_recv().expect("it is answered in the same turn");
            let mut out = Vec::new();
            scene.engine.complete(&pending, &lookup, &mut out);
            assert_eq!(out[3] & 0x0f, 0, "the cache has its answer");
            assert!(scene.resolvers[1].is_idle());
            upstream.set_nonblocking(true).unwrap();
            assert!(upstream.recv(&mut [0; 512]).is_err(), "the question is asked once");
        }
    }

    #[test]
    fn question_whose_task_is_lost_fails_for_all_that_wait() {
        let runtime = Runtime::new().unwrap();
        let upstream = TcpListener::bind((CLIENT, 0)).unwrap();
        let (one, two) = (socket(), socket());
        let mut scene = Scene::new(Server::new(upstream.local_addr().unwrap(), upstream::Transport::Tcp).unwrap());
        {
            let _runtime = runtime.enter();
            scene.ask(1, &one);
        }
        scene.ask(2, &two);
        scene.turn(1, Duration::ZERO);
        runtime.shutdown_background();
        scene.run_until(1, 1);
        assert_eq!(scene.answered, [(port(&one), false)]);
        assert_eq!(rcode(&two), 2);
        assert!(scene.resolvers[1].is_idle());
    }

    #[test]
    fn thread_that_ends_fails_its_questions_and_another_can_ask_them() {
        let runtime = Runtime::new().unwrap();
        let _runtime = runtime.enter();
        let (upstream, one, two) = (socket(), socket(), socket());
        let mut scene = Scene::new(Server::new(upstream.local_addr().unwrap(), upstream::Transport::Udp).unwrap());
        scene.ask(1, &one);
        scene.turn(1, Duration::ZERO);
        answer_to_query(&upstream);
        // One is handed over and joined, one only handed over.
        scene.ask(2, &two);
        scene.turn(1, Duration::ZERO);
        let mut stream = scene.ask_over_tcp();
        scene.turn(0, Duration::ZERO);
        let again = scene.pending(Transport::Udp);
        scene.close(1);
        assert_eq!(scene.answered, [(port(&one), false)]);
        assert_eq!(rcode(&two), 2);
        assert!(stream.try_recv().is_ok_and(|(_, lookup)| lookup.is_err()));
        scene.ask_by(1, Waiter { pending: again, client: Client::OwnSocket(one.local_addr().unwrap(), None) });
        scene.turn(1, Duration::ZERO);
        let (answer, source) = answer_to_query(&upstream);
        upstream.send_to(&answer, source).unwrap();
        scene.run_until(1, 2);
        assert_eq!(scene.answered[1], (port(&one), true));
    }
}
