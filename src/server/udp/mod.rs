//! UDP: threads that take queries in batches and answer what needs no upstream at once.
//!
//! A query that needs an upstream is handed to the runtime with everything its answer needs; the thread goes on.

mod batch;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;

use self::batch::{LocalAddress, Receiver, Sender};
use crate::engine::{Asked, Engine, Pending, Step, Transport};

/// How long a thread waits for a datagram before it looks whether it should stop.
const TICK: Duration = Duration::from_millis(200);
/// The receive buffer asked for, in octets; the kernel may grant less (`net.core.rmem_max`).
const RECEIVE_BUFFER: usize = 4 << 20;

/// The UDP side of one listener: its threads stop when [`Front::stop`] is called.
pub(crate) struct Front {
    /// Set once; the threads see it within a tick.
    stopping: Arc<AtomicBool>,
    /// Turns of all threads' loops: a thread that hangs stops counting.
    beats: Vec<Arc<AtomicU64>>,
    /// The threads, joined by `stop`.
    threads: Vec<thread::JoinHandle<()>>,
}

/// What every thread of every front needs.
#[derive(Clone)]
pub(crate) struct Shared {
    /// Bytes in, bytes out.
    pub(crate) engine: Arc<Engine>,
    /// Where queries wait for an upstream.
    pub(crate) runtime: Handle,
}

impl Front {
    /// Starts one thread per socket for listener number `listener`.
    ///
    /// # Errors
    /// The operating system refuses a thread or a socket option.
    pub(crate) fn start(sockets: Vec<UdpSocket>, listener: usize, shared: &Shared) -> io::Result<Self> {
        let mut front = Self { stopping: Arc::default(), beats: Vec::new(), threads: Vec::new() };
        for (index, socket) in sockets.into_iter().enumerate() {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(TICK))?;
            let beat = Arc::new(AtomicU64::new(0));
            let worker = Worker {
                socket: Arc::new(socket),
                listener,
                shared: shared.clone(),
                stopping: Arc::clone(&front.stopping),
                beat: Arc::clone(&beat),
            };
            front.beats.push(beat);
            let name = format!("udp-{listener}-{index}");
            front.threads.push(thread::Builder::new().name(name).spawn(move || worker.run())?);
        }
        Ok(front)
    }

    /// Returns the number of loop turns each thread has made, for the watchdog.
    pub(crate) fn beats(&self) -> impl Iterator<Item = u64> {
        self.beats.iter().map(|beat| beat.load(Ordering::Relaxed))
    }

    /// Stops taking queries and waits for the threads, a tick at most.
    pub(crate) fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A thread that panicked has already been reported by the panic hook.
            let _ = thread.join();
        }
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
    prepare(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Sets the options every listening UDP socket needs, also one that was passed in.
///
/// # Errors
/// The kernel refuses packet information.
pub(crate) fn prepare(socket: &Socket) -> io::Result<()> {
    // Best effort: without the privilege the kernel caps it at net.core.rmem_max.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    batch::want_packet_info(socket, socket.domain()? == Domain::IPV6)
}

/// One receiving thread.
struct Worker {
    /// The socket, shared with the replies that had to wait.
    socket: Arc<UdpSocket>,
    /// The listener's number, which may have a policy of its own.
    listener: usize,
    /// Engine and runtime.
    shared: Shared,
    /// Told to stop.
    stopping: Arc<AtomicBool>,
    /// Loop turns.
    beat: Arc<AtomicU64>,
}

impl Worker {
    /// Receives, answers and sends batches until told to stop.
    fn run(self) {
        let mut receiver = Receiver::new();
        let mut sender = Sender::new();
        while !self.stopping.load(Ordering::Relaxed) {
            self.beat.fetch_add(1, Ordering::Relaxed);
            match receiver.receive(&self.socket) {
                Ok(count) => self.answer_batch(&receiver, count, &mut sender),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    // ICMP errors of earlier replies arrive here; a socket that is really broken must not spin.
                    tracing::debug!(%error, "receive failed");
                    thread::park_timeout(Duration::from_millis(1));
                }
            }
        }
    }

    /// Answers one batch with one policy snapshot.
    fn answer_batch(&self, receiver: &Receiver, count: usize, sender: &mut Sender) {
        let view = self.shared.engine.view();
        for index in 0..count {
            let Some(datagram) = receiver.datagram(index) else { continue };
            // No port to answer to; a reflector's trick.
            if datagram.source.port() == 0 {
                continue;
            }
            let asked = Asked { source: datagram.source.ip(), transport: Transport::Udp, listener: self.listener };
            let out = sender.next();
            match self.shared.engine.step(&view, datagram.bytes, asked, out) {
                Step::Answer => sender.queue(datagram.source, datagram.local),
                Step::Drop => {}
                Step::Wait(pending) => self.wait(pending, datagram.source, datagram.local),
            }
        }
        let lost = sender.send(&self.socket);
        if lost > 0 {
            self.shared.engine.metrics().unsent(lost);
        }
    }

    /// Hands a query that needs an upstream to the runtime, which answers it from the same socket.
    fn wait(&self, pending: Box<Pending>, source: SocketAddr, local: Option<LocalAddress>) {
        let socket = Arc::clone(&self.socket);
        let engine = Arc::clone(&self.shared.engine);
        self.shared.runtime.spawn(async move {
            let answer = engine.finish(pending).await;
            if let Err(error) = batch::send_one(&socket, &answer, source, local) {
                tracing::debug!(%error, %source, "reply not sent");
                engine.metrics().unsent(1);
            }
        });
    }
}
