//! TCP (RFC 7766): an acceptor of our own, so that UDP and TCP share the engine byte for byte.
//!
//! hickory-server would parse the query and re-encode the answer on the way, answers malformed queries by itself,
//! works through one connection's queries in turn and has no limit on connections.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::connection_limits::{Idle, Limits, Link};
use super::resolver::{Client, Waiter};
use super::udp::may_be_absent;
use crate::bounds::{MAX_UNREAD, TCP_BACKLOG};
use crate::engine::{Asked, Begun, Engine, Transport};
use crate::upstream::mux::Inbox;

/// The longest silence on a connection between queries (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// The longest time for one query to arrive after its first octet, and for the client to take one answer.
const TRANSFER: Duration = Duration::from_secs(5);
/// The longest life of a connection; a client simply opens another one.
const LIFETIME: Duration = Duration::from_mins(10);
/// The pause after a failed accept (out of file descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest silence on a connection once the process stops: a query may be on its way.
const QUIET: Duration = Duration::from_millis(250);
/// The time for which a connection that is not silent is read once the process stops. Queries read until then are answered.
const LAST_CALL: Duration = Duration::from_secs(3);

/// The outcome of a bind to an address that no interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// The socket is bound, and serves once an interface has the address.
    Awaited,
    /// The bind fails.
    Refused,
}

/// Binds a listening TCP socket.
///
/// # Errors
/// The address is in use or not ours, or the port needs a capability.
pub(crate) fn bind(address: SocketAddr, absent: Absent) -> io::Result<StdListener> {
    let socket = bind_only(address, absent)?;
    socket.listen(TCP_BACKLOG)?;
    Ok(socket.into())
}

/// Binds a TCP socket that does not listen.
///
/// # Errors
/// The errors of [`bind`].
pub(super) fn bind_only(address: SocketAddr, absent: Absent) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier process in TIME_WAIT do not keep the port; another listener does.
    socket.set_reuse_address(true)?;
    if absent == Absent::Awaited {
        may_be_absent(&socket, address)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts connections until told to stop, then those that had come by then, and lets their queries be answered.
pub(crate) async fn serve(
    listener: TcpListener,
    number: usize,
    engine: Arc<Engine>,
    inbox: Inbox<Waiter>,
    limits: Arc<Limits>,
    stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    // Gives a connection its place, or refuses it; neither waits, as all other clients would wait as well.
    let admit = |peer: SocketAddr| {
        let source = peer.ip();
        let holder = engine.view().snapshot.asker(source, number).holder(source);
        let Some(link) = limits.enter(holder, source) else {
            tracing::debug!(client = %source, "connection closed: its client has its share, and none of it is idle");
            return None;
        };
        let (engine, limits, stop) = (Arc::clone(&engine), Arc::clone(&limits), stop.clone());
        let inbox = inbox.clone();
        Some(Connection { engine, limits, inbox, link, source, listener: number, stop, last_call: None })
    };
    let mut stopped = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(connection) = admit(peer) {
                    connections.spawn(connection.serve(stream));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                limits.failed();
                engine.metrics().lacks_descriptor();
                // Out of descriptors: the one that is needed least gives its own.
                limits.close_idle();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // What the kernel has accepted for us would be reset with the socket.
    let left = listener.into_std().map(|listener| (0..TCP_BACKLOG).map_while(move |_| listener.accept().ok()));
    for (stream, peer) in left.into_iter().flatten() {
        if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream))
            && let Some(connection) = admit(peer)
        {
            connections.spawn(connection.serve(stream));
        }
    }
    while connections.join_next().await.is_some() {}
}

/// One accepted connection.
struct Connection {
    /// The engine that answers queries.
    engine: Arc<Engine>,
    /// The limits on connections, which are told when this one waits for its client.
    limits: Arc<Limits>,
    /// The inbox of the thread that asks upstreams for the queries of connections.
    inbox: Inbox<Waiter>,
    /// The entry of the connection in the limits.
    link: Arc<Link>,
    /// The address of the client.
    source: IpAddr,
    /// The number of the listener.
    listener: usize,
    /// The channel that tells to stop.
    stop: watch::Receiver<bool>,
    /// The time at which reading ends for good, once told to stop.
    last_call: Option<Instant>,
}

impl Connection {
    /// Serves to the end, and gives the place back then.
    async fn serve(self, stream: TcpStream) {
        let client = self.source;
        if let Err(error) = self.run(stream).await {
            tracing::debug!(%error, %client, "connection ended");
        }
    }

    /// Reads queries and writes answers, each as soon as it is ready (RFC 7766 §7: in any order).
    async fn run(mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let (answers, queue) = mpsc::channel(MAX_UNREAD);
        let mut writing = tokio::spawn(write_answers(writer, queue, Arc::clone(&self.limits), Arc::clone(&self.link)));
        let link = Arc::clone(&self.link);
        let ended = tokio::select! {
            biased;
            ended = self.read(reader, answers) => ended,
            // Closed for another connection: nothing is under way, or the client does not read it.
            () = link.closed() => {
                writing.abort();
                return Ok(());
            }
        };
        // The writer ends when the last answer in flight is out.
        let written = tokio::select! {
            written = &mut writing => written.unwrap_or_else(|error| Err(io::Error::other(error))),
            () = link.closed() => {
                writing.abort();
                Ok(())
            }
        };
        ended.and(written)
    }

    /// Reads queries and starts answering them until the client is done or too slow, or its connection's time is over.
    async fn read(&mut self, mut reader: impl AsyncRead + Unpin, answers: mpsc::Sender<Made>) -> io::Result<()> {
        let (limits, link) = (Arc::clone(&self.limits), Arc::clone(&self.link));
        let end = Instant::now() + LIFETIME;
        let mut query = Vec::new();
        while Instant::now() < end && !answers.is_closed() {
            // A query of which a part has come is as idle as one of which nothing has: the rest is up to the client.
            let wait = limits.wait(&link, Idle::Query);
            // Silent for too long, or closed by the client: both are the usual end.
            let Some(Ok(first)) = self.within(IDLE, reader.read_u8()).await else { break };
            match self.within(TRANSFER, read_query(&mut reader, first, &mut query)).await {
                Some(read) => read?,
                None => return Err(io::Error::new(io::ErrorKind::TimedOut, "the query did not arrive in time")),
            }
            if !wait.end() || self.answer(&query, &answers).await.is_break() {
                break;
            }
            // All that a source without a policy gets is this denial; it must not hold the place of others for it.
            if !self.engine.is_known(self.source, self.listener) {
                break;
            }
        }
        Ok(())
    }

    /// Waits for `read`, for `limit` at most; once told to stop for [`QUIET`] at most, and not past [`LAST_CALL`].
    async fn within<T>(&mut self, limit: Duration, read: impl Future<Output = io::Result<T>>) -> Option<io::Result<T>> {
        tokio::pin!(read);
        let end = Instant::now() + limit;
        tokio::select! {
            biased;
            read = timeout_at(end, &mut read), if self.last_call.is_none() => return read.ok(),
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
        let now = Instant::now();
        let last_call = *self.last_call.get_or_insert(now + LAST_CALL);
        timeout_at(end.min(now + QUIET).min(last_call), read).await.ok()
    }

    /// Answers one query at once, or starts waiting for its answer.
    async fn answer(&self, query: &[u8], answers: &mpsc::Sender<Made>) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let Ok(room) = Arc::clone(&self.link.unread).acquire_owned().await else { return Break(()) };
        let mut out = Vec::new();
        let since = std::time::Instant::now();
        let asked = Asked { source: self.source, transport: Transport::Tcp, listener: self.listener, since };
        let begun = {
            let view = self.engine.view();
            self.engine.begin(&view, query, asked, &mut out)
        };
        let begun = match begun {
            Begun::Renew(pending) => {
                self.inbox.post(Waiter { pending, client: Client::Nobody });
                Begun::Answer
            }
            begun => begun,
        };
        match begun {
            Begun::Answer | Begun::Renew(_) => match answers.send((out, room)).await {
                Ok(()) => Continue(()),
                Err(_) => Break(()),
            },
            // Over TCP a message that is no query ends the connection: its framing cannot be trusted.
            Begun::Drop => Break(()),
            Begun::Wait(pending) => {
                drop(room);
                let Ok(permit) = Arc::clone(&self.link.pipelined).acquire_owned().await else { return Break(()) };
                let engine = Arc::clone(&self.engine);
                let (answers, unread) = (answers.clone(), Arc::clone(&self.link.unread));
                let (sender, receiver) = oneshot::channel();
                self.inbox.post(Waiter { pending, client: Client::Tcp(sender) });
                tokio::spawn(async move {
                    // The answer is made only when there is room for it; what it is made of is shared.
                    if let Ok((pending, lookup)) = receiver.await
                        && let Ok(room) = unread.acquire_owned().await
                    {
                        let mut out = Vec::with_capacity(512);
                        engine.complete(&pending, &lookup, &mut out);
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
async fn write_answers(
    mut writer: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Made>,
    limits: Arc<Limits>,
    link: Arc<Link>,
) -> io::Result<()> {
    while let Some((answer, _room)) = queue.recv().await {
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        let end = Instant::now() + TRANSFER;
        let mut write = std::pin::pin!(writer.write_all(&framed));
        tokio::select! {
            biased;
            written = &mut write => written?,
            // Nearly every answer fits into the kernel's buffer at once; for the others the client has to read.
            () = std::future::ready(()) => {
                let _wait = limits.wait(&link, Idle::Reading);
                timeout_at(end, write).await??;
            }
        }
    }
    writer.shutdown().await
}
