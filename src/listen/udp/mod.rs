//! UDP: threads that take queries in batches, answer what needs no upstream at once, and ask upstreams for the rest.
//!
//! What is out of the ordinary with an upstream (TCP, a failure where another may do better) is asked by a task of the runtime,
//! while those that wait for it stay with their thread. That is bounded thrice: each of them is a query that waits, of which
//! the engine lets in so many in all and of one client; so many questions of one client are asked by tasks at a time; and
//! sockets to upstreams are counted. What is beyond a bound is answered SERVFAIL at once.

mod group;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;

use super::overload::Overload;
use crate::bounds::UDP_BUFFER;
use crate::datagram::{self, BATCH, LocalAddress, Receiver, Sender, Wait};
use crate::dns::response::Question;
use crate::engine::{Asked, Begun, Claim, Engine, Lookup, Pending, Transport};
use crate::fair_share::Holder;
use crate::telemetry::heartbeat::Heartbeat;
use crate::upstream::Upstreams;
use crate::upstream::mux::{Fate, Mux, Readiness, Waits};

/// How long a thread waits for a datagram before it looks whether it should stop.
const TICK: Duration = Duration::from_millis(200);
/// Batches that may be answered one after the other before upstreams are asked what those leave open, and listened to.
///
/// Under load that saves system calls, and wake-ups of an upstream nearby: with 5 % misses a query costs 5 % less (measured
/// 2026-11-24). A miss pays for it with the time of two batches, some 50 us; without load nothing waits.
const IN_A_ROW: u32 = 2;
/// Datagrams that make a batch one of many to come; smaller ones say that there is time to listen.
const MANY: usize = 4;
/// How long the questions of a thread may take at the end; the process waits about as long.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a thread that is told to stop goes on emptying its socket's queue.
const LAST_CALL: Duration = Duration::from_secs(1);

/// The UDP side of one listener: its threads stop when [`Shared::stopping`] is set.
pub(crate) struct Front {
    /// The threads, and their heartbeats.
    threads: Vec<(thread::JoinHandle<()>, Heartbeat)>,
}

/// What every thread of every front needs.
#[derive(Clone)]
pub(crate) struct Shared {
    /// Bytes in, bytes out.
    pub(crate) engine: Arc<Engine>,
    /// Where queries wait for an upstream.
    pub(crate) runtime: Handle,
    /// Set once to stop all of them; they see it within a tick.
    pub(crate) stopping: Arc<AtomicBool>,
}

impl Front {
    /// Starts one thread per socket for listener number `listener`.
    ///
    /// # Errors
    /// The operating system refuses a thread, an epoll instance or a socket option.
    pub(crate) fn start(sockets: Vec<UdpSocket>, listener: usize, shared: &Shared) -> io::Result<Self> {
        let mut front = Self { threads: Vec::new() };
        let cpus = own_cpus(sockets.len());
        for (index, socket) in sockets.into_iter().enumerate() {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(TICK))?;
            let heartbeat = Heartbeat::default();
            let worker = Worker {
                socket: Arc::new(socket),
                listener,
                shared: shared.clone(),
                heartbeat: heartbeat.clone(),
                cpu: cpus.get(index).copied(),
            };
            let readiness = Readiness::new()?;
            readiness.watch(&worker.socket)?;
            let name = format!("udp-{listener}-{index}");
            let thread = thread::Builder::new().name(name).spawn(move || worker.run(readiness))?;
            front.threads.push((thread, heartbeat));
        }
        Ok(front)
    }

    /// Returns the threads' names and heartbeats.
    pub(crate) fn heartbeats(&self) -> impl Iterator<Item = (String, Heartbeat)> {
        let name = |thread: &thread::JoinHandle<()>| thread.thread().name().unwrap_or("udp").to_owned();
        self.threads.iter().map(move |(thread, heartbeat)| (name(thread), heartbeat.clone()))
    }

    /// Returns whether all of its threads have ended. One that panicked has been reported by the panic hook.
    pub(crate) fn has_ended(&self) -> bool {
        self.threads.iter().all(|(thread, _)| thread.is_finished())
    }
}

/// Binds a UDP socket that several threads (and a successor process) can share the port of.
///
/// # Errors
/// The address is in use or not ours, or the port needs a capability.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // 0.0.0.0 and [::] can be configured side by side.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    prepare(&socket, address)?;
    may_be_absent(&socket, address)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Sets the options that a UDP socket listening on `bound_to` needs, also one that was passed in.
///
/// # Errors
/// The kernel refuses packet information.
pub(crate) fn prepare(socket: &Socket, bound_to: SocketAddr) -> io::Result<()> {
    // Best effort: the kernel caps both.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    if bound_to.ip().is_unspecified() { datagram::want_packet_info(socket, bound_to.is_ipv6()) } else { Ok(()) }
}

/// Lets a socket be bound to an address that no interface has yet, as of a bridge that comes after the start: once one has it,
/// what is sent there arrives, and answers go out with it as their source (ip(7), `IP_FREEBIND`). No privilege is needed.
///
/// # Errors
/// The kernel does not know the option.
pub(super) fn may_be_absent(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.ip().is_unspecified() {
        return Ok(());
    }
    if address.is_ipv6() { socket.set_freebind_v6(true) } else { socket.set_freebind_v4(true) }
}

/// Returns a CPU for each thread, if there are as many threads as CPUs we may run on; else none: then the scheduler
/// knows better.
fn own_cpus(threads: usize) -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if cpus.len() == threads { cpus } else { Vec::new() }
}

/// Binds this thread to a CPU, so that its caches stay warm; a sandbox may forbid that, and then it moves as it did.
fn stay_on(cpu: usize) {
    let mut own = CpuSet::new();
    own.set(cpu);
    if let Err(error) = sched_setaffinity(None, &own) {
        tracing::debug!(%error, cpu, "thread not bound");
    }
}

/// Returns whose share the answer counts in that these wait for: the one's that asked first.
fn holder(waiters: &[Waiter]) -> Holder {
    waiters.first().map_or(Holder::NOBODY, |first| first.pending.holder())
}

/// One receiving thread.
struct Worker {
    /// The socket, shared with the replies that had to wait elsewhere.
    socket: Arc<UdpSocket>,
    /// The listener's number, which may have a policy of its own.
    listener: usize,
    /// Engine and runtime, and whether to stop.
    shared: Shared,
    /// A beat for each turn of the loop.
    heartbeat: Heartbeat,
    /// The CPU to stay on.
    cpu: Option<usize>,
}

/// A query that waits for an upstream, and where its answer goes.
struct Waiter {
    /// The query.
    pending: Box<Pending>,
    /// The client and the address it asked; none where only the cache waits for the answer.
    client: Option<(SocketAddr, Option<LocalAddress>)>,
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

    fn is_awaited(&self) -> bool {
        self.client.is_some()
    }
}

impl Worker {
    /// Receives, answers and sends batches until told to stop; then answers what is in flight.
    fn run(self, readiness: Readiness) {
        if let Some(cpu) = self.cpu {
            stay_on(cpu);
        }
        // Tries that go the general way are started from here.
        let _runtime = self.shared.runtime.enter();
        let mut mux = Mux::new(readiness, self.shared.engine.asking());
        let mut receiver = Receiver::new();
        let mut sender = Sender::new();
        let mut overload = Overload::new(Instant::now());
        let (mut is_busy, mut in_a_row) = (false, 0);
        while !self.shared.stopping.load(Ordering::Relaxed) {
            self.heartbeat.beat();
            // With nothing in flight one call both waits and receives; otherwise upstreams are listened to as well.
            let wait = if mux.is_idle() {
                Wait::First
            } else {
                if !(1..=IN_A_ROW).contains(&in_a_row) {
                    self.wait_upstream(&mut mux, if is_busy { Duration::ZERO } else { TICK }, &mut sender);
                    in_a_row = 0;
                }
                Wait::Never
            };
            is_busy = false;
            match receiver.receive(&self.socket, wait) {
                Ok(count) => {
                    self.answer_batch(&receiver, count, &mut mux, &mut sender, &mut overload);
                    is_busy = count == BATCH;
                    in_a_row = if count >= MANY { in_a_row + 1 } else { 0 };
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    in_a_row = 0;
                }
                Err(error) => {
                    // ICMP errors of earlier replies arrive here; a socket that is really broken must not spin.
                    tracing::debug!(%error, "receive failed");
                    thread::park_timeout(Duration::from_millis(1));
                }
            }
            self.send(&mut sender);
        }
        self.empty_queue(&mut receiver, &mut mux, &mut sender);
        let end = Instant::now() + DRAIN;
        while !mux.is_idle() && Instant::now() < end {
            self.wait_upstream(&mut mux, TICK, &mut sender);
            self.send(&mut sender);
        }
    }

    /// Takes what had come in when the thread was told to stop: those who asked have been waiting since.
    ///
    /// Under load the queue is never empty; what comes later than [`LAST_CALL`] is left to whoever has the socket next.
    fn empty_queue(&self, receiver: &mut Receiver, mux: &mut Mux<Waiter, Claim>, sender: &mut Sender) {
        let end = Instant::now() + LAST_CALL;
        let mut overload = Overload::new(Instant::now());
        while Instant::now() < end {
            match receiver.receive(&self.socket, Wait::Never) {
                Ok(count) => {
                    self.answer_batch(receiver, count, mux, sender, &mut overload);
                    self.send(sender);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A signal, or an ICMP error of an earlier reply.
                Err(_) => {}
            }
        }
    }

    /// Answers one batch with one policy snapshot.
    fn answer_batch(
        &self,
        receiver: &Receiver,
        count: usize,
        mux: &mut Mux<Waiter, Claim>,
        sender: &mut Sender,
        overload: &mut Overload,
    ) {
        let (view, since) = (self.shared.engine.view(), Instant::now());
        overload.note_batch(count == BATCH, since);
        let is_overloaded = overload.is_on();
        for index in 0..count {
            let Some(datagram) = receiver.datagram(index) else { continue };
            // No port to answer to; a reflector's trick.
            if datagram.source.port() == 0 {
                continue;
            }
            if sender.is_full() {
                self.send(sender);
            }
            let (source, listener) = (datagram.source.ip(), self.listener);
            let asked = Asked { source, transport: Transport::Udp, listener, since };
            let holder = is_overloaded.then(|| view.snapshot.asker(source, listener).holder(source));
            if holder.is_some_and(|holder| !overload.admits(holder)) {
                self.shared.engine.metrics().shed();
                continue;
            }
            let begin = holder.map(|holder| (holder, Instant::now()));
            let mut waits = false;
            match self.shared.engine.begin(&view, datagram.bytes, asked, sender.next()) {
                Begun::Answer => sender.queue(datagram.source, datagram.local),
                Begun::Renew(pending) => {
                    sender.queue(datagram.source, datagram.local);
                    self.renew(mux, pending);
                }
                Begun::Drop => {}
                Begun::Wait(pending) => {
                    let client = Some((datagram.source, datagram.local));
                    self.ask(mux, Waiter { pending, client });
                    waits = true;
                }
            }
            if let Some((holder, begin)) = begin {
                overload.charge(holder, begin.elapsed(), waits);
            }
        }
    }

    /// Asks the upstream for a query from this thread, or, where that cannot be, from the runtime.
    fn ask(&self, mux: &mut Mux<Waiter, Claim>, waiter: Waiter) {
        if let Err(waiter) = mux.ask(waiter, |question| self.shared.engine.claim(question)) {
            self.ask_elsewhere(waiter);
        }
    }

    /// Asks the upstream for what the cache has, but not for long; not if anybody asks it already, or that needs more
    /// than this thread.
    fn renew(&self, mux: &mut Mux<Waiter, Claim>, pending: Box<Pending>) {
        let waiter = Waiter { pending, client: None };
        drop(mux.ask(waiter, |question| self.shared.engine.claim(question)));
    }

    /// Asks upstreams what is to be asked, takes what they say, for `limit` at most, and answers those who wait for it.
    fn wait_upstream(&self, mux: &mut Mux<Waiter, Claim>, limit: Duration, sender: &mut Sender) {
        mux.flush();
        let engine = &self.shared.engine;
        mux.wait(limit, |landed| match (landed.fate, landed.claim) {
            (Fate::Answered(response, upstream), Some(claim)) => {
                let (holder, is_awaited) = (holder(&landed.waiters), landed.waiters.iter().any(Waits::is_awaited));
                let lookup = Ok(if is_awaited {
                    engine.keep(&landed.question, response, upstream, holder)
                } else {
                    engine.keep_uncounted(&landed.question, response, upstream, holder)
                });
                self.settle(claim, lookup, landed.waiters, sender);
            }
            (Fate::Answered(response, upstream), None) => engine.keep_late(&landed.question, response, upstream),
            (Fate::Failed(failure), Some(claim)) => {
                let lookup = Err(engine.keep_failure(&landed.question, failure, holder(&landed.waiters)));
                self.settle(claim, lookup, landed.waiters, sender);
            }
            (Fate::Overdue(failure), _) => {
                let lookup = engine.note_overdue(&landed.question, failure, holder(&landed.waiters));
                self.answer(&lookup, landed.waiters, sender);
            }
            // A late failure says nothing new.
            (Fate::Failed(_), None) => {}
        });
    }

    /// Answers all who wait for a question, also those elsewhere.
    fn settle(&self, claim: Claim, lookup: Lookup, waiters: Vec<Waiter>, sender: &mut Sender) {
        self.answer(&lookup, waiters, sender);
        claim.settle(lookup);
    }

    /// Answers these.
    fn answer(&self, lookup: &Lookup, waiters: Vec<Waiter>, sender: &mut Sender) {
        for Waiter { pending, client } in waiters {
            let Some((source, local)) = client else { continue };
            if sender.is_full() {
                self.send(sender);
            }
            self.shared.engine.complete(&pending, lookup, sender.next());
            sender.queue(source, local);
        }
    }

    /// Sends what is queued.
    fn send(&self, sender: &mut Sender) {
        let lost = sender.send(&self.socket);
        if lost > 0 {
            self.shared.engine.metrics().unsent(lost);
        }
    }

    /// Hands a query that needs an upstream to the runtime, which answers it from the same socket.
    fn ask_elsewhere(&self, waiter: Waiter) {
        let engine = Arc::clone(&self.shared.engine);
        self.answer_later(waiter, |pending| async move { engine.finish(pending).await });
    }

    /// Starts a task that answers a query with what `finish` writes. There are never more than queries may wait: the
    /// query's permit goes with it.
    fn answer_later<F>(&self, waiter: Waiter, finish: impl FnOnce(Box<Pending>) -> F)
    where
        F: Future<Output = Vec<u8>> + Send + 'static,
    {
        let Waiter { pending, client } = waiter;
        let Some((source, local)) = client else { return };
        let (socket, engine, finishing) = (Arc::clone(&self.socket), Arc::clone(&self.shared.engine), finish(pending));
        self.shared.runtime.spawn(async move {
            let answer = finishing.await;
            if let Err(error) = datagram::send_one(&socket, &answer, source, local) {
                tracing::debug!(%error, %source, "reply not sent");
                engine.metrics().unsent(1);
            }
        });
    }
}
