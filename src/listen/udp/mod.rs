//! UDP: threads that take queries in batches, answer what needs no upstream at once, and ask upstreams for the rest.
//!
//! A question that takes more than UDP to one upstream (TCP, or another upstream after a failure) is asked by a task of the
//! runtime, while the queries that wait for it stay with their thread. Three bounds hold: on the queries that wait, in all
//! and of one client; on the questions of one client that tasks ask at a time; and on sockets to upstreams. A query beyond
//! a bound is answered SERVFAIL at once.

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
use super::resolver::{Client, Inboxes, Resolver, ResolverInput, Waiter};
use crate::bounds::UDP_BUFFER;
use crate::datagram::{self, BATCH, LocalAddress, Receiver, Sender, Wait};
use crate::engine::{Asked, Begun, Engine, Lookup, Pending, Transport};
use crate::telemetry::heartbeat::Heartbeat;

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
    /// Where tasks ask upstreams.
    pub(crate) runtime: Handle,
    /// Where queries are handed to other threads.
    pub(crate) inboxes: Inboxes,
    /// Set once to stop all of them; they see it within a tick.
    pub(crate) stopping: Arc<AtomicBool>,
}

impl Front {
    /// Starts one thread per socket for listener number `listener`.
    ///
    /// # Errors
    /// The operating system refuses a thread, an epoll instance or a socket option.
    pub(crate) fn start(
        sockets: Vec<UdpSocket>,
        listener: usize,
        shared: &Shared,
        inputs: &mut impl Iterator<Item = ResolverInput>,
    ) -> io::Result<Self> {
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
            let input = inputs.next().ok_or(io::ErrorKind::InvalidInput)?;
            input.1.watch(&worker.socket)?;
            let name = format!("udp-{listener}-{index}");
            let thread = thread::Builder::new().name(name).spawn(move || worker.run(input))?;
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

/// One receiving thread.
struct Worker {
    /// The socket, shared with other threads, which answer queries that were handed to them.
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

impl Worker {
    /// Receives, answers and sends batches until told to stop; then answers what is in flight.
    fn run(self, input: ResolverInput) {
        if let Some(cpu) = self.cpu {
            stay_on(cpu);
        }
        // Tasks that ask over TCP, or another upstream after a failure, are spawned from this thread.
        let _runtime = self.shared.runtime.enter();
        let mut resolver = Resolver::new(input, &self.shared.engine, &self.shared.inboxes, Some(&self.socket));
        let mut receiver = Receiver::new();
        let mut sender = Sender::new();
        let mut overload = Overload::new(Instant::now());
        let (mut is_busy, mut in_a_row) = (false, 0);
        while !self.shared.stopping.load(Ordering::Relaxed) {
            self.heartbeat.beat();
            // With nothing in flight one call both waits and receives; otherwise upstreams are listened to as well.
            let wait = if resolver.is_idle() {
                Wait::First
            } else {
                if !(1..=IN_A_ROW).contains(&in_a_row) {
                    resolver.wait(if is_busy { Duration::ZERO } else { TICK }, &mut self.writer(&mut sender));
                    in_a_row = 0;
                }
                Wait::Never
            };
            is_busy = false;
            match receiver.receive(&self.socket, wait) {
                Ok(count) => {
                    self.answer_batch(&receiver, count, &mut resolver, &mut sender, &mut overload);
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
        self.empty_queue(&mut receiver, &mut resolver, &mut sender);
        let end = Instant::now() + DRAIN;
        while !resolver.is_idle() && Instant::now() < end {
            resolver.wait(TICK, &mut self.writer(&mut sender));
            self.send(&mut sender);
        }
        resolver.close(&mut self.writer(&mut sender));
        self.send(&mut sender);
    }

    /// Takes what had come in when the thread was told to stop: those who asked have been waiting since.
    ///
    /// Under load the queue is never empty; what comes later than [`LAST_CALL`] is left to whoever has the socket next.
    fn empty_queue(&self, receiver: &mut Receiver, resolver: &mut Resolver, sender: &mut Sender) {
        let end = Instant::now() + LAST_CALL;
        let mut overload = Overload::new(Instant::now());
        while Instant::now() < end {
            match receiver.receive(&self.socket, Wait::Never) {
                Ok(count) => {
                    self.answer_batch(receiver, count, resolver, sender, &mut overload);
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
        resolver: &mut Resolver,
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
                    resolver.ask(Waiter { pending, client: Client::Nobody }, &mut self.writer(sender));
                }
                Begun::Drop => {}
                Begun::Wait(pending) => {
                    let client = Client::OwnSocket(datagram.source, datagram.local);
                    resolver.ask(Waiter { pending, client }, &mut self.writer(sender));
                    waits = true;
                }
            }
            if let Some((holder, begin)) = begin {
                overload.charge(holder, begin.elapsed(), waits);
            }
        }
    }

    /// Returns what answers clients of this socket.
    fn writer<'a>(
        &'a self,
        sender: &'a mut Sender,
    ) -> impl FnMut(&Pending, &Lookup, SocketAddr, Option<LocalAddress>) + 'a {
        |pending, lookup, source, local| {
            if sender.is_full() {
                self.send(sender);
            }
            self.shared.engine.complete(pending, lookup, sender.next());
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
}
