//! TCP (RFC 7766): an acceptor of our own, so that UDP and TCP share the engine byte for byte.
//!
//! hickory-server would parse the query and re-encode the answer on the way, answers malformed queries by itself,
//! works through one connection's queries in turn and has no limit on connections.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::engine::{Asked, Engine, Step, Transport};

/// Connections at once, over all clients and listeners; further ones wait in the kernel's backlog.
pub(crate) const MAX_CONNECTIONS: usize = 1024;
/// Connections at once of one client address; further ones are closed at once.
const MAX_PER_CLIENT: usize = 64;
/// Queries of one connection that may wait for an upstream at once; then its next query is not read.
const MAX_PIPELINED: usize = 64;
/// Answers of one connection that are made and not yet taken by the client, of up to 64 KiB each; then nothing more is
/// read or made for it.
const MAX_UNREAD: usize = 4;
/// How long a connection may be silent between queries (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// How long one query may take to arrive once its first octet has, and one answer to be taken.
const TRANSFER: Duration = Duration::from_secs(5);
/// How long a connection may live in all; a client simply opens another one.
const LIFETIME: Duration = Duration::from_mins(10);
/// The pause after a failed accept (out of file descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections the kernel keeps for us before they are accepted.
const BACKLOG: i32 = 512;

/// The bounds that all TCP listeners of the process share.
pub(crate) struct Limits {
    /// Connections left.
    slots: Arc<Semaphore>,
    /// Connections open, by client address.
    clients: Mutex<HashMap<IpAddr, usize>>,
}

impl Limits {
    /// Makes the bounds of [`MAX_CONNECTIONS`] and [`MAX_PER_CLIENT`].
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)), clients: Mutex::default() })
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> usize {
        MAX_CONNECTIONS - self.slots.available_permits()
    }

    /// Counts a connection in; `None` when this client has too many.
    fn enter(self: &Arc<Self>, client: IpAddr, slot: OwnedSemaphorePermit) -> Option<Seat> {
        let client = host(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let open = clients.entry(client).or_default();
        if *open >= MAX_PER_CLIENT {
            return None;
        }
        *open += 1;
        Some(Seat { limits: Arc::clone(self), client, _slot: slot })
    }
}

/// Returns what connections are counted by: an IPv4 address, or the first of the /64 a host can choose from.
fn host(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => std::net::Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
    }
}

/// One connection's place; dropping it gives the place back.
struct Seat {
    /// Where it is counted.
    limits: Arc<Limits>,
    /// Whose it is.
    client: IpAddr,
    /// Its share of all connections.
    _slot: OwnedSemaphorePermit,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut clients = self.limits.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = clients.get_mut(&self.client) {
            *open -= 1;
            if *open == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// Binds a listening TCP socket.
///
/// # Errors
/// The address is in use or not ours, or the port needs a capability.
pub(crate) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier process in TIME_WAIT do not keep the port; another listener does.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections until told to stop, then lets the queries in flight be answered.
pub(crate) async fn serve(
    listener: TcpListener,
    number: usize,
    engine: Arc<Engine>,
    limits: Arc<Limits>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&limits.slots).acquire_owned() => slot.expect("the semaphore is never closed"),
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(seat) = limits.enter(peer.ip(), slot) else {
                    tracing::debug!(client = %peer.ip(), "connection closed: too many of one client");
                    continue;
                };
                let (source, engine) = (peer.ip(), Arc::clone(&engine));
                let connection = Connection { engine, source, listener: number, stop: stop.clone() };
                connections.spawn(async move {
                    let ended = connection.run(stream).await;
                    if let Err(error) = ended {
                        tracing::debug!(%error, client = %peer.ip(), "connection ended");
                    }
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// One accepted connection.
struct Connection {
    /// Bytes in, bytes out.
    engine: Arc<Engine>,
    /// Who asks.
    source: IpAddr,
    /// The number of the listener.
    listener: usize,
    /// Told to stop.
    stop: watch::Receiver<bool>,
}

impl Connection {
    /// Reads queries and writes answers, each as soon as it is ready (RFC 7766 §7: in any order).
    async fn run(mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut reader, writer) = stream.into_split();
        let (answers, queue) = mpsc::channel(MAX_UNREAD);
        let flow = Flow {
            answers,
            waiting: Arc::new(Semaphore::new(MAX_PIPELINED)),
            unread: Arc::new(Semaphore::new(MAX_UNREAD)),
        };
        let writing = tokio::spawn(write_answers(writer, queue));
        let end = Instant::now() + LIFETIME;
        let mut query = Vec::new();
        let mut ended = Ok(());
        while Instant::now() < end && !flow.answers.is_closed() {
            let first = tokio::select! {
                first = timeout(IDLE, reader.read_u8()) => first,
                _ = self.stop.wait_for(|stop| *stop) => break,
            };
            // Silent for too long, or closed by the client: both are the usual end.
            let Ok(Ok(first)) = first else { break };
            let read = tokio::select! {
                read = timeout(TRANSFER, read_query(&mut reader, first, &mut query)) => read,
                // Half a query is none that is in flight.
                _ = self.stop.wait_for(|stop| *stop) => break,
            };
            match read {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    ended = Err(error);
                    break;
                }
                Err(_) => {
                    ended = Err(io::Error::new(io::ErrorKind::TimedOut, "the query did not arrive in time"));
                    break;
                }
            }
            if self.answer(&query, &flow).await.is_break() {
                break;
            }
            // All that a source without a policy gets is this denial; it must not hold the place of others for it.
            if !self.engine.is_known(self.source, self.listener) {
                break;
            }
        }
        // The writer ends when the last answer in flight is out.
        drop(flow);
        let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        ended.and(written)
    }

    /// Answers one query at once, or starts waiting for its answer.
    async fn answer(&self, query: &[u8], flow: &Flow) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let Ok(room) = Arc::clone(&flow.unread).acquire_owned().await else { return Break(()) };
        let mut out = Vec::new();
        let since = std::time::Instant::now();
        let asked = Asked { source: self.source, transport: Transport::Tcp, listener: self.listener, since };
        let step = {
            let view = self.engine.view();
            self.engine.step(&view, query, asked, &mut out)
        };
        let step = match step {
            Step::Renew(pending) => {
                let engine = Arc::clone(&self.engine);
                tokio::spawn(async move { drop(engine.look_up(&pending).await) });
                Step::Answer
            }
            step => step,
        };
        match step {
            Step::Answer | Step::Renew(_) => match flow.answers.send((out, room)).await {
                Ok(()) => Continue(()),
                Err(_) => Break(()),
            },
            // Over TCP a message that is no query ends the connection: its framing cannot be trusted.
            Step::Drop => Break(()),
            Step::Wait(pending) => {
                drop(room);
                let Ok(permit) = Arc::clone(&flow.waiting).acquire_owned().await else { return Break(()) };
                let engine = Arc::clone(&self.engine);
                let (answers, unread) = (flow.answers.clone(), Arc::clone(&flow.unread));
                tokio::spawn(async move {
                    let lookup = engine.look_up(&pending).await;
                    // The answer is made only when there is room for it; what it is made of is shared.
                    if let Ok(room) = unread.acquire_owned().await {
                        let mut out = Vec::with_capacity(512);
                        engine.answer(&pending, &lookup, &mut out);
                        // The send fails when the client is gone, and then nobody misses the answer.
                        let _ = answers.send((out, room)).await;
                    }
                    drop(permit);
                });
                Continue(())
            }
        }
    }
}

/// What goes from a connection's reader to its writer.
struct Flow {
    /// Answers, each with its room.
    answers: mpsc::Sender<Made>,
    /// Queries that may still wait for an upstream.
    waiting: Arc<Semaphore>,
    /// Answers that may still be made.
    unread: Arc<Semaphore>,
}

/// An answer, and the room it takes until it is written.
type Made = (Vec<u8>, OwnedSemaphorePermit);

/// Reads the rest of a length-prefixed query (RFC 1035 §4.2.2) whose first octet is there.
async fn read_query(reader: &mut (impl AsyncRead + Unpin), first: u8, query: &mut Vec<u8>) -> io::Result<()> {
    let length = u16::from_be_bytes([first, reader.read_u8().await?]);
    query.clear();
    query.resize(usize::from(length), 0);
    reader.read_exact(query).await.map(drop)
}

/// Writes answers as they come, each with its length in one call (RFC 7766 §8).
async fn write_answers(mut writer: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Made>) -> io::Result<()> {
    while let Some((answer, _room)) = queue.recv().await {
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout_at(Instant::now() + TRANSFER, writer.write_all(&framed)).await??;
    }
    writer.shutdown().await
}
