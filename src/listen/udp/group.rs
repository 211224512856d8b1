//! Many listeners on few threads: beyond a bound, threads go by CPUs and not by listeners, and each looks after several sockets.
//!
//! A thread of its own for each socket, as one listener or a few have, needs one call to wait and receive. A shared one waits for
//! all its sockets first, which costs a call more a batch.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::{DRAIN, Front, IN_A_ROW, Shared, TICK, Worker, own_cpus, stay_on};
use crate::datagram::{BATCH, Receiver, Sender, Wait};
use crate::listen::overload::Overload;
use crate::listen::resolver::{Resolver, ResolverInput};
use crate::telemetry::heartbeat::Heartbeat;

/// Events taken at once.
const EVENTS: usize = 256;

impl Front {
    /// Starts so many threads for the sockets of all listeners, each with its listener's number.
    ///
    /// # Errors
    /// The operating system refuses a thread, an epoll instance or a socket option.
    pub(crate) fn start_shared(
        sockets: Vec<(UdpSocket, usize)>,
        threads: usize,
        shared: &Shared,
        inputs: &mut impl Iterator<Item = ResolverInput>,
    ) -> io::Result<Self> {
        let mut front = Self { threads: Vec::new() };
        let mut groups: Vec<Vec<Worker>> = Vec::new();
        groups.resize_with(threads.max(1).min(sockets.len()), Vec::new);
        let cpus = own_cpus(groups.len());
        let heartbeats: Vec<_> = groups.iter().map(|_| Heartbeat::default()).collect();
        for (index, (socket, listener)) in sockets.into_iter().enumerate() {
            let place = index % groups.len();
            groups[place].push(Worker {
                socket: Arc::new(socket),
                listener,
                shared: shared.clone(),
                heartbeat: heartbeats[place].clone(),
                cpu: cpus.get(place).copied(),
            });
        }
        for (index, (workers, heartbeat)) in groups.into_iter().zip(heartbeats).enumerate() {
            let poll = Poll::new()?;
            let register = |descriptor, token| {
                poll.registry().register(&mut SourceFd(&descriptor), Token(token), Interest::READABLE)
            };
            let mut upstreams = Vec::with_capacity(workers.len());
            for (place, worker) in workers.iter().enumerate() {
                register(worker.socket.as_raw_fd(), place)?;
                let input = inputs.next().ok_or(io::ErrorKind::InvalidInput)?;
                // Tokens after those of the sockets.
                register(input.1.descriptor(), workers.len() + place)?;
                upstreams.push(input);
            }
            let name = format!("udp-{index}");
            let thread = thread::Builder::new().name(name).spawn(move || run(&workers, upstreams, poll))?;
            front.threads.push((thread, heartbeat));
        }
        Ok(front)
    }
}

/// What a worker keeps from one turn to the next.
struct Turn {
    /// Its questions to upstreams.
    resolver: Resolver,
    /// Buffers for queries.
    receiver: Receiver,
    /// Answers that wait to be sent.
    sender: Sender,
    /// Its load.
    overload: Overload,
}

impl Turn {
    /// Begins without a question.
    fn new(worker: &Worker, input: ResolverInput) -> Self {
        let Shared { engine, inboxes, .. } = &worker.shared;
        let resolver = Resolver::new(input, engine, inboxes, Some(&worker.socket));
        let overload = Overload::new(Instant::now());
        Self { resolver, receiver: Receiver::new(), sender: Sender::new(), overload }
    }
}

/// Looks after the sockets of these workers until told to stop; then answers what is in flight.
fn run(workers: &[Worker], upstreams: Vec<ResolverInput>, mut poll: Poll) {
    let Some(first) = workers.first() else { return };
    if let Some(cpu) = first.cpu {
        stay_on(cpu);
    }
    // Tasks that ask over TCP, or another upstream after a failure, are spawned from this thread.
    let _runtime = first.shared.runtime.enter();
    let turns = workers.iter().zip(upstreams).map(|(worker, input)| Turn::new(worker, input));
    let mut turns: Vec<Turn> = turns.collect();
    let mut events = Events::with_capacity(EVENTS);
    // Sockets that were not emptied: they are not told of again.
    let mut is_left = vec![false; workers.len()];
    while !first.shared.stopping.load(Ordering::Relaxed) {
        first.heartbeat.beat();
        let wait = if is_left.contains(&true) { Duration::ZERO } else { until_next(&turns) };
        // Interrupted by a signal: it comes again.
        let _ = poll.poll(&mut events, Some(wait));
        // A reply of an upstream only wakes: all that ask are looked at.
        for event in &events {
            if let Some(is_left) = is_left.get_mut(event.token().0) {
                *is_left = true;
            }
        }
        for ((worker, turn), is_left) in workers.iter().zip(&mut turns).zip(&mut is_left) {
            if *is_left {
                *is_left = worker.receive_some(turn);
            }
            worker.hear_upstream(turn);
        }
    }
    for (worker, turn) in workers.iter().zip(&mut turns) {
        worker.empty_queue(&mut turn.receiver, &mut turn.resolver, &mut turn.sender);
    }
    let end = Instant::now() + DRAIN;
    while turns.iter().any(|turn| !turn.resolver.is_idle()) && Instant::now() < end {
        thread::park_timeout(until_next(&turns));
        workers.iter().zip(&mut turns).for_each(|(worker, turn)| worker.hear_upstream(turn));
    }
    for (worker, Turn { resolver, mut sender, .. }) in workers.iter().zip(turns) {
        resolver.close(&mut worker.writer(&mut sender));
        worker.send(&mut sender);
    }
}

/// Returns how long may be waited: where questions are in flight, some may have to be asked again.
fn until_next(turns: &[Turn]) -> Duration {
    /// A small part of the time after which a question is asked again.
    const HEAR_EVERY: Duration = Duration::from_millis(10);
    if turns.iter().all(|turn| turn.resolver.is_idle()) { TICK } else { HEAR_EVERY }
}

impl Worker {
    /// Takes and answers some batches; returns whether the socket was not emptied.
    fn receive_some(&self, turn: &mut Turn) -> bool {
        for _ in 0..=IN_A_ROW {
            let Turn { resolver, receiver, sender, overload } = &mut *turn;
            match receiver.receive(&self.socket, Wait::Never) {
                Ok(count) => {
                    self.answer_batch(receiver, count, resolver, sender, overload);
                    self.send(sender);
                    if count < BATCH {
                        // Edge-triggered: a batch that is not full has emptied the socket.
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // A signal, or an ICMP error of an earlier reply.
                Err(_) => {}
            }
        }
        true
    }

    /// Takes what upstreams say by now, and answers those who wait for it.
    fn hear_upstream(&self, turn: &mut Turn) {
        let Turn { resolver, sender, .. } = turn;
        if !resolver.is_idle() {
            resolver.wait(Duration::ZERO, &mut self.writer(sender));
            self.send(sender);
        }
    }
}
